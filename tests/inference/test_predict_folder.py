from __future__ import annotations

import csv
import errno
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from commands import run
from conftest import save, tiny_defect, tiny_image
from fakes import count_decodes, fake_detector, grey, mean_of_channels, with_options
from PIL import Image

from blemish.core.errors import UsageError
from blemish.images import decode, draw
from blemish.inference import load
from blemish.inference.inputs import find_inputs
from blemish.inference.predict_folder import COLUMNS, predict_to_folder, write_overlay

FIELDS = ["path", "score", "p_value", "threshold", "anomalous", "regions", "review_threshold"]
FIELDS += ["map", "overlay", "error", "decision"]
LEVELS = (51, 102, 153, 204)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def places(*patterns: Path | str) -> dict[str, str]:
    return {str(path): place.as_posix() for path, place in find_inputs([str(p) for p in patterns])}


# --- which files, and where their pictures go ---


def test_a_folder_keeps_its_sub_folders(tmp_path: Path):
    for name in ("b/2.png", "a/2.png", "1.png", "a/x/2.png"):
        grey(tmp_path / name, 1)
    (tmp_path / "notes.txt").write_text("not an image")
    assert list(places(tmp_path).items()) == [
        (f"{tmp_path}/1.png", "1"),
        (f"{tmp_path}/a/2.png", "a/2"),
        (f"{tmp_path}/a/x/2.png", "a/x/2"),
        (f"{tmp_path}/b/2.png", "b/2"),
    ]


def test_equal_names_in_different_folders_do_not_collide(tmp_path: Path):
    first, second = grey(tmp_path / "line1" / "part.png", 1), grey(tmp_path / "line2" / "part.png", 2)
    assert places(first, second) == {str(first): "line1/part", str(second): "line2/part"}
    assert places(first.parent, second.parent) == {str(first): "line1/part", str(second): "line2/part"}


@pytest.mark.parametrize(
    "names",
    [
        ["part.png", "part.jpg"],
        ["part.png", "part.jpg", "part.png.tiff"],
        ["part.png.tiff", "part.png", "part.jpg", "part"],
        ["part.tiff.png", "part.tiff", "part.tiff.tiff"],
    ],
)
def test_equal_stems_with_different_suffixes_do_not_collide(tmp_path: Path, names: list[str]):
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.touch()
    assert len({*places(*paths).values()}) == len(names)


def test_a_stem_of_its_own_loses_its_suffix_beside_twins(tmp_path: Path):
    for name in ("a.png", "a.jpg", "b.png"):
        (tmp_path / name).touch()
    assert list(places(tmp_path).values()) == ["a.jpg", "a.png", "b"]


def test_a_glob(tmp_path: Path):
    for name in ("a1.png", "a2.png", "b1.png", "deep/a3.png", "deep/er/a4.png"):
        grey(tmp_path / name, 1)
    assert list(places(tmp_path / "a*.png").values()) == ["a1", "a2"]
    assert list(places(tmp_path / "**" / "a*.png").values()) == ["a1", "a2", "deep/a3", "deep/er/a4"]
    assert list(places(tmp_path / "d*").values()) == ["a3", "er/a4"]  # a folder that a glob found


def test_a_name_with_glob_characters_is_taken_as_it_is(tmp_path: Path):
    path = grey(tmp_path / "part[1].png", 1)
    assert places(path) == {str(path): "part[1]"}


def test_a_folder_and_a_file_and_a_glob_mixed_keep_the_order_given(tmp_path: Path):
    late = grey(tmp_path / "z.png", 1)
    for name in ("folder/2.png", "folder/1.png", "other/x.png"):
        grey(tmp_path / name, 1)
    assert list(places(late, tmp_path / "folder", tmp_path / "o*" / "*.png").values()) == [
        "z",
        "folder/1",
        "folder/2",
        "other/x",
    ]


def test_a_file_named_twice_is_taken_once_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    grey(tmp_path / "a.png", 1)
    grey(tmp_path / "sub" / "b.png", 1)
    monkeypatch.chdir(tmp_path)
    spelled = ["a.png", "./a.png", str(tmp_path / "a.png"), "sub/../a.png", "*.png", "."]
    assert places(*spelled) == {"a.png": "a", "sub/b.png": "sub/b"}


def test_pictures_stay_below_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    grey(tmp_path / "x.png", 1)
    grey(tmp_path / "deep" / "here" / "y.png", 1)
    monkeypatch.chdir(tmp_path / "deep")
    assert places("../x.png", "here/y.png") == {"../x.png": "x", "here/y.png": "deep/here/y"}


