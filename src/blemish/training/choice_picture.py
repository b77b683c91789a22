"""`choice.png`: planted examples, and what the chosen model says of them, so that a person sees why.

Two examples of each kind of the trial (`training.choice`): the good image, the same image with the planted
defect, and the map of the chosen members over it. The maps are those that the choice was made by, at half of
the images' size, so nothing is scored again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blemish.images.draw import Heat, heat_over, pixels_of
from blemish.images.preview import Preview
from blemish.images.resize import resize
from blemish.training.choice import on_one_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.training.choice import Trial

PICTURE = "choice.png"
WIDTH = 1000
"""Width of the picture in pixels, about."""
GAP, CAPTION = 4, 22
"""Pixels between panels, and the height of a line of text."""
LONG = 2.0
"""Images that are wider than high by this have one example in a row; others two."""
HOTTEST = 3.0
"""The value of the hottest colour, where 1 is a good image's highest: as on all overlays of a model."""
FRAME = (255, 221, 0)
"""The colour of the frame around what was planted."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row's part: kind, good and planted image (C, H, W), map (h, w) on one scale, mask (h, w)."""

    kind: str
    good: np.ndarray
    planted: np.ndarray
    map_hw: np.ndarray
    mask: np.ndarray


def draw_choice(
    trial: Trial, maps: Sequence[tuple[np.ndarray, np.ndarray]], *, stretch: bool = False
) -> np.ndarray:
    """Draw the examples with the mean of the members' maps.

    Args:
        trial: the images.
        maps: of each chosen member: of the good images (n, h, w), and of the planted ones (m, h, w).
        stretch: show the range of values that good images have, not that of [0, 1]: for deep images.

    Returns:
        uint8 (H, W, 3), about `WIDTH` pixels wide.
    """
    chosen = two_of_each_kind(trial)
    scaled = np.mean([on_one_scale(of_good_and_planted)[1][chosen] for of_good_and_planted in maps], axis=0)
    found = [
        Example(
            kind=trial.kinds[i],
            good=trial.good[trial.origin[i]].numpy(),
            planted=trial.planted[i].numpy(),
            map_hw=map_hw,
            mask=trial.masks[i],
        )
        for i, map_hw in zip(chosen, scaled, strict=True)
    ]
    low, high = (float(trial.good.min()), float(trial.good.max())) if stretch else (0.0, 1.0)
    return _draw_table(found, low, high)


def two_of_each_kind(trial: Trial) -> list[int]:
    """Choose numbers of planted images: of each kind a smaller and a larger one, by the area changed."""
    chosen = []
    areas = trial.masks.reshape(len(trial.masks), -1).sum(axis=1)
    for kind in dict.fromkeys(trial.kinds):
        members = sorted((i for i, k in enumerate(trial.kinds) if k == kind), key=lambda i: (areas[i], i))
        chosen += sorted({members[len(members) // 3], members[2 * len(members) // 3]}, key=members.index)
    return chosen


def _draw_table(examples: list[Example], low: float, high: float) -> np.ndarray:
    height, width = examples[0].good.shape[1:]
    across = 1 if width > LONG * height else 2
    shrink = min(WIDTH / (3 * across) / width, 2 * WIDTH / (3 * across) / height)
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    cell = size[0] + CAPTION + GAP, 3 * (size[1] + GAP) + GAP
    rows = -(-len(examples) // across)
    sheet = Image.new("RGB", (across * cell[1], rows * cell[0] + GAP), (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, example in enumerate(examples):
        top, left = number // across * cell[0], number % across * cell[1] + GAP
        words = ("good", f"planted: {example.kind}", "what the model says")
        for column, (panel, word) in enumerate(zip(_panels(example, size, low, high), words, strict=True)):
            x = left + column * (size[1] + GAP)
            pen.text((x, top + 4), word, fill=(40, 40, 40), font=font)
            sheet.paste(Image.fromarray(panel), (x, top + CAPTION))
            if column < 2:
                pen.rectangle(_frame(example.mask, size, x, top + CAPTION), outline=FRAME)
    return np.asarray(sheet)


def _panels(example: Example, size: tuple[int, int], low: float, high: float) -> list[np.ndarray]:
    """Return the three pictures of an example, uint8 (*size, 3)."""
    good, planted = (_preview(resize(image, size), low, high) for image in (example.good, example.planted))
    heat = Heat(map_hw=resize(example.map_hw[None], size)[0], low=0, high=HOTTEST)
    return [pixels_of(good), pixels_of(planted), heat_over(planted, heat)]


def _preview(planes: np.ndarray, low: float, high: float) -> Preview:
    """Show planes (C, h, w) from `low` to `high`; channels that are neither one nor three are averaged."""
    shown = np.clip(planes, low, high)
    shown = shown if len(shown) in (1, 3) else shown.mean(axis=0, keepdims=True)
    return Preview(planes=shown, low=low, high=high, size=planes.shape[1:])


def _frame(mask: np.ndarray, size: tuple[int, int], x: int, y: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a frame some pixels around what a mask (h, w) marks."""
    rows, cols = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    down, right = size[0] / mask.shape[0], size[1] / mask.shape[1]
    return (
        x + max(0, int(cols[0] * right) - 5),
        y + max(0, int(rows[0] * down) - 5),
        x + min(size[1] - 1, int((cols[-1] + 1) * right) + 5),
        y + min(size[0] - 1, int((rows[-1] + 1) * down) + 5),
    )
