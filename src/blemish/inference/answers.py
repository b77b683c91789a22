"""What a network says of an image, and the score and the coarse map that are read off it."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import ImageError
from blemish.images.roi import shrink
from blemish.inference import postprocess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blemish.inference.backend import Output
    from blemish.inference.model_file import ModelFile

Answer = tuple[np.ndarray, float | None]
"""What a network says of an image: its map (h, w), and a score of its own if it has one."""


def each_answer(output: Output) -> Iterator[Answer]:
    """Yield what a network said, image by image."""
    scores = repeat(None) if output.scores is None else map(float, output.scores)
    return zip(output.maps, scores, strict=False)


def read_off(
    answer: Answer, model_file: ModelFile, path: str | None, inside: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """Return the score and the coarse map of what the network said; `inside` counts, (H, W), or all.

    Raises ImageError for a map that is not finite.
    """
    small_map, own_score = answer
    if not np.isfinite(small_map).all():
        raise ImageError(
            f"{path or 'image'}: its anomaly map is not finite; its values lie far from what the model "
            f"takes, {model_file.image_format.describe()}: check its scale"
        )
    score = own_score
    if score is None:
        counts = None if inside is None else shrink(inside, small_map.shape)
        empty = counts is not None and not counts.any()  # a tile without anything that counts
        how = model_file.common.image_score
        score = 0.0 if empty else postprocess.image_score(small_map, how, inside=counts)
    return score, postprocess.pixel_map(small_map, model_file.size, model_file.patch_map)
