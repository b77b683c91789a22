"""Training images: decoded once and kept within a stated amount of memory, or decoded at each call.

Of images that are cut into tiles as many tiles are learnt as the memory holds, equally many of each image.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError
from blemish.images import decode, preprocess
from blemish.images.tiling import WHOLE, Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from blemish.core.types import Tiling
    from blemish.images.preprocess import ImageFormat
    from blemish.images.tiling import Box

CACHE_BYTES = 4 * 2**30
"""Resized images kept in memory at most; what does not fit is decoded again in each epoch."""


class ImageFiles:
    """Images by index, float32 (B, C, h, w) in [0, 1], decoded at each call just as scoring decodes them."""

    def __init__(
        self,
        paths: Sequence[Path],
        image_format: ImageFormat,
        size: tuple[int, int],
        *,
        allow: frozenset[str] = frozenset(),
        boxes: Sequence[Box] | None = None,
    ) -> None:
        """Name the images: whole files or, with `boxes`, one tile of each file, which may come repeatedly."""
        self.paths, self.image_format, self.size, self.allow = list(paths), image_format, size, allow
        self.boxes = [WHOLE] * len(self.paths) if boxes is None else list(boxes)
        self.pool = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def at_size(self, size: tuple[int, int]) -> ImageFiles:
        """Return the same images at another size."""
        return ImageFiles(self.paths, self.image_format, size, allow=self.allow, boxes=self.boxes)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return images in the order of `indices`. Raises ImageError for one that cannot be used."""
        wanted: dict[Path, list[int]] = {}  # so that a file is decoded once, however many its tiles
        for i in indices:
            wanted.setdefault(self.paths[i], []).append(i)
        pieces = self.pool.map(self._cut, wanted.keys(), wanted.values())
        small = dict(zip(itertools.chain(*wanted.values()), itertools.chain(*pieces), strict=True))
        return np.stack([small[i] for i in indices])

    def _cut(self, path: Path, indices: Sequence[int]) -> list[np.ndarray]:
        image = decode.read(path)
        return [self.prepared(image[self.boxes[i]], path) for i in indices]

    def prepared(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        """Take the pixels of an image, or of a tile, to what the model sees."""
        return preprocess.prepare(pixels, self.image_format, self.size, allow=self.allow, name=str(path))


class ImageCache:
    """Images by index, (B, C, h, w); the first ones that fit stay in memory.

    float32 in [0, 1]; or, `compact` and of an 8-bit format, uint8 in [0, 255], a quarter of the memory.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        image_format: ImageFormat,
        size: tuple[int, int],
        *,
        allow: frozenset[str] = frozenset(),
        check: Callable[[str, np.ndarray], None] = lambda _name, _image: None,
        on_image: Callable[[], None] = lambda: None,
        compact: bool = False,
        budget: int = CACHE_BYTES,
        tiling: Tiling | None = None,
        seed: int = 0,
    ) -> None:
        """Decode the images. `check` sees each (name, pixels) as read, `on_image` counts them.

        With a `tiling` the images are tiles; where not all fit, `seed` draws those of each file. Raises
        ImageError on the first file (in the order given) that cannot be used.
        """
        if not paths:
            raise DataError("no images to load")
        files = ImageFiles(paths, image_format, size, allow=allow)
        shape = (image_format.channels, *size)
        dtype = np.dtype(np.uint8 if compact and image_format.dtype == "uint8" else np.float32)
        fits = max(1, budget // (dtype.itemsize * int(np.prod(shape))))
        self.kept = np.empty((fits if tiling else min(len(paths), fits), *shape), dtype)

        def cut(number: int) -> list[tuple[Box, np.ndarray]]:
            path = paths[number]
            image = decode.read(path)
            check(str(path), image)
            boxes = [WHOLE]
            if tiling is not None:
                boxes = Grid(image.shape[:2], tiling, name=str(path)).boxes
                drawn = np.random.default_rng((seed, number)).permutation(len(boxes))
                boxes = [boxes[i] for i in sorted(drawn[: max(1, fits // len(paths))])]
            return [(box, self._stored(files.prepared(image[box], path))) for box in boxes]

        of: list[tuple[Path, Box]] = []
        chunk = 64 if tiling is None else 4  # bounds what decoding holds beside the cache
        for start in range(0, len(paths), chunk):
            numbers = range(start, min(start + chunk, len(paths)))
            for number, pieces in zip(numbers, files.pool.map(cut, numbers), strict=True):
                for box, small in pieces:
                    if len(of) < len(self.kept):
                        self.kept[len(of)] = small
                    of.append((paths[number], box))
                on_image()
        self.kept = self.kept[: len(of)]
        self.files = ImageFiles(
            [path for path, _ in of], image_format, size, allow=allow, boxes=[box for _, box in of]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return images in the order of `indices`."""
        out = np.empty((len(indices), *self.kept.shape[1:]), self.kept.dtype)
        inside = indices < len(self.kept)
        out[inside] = self.kept[indices[inside]]
        if not inside.all():
            out[~inside] = self._stored(self.files.batch(indices[~inside]))
        return out

    def _stored(self, image: np.ndarray) -> np.ndarray:
        return image if self.kept.dtype == np.float32 else np.rint(image * 255).astype(np.uint8)
