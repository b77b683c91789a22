from __future__ import annotations

from typing import Any

from blemish.report.choice import MOST_ROWS, rows_of, sentence_of


def row(name: str, area: float) -> dict[str, Any]:
    return {"members": name.split(" + "), "image_auroc": area, "pixel_auroc": area, "pixel_ap": area / 2}


def choice(members: str, *rows: dict[str, Any]) -> dict[str, Any]:
    return {"members": members.split(" + "), "kinds": ["blur"], "candidates": list(rows)}


FAILED = {"members": ["metal"], "error": "the loss is nan"}


def test_the_sentence_says_what_was_chosen_and_by_which_figures():
    table = choice("a + b", row("a", 0.9), row("b", 0.969), FAILED, row("a + b", 0.9812))
    assert sentence_of(table) == "a + b (AUROC of planted images / pixels 0.981 / 0.981; b 0.969 / 0.969)"


def test_one_that_costs_more_and_is_hardly_better_is_told():
    table = choice("a", row("a", 0.980), row("b", 0.97), row("a + b", 0.981))
    assert sentence_of(table) == "a (AUROC of planted images / pixels 0.980 / 0.980; a + b 0.981 / 0.981)"


def test_one_candidate_has_no_next_and_given_members_were_not_chosen():
    alone = choice("a", row("a", 0.98), FAILED)
    assert sentence_of(alone) == "a (AUROC of planted images / pixels 0.980 / 0.980)"
    assert sentence_of(choice("a")) is None
    assert sentence_of(choice("a") | {"aligned": True}) is None


def test_rows_are_ranked_and_the_failed_ones_come_last():
    rows = rows_of(choice("b", row("a", 0.9), FAILED, row("b", 0.95)))
    assert [(r.name, r.chosen, r.pixel_auroc, r.error) for r in rows] == [
        ("b", True, 0.95, None),
        ("a", False, 0.9, None),
        ("metal", False, None, "the loss is nan"),
    ]


def test_of_many_rows_the_best_are_shown_and_always_what_was_chosen():
    many = [row(f"m{i}", 0.5 + i / 100) for i in range(30)]
    rows = rows_of(choice("m0", *many))
    assert len(rows) == MOST_ROWS
    assert [r.name for r in rows] == [*(f"m{i}" for i in range(29, 18, -1)), "m0"]
    assert rows[-1].chosen
