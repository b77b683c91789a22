"""Pictures of one part side by side, each with its name above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blemish.images.draw import write_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEIGHT, STRIP, GAP = 320, 28, 6
"""Pixels: the height of each picture, of the text above it, and the space between two."""
WIDEST = 960
"""Pixels: a picture is no wider than this, however long it is."""
MARKED = (200, 0, 0)
"""The colour of the text and the frame of a picture that is marked."""


def write_side_by_side(path: Path, pictures: Sequence[tuple[str, Path | None, bool]]) -> None:
    """Write pictures (text, file, whether it is marked) into one, left to right, as a PNG, in one step.

    Without a file, or where it cannot be read, a grey field stands for it. Raises OSError where the disk
    refuses.
    """
    font = ImageFont.load_default(16)
    tiles = [(text, _scaled(file), marked) for text, file, marked in pictures]
    width = sum(tile.width for _, tile, _ in tiles) + GAP * (len(tiles) + 1)
    sheet = Image.new("RGB", (width, HEIGHT + STRIP + GAP), "white")
    pen, left = ImageDraw.Draw(sheet), GAP
    for text, tile, marked in tiles:
        colour = MARKED if marked else (0, 0, 0)
        pen.text((left, 5), _fitting(text, font, tile.width), fill=colour, font=font)
        sheet.paste(tile, (left, STRIP))
        if marked:
            pen.rectangle(
                (left, STRIP, left + tile.width - 1, STRIP + tile.height - 1), outline=colour, width=3
            )
        left += tile.width + GAP
    write_pixels(path, np.asarray(sheet))


def _scaled(file: Path | None) -> Image.Image:
    """Read a picture and give it the height of the others."""
    try:
        if file is None:
            raise FileNotFoundError
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except OSError:
        return Image.new("RGB", (HEIGHT, HEIGHT), (225, 225, 225))
    width = min(WIDEST, max(1, round(picture.width * HEIGHT / picture.height)))
    return picture.resize((width, HEIGHT))


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut the end of a text off until it is as narrow as its picture."""
    while len(text) > 1 and font.getbbox(text)[2] > width:
        text = text[:-2] + "…"
    return text
