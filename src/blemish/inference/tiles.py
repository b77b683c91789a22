"""An image in tiles: a map of the whole image, put together from the tiles' maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish.images import preprocess
from blemish.images.tiling import Grid
from blemish.inference import postprocess
from blemish.inference.answers import each_answer, read_off

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blemish.core.types import Tiling
    from blemish.images.tiling import Box
    from blemish.inference.backend import Backend
    from blemish.inference.counting import Counting
    from blemish.inference.model_file import ModelFile


def score_tiles(
    image: np.ndarray,
    tiling: Tiling,
    model_file: ModelFile,
    backend: Backend,
    *,
    counting: Counting,
    allow: frozenset[str],
    batch_size: int,
    path: str | None,
    name: str,
) -> tuple[float, np.ndarray]:
    """Score an image (H, W, C) tile by tile, a batch of them at a time: a part is as bad as its worst tile.

    What lies outside of `counting.roi` is covered; of a tile's score counts what lies inside by all of
    `counting`, and a tile without any of that is left out. Returns the score and the map (H, W). `path` and
    `name` say in errors and rows what the image is. Raises ImageError for an image that does not fit the
    model, and for a region of interest that does not fit it.
    """
    inside = counting.inside(image.shape[:2], name=name)
    if counting.roi is not None:
        image = counting.roi.cover(image, model_file.image_format, name=name)
    grid = Grid(image.shape[:2], tiling, name=name)
    scores: list[float] = []

    def cut(box: Box) -> np.ndarray:
        return preprocess.prepare(
            image[box], model_file.image_format, model_file.size, allow=allow, name=name
        )

    def maps() -> Iterator[np.ndarray]:
        for start in range(0, len(grid), batch_size):
            boxes = grid.boxes[start : start + batch_size]
            answers = each_answer(backend.run(np.stack([cut(box) for box in boxes])))
            for box, answer in zip(boxes, answers, strict=True):
                counts = None if inside is None else inside[box]
                score, coarse_map = read_off(answer, model_file, path, counts)
                if counts is None or counts.any():
                    scores.append(score)
                yield postprocess.to_original_size(coarse_map, tiling.size)

    whole = grid.stitch(maps())
    return max(scores), whole
