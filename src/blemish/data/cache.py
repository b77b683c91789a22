"""Training images: decoded once and kept within a stated amount of memory, or decoded at each call.

Images may be cut into tiles: training then uses as many tiles as fit in memory, equally many of each image.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError
from blemish.images import decode, preprocess
from blemish.images.regions import Regions
from blemish.images.tiling import WHOLE, Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from blemish.core.types import Tiling
    from blemish.images.preprocess import ImageFormat
    from blemish.images.tiling import Box

CACHE_BYTES = 4 * 2**30
"""The most bytes of resized images in memory; what does not fit is decoded again in each epoch."""


EVERYWHERE = Regions()
"""Where nothing is covered."""


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
        regions: Regions = EVERYWHERE,
    ) -> None:
        """Name the images: whole files or, with `boxes`, one tile of each file, which may come repeatedly.

        What lies outside of their `regions` is covered.
        """
        self.paths, self.image_format, self.size, self.allow = list(paths), image_format, size, allow
        self.regions = regions
        self.boxes = [WHOLE] * len(self.paths) if boxes is None else list(boxes)
        self.pool = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def at_size(self, size: tuple[int, int]) -> ImageFiles:
        """Return the same images at another size."""
        return ImageFiles(
            self.paths, self.image_format, size, allow=self.allow, boxes=self.boxes, regions=self.regions
        )

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return images in the order of `indices`. Raises ImageError for one that cannot be used."""
        indices_by_path: dict[Path, list[int]] = {}  # so that a file is decoded once, however many its tiles
        for i in indices:
            indices_by_path.setdefault(self.paths[i], []).append(i)
        pieces = self.pool.map(self._read_pieces, indices_by_path.keys(), indices_by_path.values())
        small = dict(zip(itertools.chain(*indices_by_path.values()), itertools.chain(*pieces), strict=True))
        return np.stack([small[i] for i in indices])

    def _read_pieces(self, path: Path, indices: Sequence[int]) -> list[np.ndarray]:
        image = self.cover(decode.read(path), path)
        return [self.prepare(image[self.boxes[i]], path) for i in indices]

    def cover(self, image: np.ndarray, path: Path) -> np.ndarray:
        """Cover what does not count of an image (H, W, C). Raises ImageError for one of another aspect."""
        return self.regions.cover(image, self.image_format, path)

    def prepare(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        """Take the pixels of an image, or of a tile, to what the model sees."""
        return preprocess.prepare(pixels, self.image_format, self.size, allow=self.allow, name=str(path))


class ImageCache:
    """Images by index, (B, C, h, w); the first ones that fit stay in memory.

    float32 in [0, 1]; or, `compact` and of an 8-bit format, uint8 in [0, 255], a quarter of the memory.
    `sizes` are the files' own (H, W) in pixels.
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
        read: Callable[[Path], np.ndarray] = decode.read,
        compact: bool = False,
        budget: int = CACHE_BYTES,
        tiling: Tiling | None = None,
        seed: int = 0,
        regions: Regions = EVERYWHERE,
    ) -> None:
        """Decode the images. `check` sees each (name, pixels) as read; `on_image` is called after each file.

        `read` decodes a file, or returns an image that was decoded before. With a `tiling` the images are
        tiles; where not all fit, `seed` draws those of each file. Outside of their `regions` they are
        covered. Raises ImageError on the first file (in the order given) that cannot be used.
        """
        files = ImageFiles(paths, image_format, size, allow=allow, regions=regions)
        shape = (image_format.channels, *size)
        dtype = np.dtype(np.uint8 if compact and image_format.dtype == "uint8" else np.float32)
        fits = max(1, budget // (dtype.itemsize * int(np.prod(shape))))
        self.kept = np.empty((fits if tiling else min(len(paths), fits), *shape), dtype)
        self.sizes: list[tuple[int, int]] = []

        def read_pieces(number: int) -> tuple[tuple[int, int], list[tuple[Box, np.ndarray]]]:
            path = paths[number]
            image = read(path)
            check(str(path), image)
            image = files.cover(image, path)
            size = image.shape[0], image.shape[1]
            grid = Grid(size, tiling, name=str(path)) if tiling else None
            boxes = _draw_boxes(grid, max(1, fits // len(paths)), (seed, number)) if grid else [WHOLE]
            pieces = [(box, self._to_kept_dtype(files.prepare(image[box], path))) for box in boxes]
            return size, pieces

        self._fill(files, read_pieces, 64 if tiling is None else 4, on_image)

    def _fill(
        self,
        files: ImageFiles,
        read_pieces: Callable[[int], tuple[tuple[int, int], list[tuple[Box, np.ndarray]]]],
        at_once: int,
        on_image: Callable[[], None],
    ) -> None:
        """Read the pieces of all files, `at_once` files at a time, and keep the first that fit.

        The files read at once bound the memory that decoding takes beside the cache.
        """
        if not len(files):
            raise DataError("no images to load")
        found: list[tuple[Path, Box]] = []
        for start in range(0, len(files), at_once):
            numbers = range(start, min(start + at_once, len(files)))
            for number, (size, pieces) in zip(numbers, files.pool.map(read_pieces, numbers), strict=True):
                self.sizes.append(size)
                for box, small in pieces:
                    if len(found) < len(self.kept):
                        self.kept[len(found)] = small
                    found.append((files.paths[number], box))
                on_image()
        self.kept = self.kept[: len(found)]
        self.files = ImageFiles(
            [path for path, _ in found],
            files.image_format,
            files.size,
            allow=files.allow,
            boxes=[box for _, box in found],
            regions=files.regions,
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
            out[~inside] = self._to_kept_dtype(self.files.batch(indices[~inside]))
        return out

    def _to_kept_dtype(self, image: np.ndarray) -> np.ndarray:
        return image if self.kept.dtype == np.float32 else np.rint(image * 255).astype(np.uint8)


def _draw_boxes(grid: Grid, count: int, key: tuple[int, int]) -> list[Box]:
    """Choose `count` tiles of a grid at most, in its order; `key` decides which."""
    drawn = np.random.default_rng(key).permutation(len(grid))
    return [grid.boxes[i] for i in sorted(drawn[:count])]
