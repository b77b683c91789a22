"""Pictures of stored inspections, made when they are first asked for."""

from __future__ import annotations

import hashlib
import io
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.images import draw
from blemish.images.decode import decode
from blemish.images.preprocess import LARGE_PIXELS
from blemish.images.preview import fit_size
from blemish.images.resize import resize
from blemish.inference import postprocess
from blemish.inference.counting import Counting
from blemish.station.engine_jobs import ONE_LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blemish.record.store import Inspection

SIDE = 1024
"""Sides of a map that is sent to a browser, in values at most."""
KEPT_SIDES = (96, 512, 1024, 2048, 4096)
"""Sides of pictures that the page asks for, which are kept."""
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""What is of one inspection does not change."""
OPENAPI_IMAGE: dict[str, Any] = {"content": {"image/png": {}, "application/octet-stream": {}}}
OPENAPI_MAP: dict[str, Any] = {"content": {"application/octet-stream": {}, "image/tiff": {}}}


@dataclass(frozen=True)
class MapStyle:
    """How maps are drawn: the values of the colours' ends, where the contour runs, and around what."""

    display_range: tuple[float, float]
    pixel_threshold: float | None
    counting: Counting = field(default_factory=Counting)


@contextmanager
def room_for(inspection: Inspection) -> Iterator[None]:
    """Wait until an image may be decoded: of large ones, one at a time."""
    pixels = (inspection.width or 0) * (inspection.height or 0)
    with ONE_LARGE if pixels > LARGE_PIXELS else nullcontext():
        yield


def overlay_name(inspection: Inspection, style: MapStyle) -> str:
    """Name an overlay by all that it is made of besides the image."""
    drawn_of = f"{inspection.map} {style.display_range} {style.pixel_threshold}"
    drawn_of += f" {style.counting.as_fields()}" if style.counting.as_fields() else ""
    return f"overlay-{hashlib.sha256(drawn_of.encode()).hexdigest()[:16]}.png"


def shown(data: bytes, side: int) -> bytes:
    """Make a PNG of an image file that every browser shows, its longer side `side` pixels at most."""
    return draw.encode_picture(decode(data), side=side)


def read_map(data: bytes) -> np.ndarray:
    """Read a map file: float32 (h, w)."""
    import tifffile

    return np.ascontiguousarray(tifffile.imread(io.BytesIO(data)), np.float32)


def raw_map(data: bytes, counting: Counting) -> tuple[bytes, int, int]:
    """Return a map's values row by row, float32 little-endian, with its height and width, `SIDE` at most."""
    values = counting.confine(read_map(data), coarse=True)
    values = resize(values[None], fit_size(SIDE, values.shape))[0]
    return values.astype("<f4").tobytes(), *values.shape


def full_map(data: bytes, inspection: Inspection, counting: Counting) -> bytes:
    """Make a float32 TIFF of the image's size from a map file."""
    assert inspection.height
    assert inspection.width
    values = postprocess.to_original_size(read_map(data), (inspection.height, inspection.width))
    return draw.encode_map(counting.confine(values))


def overlay(image: bytes, map_data: bytes, style: MapStyle) -> bytes:
    """Draw an image with its map over it, PNG, with a contour around the regions that count."""
    pixels = decode(image)
    anomaly_map = postprocess.to_original_size(read_map(map_data), pixels.shape[:2])
    level, (low, high) = style.pixel_threshold, style.display_range
    counting = style.counting
    heat = draw.Heat(
        map_hw=counting.confine(anomaly_map),
        low=low,
        high=high,
        contour_level=level,
        outlined=None if level is None else counting.outlined(anomaly_map, level),
        inside=counting.inside(anomaly_map.shape),
    )
    return draw.overlay(pixels, heat)
