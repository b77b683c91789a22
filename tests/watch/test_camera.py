"""A camera that fills the watched folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cameras import NAME, Camera
from films import SIDE, level
from PIL import Image
from waiting import wait_for

from blemish.core.errors import UsageError
from blemish.images import folders, video
from blemish.watch import camera as camera_module
from blemish.watch.camera import Grabber


class Setup:
    """A grabber of cameras that stand in line to be opened."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.said = root / "in", list[str]()
        self.folder.mkdir()
        self.cameras: list[Camera] = []
        self.opened: list[Any] = []
        self.grabbers: list[Grabber] = []
        monkeypatch.setattr(video, "capture", self.capture)

    def capture(self, source: Any) -> Camera:
        self.opened.append(source)
        camera = self.cameras.pop(0) if self.cameras else Camera(opens=False)
        camera.ended = lambda: bool(self.grabbers) and self.grabbers[0].ending
        return camera

    def start(self, *cameras: Camera, every: float = 0.0, source: str = "0") -> Grabber:
        self.cameras = list(cameras)
        grabber = Grabber(source, self.folder, every=every, say=self.said.append)
        self.grabbers.append(grabber)
        return grabber

    def numbers(self) -> list[int]:
        """The numbers in the names of the files, in their order."""
        return [int(m[1]) for f in folders.list_images(self.folder) if (m := NAME.fullmatch(f.name))]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterable[Setup]:
    made = Setup(tmp_path, monkeypatch)
    yield made
    for grabber in made.grabbers:
        grabber.close()
        assert not grabber.thread.is_alive()


# --- what is written ---


def test_each_frame_becomes_a_file_that_is_whole_when_it_has_its_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
):
    red = level(0)
    red[..., 0] = 200
    replace: Callable = Path.replace
    seen: list[int] = []

    def watched(self: Path, target: Path) -> Path:
        seen.append(len(folders.list_images(setup.folder)))  # hidden until now, and whole
        with Image.open(self) as picture:
            assert picture.size == (SIDE, SIDE)
            picture.load()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    camera = Camera()
    setup.start(camera).set_waiting(0)
    camera.give(red, level(1), level(2))
    files = folders.list_images(setup.folder)
    assert seen == [0, 1, 2]
    assert setup.numbers() == [0, 1, 2]  # and their names sort by time
    for file, array in zip(files, (red, level(1), level(2)), strict=True):
        with Image.open(file) as picture:
            np.testing.assert_array_equal(np.asarray(picture), array)
    assert len(list(setup.folder.iterdir())) == 3
    assert (setup.opened, setup.said) == ([0], [])


def test_nothing_is_written_before_the_watch_looks_and_the_camera_is_given_back(setup: Setup):
    camera = Camera()
    grabber = setup.start(camera)
    camera.frames.put(level(1))
    assert grabber.thread.ident is None  # not started
    assert setup.numbers() == []
    grabber.set_waiting(0)
    wait_for(setup.numbers)
    grabber.close()
    assert camera.released


def test_frames_are_written_at_the_pace_asked_for_and_numbered_as_they_came(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(camera_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    camera = Camera()
    setup.start(camera, every=1.0).set_waiting(0)
    for number in range(8):
        clock.now = 100 + 0.4 * number  # due at 100, 101, 102: taken are 100.0, 101.2, 102.0
        camera.give(level(number))
    assert setup.numbers() == [0, 3, 5]
    clock.now = 200.0  # it hung: what was missed is not made up for
    camera.give(level(8))
    clock.now = 200.5
    camera.give(level(9))
    assert setup.numbers() == [0, 3, 5, 8]


# --- more than can be scored ---


def test_a_camera_s_frames_are_dropped_while_too_many_files_wait_and_said_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(camera_module, "MAX_WAITING_FILES", 4)
    camera = Camera()
    grabber = setup.start(camera)
    grabber.set_waiting(1)
    camera.give(*map(level, range(10)))  # three fit
    assert setup.numbers() == [0, 1, 2]
    said = "0: 4 files wait to be scored; frames are dropped until that changes"
    assert setup.said == [said]
    grabber.set_waiting(2)  # not yet half of them: the burst goes on
    camera.give(level(10))
    assert (setup.numbers(), setup.said) == ([0, 1, 2], [said])
    grabber.set_waiting(1)
    camera.give(*map(level, range(11, 16)))
    assert setup.numbers() == [0, 1, 2, 11, 12, 13]
    assert setup.said == [said, said]
    grabber.close()
    assert setup.said == [said, said, "0: 10 frames were dropped"]


def test_frames_are_dropped_while_the_folder_cannot_be_written(setup: Setup):
    camera, away = Camera(), setup.folder.with_name("away")
    setup.start(camera).set_waiting(0)
    camera.give(level(0))
    setup.folder.rename(away)
    camera.give(level(1), level(2))
    (line,) = setup.said
    assert line.startswith("0: a frame cannot be written ([Errno 2] No such file or directory")
    assert not setup.folder.exists()  # it may be a disk that is not mounted just now
    away.rename(setup.folder)
    camera.give(level(3))
    assert setup.numbers() == [0, 3]
    setup.grabbers[0].close()
    assert setup.said == [line, "0: 2 frames were dropped"]


# --- a camera that goes away ---


def test_a_camera_that_goes_away_is_opened_again_with_growing_waits(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
):
    first, dumb, last = Camera(), Camera(), Camera()
    waits: list[float] = []

    def no_wait(self: Grabber, seconds: float) -> bool:
        waits.append(seconds)
        return self.ending

    monkeypatch.setattr(Grabber, "_ends_within", no_wait)
    dumb.frames.put(None)  # opens, but gives nothing
    setup.start(first, *(Camera(opens=False) for _ in range(5)), dumb, last).set_waiting(0)
    first.give(level(0))
    first.frames.put(None)
    last.give(level(1), level(2))  # the one that shows it is there is not kept
    assert setup.numbers() == [0, 1]
    assert waits == [0.5, 1, 2, 4, 8, 10, 10]
    assert setup.said == ["0: gives no frames; trying again", "0: gives frames again"]
    assert first.released
    assert dumb.released


def test_the_end_of_the_watch_cuts_a_wait_short(setup: Setup, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(camera_module, "FIRST_RETRY_S", 3600.0)
    camera = Camera()
    grabber = setup.start(camera)
    camera.frames.put(None)
    grabber.set_waiting(0)
    wait_for(lambda: setup.said)
    grabber.close()
    assert not grabber.thread.is_alive()  # an hour too early


def test_what_cannot_be_opened_at_the_start_is_refused_and_passwords_are_not_shown(setup: Setup):
    for source, shown in (
        ("7", "7"),
        ("rtsp://me:secret@10.0.0.2/1", "rtsp://10.0.0.2/1"),
        ("no.avi", "no.avi"),
    ):
        with pytest.raises(UsageError) as caught:
            setup.start(Camera(opens=False), source=source)
        assert str(caught.value).startswith(f"--camera {shown}: cannot be opened; ")
    assert setup.opened == [7, "rtsp://me:secret@10.0.0.2/1", "no.avi"]
    for every in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="must be 0 or larger"):
            setup.start(Camera(), every=every)
