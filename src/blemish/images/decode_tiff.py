"""TIFF to arrays, with what tifffile would fill in, drop or guess refused (the rules are in `decode`)."""

from __future__ import annotations

import io
import logging
import math
import struct
from pathlib import Path

import imagecodecs
import numpy as np

from blemish.images.decode_jpeg import refuse_damage
from blemish.images.decoder_warnings import collect_warnings
from blemish.images.limits import MAX_PIXELS, check_size, drop_alpha, orient, refusal

# tifffile logs what it finds odd; without any handler Python would print that to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def decode_tiff(data: bytes, name: str) -> np.ndarray:
    """Decode a TIFF to (H, W, C). Raises ImageError, and ValueError or struct.error for damage."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data), name=Path(name).name) as file:
        if not file.series:
            raise ValueError("no page with an image")
        if len(file.series) > 1:
            raise refusal(name, f"holds {len(file.series)} images; save the one to use alone")
        series, page = file.series[0], file.pages.first
        _check_directory(data, page, file.tiff)
        extents = {a: n for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"}
        axes = "".join(extents)
        if axes not in ("YX", "YXS", "SYX", "YXC", "CYX"):
            raise refusal(name, f"has several pages (axes {axes}); save one page, channels as samples")
        channels = math.prod(n for a, n in extents.items() if a not in "YX")
        check_size(extents["Y"], extents["X"], channels, name)
        _check_tiff(series, page, channels, len(data), name)
        array = _read_series(series, page, data).reshape(tuple(extents.values()))
        if channels > 1 and axes[0] in "SC":
            array = np.moveaxis(array, 0, -1)
        return orient(_tiff_colours(array, page, name), page.tags.valueof(274, 1))


def _read_series(series, page, data: bytes) -> np.ndarray:
    """Decode an image, and raise ValueError for damage that its decoder warns of."""
    lossy = page.compression.name
    if "2000" in lossy:
        _check_jpeg2000(series, data)
    if lossy in ("JPEG", "OJPEG"):
        array = _decode_jpegs(series, page, data)
        if array is not None:
            return array
    return series.asarray()


def _decode_jpegs(series, page, data: bytes) -> np.ndarray | None:
    """Decode by libtiff, which passes on what libjpeg warns of; tifffile does not.

    None for what libtiff does not take, or would give in another order.
    """
    array = None
    with collect_warnings() as warnings:
        for part in series.pages:
            try:
                array = imagecodecs.tiff_decode(data, part.index, verbose=True)
            except (imagecodecs.TiffError, IndexError, ValueError):
                array = None
    refuse_damage(warnings)
    same = array is not None and array.shape == series.shape and array.dtype == series.dtype
    return array if same and len(series.pages) == 1 and page.planarconfig == 1 else None


def _check_jpeg2000(series, data: bytes) -> None:
    with collect_warnings() as warnings:
        for part in series.pages:
            for offset, count in zip(part.dataoffsets, part.databytecounts, strict=True):
                imagecodecs.jpeg2k_decode(data[offset : offset + count], verbose=2)
    if warnings:
        raise ValueError(warnings[0])


def _check_directory(data: bytes, page, layout) -> None:
    # tifffile drops a tag that it cannot read, such as one cut off, and would take the image as another.
    (count,) = struct.unpack_from(layout.tagnoformat, data, page.offset)
    first = page.offset + layout.tagnosize
    entries = range(first, first + count * layout.tagsize, layout.tagsize)
    codes = {struct.unpack_from(layout.byteorder + "H", data, at)[0] for at in entries}
    lost = {code for code in codes if code < 32768} - {tag.code for tag in page.tags}  # above: private ones
    if lost:
        raise ValueError(f"tag {min(lost)} cannot be read")


def _check_tiff(series, page, channels: int, n_bytes: int, name: str) -> None:
    colours, compression = page.photometric.name, page.compression.name
    if colours not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") and not (
        colours == "YCBCR" and compression == "JPEG"  # tifffile turns this one into RGB
    ):
        raise refusal(name, f"the colour mode {colours} is not read; convert to RGB")
    if page.bitspersample < 8:
        raise refusal(name, f"{page.bitspersample}-bit TIFF values are not read; save it as uint8")
    if colours == "MINISWHITE" and (channels > 1 or page.dtype.kind != "u"):
        raise refusal(name, "is min-is-white with channels or floats; save it as min-is-black")
    if math.prod(page.chunks) > 4 * MAX_PIXELS:
        raise refusal(name, f"has tiles of {page.chunks} values, more than blemish reads; save it again")
    for part in series.pages:  # tifffile fills what is missing with zeros
        if part is None:
            raise refusal(name, "is one file of several (OME); save all channels in one file")
        segments = zip(part.dataoffsets, part.databytecounts, strict=True)
        if any(count == 0 or offset + count > n_bytes for offset, count in segments):
            raise refusal(name, "is truncated: a part of its data lies beyond its end; save it again")


def _tiff_colours(array: np.ndarray, page, name: str) -> np.ndarray:
    colours, extras = page.photometric.name, tuple(page.extrasamples)
    if colours == "MINISWHITE":
        return (2**page.bitspersample - 1 - array).astype(array.dtype)
    if colours == "PALETTE":
        return (np.moveaxis(page.colormap[:, array], 0, -1) >> 8).astype(np.uint8)
    n_colours = 1 if colours == "MINISBLACK" else 3
    if len(extras) == 1 and extras[0] in (1, 2) and array.ndim == 3 and array.shape[2] == n_colours + 1:
        return drop_alpha(array, name, premultiplied=extras[0] == 1)
    return array
