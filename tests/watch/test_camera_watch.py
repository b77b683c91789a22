"""From a camera or a film through the watched folder into the ledger."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cameras import NAME
from commands import refused, run
from fakes import fake_detector, grey
from films import cut, film, number_of
from PIL import Image
from waiting import wait_for
from watched import LEVELS, Place, check, rows_of

from blemish.core.errors import ImageError
from blemish.images import folders
from blemish.watch import camera, settings
from blemish.watch import folder as watching
from blemish.watch.camera import Grabber
from blemish.watch.ledger import LEDGER_NAME
from blemish.watch.settings import WatchSettings


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_text("one")
    monkeypatch.setattr(settings, "load", lambda *_, **__: fake_detector(grey_levels=LEVELS))
    return path


def watch_film(model: Path, source: Path, *, every: float = 0.0) -> tuple[list[dict[str, Any]], list[str]]:
    """Watch a film until its end was said and every file is in the ledger; returns rows and what was said."""
    folder, out = source.parent / "new" / "in", source.parent / "out"
    until, told, said = time.monotonic() + 60, list[dict[str, Any]](), list[str]()
    with camera.frames_into(str(source), folder, every=every, say=said.append) as on_scan:
        watching.watch(
            WatchSettings(model=model, folder=folder, out=out),
            should_stop=lambda: (
                (bool(said) and len(told) == len(folders.list_images(folder))) or time.monotonic() > until
            ),
            on_row=told.append,
            on_scan=on_scan,
        )
    check(out, [p.name for p in folders.list_images(folder)])
    return rows_of(out), said


def test_a_film_goes_through_the_folder_into_the_ledger(model: Path, tmp_path: Path):
    source = film(tmp_path / "a.avi", 60)
    rows, said = watch_film(model, source)
    numbers = [int(NAME.fullmatch(row["path"])[1]) for row in rows]  # type: ignore[index]
    assert numbers == list(range(60))
    for number, row in zip(numbers, rows, strict=True):
        assert row["score"] == pytest.approx(3 * number / 255, abs=0.01)
        with Image.open(tmp_path / "new" / "in" / row["path"]) as picture:
            assert number_of(np.asarray(picture)) == number
    assert said == [f"{source}: has come to its end"]


@pytest.mark.heavy
def test_a_film_waits_and_loses_nothing_when_it_is_faster_than_scoring(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(camera, "MAX_WAITING_FILES", 5)
    waiting: list[int] = []
    tell: Callable = Grabber.set_waiting

    def noted(self: Grabber, count: int) -> None:
        waiting.append(count)
        tell(self, count)
        if len(waiting) == 1:
            wait_for(lambda: self.waiting == 5)

    monkeypatch.setattr(Grabber, "set_waiting", noted)
    rows, said = watch_film(model, film(tmp_path / "a.avi", 30))
    assert len(rows) == 30
    assert "dropped" not in " ".join(said)
    assert 5 <= max(waiting) <= 10  # a file that comes between a look and its telling is not counted


def test_of_a_film_the_pace_is_its_own_time(model: Path, tmp_path: Path):
    rows, _ = watch_film(model, film(tmp_path / "a.avi", 50, rate=10), every=1.0)
    assert [NAME.fullmatch(row["path"])[1] for row in rows] == [f"{k:06d}" for k in (0, 10, 20, 30, 40)]  # type: ignore[index]


def test_of_a_film_that_was_cut_off_what_is_there_is_scored_and_the_loss_said(model: Path, tmp_path: Path):
    source = cut(film(tmp_path / "a.avi", 40), 0.5)
    rows, said = watch_film(model, source)
    assert 5 < len(rows) < 30
    assert said[0].startswith(f"{source}: gave {len(rows)} of about 40 frames")
    assert said[1:] == [f"{source}: has come to its end"]
    (source.parent / "no.avi").write_text("I am no film")
    with (
        pytest.raises(ImageError, match="is not a film"),
        camera.frames_into(str(source.parent / "no.avi"), tmp_path / "x", every=0, say=print),
    ):
        pass
    assert not (tmp_path / "x").exists()


def test_the_watch_tells_how_many_files_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place, told = Place(tmp_path, monkeypatch), list[int]()
    for i in range(20):
        grey(place.folder / f"{i}.png", i)
    place.watch(iter([1.0]), on_scan=told.append)
    looks = [n for n, before in zip(told, [None, *told], strict=False) if n != before]
    assert looks == [20, 4, 0]  # 16 at a time


@pytest.mark.heavy
def test_the_command_ends_by_a_signal_and_goes_on_when_started_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source, out = film(tmp_path / "a.avi", 4), tmp_path / "out"
    options = (
        "--model",
        model,
        "--folder",
        tmp_path / "in",
        "--out",
        out,
        "--camera",
        source,
        "--every",
        "0",
    )

    def ended(rows: int) -> None:
        ledger = out / LEDGER_NAME
        wait_for(lambda: ledger.exists() and ledger.read_bytes().count(b"\n") >= rows)
        wait_for(
            lambda: not any(t.name.startswith("camera") for t in threading.enumerate())
        )  # its end was said
        os.kill(os.getpid(), signal.SIGTERM)

    for life in (1, 2):  # a film is written from its start each time
        asking = threading.Thread(target=ended, args=(4 * life,))
        asking.start()
        assert run("watch", *options) == 0
        asking.join()
        shown = capsys.readouterr()
        assert shown.out.splitlines()[-1] == f"4 recorded: {out / LEDGER_NAME}"
        assert shown.err == f"blemish watch: {source}: has come to its end\n"
    check(out, [p.name for p in folders.list_images(tmp_path / "in")])


def test_without_opencv_or_with_a_camera_that_is_not_there_it_is_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    options = ("watch", "--model", model, "--folder", tmp_path / "in", "--out", tmp_path / "out", "--camera")
    line = refused(capsys, *options, tmp_path / "none.avi")
    assert line.startswith(
        f"blemish watch: --camera {tmp_path / 'none.avi'}: cannot be opened; check its number"
    )
    monkeypatch.setitem(sys.modules, "cv2", None)
    line = refused(capsys, *options, "0")
    assert line == "blemish watch: films and cameras need OpenCV; pip install 'blemish[video]'"
    assert not (tmp_path / "in").exists()
