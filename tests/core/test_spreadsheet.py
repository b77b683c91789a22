"""Texts that a spreadsheet would run as formulas, in each CSV file that people open."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import save, tiny_defect
from fakes import fake_detector, grey
from hypothesis import given
from hypothesis import strategies as st

from blemish.core.spreadsheet import cell_of, text_of

RUN = '=HYPERLINK("http:%%x","open")'
FORMULAS = (
    RUN,
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "＝1",
    "＋1",
    "－1",
    "＠x",
    "-x",
)
PLAIN = ("", "a=1", "part-7", "./=1", "'", "007", "-1.5", "+5", "-1e-3", " -2 ", ".5", "1.", "#1", "ä")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_would_run_gets_an_apostrophe(text: str):
    assert cell_of(text) == f"'{text}"
    assert text_of(cell_of(text)) == text


@pytest.mark.parametrize("value", [*PLAIN, None, True, 3, -1.5, float("-inf")])
def test_numbers_and_other_texts_stay(value: object):
    assert cell_of(value) is value
    if isinstance(value, str):
        assert text_of(value) == value


@given(st.text(alphabet="'=+-@ \t\n\r＝ab1.", max_size=6))
def test_every_text_is_found_again(text: str):
    cell = cell_of(text)
    assert text_of(cell) == text
    assert cell[:1] not in "=@\t\r\n" or not cell


NAMES = ("=1+1.png", "-a.png", "@eaDir.png", "+b.png", "\ttab.png", "c.png", "\r=x.png", "'=y.png")


def cells(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        return list(csv.DictReader(opened))


def test_predictions_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from blemish.inference.inputs import find_inputs
    from blemish.inference.predict_folder import predict_to_folder

    monkeypatch.chdir(tmp_path)  # so that paths are as a user types them
    for name in NAMES:
        grey(Path(name), 60)
    Path("=no.png").write_text("no image")
    detector = fake_detector(grey_levels=(51, 102, 153, 204))
    given = [*NAMES, "=no.png"]
    predict_to_folder(detector, find_inputs(given), Path("out"))
    rows = cells(Path("out") / "predictions.csv")
    assert [text_of(row["path"]) for row in rows] == given
    for row in rows:
        assert not [cell for cell in row.values() if cell[:1] in ("=", "@", "\t", "\r") or cell[:2] == "-a"]
    assert rows[-1]["error"].startswith("'=no.png: is not an image")
    assert [float(row["score"]) for row in rows[:-1]] == pytest.approx([60 / 255] * len(NAMES))


def test_scores_of_an_evaluation_run_nothing_and_are_compared_by_their_names(
    tmp_path: Path, no_report: None, quick_evaluation: None
):
    from blemish.data.dataset import open_dataset
    from blemish.evaluation.compare import read_evaluation
    from blemish.evaluation.evaluate import evaluate

    manifest = ["path,split,label"]
    for name in ("=1.png", "-2.png"):
        grey(tmp_path / name, 60)
        manifest.append(f"{name},test,good")
    save(tmp_path / "@3.png", tiny_defect("line", 0)[0])
    (tmp_path / "m.csv").write_text("\n".join([*manifest, "@3.png,test,=cmd()"]))
    network = lambda x: -x.mean(axis=1)  # noqa: E731  scores below zero
    detector = replace(fake_detector(grey_levels=(51, 102), network=network))
    evaluate(detector, open_dataset(tmp_path / "m.csv", need_train=False), tmp_path / "out")
    rows = cells(tmp_path / "out" / "scores.csv")
    assert {row["path"] for row in rows} == {"'=1.png", "'-2.png", "'@3.png"}
    assert {row["label"] for row in rows} == {"good", "'=cmd()"}
    assert all(float(row["score"]) < 0 for row in rows)
    compared = read_evaluation(tmp_path / "out")
    assert compared.labels == {"=1.png": "good", "-2.png": "good", "@3.png": "=cmd()"}
    assert all((tmp_path / "out" / "overlays" / f"{name}.png").exists() for name in compared.scores)


def test_an_export_of_the_record_runs_nothing(tmp_path: Path):
    pytest.importorskip("sqlalchemy", reason="blemish[station] is not installed")
    from databases import inspection

    from blemish.record.conversion import Judged
    from blemish.record.table_export import write

    texts = {"part": RUN, "path": "-a.png", "source": "+api", "error": "@x: is no image"}
    rows = [Judged(inspection=inspection(k, **texts, score=-1.5), model_name=None) for k in range(2)]
    write(tmp_path / "x.csv", rows)
    for row in cells(tmp_path / "x.csv"):
        assert {name: row[name] for name in texts} == {name: f"'{text}" for name, text in texts.items()}
        assert row["score"] == "-1.5"
    write(tmp_path / "y.csv", [Judged(inspection=inspection(0, part="-1.5"), model_name=None)])
    assert cells(tmp_path / "y.csv")[0]["part"] == "-1.5"  # a number of a part is a number
