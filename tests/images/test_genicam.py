"""Cameras of GenICam, imitated behind the interface of harvesters: formats, triggers, lost cameras."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from waiting import wait_for

from blemish.core.errors import UsageError
from blemish.images import genicam
from blemish.watch.camera import Grabber

SIDE = (24, 32)


class Late(Exception):
    """No frame has come in time."""


class Plant:
    """The cameras that are there, and what they see."""

    def __init__(self) -> None:
        self.serials = ["40012345"]
        self.format = "RGB8"
        self.frames: queue.Queue[Any] = queue.Queue()
        self.producers: list[str] = []
        self.open = 0
        self.unplugged: set[str] = set()
        self.calls: list[str] = []

    # what harvesters has

    def harvester(self) -> Any:
        return SimpleNamespace(
            add_file=self.producers.append,
            update=partial(self.call, "update"),
            reset=partial(self.call, "reset"),
            device_info_list=[SimpleNamespace(serial_number=serial) for serial in self.serials],
            create=self.create,
        )

    def create(self, search_key: dict[str, str]) -> Any:
        assert search_key["serial_number"] in self.serials
        self.open += 1
        return SimpleNamespace(
            remote_device=SimpleNamespace(
                node_map=SimpleNamespace(PixelFormat=SimpleNamespace(value=self.format))
            ),
            start=lambda: None,
            stop=partial(self.call, "stop"),
            destroy=self.destroy,
            fetch=self.fetch,
        )

    def destroy(self) -> None:
        self.open -= 1
        self.call("destroy")

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.unplugged:
            raise OSError(f"no {name}:\nthe cable is out")

    def fetch(self, timeout: float) -> Any:
        try:
            frame = self.frames.get(timeout=min(timeout, 0.01))
        except queue.Empty:
            raise Late from None
        if isinstance(frame, Exception):
            raise frame
        return Buffer(self.format, frame)


class Buffer:
    """A frame in the camera's memory, which is overwritten when it is given back."""

    def __init__(self, kind: str, data: np.ndarray) -> None:
        self.data = data.astype(np.uint8)
        flat = self.data.reshape(-1)
        component = SimpleNamespace(data=flat, data_format=kind, height=SIDE[0], width=SIDE[1])
        self.payload = SimpleNamespace(components=[component])

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.data[:] = 0


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Plant]:
    made = Plant()
    (tmp_path / "maker.cti").touch()
    monkeypatch.setenv(genicam.PRODUCERS, str(tmp_path))
    monkeypatch.setattr(genicam, "_harvesters", lambda: (made.harvester, Late))
    yield made
    assert made.open == 0  # each camera was let go


RGB = np.arange(24 * 32 * 3).reshape(*SIDE, 3).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "sent", "blue_green_red"),
    [
        ("RGB8", RGB, RGB[..., ::-1]),
        ("BGR8", RGB, RGB),
        ("Mono8", RGB[..., 0], np.repeat(RGB[..., :1], 3, axis=2)),
    ],
)
def test_a_frame_is_what_the_camera_sent(
    plant: Plant, kind: str, sent: np.ndarray, blue_green_red: np.ndarray
):
    plant.format = kind
    capture = genicam.GenicamCapture("genicam:40012345")
    assert capture.isOpened()
    plant.frames.put(sent)
    assert capture.grab()
    whole, image = capture.retrieve()
    assert whole
    np.testing.assert_array_equal(image, blue_green_red)
    assert plant.producers[0].endswith("maker.cti")
    capture.release()
    assert not capture.isOpened()


def test_what_cannot_be_opened_is_a_line(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    def refused(source: str) -> str:
        with pytest.raises(UsageError) as error:
            genicam.GenicamCapture(source)
        return str(error.value)

    plant.serials = ["1", "2"]
    assert "is none of those that are there: genicam:1, genicam:2" in refused("genicam:")
    assert "is none of those" in refused("genicam:3")
    plant.format = "Mono12"
    assert "sends Mono12; set its PixelFormat to Mono8, RGB8, BGR8" in refused("genicam:2")
    plant.serials = []
    assert "there is no camera" in refused("genicam:2")
    monkeypatch.setenv(genicam.PRODUCERS, "")
    assert "names no folder with a *.cti file" in refused("genicam:2")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "harvesters.core", None)
    assert "pip install 'blemish[genicam]'" in refused("genicam:2")


def test_an_unplugged_camera_is_let_go_whatever_it_refuses(plant: Plant):
    capture = genicam.GenicamCapture("genicam:")
    plant.unplugged, plant.calls = {"stop", "destroy", "reset"}, []
    capture.release()
    assert plant.calls == ["stop", "destroy", "reset"]
    plant.unplugged, plant.calls = {"update", "reset"}, []
    with pytest.raises(UsageError) as error:
        genicam.GenicamCapture("genicam:")
    assert str(error.value) == "--camera genicam:: cannot be opened (no update: the cable is out)"
    assert plant.calls == ["update", "reset"]


def test_each_trigger_is_a_file_and_a_camera_comes_back(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    monkeypatch.setattr("blemish.watch.camera.FIRST_RETRY_S", 0.01)
    folder, said = tmp_path / "in", list[str]()
    folder.mkdir()
    grabber = Grabber("genicam:", folder, every=0.0, say=said.append)
    grabber.set_waiting(0)

    def files() -> list[Path]:
        return sorted(folder.glob("2*.png"))

    plant.frames.put(RGB)
    wait_for(lambda: len(files()) == 1)
    plant.serials, plant.unplugged = [], {"stop", "destroy", "reset", "update"}
    plant.frames.put(OSError("the cable is out"))
    wait_for(lambda: said == ["genicam:: gives no frames; trying again"])
    wait_for(lambda: plant.calls.count("update") > 1)
    plant.serials, plant.unplugged = ["40012345"], set()
    for _ in range(2):  # the first of them shows that it is there again
        plant.frames.put(RGB)
    wait_for(lambda: len(files()) == 2)
    assert said[1:] == ["genicam:: gives frames again"]
    np.testing.assert_array_equal(np.asarray(Image.open(files()[0])), RGB)
    grabber.close()  # while it waits for a trigger that does not come
    assert not grabber.thread.is_alive()


@pytest.mark.heavy
def test_the_interface_that_is_imitated_is_that_of_harvesters():
    core = pytest.importorskip("harvesters.core", reason="harvesters is not installed")
    for name in ("add_file", "update", "reset", "create", "device_info_list"):
        assert hasattr(core.Harvester, name)
    for name in ("start", "stop", "destroy", "fetch", "remote_device"):
        assert hasattr(core.ImageAcquirer, name)
    for name in ("data", "data_format", "height", "width"):
        assert hasattr(core.Component2DImage, name) or hasattr(core.ComponentBase, name)
    assert genicam._harvesters()[0] is core.Harvester
