"""Watching a folder: which files, when, and in what order."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import save, tiny_image
from encoded import pillow
from fakes import fake_detector, grey
from watched import LEVELS, Place, Script, check

from blemish.core.errors import UsageError
from blemish.data.hashing import file_digest
from blemish.images import folders
from blemish.inference.onnx_backend import version_bytes
from blemish.inference.products import Product, ProductCalibration
from blemish.record.versions import FOLDER, Versions
from blemish.watch import folder as watching
from blemish.watch.arrivals import SETTLE_TIME_S, UNREADABLE_TIMEOUT_S
from blemish.watch.folder import POLL_INTERVAL_S
from blemish.watch.ledger import Arrival, Ledger
from blemish.watch.reload import ReloadingModel
from blemish.watch.settings import WatchSettings


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


# --- which files, when, in what order ---


def test_files_are_scored_in_order_of_arrival_whatever_their_times(place: Place):
    def arrive(name: str, mtime: int) -> None:
        os.utime(grey(place.folder / name, 100), (mtime, mtime))

    def script() -> Script:
        arrive("b.png", 3000)  # both are there at the first look: by their times
        arrive("sub/deep/z.png", 2000)
        yield POLL_INTERVAL_S
        arrive("c.png", 20)  # the clock was set back
        yield POLL_INTERVAL_S
        arrive("a.png", 10)
        yield 1.0

    assert place.watch(script()) == 4
    assert [row["path"] for row in place.rows()] == ["sub/deep/z.png", "b.png", "c.png", "a.png"]
    assert place.told == place.rows()


def test_what_waits_longest_comes_first_when_more_comes_than_can_be_scored(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    late = iter([("y.png", 20), ("x.png", 10)])  # arrive with times before those that wait

    def slow(x: np.ndarray) -> np.ndarray:
        place.clock += 1.0
        for name, mtime in itertools.islice(late, 1):
            os.utime(grey(place.folder / name, 100), (mtime, mtime))
        return x.mean(axis=1)

    place.detectors["one"] = fake_detector(grey_levels=LEVELS, network=slow)
    monkeypatch.setattr(watching, "BATCH_SIZE", 1)
    for i in range(5):
        os.utime(grey(place.folder / f"{i}.png", 100), (100 + i, 100 + i))
    assert place.watch() == 7
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "y.png", "x.png"]
    assert [row["path"] for row in place.rows()] == names


def test_a_row_says_what_was_inspected_with_which_model(place: Place):
    file = grey(place.folder / "sub" / "a.png", 255)
    assert place.watch() == 1
    (row,) = place.rows()
    assert (row["score"], row["threshold"], row["anomalous"]) == (1.0, pytest.approx(0.8), True)
    assert (row["size"], row["mtime_ns"]) == (file.stat().st_size, file.stat().st_mtime_ns)
    assert row["model"] == hashlib.sha256(b"one").hexdigest()
    assert row["time"].endswith("+00:00")
    assert (row["map"], row["overlay"]) == ("maps/sub/a.png.tiff", "overlays/sub/a.png.png")
    check(place.out, ["sub/a.png"])


@pytest.mark.heavy
def test_a_file_that_is_still_being_written_is_scored_once_and_whole(place: Place):
    file = place.folder / "a.png"
    data = save(place.folder.parent / "a.png", tiny_image(0)).read_bytes()

    def script() -> Script:
        file.touch()
        yield UNREADABLE_TIMEOUT_S - 1  # empty: waits
        for part in (1, 2, 3):  # long enough to be tried, and found to be cut off
            file.write_bytes(data[: part * len(data) // 4])
            yield UNREADABLE_TIMEOUT_S - 1
        for byte in range(len(data) - 9, len(data) + 1):  # never still for long enough to be tried
            file.write_bytes(data[:byte])
            yield SETTLE_TIME_S - POLL_INTERVAL_S
        assert place.told == []
        yield 1.0

    assert place.watch(script()) == 1
    (row,) = place.rows()
    assert (row["error"], row["size"]) == (None, len(data))


@pytest.mark.heavy
def test_what_cannot_be_read_is_failed_when_patience_ends_and_holds_up_nothing(place: Place):
    bad = [f"{i}.png" for i in range(2 * watching.BATCH_SIZE + 1)]

    def script() -> Script:
        for name in bad:
            (place.folder / name).write_text("I am no picture")
        yield 0.5
        grey(place.folder / "late.png", 10)
        yield 2 * UNREADABLE_TIMEOUT_S

    assert place.watch(script(), move_to=place.out.parent / "moved") == len(bad) + 1
    assert place.at["late.png"] == pytest.approx(0.5 + SETTLE_TIME_S, abs=2.5 * POLL_INTERVAL_S)
    for name in bad:
        assert place.at[name] == pytest.approx(SETTLE_TIME_S + UNREADABLE_TIMEOUT_S, abs=5 * POLL_INTERVAL_S)
        assert place.at[name] >= SETTLE_TIME_S + UNREADABLE_TIMEOUT_S - 1e-9
    assert {row["path"] for row in place.rows() if row["error"]} == {*bad}
    assert {p.name for p in (place.out.parent / "moved" / "failed").iterdir()} == {*bad}


def test_empty_files_and_those_of_any_name_have_their_row(place: Place):
    moved = place.out.parent / "moved"
    jpeg = pillow(np.full((32, 32, 3), 51, np.uint8), "JPEG")
    for name in ("a.jfif", "b.JPE", "c", "d.0001"):
        (place.folder / name).write_bytes(jpeg)
    for name in ("0.png", "1.JPG", "2.jfif"):
        (place.folder / name).touch()
    assert place.watch(move_to=moved) == 7
    errors = {row["path"]: row["error"] for row in place.rows() if row["error"]}
    assert sorted(errors) == ["0.png", "1.JPG", "2.jfif"]
    assert all("it is an empty file" in error for error in errors.values())
    assert sorted(p.name for p in (moved / "failed").iterdir()) == ["0.png", "1.JPG", "2.jfif"]
    assert place.said == []


def test_what_is_not_looked_at_is_said_once_for_each_suffix(place: Place):
    def script() -> Script:
        for name in ("a.pgm", "b.pgm", "sub/c.PGM", "d.gif", "e"):
            (place.folder / name).parent.mkdir(exist_ok=True)
            (place.folder / name).write_bytes(b"P5 is no format of ours")
        (place.folder / "f.png.part").write_bytes(b"half")
        (place.folder / "Thumbs.db").write_bytes(b"a thumbnail")
        yield UNREADABLE_TIMEOUT_S - 1  # may still be being written
        assert place.said == []
        for name in ("f.png", "e.png"):
            grey(place.folder / name, 51)
        (place.folder / "f.png.part").unlink()
        (place.folder / "e.png").rename(place.folder / "e")
        yield 2 * UNREADABLE_TIMEOUT_S

    assert place.watch(script()) == 2
    assert [text.split(": is no PNG")[0] for text in place.said] == [
        str(place.folder / "a.pgm"),
        str(place.folder / "d.gif"),
    ]


def test_linked_folders_are_watched_and_closed_ones_are_said(place: Place, monkeypatch: pytest.MonkeyPatch):
    far, closed, scandir = place.folder.parent / "far", place.folder / "closed", os.scandir
    grey(far / "a.png", 10)
    grey(closed / "b.png", 10)
    (place.folder / "line1").symlink_to(far)
    shut = [True]

    def sometimes_shut(path: Any) -> Any:
        if shut[0] and Path(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", sometimes_shut)

    def script() -> Script:
        yield 1.0
        assert [row["path"] for row in place.told] == ["line1/a.png"]
        shut[0] = False
        yield 1.0

    assert place.watch(script()) == 2
    assert place.said == [
        f"{closed}: cannot be entered (Permission denied), so its files wait; check its rights"
    ]
    check(place.out, ["line1/a.png", "closed/b.png"])


def test_a_file_written_anew_is_a_new_row_and_one_that_stays_is_not(place: Place):
    def script() -> Script:
        grey(place.folder / "a.png", 51)
        yield 1.0
        grey(place.folder / "a.png", 102, side=40)
        yield 1.0
        (place.folder / "a.png").unlink()
        yield 1.0

    assert place.watch(script()) == 2
    assert [row["score"] for row in place.rows()] == pytest.approx([0.2, 0.4])
    grey(place.folder / "b.png", 153)
    assert place.watch() == 1
    assert place.watch() == 0  # a later start knows them
    check(place.out, ["a.png", "a.png", "b.png"])


def test_out_and_move_to_inside_the_folder_are_not_looked_at(place: Place):
    out, moved = place.folder / "out", place.folder / "sorted"
    for name, level in (("good.png", 100), ("bad.png", 255), ("x/bad.png", 254)):
        grey(place.folder / name, level)
    (place.folder / "no.png").write_text("I am no picture")
    assert place.watch(out=out, move_to=moved) == 4
    assert place.watch(out=out, move_to=moved) == 0
    found = sorted(str(p.relative_to(moved)) for p in moved.rglob("*.png"))
    assert found == ["accepted/good.png", "failed/no.png", "rejected/bad.png", "rejected/x/bad.png"]
    assert folders.list_images(place.folder / "x") == []


@pytest.mark.parametrize("option", ["out", "move_to"])
@pytest.mark.parametrize("above", [False, True])
def test_a_folder_inside_what_is_not_looked_at_is_refused(place: Place, option: str, above: bool):
    path = place.folder.parent if above else place.folder
    with pytest.raises(UsageError, match=f"^--{option.replace('_', '-')} {path}: holds the watched folder"):
        place.watch(**{option: path})


def test_a_moved_file_overwrites_none_and_one_written_anew_meanwhile_is_not_moved(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    moved, data = place.folder.parent / "moved", []
    for level in (10, 20, 30):
        data.append(grey(place.folder / "a.png", level).read_bytes())
        assert place.watch(move_to=moved) == 1
    names = ("a.png", "a~2.png", "a~3.png")
    assert [(moved / "accepted" / name).read_bytes() for name in names] == data
    append = Ledger.append

    def overtaken(self: Ledger, arrival: Arrival, row: dict[str, Any]) -> None:
        append(self, arrival, row)
        if self.sequence == 4:
            grey(place.folder / "a.png", 50, side=48)

    monkeypatch.setattr(Ledger, "append", overtaken)
    grey(place.folder / "a.png", 40)
    assert place.watch(move_to=moved) == 2
    assert [row["score"] for row in place.rows()] == pytest.approx(
        [level / 255 for level in (10, 20, 30, 40, 50)]
    )


# --- what else changes meanwhile ---


def test_a_clock_that_goes_backwards_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch):
    hours = iter(range(23, 0, -1))

    def earlier(_: object) -> datetime.datetime:
        return datetime.datetime(2024, 1, 1, next(hours), tzinfo=datetime.UTC)

    clock = SimpleNamespace(UTC=datetime.UTC, datetime=SimpleNamespace(now=earlier))
    monkeypatch.setattr(watching, "datetime", clock)

    def script() -> Script:
        for i in range(4):
            os.utime(grey(place.folder / f"{9 - i}.png", 50 * i), (9000 - i, 9000 - i))
            yield 0.5

    assert place.watch(script()) == 4
    assert [row["path"] for row in place.rows()] == ["9.png", "8.png", "7.png", "6.png"]
    assert [row["time"][11:13] for row in place.rows()] == ["23", "22", "21", "20"]
    assert place.watch() == 0
    check(place.out, [f"{i}.png" for i in (9, 8, 7, 6)])


def test_a_folder_that_goes_away_is_waited_for(place: Place):
    def script() -> Script:
        grey(place.folder / "a.png", 10)
        yield 1.0
        grey(place.folder / "gone.png", 10)
        yield POLL_INTERVAL_S
        shutil.rmtree(place.folder)
        yield 2 * UNREADABLE_TIMEOUT_S
        grey(place.folder / "b.png", 20)
        yield 1.0

    assert place.watch(script()) == 2
    assert place.said == [
        f"{place.folder}: went away; waiting for it",
        f"{place.folder}: is there again",
    ]
    check(place.out, ["a.png", "b.png"])


def test_a_sub_folder_that_goes_away_while_it_is_listed(place: Place, monkeypatch: pytest.MonkeyPatch):
    scandir, listings = os.scandir, itertools.count(1)
    gone: list[int] = []

    def sometimes_gone(path: Any) -> Any:
        if Path(path) == place.folder / "sub" and (number := next(listings)) in (1, 3, 4):
            gone.append(number)
            raise FileNotFoundError(2, "No such file or directory", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", sometimes_gone)
    grey(place.folder / "a.png", 10)
    grey(place.folder / "sub" / "b.png", 10)
    assert place.watch() == 2
    assert gone == [1, 3, 4]
    check(place.out, ["a.png", "sub/b.png"])


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_changed_model_is_loaded_again_and_half_a_copy_is_not(place: Place):
    def script() -> Script:
        grey(place.folder / "a.png", 51)
        yield 1.0
        place.model.write_text("tw")  # half a copy: the one before goes on
        yield 1.0
        grey(place.folder / "b.png", 51)
        yield 1.0
        place.model.unlink()
        grey(place.folder / "c.png", 51)
        yield 1.0
        place.model.write_text("t")  # changes again before it has kept still: nothing to say
        yield POLL_INTERVAL_S
        place.model.write_text("two")
        yield 1.0
        grey(place.folder / "d.png", 51)
        yield 1.0

    assert place.watch(script()) == 4
    # 51 / 255 = 0.2, and 1 - 0.2 with the second model
    assert [row["score"] for row in place.rows()] == pytest.approx([0.2, 0.2, 0.2, 0.8])
    assert [row["model"] for row in place.rows()] == [digest("one")] * 3 + [digest("two")]
    assert place.said == [
        f"changed, but the previous model stays in use: {place.model}: is cut off",
        f"{place.model}: changed; loaded again",
    ]


def test_a_model_of_one_product_does_not_inspect_another(place: Place):
    """Its thresholds are those of its own product; the label of a model without products is free."""
    plain = place.detectors["one"]
    of_nuts = replace(plain.model_file, product=Product(name="nut"))
    place.detectors["nuts"] = replace(plain, model_file=of_nuts)
    settings = WatchSettings(model=place.model, folder=place.folder, out=place.out, product="bolt")
    assert settings.load(place.model) is plain
    place.model.write_text("nuts")
    with pytest.raises(UsageError, match="product 'bolt': this model is of nut"):
        settings.load(place.model)
    assert replace(settings, product="nut").load(place.model).model_file is of_nuts
    assert replace(settings, product=None).load(place.model).model_file is of_nuts


def test_of_a_product_the_station_s_version_is_used(place: Place):
    """A station gives each product of a model thresholds of its own, as if it were a model by itself."""
    plain, file = place.detectors["one"], place.model
    known = ProductCalibration(
        product=Product(name="nut"), calibration=plain.model_file.calibration, display_range=(0.0, 1.0)
    )
    several = replace(plain, model_file=replace(plain.model_file, calibration=None, products=(known,)))
    place.detectors["one"] = several
    place.detectors["newer"] = newer = several.for_product("nut")
    versions, settings = (
        Versions(place.out / FOLDER),
        WatchSettings(model=file, folder=place.folder, out=place.out, product="nut"),
    )
    versions.start(file)
    own = versions.start_product(version_bytes(file, newer.model_file), suffix=file.suffix)
    digest = versions.add(b"newer", suffix=file.suffix, of=own)

    def opened(*, recorded: bool = False) -> ReloadingModel:
        return ReloadingModel(
            file,
            settings.load,
            print,
            versions=place.out / FOLDER,
            of_product=settings.of_product,
            recorded=recorded,
        )

    assert opened().digest == file_digest(file)
    assert opened().detector.model_file.product == known.product
    assert (opened(recorded=True).digest, opened(recorded=True).name) == (own, f"{file.stem}:nut")
    versions.use(digest)
    assert opened(recorded=True).digest == digest
    assert opened().digest == digest
    assert opened().detector is newer
