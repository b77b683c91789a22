"""Names that a file may have and a picture of it may not: too long with its ending, too deep, or refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import save, tiny_defect
from fakes import fake_detector, grey
from watched import Place, check

from blemish.core.files import fit_name, temporary_for
from blemish.images import draw
from blemish.inference.inputs import find_inputs
from blemish.inference.predict_folder import predict_to_folder

LEVELS = (51, 102, 153, 204)
LONG = {
    "ascii": "a" * 251 + ".png",
    "two bytes a letter": "é" * 125 + "b.png",
    "four bytes a letter": "𝄞" * 62 + "abc.png",
    "no UTF-8": os.fsdecode(b"\xff" * 251) + ".png",
    "another suffix": "c" * 250 + ".jpeg",
    "as long as fits with one ending": "d" * 247 + ".png",
    "a line": "new\nline " * 27 + ".png",
}
ODD = {
    "line break": "a\nb.png",
    "escape": "a\x1b[31mb.png",
    "return": "a\rb.png",
    "no UTF-8": os.fsdecode(b"a\xff.png"),
}


def make(folder: Path, names: dict[str, str]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names.values()):
        assert len(os.fsencode(name)) <= 255
        grey(folder / "plain.png", 20 + i).rename(folder / name)
    return list(names.values())


@pytest.mark.parametrize("names", [LONG, ODD])
def test_predict_scores_them_and_all_others(names: dict[str, str], tmp_path: Path):
    make(tmp_path / "in", names)
    make(tmp_path / "in" / ("f" * 255), names)
    grey(tmp_path / "in" / "z.png", 255)
    inputs = find_inputs([str(tmp_path / "in")])
    counts = predict_to_folder(fake_detector(grey_levels=LEVELS), inputs, tmp_path / "out")
    assert (counts.scored, counts.failed) == (2 * len(names) + 1, 0)
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        for field in ("map", "overlay"):
            assert (tmp_path / "out" / row[field]).stat().st_size
    assert len({row[field] for row in rows for field in ("map", "overlay")}) == 2 * len(rows)
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.parametrize("names", [LONG, ODD])
def test_watch_goes_on_and_does_so_after_a_restart(
    names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Place(tmp_path, monkeypatch)
    given = make(place.folder, names)
    moved = tmp_path / "moved"
    for life in (1, 2):  # the same names again, so that what was moved before is in the way
        assert place.watch(move_to=moved) == len(given)
        assert len(list(moved.rglob("*"))) == 1 + life * len(given)
        make(place.folder, names)
    check(place.out, [*given, *given])


def test_a_line_that_is_printed_stays_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place = Place(tmp_path, monkeypatch)
    make(place.folder, ODD)
    place.stop_by_signal = True
    assert run("watch", "--model", place.model, "--folder", place.folder, "--out", place.out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ODD) + 2  # the promise, and how many were recorded
    assert all(line.isprintable() for line in lines)


def test_a_path_that_only_the_output_makes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = tmp_path / "in", tmp_path / "a" / "longer" / "place" / "for" / "what" / "is" / "written"
    deep = source
    while len(str(deep)) < 3780:
        deep = deep / ("d" * 200)
    os.makedirs(deep)  # noqa: PTH103
    file = deep / ("e" * (4090 - len(str(deep)) - 5) + ".png")
    shutil.copy(grey(tmp_path / "x.png", 60), file)
    grey(source / "z.png", 70)
    counts = predict_to_folder(fake_detector(), find_inputs([str(source)]), out)
    assert (counts.scored, counts.failed) == (2, 0)
    first = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    assert first["path"] == str(file)
    for field in ("map", "overlay"):
        assert (out / first[field]).stat().st_size


@pytest.mark.parametrize("refusal", [errno.EILSEQ, errno.EINVAL, errno.ENAMETOOLONG])
def test_a_disk_that_refuses_a_name_gets_a_plain_one(
    refusal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = draw.write_map

    def strict(path: Path, map_hw: Any) -> None:
        if not str(path.name).isascii() or ":" in path.name:
            raise OSError(refusal, os.strerror(refusal), str(path))
        write(path, map_hw)

    monkeypatch.setattr(draw, "write_map", strict)
    make(tmp_path / "in", {"1": "é.png", "2": "è.png", "3": "a:b.png"})
    out = tmp_path / "out"
    assert predict_to_folder(fake_detector(), find_inputs([str(tmp_path / "in")]), out).scored == 3
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len({row["map"] for row in rows}) == 3
    for row in rows:
        assert row["map"].isascii()
        assert (out / row["map"]).exists()
        assert (out / row["overlay"]).exists()
    assert {Path(row["map"]).name.split("~")[0] for row in rows} == {"", "a-b"}  # what may stay of a name


def test_an_evaluation_draws_pictures_of_long_names(tmp_path: Path, no_report: None, quick_evaluation: None):
    from blemish.data.dataset import open_dataset
    from blemish.evaluation.evaluate import evaluate
    from blemish.evaluation.pictures import overlay_name, thumbnail_name

    good, bad = tmp_path / "test" / "good", tmp_path / "test" / "hole"
    bad.mkdir(parents=True)
    make(good, LONG)
    save(tmp_path / "x.png", tiny_defect("hole", 0)[0]).rename(bad / LONG["ascii"])
    out = tmp_path / "out"
    evaluate(fake_detector(grey_levels=LEVELS), open_dataset(tmp_path, need_train=False), out)
    for name in [f"test/good/{name}" for name in LONG.values()] + [f"test/hole/{LONG['ascii']}"]:
        assert (out / overlay_name(name)).stat().st_size
        assert (out / thumbnail_name(name)).stat().st_size


# --- by hand ---


def test_a_name_is_cut_at_a_letter_and_stays_its_own():
    assert fit_name("a" * 250, ".tiff") == "a" * 250 + ".tiff"
    for stem in ("a" * 251, "é" * 140, "\udcff" * 300, "𝄞" * 70 + "b"):
        cut = fit_name(stem, ".tiff")
        assert 250 <= len(os.fsencode(cut)) <= 255
        assert cut.endswith(".tiff")
        assert stem.startswith(cut.split("~")[0])
        assert fit_name(stem + "x", ".tiff") != cut
    assert len(os.fsencode(fit_name("é" * 100, ".png", 143))) in (142, 143)


def test_an_error_names_the_file_that_was_meant(tmp_path: Path):
    file = tmp_path / "gone" / "a.json"
    with pytest.raises(FileNotFoundError) as error, temporary_for(file) as part:
        part.write_text("x")
    assert error.value.filename == str(file)
    with pytest.raises(OSError, match="too long") as error, temporary_for(tmp_path / ("a" * 256)) as part:
        part.write_text("x")
    assert error.value.filename == str(tmp_path / ("a" * 256))
    assert list(tmp_path.iterdir()) == []