def test_patterns_that_match_nothing_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: holds no image"):
        places(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"gone\.png: no such file or folder"):
        places(tmp_path / "gone.png")
    with pytest.raises(UsageError, match="no match as a glob"):
        places(tmp_path / "*.png")


def test_an_input_in_another_unicode_form_is_found(tmp_path: Path):
    composed, taken_apart = (unicodedata.normalize(form, "Gehäuse") for form in ("NFC", "NFD"))
    for i, (written, stored) in enumerate(((composed, taken_apart), (taken_apart, composed))):
        file = grey(tmp_path / str(i) / stored / f"{stored}.png", 10)
        for named in (file.parent.parent / written, file.parent.parent / written / f"{written}.png"):
            assert find_inputs([str(named)]) == [(file, Path(stored))]


# --- what is written ---


def test_rows_maps_and_overlays_say_what_the_detector_says(tmp_path: Path):
    inputs = tmp_path / "in"
    picture = np.full((48, 40, 3), 20, np.uint8)
    picture[10:20, 5:9] = 250
    save(inputs / "bad" / "1.png", picture)
    grey(inputs / "good" / "1.png", 60)
    detector = fake_detector(grey_levels=LEVELS)
    seen: list[dict[str, Any]] = []
    counts = predict_to_folder(detector, find_inputs([str(inputs)]), tmp_path / "out", on_row=seen.append)
    assert (counts.scored, counts.anomalous, counts.failed, counts.errors) == (2, 1, 0, [])
    rows, table = rows_of(tmp_path / "out"), table_of(tmp_path / "out")
    assert seen == rows
    assert [list(row) for row in rows] == [FIELDS, FIELDS]
    assert list(table[0]) == list(COLUMNS)
    for row, cells, name in zip(rows, table, ("bad/1", "good/1"), strict=True):
        prediction = detector.predict(row["path"])
        assert row["path"] == f"{inputs / name}.png"
        assert row["map"] == f"maps/{name}.tiff"
        assert row["overlay"] == f"overlays/{name}.png"
        assert row["error"] is None
        for field in ("score", "p_value", "threshold", "anomalous"):
            assert row[field] == getattr(prediction, field)
            assert cells[field] == str(row[field])
        assert row["regions"] == [vars(region) for region in prediction.regions]
        assert cells["n_regions"] == str(len(prediction.regions))
        assert (cells["path"], cells["map"], cells["error"]) == (row["path"], row["map"], "")
        heat = tifffile.imread(tmp_path / "out" / row["map"])
        assert heat.dtype == np.float32
        np.testing.assert_array_equal(heat, prediction.anomaly_map)
        with Image.open(tmp_path / "out" / row["overlay"]) as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", heat.shape[::-1])
    assert rows[0]["anomalous"] is True
    assert rows[0]["regions"]
    assert sorted(rows[0]["regions"][0]) == ["area_px", "peak", "x0", "x1", "y0", "y1"]
    assert rows[1]["anomalous"] is False


def test_without_calibration_verdicts_are_null_and_cells_empty(tmp_path: Path):
    path = grey(tmp_path / "a.png", 9)
    counts = predict_to_folder(fake_detector(), find_inputs([str(path)]), tmp_path / "out")
    (row,), (cells,) = rows_of(tmp_path / "out"), table_of(tmp_path / "out")
    assert (row["p_value"], row["threshold"], row["anomalous"], row["regions"]) == (None, None, None, [])
    assert (cells["p_value"], cells["threshold"], cells["anomalous"], cells["n_regions"]) == ("", "", "", "0")
    assert (counts.scored, counts.anomalous) == (1, 0)


def test_an_unreadable_file_becomes_a_row_and_the_rest_is_done(tmp_path: Path):
    inputs = tmp_path / "in"
    for i in range(40):
        grey(inputs / f"{i:02d}.png", 6 * i)
    bad = [0, 13, 14, 39]
    for i in bad:
        (inputs / f"{i:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    counts = predict_to_folder(
        fake_detector(grey_levels=LEVELS, batch_size=4), find_inputs([str(inputs)]), tmp_path / "out"
    )
    rows, table = rows_of(tmp_path / "out"), table_of(tmp_path / "out")
    assert [Path(row["path"]).stem for row in rows] == [f"{i:02d}" for i in range(40)]
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    for i, row in enumerate(rows):
        if i in bad:
            assert row["error"].startswith(f"{inputs / f'{i:02d}.png'}: ")
            assert "\n" not in row["error"]
            assert table[i]["error"] == row["error"]
            assert {row[k] for k in [*FIELDS[1:5], "map", "overlay"]} == {None}
            assert row["regions"] == []
        else:
            assert row["score"] == pytest.approx(6 * i / 255)
            assert (tmp_path / "out" / row["map"]).is_file()
    assert (counts.scored, counts.failed) == (36, 4)
    assert counts.errors == [rows[i]["error"] for i in bad]
    # 6 * 34 ties with the highest calibration score, 204; 35, 36, 37 and 38 exceed it, 39 is unreadable
    assert counts.anomalous == 4
    assert [i for i, row in enumerate(rows) if row["anomalous"]] == [35, 36, 37, 38]


