"""The mark of the pictures that blemish draws, by which they are never taken for photos of parts."""

from __future__ import annotations

from blemish.images.limits import refusal

MARK = b"blemish: a drawing, not a photo of a part"
"""The text in a PNG, JPEG or WebP that was drawn."""
PNG_TEXT = b"Software\0" + MARK
"""The mark as a PNG holds it, the body of a chunk `tEXt`."""


def refuse_drawing(text: bytes, name: str) -> None:
    """Raise ImageError where a picture's text has the mark."""
    if MARK in text:
        raise refusal(name, "is a picture that blemish drew, not a photo of a part; leave it out")
