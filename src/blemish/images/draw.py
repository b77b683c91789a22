"""The pictures that blemish writes: anomaly maps, overlays of the map on the image, and thumbnails."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from blemish.core.files import temporary_for
from blemish.images.drawing_mark import MARK, PNG_TEXT
from blemish.images.limits import refusal
from blemish.images.png import encode_png
from blemish.images.preview import THUMBNAIL_SIDE, Preview, preview_of
from blemish.images.resize import resize

_STRIP = 64
"""Rows of a picture that are coloured at a time: they stay in the processor's cache."""
DIMMED = 0.35
"""Brightness of what does not count, as a share of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Heat:
    """What is drawn over an image (H, W, C): its anomaly map as heat, and outlines.

    Args:
        map_hw: the anomaly map (H, W), unbounded.
        low, high: the map values of the first and the last colour: blue, unseen, and dark red, 60 % opaque.
        contour_level: a red line runs along the inner edge of where the map exceeds it; None: no line.
        outlined: pixels, bool (H, W), that the line goes around instead, where not all regions count.
        inside: pixels, bool (H, W), that count; the others are dimmed. None: all count.
    """

    map_hw: np.ndarray
    low: float
    high: float
    contour_level: float | None = None
    outlined: np.ndarray | None = None
    inside: np.ndarray | None = None


def write_map(path: str | os.PathLike[str], map_hw: np.ndarray) -> None:
    """Write an anomaly map (H, W), unbounded, as a float32 TIFF, in one step; folders are made.

    Raises ImageError for another shape, OSError where the disk refuses.
    """
    import tifffile

    if map_hw.ndim != 2:
        raise refusal(os.fspath(path), f"a map of the shape {map_hw.shape} is not written; give (H, W)")
    with _write_in_one_step(path) as part:
        tifffile.imwrite(part, map_hw.astype(np.float32, copy=False), photometric="minisblack", metadata=None)


def write_half_map(path: str | os.PathLike[str], map_hw: np.ndarray) -> None:
    """Write a map, float16 (H, W), as a TIFF of its own type, in one step; folders are made.

    Raises OSError where the disk refuses.
    """
    import tifffile

    with _write_in_one_step(path) as part:
        tifffile.imwrite(part, map_hw, photometric="minisblack", metadata=None)


def write_marks(path: str | os.PathLike[str], marked: np.ndarray) -> None:
    """Write what is marked, bool (H, W), as a grey PNG of 255 and 0, in one step; folders are made.

    Raises OSError where the disk refuses.
    """
    with _write_in_one_step(path) as part:
        part.write_bytes(_png(np.where(marked, np.uint8(255), np.uint8(0))))


def encode_map(map_hw: np.ndarray) -> bytes:
    """Return an anomaly map (h, w), unbounded, as the bytes of a compressed float32 TIFF."""
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        map_hw.astype(np.float32, copy=False),
        photometric="minisblack",
        metadata=None,
        compression="zlib",
        compressionargs={"level": 1},  # quicker than the usual level, and hardly larger
        predictor=True,
    )
    return buffer.getvalue()


def write_overlay(path: str | os.PathLike[str], image: np.ndarray | Preview, heat: Heat) -> None:
    """Write what `overlay` draws, in one step; folders are made. A path that ends in .jpg or .webp is one.

    Raises ImageError when the sizes differ, OSError where the disk refuses.
    """
    preview = image if isinstance(image, Preview) else preview_of(image)
    if heat.map_hw.shape != preview.size:
        raise refusal(os.fspath(path), f"a map {heat.map_hw.shape} is not of its image {preview.size}")
    data = _ENCODERS.get(Path(path).suffix, _png)(heat_over(preview, heat))
    with _write_in_one_step(path) as part:
        part.write_bytes(data)


def overlay(image: np.ndarray | Preview, heat: Heat) -> bytes:
    """Draw an image (H, W, C), or its preview, with heat over it, an 8-bit RGB PNG.

    The longer side is reduced to `preview.OVERLAY_SIDE`.
    """
    return _png(heat_over(image, heat))


def heat_over(image: np.ndarray | Preview, heat: Heat) -> np.ndarray:
    """Return the pixels of what `overlay` draws, uint8 (h, w, 3)."""
    preview = image if isinstance(image, Preview) else preview_of(image)
    size = preview.planes.shape[1], preview.planes.shape[2]
    values = resize(heat.map_hw[None], size)[0]
    pixels = np.empty((*size, 3), np.uint8)
    for top in range(0, size[0], _STRIP):
        rows = slice(top, top + _STRIP)
        # With low == high the tiny span makes a step: nothing up to low, everything above it.
        t = values[rows].astype(np.float32, copy=False) - float(heat.low)
        t /= max(float(heat.high) - float(heat.low), 1e-12)
        _draw_rows(pixels[rows], preview, rows, np.clip(t, 0, 1, out=t))
    if heat.inside is not None:
        counts = resize(heat.inside[None].astype(np.float32), size)[0]
        pixels = np.rint(pixels * (DIMMED + (1 - DIMMED) * counts)[..., None]).astype(np.uint8)
    outlined = heat.outlined
    if outlined is None and heat.contour_level is not None:
        outlined = heat.map_hw > heat.contour_level
    if outlined is not None and outlined.any():
        edge = resize(_inner_edge(outlined)[None], size)[0] > 0
        pixels.reshape(-1, 3)[np.flatnonzero(edge)] = (255, 0, 0)
    return pixels


def _draw_rows(pixels: np.ndarray, preview: Preview, rows: slice, t: np.ndarray) -> None:
    """Fill uint8 (h, w, 3) with rows of a preview and their heat t, float32 (h, w) in [0, 1]."""
    columns = slice(None)
    if preview.is_plain:  # what has no heat stays as it is: only the columns between the heated ones change
        pixels[:] = preview.planes[:, rows].transpose(1, 2, 0)
        hot = np.flatnonzero(t.max(axis=0))
        columns = slice(hot[0], hot[-1] + 1) if len(hot) else slice(0)
    _heat(pixels[:, columns], preview.rgb(rows, columns), np.ascontiguousarray(t[:, columns]))


def _heat(pixels: np.ndarray, shown: np.ndarray, t: np.ndarray) -> None:
    """Lay heat t (h, w) over a picture, float32 (3, h, w) in [0, 1], which is lost, into uint8 (h, w, 3)."""
    keep, share, t4, jet = 1 - 0.6 * t, 0.6 * t, 4 * t, np.empty_like(t)
    for channel, (plane, top) in enumerate(zip(shown, (3, 2, 1), strict=True)):
        np.abs(np.subtract(t4, top, out=jet), out=jet)
        np.clip(np.subtract(1.5, jet, out=jet), 0, 1, out=jet)
        plane *= keep
        plane += np.multiply(jet, share, out=jet)
        plane *= 255
        pixels[..., channel] = np.rint(plane, out=plane)


def pixels_of(preview: Preview) -> np.ndarray:
    """Return what a preview shows, uint8 (h, w, 3)."""
    return _pixels(preview.rgb())


def write_pixels(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write a picture, uint8 (H, W, 3), as a PNG, in one step; folders are made.

    Raises OSError where the disk refuses.
    """
    with _write_in_one_step(path) as part:
        part.write_bytes(_png(pixels))