def test_counts_name_the_first_twenty_errors(tmp_path: Path):
    for i in range(25):
        (tmp_path / f"{i:02d}.png").write_text("no")
    counts = predict_to_folder(fake_detector(), find_inputs([str(tmp_path)]), tmp_path / "out")
    assert (counts.scored, counts.failed, len(counts.errors)) == (0, 25, 20)
    assert counts.errors[19].startswith(f"{tmp_path / '19.png'}: ")


def test_a_file_that_goes_away_after_it_was_decoded_has_its_row_and_pictures_all_the_same(tmp_path: Path):
    paths = [grey(tmp_path / f"{i}.png", i) for i in range(3)]

    def network(x: np.ndarray) -> np.ndarray:
        paths[1].unlink(missing_ok=True)
        return mean_of_channels(x)

    inputs = find_inputs([str(p) for p in paths])
    counts = predict_to_folder(fake_detector(network=network), inputs, tmp_path / "out")
    assert [row["error"] for row in rows_of(tmp_path / "out")] == [None] * 3
    assert (counts.scored, counts.failed) == (3, 0)
    assert (tmp_path / "out" / "maps" / "1.tiff").exists()
    assert (tmp_path / "out" / "overlays" / "1.png").exists()


@pytest.mark.parametrize("tile_size", [None, 32])
@pytest.mark.parametrize("side", [64, pytest.param(1300, marks=pytest.mark.slow)])
def test_a_file_is_decoded_once_and_its_overlay_is_that_of_the_file(
    side: int, tile_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rng = np.random.default_rng(0)
    paths = [save(tmp_path / f"{i}.png", rng.integers(0, 256, (side, side, 3), np.uint8)) for i in range(2)]
    detector, decoded = fake_detector(grey_levels=LEVELS), count_decodes(monkeypatch)
    detector = with_options(detector, tile_size=tile_size)
    predict_to_folder(detector, find_inputs([str(p) for p in paths]), tmp_path / "out")
    assert decoded == {str(path): 1 for path in paths}
    for path in paths:
        write_overlay(detector, decode.read(path), detector.predict(path), tmp_path / "expected.png")
        drawn = tmp_path / "out" / "overlays" / f"{path.stem}.png"
        assert drawn.read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_names_that_are_not_utf_8_survive(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        grey(tmp_path / "in" / name, 9)
    except OSError as error:
        pytest.skip(f"this file system takes UTF-8 names only: {error}")
    predict_to_folder(fake_detector(), find_inputs([str(tmp_path / "in")]), tmp_path / "out")
    (row,), (cells,) = rows_of(tmp_path / "out"), table_of(tmp_path / "out")
    assert row["path"] == cells["path"] == str(tmp_path / "in" / name)
    assert b"caf\xe9.png," in (tmp_path / "out" / "predictions.csv").read_bytes()


def test_predictions_are_never_overwritten(tmp_path: Path):
    inputs = find_inputs([str(grey(tmp_path / "a.png", 9))])
    predict_to_folder(fake_detector(), inputs, tmp_path / "out")
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"out: already holds predictions; choose another --out"):
        predict_to_folder(fake_detector(), inputs, tmp_path / "out")
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def check_what_is_left(out: Path, n: int) -> None:
    """Whole rows, in order, each with its pictures; the table has as many."""
    lines = (out / "predictions.jsonl").read_text().split("\n")[:-1]  # a last line may be cut off
    rows = [json.loads(line) for line in lines]
    assert 0 < len(rows) < n
    for i, row in enumerate(rows):
        assert Path(row["path"]).stem == f"{i:02d}"
        assert tifffile.imread(out / row["map"]).shape == (32, 32)
        with Image.open(out / row["overlay"]) as overlay:
            overlay.load()
    assert [r["path"] for r in table_of(out)][: len(rows) - 1] == [r["path"] for r in rows][:-1]


@pytest.fixture
def forty(tmp_path: Path) -> list[tuple[Path, Path]]:
    for i in range(40):
        save(tmp_path / "in" / f"{i:02d}.png", tiny_image(i)[:32, :32])
    return find_inputs([str(tmp_path / "in")])


def test_what_is_written_stays_when_a_disk_fills_up(small_disk: Path, forty: list[tuple[Path, Path]]):
    with (small_disk / "fill").open("wb") as file:
        file.write(bytes(120_000))
    with pytest.raises(OSError, match="No space left") as caught:
        predict_to_folder(fake_detector(grey_levels=LEVELS), forty, small_disk / "out")
    assert caught.value.errno == errno.ENOSPC
    check_what_is_left(small_disk / "out", 40)


def test_what_is_written_stays_when_writing_a_picture_fails(
    tmp_path: Path, forty: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
):
    write_map: Callable = draw.write_map

    def failing(path: Path, anomaly_map: np.ndarray) -> None:
        if path.stem == "25":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_map(path, anomaly_map)

    monkeypatch.setattr(draw, "write_map", failing)
    with pytest.raises(OSError, match="No space left"):
        predict_to_folder(fake_detector(grey_levels=LEVELS), forty, tmp_path / "out")
    check_what_is_left(tmp_path / "out", 40)
    assert len(rows_of(tmp_path / "out")) == 25
    with (tmp_path / "out" / "predictions.jsonl").open("a") as rows:
        rows.write('{"path": "cut o')
    stopped = (
        r"out: holds predictions of a run that was stopped before its end \(rows written: 25\); remove it and"
    )
    with pytest.raises(UsageError, match=stopped):
        predict_to_folder(fake_detector(grey_levels=LEVELS), forty, tmp_path / "out")


def test_a_tiny_model_s_rows_are_its_predictions(tiny_model: Path, tmp_path: Path):

    detector = load.load(tiny_model, device="cpu")
    path = save(tmp_path / "hole.png", tiny_defect("hole", 1)[0])
    predict_to_folder(detector, find_inputs([str(path)]), tmp_path / "out")
    prediction, (row,) = detector.predict(path), rows_of(tmp_path / "out")
    assert (row["score"], row["anomalous"]) == (prediction.score, True)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / row["map"]), prediction.anomaly_map)


