"""A camera whose frames are given by hand."""

from __future__ import annotations

import queue
import re

import numpy as np
from waiting import wait_for

NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(\d{6})\.png")
"""The names of the files that are written, with the number of the frame."""


class Camera:
    """A capture of what a test gives, which is done with when `give` returns; None: the camera goes away."""

    def __init__(self, *, opens: bool = True) -> None:
        self.opens, self.released = opens, False
        self.frames: queue.Queue[np.ndarray | None] = queue.Queue()
        self.latest: np.ndarray | None = None
        self.given = 0

    def give(self, *frames: np.ndarray | None) -> None:
        for frame in frames:
            self.frames.put(frame)
            self.given += 1
        self.frames.put(np.empty(0))  # asked for only when those before are done with
        wait_for(self.frames.empty)

    def isOpened(self) -> bool:  # noqa: N802, as OpenCV names it
        return self.opens

    def grab(self) -> bool:
        while not self.released:
            try:
                self.latest = self.frames.get(timeout=0.01)
            except queue.Empty:
                if self.ended():
                    return False
                continue
            if self.latest is None:
                return False
            if self.latest.size:
                return True
        return False

    def ended(self) -> bool:
        return False

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        assert self.latest is not None
        return True, self.latest[..., ::-1]

    def release(self) -> None:
        self.released = True
