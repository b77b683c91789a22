"""What blemish writes of an image: its anomaly map, the map over the image, and a thumbnail."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from blemish.images import resize
from blemish.pixels import refusal


def write_map(path: str | os.PathLike[str], map_hw: np.ndarray) -> None:
    """Write an anomaly map (H, W), unbounded, as a float32 TIFF, in one step; folders are made.

    Raises ImageError for another shape, OSError where the disk refuses.
    """
    import tifffile

    if map_hw.ndim != 2:
        raise refusal(os.fspath(path), f"a map of the shape {map_hw.shape} is not written; give (H, W)")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, map_hw.astype(np.float32), photometric="minisblack", metadata=None)
    _write(path, buffer.getvalue())


def write_overlay(
    path: str | os.PathLike[str],
    image_hwc: np.ndarray,
    map_hw: np.ndarray,
    *,
    low: float,
    high: float,
    contour_level: float | None,
) -> None:
    """Write an image with its anomaly map as heat over it, an 8-bit RGB PNG, in one step; folders are made.

    Heat: the colours from blue at `low` (unseen) to dark red at `high` (60 % opaque), clipped outside. A
    red line is drawn along the inner edge of where the map exceeds `contour_level`. The longer side is
    reduced to 1024 px. Raises ImageError when the sizes differ, OSError where the disk refuses.
    """
    if map_hw.shape != image_hwc.shape[:2]:
        raise refusal(os.fspath(path), f"a map {map_hw.shape} is not of its image {image_hwc.shape[:2]}")
    size = _size_within(1024, map_hw.shape)
    heat = resize(map_hw[None].astype(np.float32), size)[0]
    # With low == high the tiny span makes a step: nothing up to low, everything above it.
    t = np.clip((heat - float(low)) / max(float(high - low), 1e-12), 0, 1)
    jet = np.clip(1.5 - np.abs(4 * t - np.array([3, 2, 1], np.float32)[:, None, None]), 0, 1)
    pixels = _pixels((1 - 0.6 * t) * resize(_display(image_hwc), size) + 0.6 * t * jet)
    if contour_level is not None:
        edge = _inner_edge(map_hw > contour_level).astype(np.float32)
        pixels[resize(edge[None], size)[0] > 0] = (255, 0, 0)
    # Half the time of Pillow's search for each row's best filter, for files about as large.
    data = imagecodecs.png_encode(
        pixels, level=1, strategy=imagecodecs.PNG.STRATEGY.RLE, filter=imagecodecs.PNG.FILTER.SUB
    )
    _write(path, bytes(data))


def write_thumbnail(path: str | os.PathLike[str], image_hwc: np.ndarray, *, side: int = 512) -> None:
    """Write an image (H, W, C) as `write_overlay` shows it, an 8-bit RGB JPEG, in one step; folders are made.

    The longer side is reduced to `side` px. Raises OSError where the disk refuses.
    """
    shown = resize(_display(image_hwc), _size_within(side, image_hwc.shape[:2]))
    buffer = io.BytesIO()
    Image.fromarray(_pixels(shown)).save(buffer, "JPEG", quality=85)
    _write(path, buffer.getvalue())


def _size_within(side: int, size: tuple[int, ...]) -> tuple[int, int]:
    shrink = min(1.0, side / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _pixels(picture_chw: np.ndarray) -> np.ndarray:
    return np.stack(list(np.round(picture_chw * 255).astype(np.uint8)), axis=-1)


def _display(image: np.ndarray) -> np.ndarray:
    """To RGB (3, H, W) in [0, 1] for eyes: deeper than 8 bits is stretched, odd channels are averaged."""
    planes = image.transpose(2, 0, 1).astype(np.float32)
    if image.dtype == np.uint8:
        planes /= 255
    else:
        planes = (planes - planes.min()) / max(float(planes.max() - planes.min()), 1e-12)
    return planes if len(planes) == 3 else np.repeat(planes.mean(axis=0, keepdims=True), 3, axis=0)


def _inner_edge(mask: np.ndarray) -> np.ndarray:
    """Find the pixels of a mask (H, W) with a neighbour outside of it, or of the image."""
    m = np.pad(mask, 1)
    return mask & ~(m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:])


def _write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write in one step: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