# --- the command: what was not scored is not passed over in silence ---


@pytest.fixture
def predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `blemish predict` with the fake detector; returns its code and lines."""
    monkeypatch.setattr("blemish.cli.options.ModelOptions.load", lambda *_: fake_detector())

    def predict(*inputs: Path, out: Path = tmp_path / "out") -> tuple[int, list[str]]:
        code = run("predict", "--model", __file__, *inputs, "--out", out)
        told = capsys.readouterr()
        return code, [*told.err.splitlines(), *told.out.splitlines()]

    return predict


def test_parts_in_files_that_are_not_read_are_named_and_the_code_is_1(tmp_path: Path, predicted: Any):
    folder = tmp_path / "in"
    for i in range(3):
        grey(folder / f"{i}.png", 51)
    (folder / "notes.txt").write_text("no part")
    code, lines = predicted(folder, out=tmp_path / "first")
    assert code == 0
    assert lines[0].startswith("left out: 1 .txt; read are PNG")
    for name, data in (
        ("a.pgm", b"P5 32 32 255\n" + bytes(99)),
        ("b.gif", b"GIF89a\x00\xff"),
        ("c", b"\x01\xff"),
    ):
        (folder / name).write_bytes(data)
    grey(folder / "d.png", 51).rename(folder / "d.jfif")
    code, lines = predicted(folder)
    assert (code, lines[1].split(":")[0]) == (1, "4 scored, 0 failed")
    assert lines[0].startswith("left out: 1 without a suffix, 1 .gif, 1 .pgm, 1 .txt; ")


def test_what_was_written_yesterday_is_not_scored_today(tmp_path: Path, predicted: Any):
    for name in ("a.png", "sub/b.png"):
        grey(tmp_path / name, 51)
    for day in ("monday", "tuesday", "sub/wednesday"):
        code, lines = predicted(tmp_path, out=tmp_path / day)
        assert code == 0
        assert lines[-2].startswith("2 scored, 0 failed")
    assert not any(line.startswith("left out") for line in lines)
    code, lines = predicted(tmp_path / "monday" / "overlays", out=tmp_path / "again")
    assert code == 1
    assert "is a picture that blemish drew, not a photo of a part" in lines[0]


def test_a_folder_of_other_files_says_what_they_are(tmp_path: Path, predicted: Any):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pgm").write_bytes(b"P5 ")
    code, lines = predicted(tmp_path / "in")
    assert code == 2
    assert lines == [
        f"blemish predict: {tmp_path / 'in'}: holds no image but 1 .pgm; give images, films, folders or globs"
    ]
