"""The mark of the pictures that blemish draws, by which they are never taken for photos of parts."""

from __future__ import annotations

import zlib

from blemish.images.limits import refusal

MARK = b"blemish: a drawing, not a photo of a part"
"""The text in a PNG or JPEG that was drawn."""
_BEHIND_HEADER = 8 + 25


def mark_png(data: bytes) -> bytes:
    """Put the mark into a PNG, as its text `Software`."""
    body = b"tEXtSoftware\0" + MARK
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[:_BEHIND_HEADER] + chunk + data[_BEHIND_HEADER:]


def refuse_own(text: bytes, name: str) -> None:
    """Raise ImageError where a picture's text has the mark."""
    if MARK in text:
        raise refusal(name, "is a picture that blemish drew, not a photo of a part; leave it out")
