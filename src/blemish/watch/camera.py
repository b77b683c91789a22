"""Filling a watched folder with the frames of a camera, a stream or a film: source -> folder -> ledger.

A thread of its own reads the source and writes the frames that are due as PNG, each under a hidden name
until it is complete. A camera cannot wait: when too many files wait to be scored, or the folder cannot
be written, its frames are dropped and counted. A film can.
"""

from __future__ import annotations

import datetime
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from blemish.core.errors import ImageError, UsageError
from blemish.core.files import temporary_for
from blemish.images import decode, genicam, video
from blemish.images.sources import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import cv2

MAX_WAITING_FILES = 100
"""Files that wait to be scored at most; then frames are dropped until only half as many wait."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
"""Seconds between two tries to open a camera that went away: doubled from the first to the longest."""
CLOSE_TIMEOUT_S = 5.0
"""Seconds that the current frame has to be written when the watch ends."""


@contextmanager
def frames_into(
    source: str, folder: Path, *, every: float, say: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
    """Within the block, write frames into `folder`.

    Yields a function to be called with the number of files that wait there to be scored. Nothing is written
    before its first call.

    Args:
        source: a camera's number, `genicam:SERIAL`, a stream's address, or a film, written from its start.
        folder: made if it is not there.
        every: seconds, 0 or more, between two frames that are written; of a film in its own time.
        say: told of what a person should know: a camera that went away, frames that were dropped.

    Raises UsageError for what cannot be opened at the start and without OpenCV, ImageError for a film that
    is none.
    """
    grabber = Grabber(source, folder, every=every, say=say)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield grabber.set_waiting
    finally:
        grabber.close()


class Grabber:
    """A thread that writes the frames of a source; `frames_into` makes one and ends it."""

    def __init__(self, source: str, folder: Path, *, every: float, say: Callable[[str], None]) -> None:
        if not every >= 0:
            raise UsageError(f"--every {every}: must be 0 or larger")
        self.name = re.sub(r"(?<=://)[^/]*@", "", source)  # a stream's address may hold a password
        self.source = int(source) if source.isdecimal() else source
        self.folder, self.every, self.say = folder, every, say
        self.waiting, self.dropped, self.is_dropping = 0, 0, False
        self.changed, self.ending = threading.Condition(), False
        self.is_film = Path(source).is_file() and isinstance(self.source, str)
        if self.is_film:
            self.step = max(1, round(every * video.frame_rate(Path(source))))
        else:
            self.capture = self._open()
            if not self.capture.isOpened():
                raise UsageError(f"--camera {self.name}: cannot be opened; check its number, address or path")
        self.thread = threading.Thread(target=self._run, name=f"camera {self.name}", daemon=True)

    def set_waiting(self, waiting: int) -> None:
        """Set how many files wait to be scored; the first call starts the thread."""
        with self.changed:
            self.waiting = waiting
            self.changed.notify()
        if self.thread.ident is None:
            self.thread.start()

    def close(self) -> None:
        """Stop after the current frame, and say how many were dropped."""
        with self.changed:
            self.ending = True
            self.changed.notify()
        if self.thread.ident is not None:
            self.thread.join(CLOSE_TIMEOUT_S)
        if self.dropped:
            self.say(f"{self.name}: {self.dropped} frames were dropped")

    def _run(self) -> None:
        for frame in self._film_frames() if self.is_film else self._camera_frames():
            if self._has_room():
                self._write(frame)
            if self.ending:
                return

    # --- the two kinds of source ---

    def _film_frames(self) -> Iterator[Frame]:
        try:
            yield from video.frames(Path(self.name), self.step)
        except ImageError as error:
            self.say(str(error))
        self.say(f"{self.name}: has come to its end")

    def _camera_frames(self) -> Iterator[Frame]:
        """Yield the frames that are due; the others are read too, as a camera would give them later."""
        number, due = 0, time.monotonic()
        try:
            while True:
                whole, image = self.capture.grab(), None
                if self.ending:
                    return
                if whole and time.monotonic() >= due:
                    whole, image = self.capture.retrieve()
                if not whole:
                    self._open_again()
                    continue
                if image is not None:
                    now = time.monotonic()
                    due = due + self.every if due + self.every > now else now + self.every
                    yield Frame(path=f"{self.name}#{number:06d}", image=video.rgb(image))
                number += 1
        finally:
            self.capture.release()

    def _open(self) -> cv2.VideoCapture | genicam.GenicamCapture:
        """Open a camera or a stream. Raises UsageError for a camera of GenICam that is not there."""
        if isinstance(self.source, str) and self.source.startswith(genicam.PREFIX):
            return genicam.GenicamCapture(self.source, lambda: self.ending)
        return video.capture(self.source)

    def _open_again(self) -> None:
        """Try until the camera gives a frame again, or the watch ends."""
        self.say(f"{self.name}: gives no frames; trying again")
        wait = FIRST_RETRY_S
        while not self._ends_within(wait):
            self.capture.release()
            try:
                self.capture = self._open()
            except UsageError:  # it is not there yet
                wait = min(2 * wait, LONGEST_RETRY_S)
                continue
            if self.capture.isOpened() and self.capture.grab():
                self.say(f"{self.name}: gives frames again")
                return
            wait = min(2 * wait, LONGEST_RETRY_S)

    def _ends_within(self, seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.ending, seconds)

    # --- into the folder ---

    def _has_room(self) -> bool:
        """Whether a frame may be written. A film waits until it may, or until the watch ends."""
        with self.changed:
            if self.is_film:
                self.changed.wait_for(lambda: self.waiting < MAX_WAITING_FILES or self.ending)
                return not self.ending
            if self.waiting < (MAX_WAITING_FILES // 2 if self.is_dropping else MAX_WAITING_FILES):
                return True
        self._drop(f"{self.waiting} files wait to be scored")
        return False

    def _write(self, frame: Frame) -> None:
        """Write a frame as PNG, named by the time and its number; a reader sees it whole or not at all."""
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        file = self.folder / f"{moment}-{frame.path.rpartition('#')[2]}.png"
        try:
            with temporary_for(file) as part:
                Image.fromarray(decode.as_image(frame)).save(part, "PNG", compress_level=1)
        except (OSError, ImageError) as error:
            self._drop(f"a frame cannot be written ({error})")
            return
        self.is_dropping = False
        with self.changed:
            self.waiting += 1

    def _drop(self, why: str) -> None:
        self.dropped += 1
        if not self.is_dropping:
            self.say(f"{self.name}: {why}; frames are dropped until that changes")
        self.is_dropping = True
