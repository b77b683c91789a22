"""Regions of interest: where an image counts. What lies outside is covered before a model sees the image."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from blemish.core.errors import UsageError
from blemish.images import decode
from blemish.images.limits import refusal
from blemish.images.preprocess import ImageFormat
from blemish.images.resize import resize

LEAST_SHARE = 0.01
"""Share of an image that counts at least. Our choice: less is a mistake, as when white and black
are exchanged."""
LONGEST_SIDE = 2**15
"""Pixels of an image in which polygons are drawn, at most; their corners may lie twice as far out."""
ASPECT_TOLERANCE = 0.01
"""Relative difference of the aspects of image and mask that is taken for rounding."""


@dataclass(frozen=True)
class Roi:
    """The part of an image that counts, as a mask that fits every image of its aspect.

    `text` is the mask as a PNG of 1 bit in base64, so that a region goes into a model's description, compares
    and pickles as text does. Made by `read_roi` and `roi_of`.
    """

    text: str
    whose: str = field(default="the model's", compare=False)
    """In errors: "the model's", or "its own" where one image has it."""

    @cached_property
    def mask(self) -> np.ndarray:
        """The mask as it was given, bool (h, w). Raises ValueError where the text is damaged."""
        with Image.open(io.BytesIO(base64.b64decode(self.text, validate=True))) as picture:
            mask = np.asarray(picture.convert("1"))
        mask.setflags(write=False)
        return mask

    @property
    def share(self) -> float:
        """Share of the image that counts, in (0, 1]."""
        return float(self.mask.mean())

    @property
    def _cure(self) -> str:
        own = self.whose == "its own"
        return "draw it over this very image" if own else "give images as in the training"

    def at(self, size: tuple[int, int], *, name: str = "image") -> np.ndarray:
        """Return the mask at the (H, W) of an image, bool, somewhere True.

        Raises ImageError for another aspect, and where a thin region vanishes on a small image.
        """
        (height, width), (h, w) = size, self.mask.shape
        if abs(height * w - width * h) > ASPECT_TOLERANCE * height * w:
            raise refusal(
                name,
                f"is {width} x {height} px, but {self.whose} region of interest is {w} x {h} px, of another "
                f"aspect; {self._cure}",
            )
        found = _at(self, size)
        if not found.any():
            raise refusal(
                name,
                f"is {width} x {height} px, where nothing is left of {self.whose} region of interest, made "
                f"at {w} x {h} px; give larger images, or a wider region",
            )
        return found

    def cover(self, image: np.ndarray, image_format: ImageFormat, *, name: str = "image") -> np.ndarray:
        """Return a copy of an image (H, W, C) with the middle of its value range outside of the region."""
        low, high = image_format.value_range
        if image.dtype.name != image_format.dtype and image.dtype != np.float32:
            low, high = 0.0, float(np.iinfo(image.dtype).max)  # as `preprocess.convert` maps it
        covered = image.copy()
        covered[~self.at(image.shape[:2], name=name)] = (low + high) / 2
        return covered


@lru_cache(maxsize=16)
def _at(roi: Roi, size: tuple[int, int]) -> np.ndarray:
    """Take the nearest pixel of the mask for each pixel of an image."""
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(np.intp) for n, m in zip(size, roi.mask.shape, strict=True)
    )
    found = roi.mask[np.ix_(rows, columns)]
    found.setflags(write=False)
    return found


def shrink(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Say which cells of a coarser grid count: those at least half inside; else the ones that are most.

    `mask` is bool (H, W), `shape` the grid's (h, w); none counts where the mask is empty.
    """
    share = resize(mask[np.newaxis].astype(np.float32), shape)[0]
    return (share > 0) & (share >= min(0.5, float(share.max())))


def roi_of(mask: np.ndarray, *, name: str = "region of interest") -> Roi:
    """Make a region of a mask, bool (h, w). Raises UsageError for one that leaves next to nothing."""
    share = float(mask.mean())
    if share < LEAST_SHARE:
        raise UsageError(
            f"--roi {name}: leaves {100 * share:.2g} % of the image, and {100 * LEAST_SHARE:g} % is the "
            "least; white counts, black does not"
        )
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("1").save(buffer, "PNG", optimize=True)
    return Roi(base64.b64encode(buffer.getvalue()).decode())


def read_roi(path: Path) -> Roi:
    """Read a region: a picture whose white counts, or polygons in JSON.

    A pixel is white when its channels' mean lies in the upper half of what its type holds. The JSON is
    {"size": [WIDTH, HEIGHT], "polygons": [[[X, Y], ...], ...]} in pixels of the image: what lies in any of
    the polygons counts. Raises UsageError for anything else, ImageError for a picture that cannot be read.
    """
    if path.suffix.lower() == ".json":
        return _of_file(path)
    image = decode.read(path)
    highest = 1.0 if image.dtype == np.float32 else float(np.iinfo(image.dtype).max)
    return roi_of(image.mean(axis=2) > highest / 2, name=str(path))


def _of_file(path: Path) -> Roi:
    """Read the polygons of a JSON file."""
    name = str(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size, polygons = content["size"], content["polygons"]
    except OSError as error:
        raise UsageError(f"--roi {name}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _form_error(name) from error
    return roi_of_polygons(size, polygons, name=name)


def roi_of_polygons(size: Any, polygons: Any, *, name: str) -> Roi:
    """Draw polygons, each of 3 corners (x, y) or more, into an image of `size`, (width, height) in pixels.

    What lies in any of them counts. Raises UsageError for anything else.
    """
    try:
        width, height = (int(side) for side in size)
        drawn = [_corners(polygon) for polygon in polygons]
        if [width, height] != list(size) or not 1 <= min(size) <= max(size) <= LONGEST_SIDE or not drawn:
            raise ValueError("a size of 1 to 32768 whole px, and a polygon at least")
    except (ValueError, TypeError, OverflowError) as error:
        raise _form_error(name) from error
    picture = Image.new("1", (width, height))
    for corners in drawn:
        ImageDraw.Draw(picture).polygon(corners, fill=1)
    return roi_of(np.asarray(picture), name=name)


def _form_error(name: str) -> UsageError:
    form = '{"size": [WIDTH, HEIGHT], "polygons": [[[X, Y], [X, Y], [X, Y]], ...]}'
    return UsageError(f"--roi {name}: is not of the form {form}")


def _corners(polygon: Any) -> list[tuple[float, float]]:
    corners = [(float(x), float(y)) for x, y in polygon]
    if len(corners) < 3 or not (np.abs(corners) <= 2 * LONGEST_SIDE).all():
        raise ValueError("a polygon of 3 corners or more, none of them far outside of the image")
    return corners
