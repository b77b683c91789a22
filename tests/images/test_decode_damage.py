"""Damage that a decoder sees and decodes nevertheless is refused, whichever decoder is used."""

from __future__ import annotations

import io
import logging
import re

import imagecodecs
import numpy as np
import pytest
import tifffile
from encoded import noise, pillow, refused, tiff
from PIL import Image

from blemish.images import decode_jpeg
from blemish.images.decode import as_image, decode

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")


def smooth() -> np.ndarray:
    rows, columns = np.mgrid[:77, :131]
    grey = 120 + 60 * np.sin(rows / 9) + columns / 4
    return np.stack([grey, grey[::-1], grey[:, ::-1]], -1).astype(np.uint8)


def sampled(factor: int) -> bytes:
    return bytes(cv2.imencode(".jpg", smooth(), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1])


JPEGS = {
    "baseline": pillow(smooth(), "JPEG"),
    "4:4:4": pillow(smooth(), "JPEG", subsampling="4:4:4"),
    "4:2:2": pillow(smooth(), "JPEG", subsampling="4:2:2"),
    "4:4:0": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "4:1:1": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "grey": pillow(smooth()[..., 0], "JPEG"),
    "RGB": pillow(smooth(), "JPEG", keep_rgb=True),
    "progressive": pillow(smooth(), "JPEG", progressive=True),
    "progressive grey": pillow(smooth()[..., 0], "JPEG", progressive=True),
    "restart rows": pillow(smooth(), "JPEG", restart_marker_rows=1),
    "restart blocks": pillow(smooth(), "JPEG", restart_marker_blocks=3, progressive=True),
}
END = b"\xff\xd9"


def without_restarts(data: bytes, scan: int) -> bytes:
    return data[:scan] + re.sub(rb"\xff[\xd0-\xd7]", b"", data[scan:])


