"""Images that are no files of a folder, and the names that rows and errors have for any image."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blemish.core.errors import ImageError


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A frame of a film or a camera; its `path`, as `clip.mp4#000012`, names it in rows and errors.

    `image` is uint8 (H, W, C), or the error that stands in its place: a film that could not be read on.
    """

    path: str
    image: np.ndarray | ImageError

    def __str__(self) -> str:
        """Return the path, as a file's name does."""
        return self.path


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """An image file in any storage, read by `fetch`; its `path` names it in rows and errors.

    `fetch` gets its bytes when it is decoded, once. An ImageError that it raises is the image's own; whatever
    else it raises is not, and stops the scoring.
    """

    path: str
    fetch: Callable[[], bytes]

    def __str__(self) -> str:
        """Return the path, as a file's name does."""
        return self.path


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """A file or frame whose image (H, W, C) is also given to `observe` when it is decoded.

    It is called by whichever thread decodes, and must not change the image.
    """

    source: Path | Frame | Stored
    observe: Callable[[np.ndarray], None]

    def __str__(self) -> str:
        """Return the path, as a file's name does."""
        return str(self.source)


Named = Path | Frame | Stored | Observed
"""Images that have a path, which names them in rows."""


def path_of(obj: object) -> str | None:
    """Return the path of an image as rows name it; None: it has none, as an array."""
    return str(obj) if isinstance(obj, str | os.PathLike | Frame | Stored | Observed) else None


def name_of(obj: object) -> str:
    """Return the name of an image in errors: its path, or "image"."""
    if isinstance(obj, str | os.PathLike):
        return str(os.fspath(obj))
    if isinstance(obj, Frame | Stored | Observed):
        return str(obj)
    return str(getattr(obj, "filename", "") or "image")
