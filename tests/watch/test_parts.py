"""Watching a folder in which several images are one part."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused
from fakes import grey
from watched import Crash, Place, Script, command

from blemish.core.errors import ModelError, UsageError
from blemish.data.hashing import file_digest
from blemish.data.part_names import PartNames
from blemish.inference.part_models import ViewModels, part_calibration_text, write_part_calibration
from blemish.inference.parts import PartCalibration
from blemish.record.versions import FOLDER, Versions
from blemish.watch.parts import OpenParts, PartSettings
from blemish.watch.settings import BATCH_SIZE

NAMES = PartNames(part=r"(\d+)_", view=r"_(\w+)\.")
GOOD, BAD = 100, 250
"""Of the grey levels that calibrate the largest is 204: with two views 40 % is the lowest rate of parts."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def settings(place: Place, wait_s: float = 5.0, **own: Path) -> PartSettings:
    models = ViewModels(usual=place.model, own=own)
    return PartSettings(names=NAMES, models=models, wait_s=wait_s, views=("side", "top"))


def rows_of(place: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place.out / "parts.jsonl").read_text().splitlines()]


def places(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_a_part_is_decided_when_its_last_view_is_there(place: Place):
    moved, told, promised = place.folder.parent / "moved", [], []

    def script() -> Script:
        grey(place.folder / "1_side.png", GOOD)
        grey(place.folder / "2_top.png", BAD)
        yield 2.0
        assert places(place.folder) == ["1_side.png", "2_top.png"]
        grey(place.folder / "1_top.png", GOOD)
        yield 1.0
        grey(place.folder / "2_side.png", GOOD)
        yield 1.0

    count = place.watch(
        script(), move_to=moved, parts=settings(place), on_part=told.append, on_promise=promised.append
    )
    assert count == 4
    assert places(place.folder) == []
    assert places(moved) == [
        "accepted/1_side.png",
        "accepted/1_top.png",
        "rejected/2_side.png",
        "rejected/2_top.png",
    ]
    rows = rows_of(place)
    assert [(r["part"], r["decision"], r["missing"], r["rule"]) for r in rows] == [
        ("1", "accepted", [], "apart"),
        ("2", "rejected", [], "apart"),
    ]
    assert told == rows
    assert promised[0].startswith("parts: false-alarm rate 40 %") and len(promised) == 1
    assert [(row["part"], row["view"]) for row in place.rows()] == [
        ("1", "side"), ("2", "top"), ("1", "top"), ("2", "side"),
    ]  # fmt: skip


def test_a_part_that_waits_too_long_is_never_accepted(place: Place):
    def script() -> Script:
        grey(place.folder / "1_side.png", GOOD)
        grey(place.folder / "2_side.png", BAD)
        yield 4.5
        assert not (place.out / "parts.jsonl").read_text()
        yield 2.0

    moved = place.folder.parent / "moved"
    place.watch(script(), move_to=moved, parts=settings(place))
    assert [(r["part"], r["decision"], r["missing"]) for r in rows_of(place)] == [
        ("1", "review", ["top"]),
        ("2", "rejected", ["top"]),
    ]
    assert places(moved) == ["rejected/2_side.png", "review/1_side.png"]
    assert "part 1: 5 s are over, missing: top; review" in place.said


def test_parts_wait_on_after_a_crash(place: Place, monkeypatch: pytest.MonkeyPatch):
    moved, hear = place.folder.parent / "moved", place.hear

    def crash(row: dict[str, Any]) -> None:
        if row["path"] == "2_side.png":
            raise Crash
        hear(row)

    def first() -> Script:
        for name in ("1_side.png", "2_side.png"):
            grey(place.folder / name, GOOD)
            yield 1.0

    monkeypatch.setattr(place, "hear", crash)
    with pytest.raises(Crash):
        place.watch(first(), move_to=moved, parts=settings(place))
    monkeypatch.setattr(place, "hear", hear)
    with (place.out / "parts.jsonl").open("a") as file:
        file.write('{"sequences": [')  # a line that the crash cut off

    def second() -> Script:
        yield 1.0
        assert places(place.folder) == ["1_side.png", "2_side.png"]
        grey(place.folder / "2_top.png", GOOD)
        yield 6.0

    place.watch(second(), move_to=moved, parts=settings(place))
    assert {r["part"]: (r["decision"], r["sequences"]) for r in rows_of(place)} == {
        "1": ("review", [1]),
        "2": ("accepted", [2, 3]),
    }
    assert places(place.folder) == []


def test_a_view_with_a_model_of_its_own(place: Place):
    """The model `two` takes the dark for odd."""
    other = place.model.with_name("two.safetensors")
    other.write_text("two")

    def script() -> Script:
        for name, level in {"1_side": 10, "1_top": 200, "2_side": 10, "2_top": 10}.items():
            grey(place.folder / f"{name}.png", level)
        yield 2.0

    place.watch(script(), parts=settings(place, top=other))
    assert [(r["part"], r["decision"]) for r in rows_of(place)] == [("1", "accepted"), ("2", "rejected")]
    assert len({row["model"] for row in place.rows()}) == 2


def test_a_name_that_tells_no_part_fails_alone(place: Place):
    def script() -> Script:
        grey(place.folder / "odd.png", GOOD)
        yield 8.0

    place.watch(script(), parts=settings(place))
    (row,) = rows_of(place)
    assert (row["part"], row["decision"]) == ("odd.png", "failed")
    assert "does not find anything in its name" in row["error"]


def test_of_a_view_that_came_twice_the_newest_counts(place: Place):
    def script() -> Script:
        grey(place.folder / "1_side.png", BAD)
        yield 1.0
        grey(place.folder / "again" / "1_side.png", GOOD)
        yield 1.0
        grey(place.folder / "1_top.png", GOOD)
        yield 1.0

    place.watch(script(), parts=settings(place))
    (row,) = rows_of(place)
    assert (row["decision"], row["sequences"]) == ("accepted", [1, 2, 3])
    assert [view["path"] for view in row["views"]] == ["again/1_side.png", "1_top.png"]


def test_a_calibration_that_does_not_fit_a_new_model_sends_all_to_a_person(place: Place, tmp_path: Path):
    said: list[str] = []
    place.out.mkdir()
    calibration = tmp_path / "parts.json"
    calibration.write_text("{}")
    given = PartSettings(
        names=NAMES, models=ViewModels(usual=place.model), wait_s=1.0, calibration=calibration
    )
    parts = OpenParts(given, place.out, lambda: 0.0, said.append)
    detectors, digests = {place.model: place.detectors["one"]}, {place.model: "one"}
    with pytest.raises(Exception, match="is no calibration of parts"):
        parts.use(detectors, digests, first=True)
    assert parts.use(detectors, digests, first=False) is None
    assert said[0].startswith("all parts are for review: ")
    row = {"part": "1", "view": "side", "sequence": 1, "path": "1_side.png", "size": 1, "mtime_ns": 1}
    decided = parts.add(row)
    assert decided is not None and decided["decision"] == "review"
    parts.close()


def calibrate_together(place: Place) -> Path:
    """Write how good parts scored that the model in the file calibrates."""
    scores = np.linspace(0.2, 0.8, 2 * 20).reshape(20, 2)
    file = place.model.with_name("parts.json")
    known = PartCalibration(scores=scores, views=("side", "top"))
    write_part_calibration(
        file, known, dict.fromkeys(known.views, file_digest(place.model)), parts=[], data="x"
    )
    return file


def together(place: Place) -> PartSettings:
    models = ViewModels(usual=place.model)
    return PartSettings(names=NAMES, models=models, wait_s=5.0, calibration=calibrate_together(place))


def test_views_scored_by_a_model_that_was_replaced_go_to_a_person(place: Place):
    """Their scores are in another unit than those of the parts that calibrate the new model."""
    given = together(place)

    def script() -> Script:
        grey(place.folder / "1_side.png", GOOD)
        yield 1.0
        place.model.write_text("two")
        calibrate_together(place)
        yield 1.0
        grey(place.folder / "1_top.png", GOOD)
        for view in ("side", "top"):
            grey(place.folder / f"2_{view}.png", GOOD)
        yield 1.0

    place.watch(script(), parts=given)
    assert len({row["model"] for row in place.rows()}) == 2
    first, second = sorted(rows_of(place), key=lambda row: row["part"])
    assert first["decision"] == "review" and "by a model that has been replaced since" in first["error"]
    assert (second["decision"], second["error"], second["rule"]) == ("accepted", None, "together")


def test_a_calibration_of_another_model_than_is_loaded_is_refused(place: Place):
    """The file may have changed since, or a station use another version of the model."""
    given = together(place)
    place.out.mkdir()
    with closing(OpenParts(given, place.out, lambda: 0.0, place.said.append)) as parts:
        detectors, own = {place.model: place.detectors["one"]}, file_digest(place.model)
        assert "promised by 20 calibration parts" in (
            parts.use(detectors, {place.model: own}, first=True) or ""
        )
        with pytest.raises(ModelError, match="calibrates parts by another model"):
            parts.use(detectors, {place.model: "0" * 64}, first=True)


def test_a_view_that_lies_in_the_folder_is_scored_before_its_part_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """Of very many files the last view of a part may come in a later turn than the time allows."""

    def script() -> Script:
        grey(place.folder / "1_side.png", GOOD)
        yield 1.0
        for part in range(2, 2 + BATCH_SIZE):
            grey(place.folder / f"{part}_side.png", GOOD)
            os.utime(place.folder / f"{part}_side.png", (part, part))
        grey(place.folder / "1_top.png", GOOD)
        yield 9.0

    hear = place.hear

    def slow(row: dict[str, Any]) -> None:
        hear(row)
        place.clock += 0.5

    monkeypatch.setattr(place, "hear", slow)
    place.watch(script(), parts=settings(place))
    found = {row["part"]: row for row in rows_of(place)}
    assert (found["1"]["decision"], found["1"]["missing"]) == ("accepted", [])
    assert found["1"]["seconds"] > 5 and found["2"]["missing"] == ["top"]


def test_the_number_of_views_must_be_known(place: Place, capsys: pytest.CaptureFixture[str]):
    told = refused(capsys, *command(place, "--part-pattern", r"(\d+)_"))
    assert "how many views has a part? Give --views" in told
    assert "--views: is for parts" in refused(capsys, *command(place, "--views", "2"))
    with pytest.raises(UsageError, match="--part-wait 0: must be a number of seconds above 0"):
        settings(place, wait_s=0)


def test_the_thresholds_of_parts_that_a_station_has_made_are_used(place: Place):
    """Its version of the model has a calibration of parts of its own beside it."""
    place.detectors["newer"] = place.detectors["one"]
    versions, digest = Versions(place.out / FOLDER), hashlib.sha256(b"newer").hexdigest()
    versions.start(place.model)
    scores = np.random.default_rng(0).uniform(0.95, 1.0, (4, 2))
    text = part_calibration_text(
        PartCalibration(scores=scores, views=("side", "top")),
        {"side": digest, "top": digest},
        parts=["1", "2", "3", "4"],
        data="the record",
    )

    def script() -> Script:
        for name in ("1_side.png", "1_top.png"):
            grey(place.folder / name, BAD)
        yield 2.0
        origin = file_digest(place.model)
        versions.use(versions.add(b"newer", suffix=place.model.suffix, of=origin, parts=text))
        yield 2.0
        for name in ("2_side.png", "2_top.png"):
            grey(place.folder / name, BAD)
        yield 2.0

    place.watch(script(), parts=settings(place))
    assert [(r["part"], r["decision"], r["rule"]) for r in rows_of(place)] == [
        ("1", "rejected", "apart"),
        ("2", "accepted", "together"),
    ]