def damages(data: bytes) -> dict[str, bytes]:
    """What happens to files: each keeps its header and its end marker."""
    scan = data.index(b"\xff\xda")
    length = len(data) - scan
    half, third = scan + length // 2, length // 3
    cases = {
        "half": data[:half] + END,
        "middle cut out": data[: scan + third] + data[scan + 2 * third :],
        "three bytes short": data[:-5] + END,
        "zeros": data[:half] + bytes(length // 4) + data[half + length // 4 :],
        "no restarts": without_restarts(data, scan),
    }
    later = [match.start() for match in re.finditer(b"\xff\xda", data)][1:]
    cases |= {f"only {n} scans": data[:at] + END for n, at in enumerate(later, start=1)}
    return {name: case for name, case in cases.items() if case != data}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_damaged_jpeg_is_refused_and_a_whole_one_is_pillows(
    kind: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    data = JPEGS[kind]
    expected = np.asarray(Image.open(io.BytesIO(data))).reshape(77, 131, -1)
    with monkeypatch.context() as patch:  # a whole one is decoded once
        patch.setattr(decode_jpeg, "_decode_twice", lambda _: pytest.fail("decoded twice"))
        np.testing.assert_array_equal(decode(data), expected)
    for name, case in damages(data).items():
        text = refused("truncated or damaged", decode, case, name=f"{name}.jpg")
        assert text.startswith(f"{name}.jpg: ")
    assert capfd.readouterr() == ("", "")


def test_garbage_in_a_scan_is_refused():
    data = bytearray(JPEGS["baseline"])
    half = len(data) - 600
    data[half : half + 300] = noise(300).tobytes()
    refused("Corrupt JPEG data", decode, bytes(data), name="a.jpg")
    extra = JPEGS["grey"][:-2] + 10 * b"more" + END
    refused("Corrupt JPEG data: .* extraneous bytes", decode, extra, name="a.jpg")


def test_a_log_that_is_turned_off_hides_no_damage(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("imagecodecs")
    cut = damages(JPEGS["baseline"])["half"]
    refused("premature end", decode, cut)
    assert caplog.records == []
    logger.disabled = True
    try:
        refused("premature end", decode, cut)
    finally:
        logger.disabled = False
    imagecodecs.tiff_decode(TIFFS["strips"], verbose=True)  # what others decode is logged as ever
    assert [record.name for record in caplog.records] == ["imagecodecs"]


def test_what_libtiff_does_not_take_is_decoded_and_checked_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decode_jpeg, "_decode_with_libtiff", lambda *_: None)
    for kind, data in JPEGS.items():
        expected = np.asarray(Image.open(io.BytesIO(data))).reshape(77, 131, -1)
        np.testing.assert_array_equal(decode(data), expected)
        if not kind.startswith(("restart", "progressive")):
            for case in ("half", "middle cut out", "three bytes short"):
                refused("truncated or damaged", decode, damages(data)[case])
    refused("scans are missing", decode, damages(JPEGS["progressive"])["only 4 scans"])


def test_a_jpeg_that_pillow_has_opened_is_checked():
    for case in damages(JPEGS["baseline"]).values():
        refused("truncated or damaged", as_image, Image.open(io.BytesIO(case)))
    whole = Image.open(io.BytesIO(JPEGS["baseline"]))
    np.testing.assert_array_equal(as_image(whole), decode(JPEGS["baseline"]))
    np.testing.assert_array_equal(as_image(whole), decode(JPEGS["baseline"]))  # also when it is loaded


# --- inside TIFF, and the other formats that lose something ---


def in_its_last_segment(data: bytes, change) -> bytes:
    """Change the bytes of a TIFF's last strip or tile, whose length stays."""
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    at, count = page.dataoffsets[-1], page.databytecounts[-1]
    segment = change(data[at : at + count])
    return data[:at] + segment[:count].ljust(count, b"\0") + data[at + count :]


TIFFS = {
    "YCbCr": tiff(smooth(), compression="jpeg"),
    "strips": tiff(smooth(), compression="jpeg", rowsperstrip=16),
    "tiles": tiff(smooth(), compression="jpeg", tile=(32, 32)),
    "grey": tiff(smooth()[..., 0], compression="jpeg"),
    "planar": tiff(
        np.moveaxis(smooth(), -1, 0), compression="jpeg", planarconfig="separate", photometric="rgb"
    ),
    "RGB": tiff(smooth(), compression="jpeg", compressionargs={"outcolorspace": "rgb"}),
    "JPEG 2000": tiff(smooth(), compression="jpeg2000"),
    "JPEG 2000 tiles": tiff(smooth(), compression="jpeg2000", tile=(32, 32)),
    "JPEG XL": tiff(smooth(), compression="jpegxl"),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_damaged_jpeg_inside_a_tiff_is_refused(kind: str, capfd: pytest.CaptureFixture[str]):
    data = TIFFS[kind]
    expected = tifffile.imread(io.BytesIO(data)).reshape(
        *((3, 77, 131) if kind == "planar" else (77, 131, -1))
    )
    np.testing.assert_array_equal(
        decode(data), np.moveaxis(expected, 0, -1) if kind == "planar" else expected
    )
    cuts = [lambda s: s[: len(s) // 2] + END, lambda s: s[: len(s) * 2 // 3]]
    for change in cuts:
        refused("truncated or damaged", decode, in_its_last_segment(data, change), name="a.tif")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_a_damaged_webp_whose_lengths_fit_is_refused(options: dict[str, int]):
    data = pillow(smooth(), "WEBP", **options)
    for cut in (data[: len(data) // 2], data[: len(data) // 3] + data[len(data) * 2 // 3 :]):
        case = bytearray(cut + bytes(len(cut) % 2))
        case[4:8] = (len(case) - 8).to_bytes(4, "little")
        case[16:20] = (len(case) - 20).to_bytes(4, "little")
        refused("truncated or damaged", decode, bytes(case), name="a.webp")
