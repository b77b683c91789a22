"""Cameras that speak GenICam, such as GigE Vision and USB3 Vision, through harvesters (`blemish[genicam]`).

What drives the camera comes from its maker: a GenTL producer, a file `*.cti` in one of the folders that
GENICAM_GENTL64_PATH names. Exposure, trigger and pixel format are set with the maker's tool, and kept in the
camera; nothing is changed here. A camera that waits for its hardware trigger is waited for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "genicam:"
"""Before the serial number of a camera, or before nothing where there is only one."""
FORMATS = {"Mono8": 1, "RGB8": 3, "BGR8": 3}
"""Pixel formats that are taken, and their channels."""
WAIT_S = 0.2
"""Seconds to wait for a frame before it is asked whether the watch ends."""
PRODUCERS = "GENICAM_GENTL64_PATH"


class GenicamCapture:
    """A camera with the calls of OpenCV's capture; frames are uint8 (H, W, 3) in blue, green, red."""

    def __init__(self, source: str, ended: Callable[[], bool] = lambda: False) -> None:
        """Open `genicam:SERIAL`; `ended` is asked again and again while no frame comes.

        Raises UsageError for a camera that is not there, and for one with another pixel format.
        """
        self._source, self._ended = source, ended
        self._camera: Any = None
        self._frame: np.ndarray | None = None
        harvester_class, self._timeout = _harvesters()
        self._harvester = harvester_class()
        try:
            self._open(source.removeprefix(PREFIX))
        except BaseException:
            self.release()
            raise

    def _open(self, serial: str) -> None:
        try:
            self._start(self._serial_of(serial))
        except UsageError:
            raise
        except Exception as error:  # of the producer, which has kinds of its own
            said = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"--camera {self._source}: cannot be opened ({said})") from error

    def _serial_of(self, serial: str) -> str:
        for producer in _producers():
            self._harvester.add_file(str(producer))
        self._harvester.update()
        there = [str(device.serial_number) for device in self._harvester.device_info_list]
        if not there:
            raise UsageError(f"--camera {self._source}: there is no camera; check its cable and {PRODUCERS}")
        if not serial and len(there) == 1:
            serial = there[0]
        if serial not in there:
            known = ", ".join(PREFIX + each for each in there)
            raise UsageError(f"--camera {self._source}: is none of those that are there: {known}")
        return serial

    def _start(self, serial: str) -> None:
        self._camera = self._harvester.create({"serial_number": serial})
        kind = str(self._camera.remote_device.node_map.PixelFormat.value)
        if kind not in FORMATS:
            raise UsageError(
                f"--camera {self._source}: sends {kind}; set its PixelFormat to {', '.join(FORMATS)}"
            )
        self._camera.start()

    def isOpened(self) -> bool:  # noqa: N802, as OpenCV names it
        """Whether it gives frames."""
        return self._camera is not None

    def grab(self) -> bool:
        """Wait for the next frame, however long; False: the camera is gone, or the watch ends."""
        while self._camera is not None and not self._ended():
            try:
                with self._camera.fetch(timeout=WAIT_S) as buffer:
                    self._frame = _array(buffer.payload.components[0])
                return self._frame is not None
            except self._timeout:
                continue
            except Exception:  # of the producer: the camera is gone, and will be opened again
                return False
        return False

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        """Return the frame that was grabbed last."""
        return self._frame is not None, self._frame

    def release(self) -> None:
        """Let the camera go. One that was unplugged may refuse each of the calls, which are all made."""
        camera, self._camera = self._camera, None
        of_camera = [] if camera is None else [camera.stop, camera.destroy]
        for call in (*of_camera, self._harvester.reset):
            with suppress(Exception):
                call()


def _harvesters() -> tuple[Any, type[Exception]]:
    """Return the class of harvesters, and its error for a frame that has not come in time."""
    try:
        from genicam.gentl import TimeoutException
        from harvesters.core import Harvester
    except ImportError as error:
        raise UsageError("cameras of GenICam need harvesters; pip install 'blemish[genicam]'") from error
    return Harvester, TimeoutException


def _producers() -> list[Path]:
    """Return the files of the producers. Raises UsageError when there is none."""
    folders = [Path(name) for name in os.environ.get(PRODUCERS, "").split(os.pathsep) if name]
    found = sorted(file for folder in folders for file in folder.glob("*.cti"))
    if not found:
        raise UsageError(f"{PRODUCERS}: names no folder with a *.cti file; install the camera maker's driver")
    return found


def _array(component: Any) -> np.ndarray | None:
    """Copy an image out of the camera's memory; None: it has another pixel format than at the start."""
    kind = str(component.data_format)
    if kind not in FORMATS:
        return None
    pixels = np.array(component.data, np.uint8).reshape(component.height, component.width, FORMATS[kind])
    if kind == "Mono8":
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1]) if kind == "RGB8" else pixels