def encode_picture(image_hwc: np.ndarray, *, side: int) -> bytes:
    """Return an image (H, W, C) as `overlay` shows it, an 8-bit RGB PNG of at most `side` px."""
    return _png(_pixels(preview_of(image_hwc, side=side).rgb()))


def write_thumbnail(
    path: str | os.PathLike[str], image: np.ndarray | Preview, *, side: int = THUMBNAIL_SIDE
) -> None:
    """Write an image (H, W, C) as `write_overlay` shows it, an 8-bit RGB JPEG, in one step; folders are made.

    The longer side is reduced to `side` px; a preview has its own. Raises OSError where the disk refuses.
    """
    preview = image if isinstance(image, Preview) else preview_of(image, side=side)
    with _write_in_one_step(path) as part:
        Image.fromarray(_pixels(preview.rgb())).save(part, "JPEG", quality=85, comment=MARK)


def _pixels(picture_chw: np.ndarray) -> np.ndarray:
    pixels = np.empty((*picture_chw.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(picture_chw):
        pixels[..., channel] = np.rint(plane * 255)
    return pixels


def _png(pixels: np.ndarray) -> bytes:
    return encode_png(pixels, PNG_TEXT)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()  # 4:4:4, as a contour is one pixel wide
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling="4:4:4", comment=MARK)
    return buffer.getvalue()


def _webp(pixels: np.ndarray) -> bytes:
    about, buffer = Image.Exif(), io.BytesIO()
    about[ExifTags.Base.Software] = MARK.decode()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=90, method=0, exif=about)
    return buffer.getvalue()


_ENCODERS = {".png": _png, ".jpg": _jpeg, ".webp": _webp}
"""How an overlay is packed, by the end of its name; PNG for any other."""


def _inner_edge(mask: np.ndarray) -> np.ndarray:
    """Find the pixels of a mask (H, W) with a neighbour outside of it, or of the image."""
    m = np.pad(mask, 1)
    return mask & ~(m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:])


@contextmanager
def _write_in_one_step(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write in one step: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary_for(path) as part:
            yield part
    except OSError as error:
        if error.errno is None:  # numpy says of a write that came short only how short
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(path)) from error
        raise
