"""Films as images: the frames of a video file, one after the other, through OpenCV (`blemish[video]`).

Decisions (our choice, each so that nothing changes in silence):

- A frame is what OpenCV makes of it: 8 bits and RGB, also of a grey film or one of 10 bits, and turned
  upright as the film's header says.
- The first bytes of a film are checked too: FFmpeg, which OpenCV reads with, takes any text for one.
- A film that gives fewer frames than it counts ends with an error. Matroska and WebM count none; of them a
  missing end of more than `SLACK_SECONDS` is noticed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import ImageError, UsageError
from blemish.images.limits import refusal
from blemish.images.sources import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import cv2
    import numpy as np

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})
"""The names of films, in lower case; compared without regard to case."""
SLACK_SECONDS = 1.0
"""Seconds by which the sound of a film that counts no frames may outlast its pictures."""

_MATROSKA = b"\x1aE\xdf\xa3"
_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


def is_film(path: Path) -> bool:
    """Whether a file is named as a film."""
    return path.suffix.lower() in SUFFIXES


def capture(source: str | int) -> cv2.VideoCapture:
    """Open a file, a stream's address or a camera's number; ask `isOpened` whether that worked.

    Raises UsageError without the package of `blemish[video]`.
    """
    # blemish reports errors itself, in one line. OpenCV reads these when imported, FFmpeg at first use.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise UsageError("films and cameras need OpenCV; pip install 'blemish[video]'") from error
    return cv2.VideoCapture(source)


def rgb(image: np.ndarray) -> np.ndarray:
    """Turn what a capture gives, uint8 (H, W, 3) in blue, green, red, into RGB."""
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def frames(path: Path, every: int = 1) -> Iterator[Frame]:
    """Yield the frames 0, `every`, 2 `every`, ... of a film, decoded as they are asked for.

    Raises ImageError for a file that is not a film and, after the last frame, for a film that is cut off.
    """
    with _open_film(path) as film:
        number, clock = 0, 0.0
        while film.grab():
            clock = _milliseconds(film)
            if number % every == 0:
                whole, image = film.retrieve()
                if not whole:
                    break
                yield Frame(path=f"{path}#{number:06d}", image=rgb(image))
            number += 1
        count = _count_frames(film)
        reached, slack = number, 0.0
        if _head(path).startswith(_MATROSKA):  # OpenCV works the count out from length and rate
            reached, slack = round(clock / 1000 * _rate(film)) + 1, SLACK_SECONDS * _rate(film)
    if not number:
        raise refusal(str(path), "holds no frame; save the film again")
    if count - reached > slack:
        found = f"gave {number} of about {count} frames, the rest is cut off or damaged"
        raise refusal(str(path), f"{found}; save it again")


def frame_count(path: Path) -> int | None:
    """Return the number of frames that a film states, None if it has none. Raises ImageError if no film."""
    with _open_film(path) as film:
        return _count_frames(film) or None


def frame_rate(path: Path) -> float:
    """Return the frames per second that a film states, 0 if it states none. Raises ImageError if no film."""
    with _open_film(path) as film:
        return _rate(film)


def count_images(inputs: Sequence[tuple[Path, Path]], every: int) -> int | None:
    """Count the images that `expand_films` will give; None when a film does not state its number of frames.

    Raises UsageError for an `every` below 1, and for films without OpenCV.
    """
    if every < 1:
        raise UsageError(f"--every {every}: must be 1 or larger")
    total = 0
    for path, _ in inputs:
        try:
            count = frame_count(path) if is_film(path) else 1
        except ImageError:  # which will be a row
            count = 1
        if count is None:
            return None
        total += -(-count // every)
    return total


def expand_films(inputs: Iterable[tuple[Path, Path]], every: int) -> Iterator[tuple[Path | Frame, Path]]:
    """Replace each film among (file, its place) by its frames, whose places lie below its own.

    A film that cannot be read to its end gives, after the frames before the damage, one Frame with the error.
    """
    for path, place in inputs:
        if not is_film(path):
            yield path, place
            continue
        try:
            for frame in frames(path, every):
                yield frame, place / frame.path.rpartition("#")[2]
        except ImageError as error:
            yield Frame(path=str(path), image=error), place


@contextmanager
def _open_film(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a film for a `with` block, and close it after. Raises ImageError for a file that is not a film."""
    head = _head(path)
    if not (
        head.startswith(_MATROSKA)
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
        or head[4:8] in _QUICKTIME
    ):
        raise refusal(str(path), "is not a film blemish can read; give MP4, MOV, AVI, Matroska or WebM")
    film = capture(str(path))
    try:
        if not film.isOpened():
            raise refusal(str(path), "cannot be opened as a film, truncated or damaged; save it again")
        yield film
    finally:
        film.release()


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(12)
    except OSError as error:
        raise refusal(
            str(path), f"cannot be read ({error.strerror}); check the file and its rights"
        ) from error


def _count_frames(film: cv2.VideoCapture) -> int:
    import cv2

    return max(0, int(film.get(cv2.CAP_PROP_FRAME_COUNT)))


def _rate(film: cv2.VideoCapture) -> float:
    import cv2

    return max(0.0, film.get(cv2.CAP_PROP_FPS))


def _milliseconds(film: cv2.VideoCapture) -> float:
    import cv2

    return film.get(cv2.CAP_PROP_POS_MSEC)
