"""The sensitivity card for people: a sentence, a table, and a chart for each kind of planted defect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.report.html import format_percent, require_packages, write_page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


PACKAGES = ("jinja2", "matplotlib")
"""What the page needs of `blemish[report]`."""


def write_card(out: Path, card: Mapping[str, Any], *, title: str) -> Path:
    """Write `out/sensitivity.html` of what sensitivity.json has, and return its path.

    Raises UsageError without the packages of `blemish[report]`.
    """
    require_packages(*PACKAGES)
    content = {"title": title, "sentence": sentence_of(card)} | content_of(card)
    return write_page(out / "sensitivity.html", "sensitivity", content)


def content_of(card: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the template of a card needs; `card` None where there is none."""
    if card is None:
        return {"card": None}
    from blemish.report.sensitivity_charts import draw

    sizes, rows = table_of(card)
    return {
        "card": card,
        "card_sentence": sentence_of(card),
        "card_charts": draw(card),
        "card_sizes": sizes,
        "card_rows": rows,
    }


def sentence_of(card: Mapping[str, Any]) -> str:
    """Say what was done, in plain words."""
    good, rejected, rate = card["good_scored"], card["good_rejected"], card["false_alarm_rate"]
    return (
        f"{card['planted_images']} defects were planted into {card['good_images']} good images that took no "
        f"part in the training. The false-alarm rate is {format_percent(rate)}; of {good} images without "
        f"a planted defect {rejected or 'none'} {'was' if rejected < 2 else 'were'} rejected."
    )


def label_of(kind: str, contrast: float | None) -> str:
    """Name a kind with its contrast, as in "scratch, contrast 15 %"."""
    return kind if contrast is None else f"{kind}, contrast {100 * contrast:g} %"


def table_of(card: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the heads of the columns, a size each, and the rows: a name and how many were found."""
    points = card["points"]
    sizes = {point["size"]: point["size_px"] for point in points}
    heads = [f"{100 * size:g} % ({sizes[size]} px)" for size in sorted(sizes)]
    rows = []
    for kind, contrast in dict.fromkeys((point["kind"], point["contrast"]) for point in points):
        found = {p["size"]: p for p in points if (p["kind"], p["contrast"]) == (kind, contrast)}
        cells = [
            f"{found[size]['found']} of {found[size]['n']}" if size in found else "–"
            for size in sorted(sizes)
        ]
        rows.append((label_of(kind, contrast), cells))
    return heads, rows
