"""Training images, decoded once and kept at the network's size, within a stated amount of memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from blemish import decoding, images
from blemish.types import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from blemish.images import ImageFormat

CACHE_BYTES = 4 * 2**30
"""Resized images kept in memory at most; what does not fit is decoded again in each epoch."""


class ImageCache:
    """Images by index, as float32 (B, C, h, w) in [0, 1]; the first ones that fit stay in memory."""

    def __init__(
        self,
        paths: Sequence[Path],
        image_format: ImageFormat,
        size: tuple[int, int],
        *,
        allow: frozenset[str] = frozenset(),
        check: Callable[[str, np.ndarray], None] = lambda _name, _image: None,
        on_image: Callable[[], None] = lambda: None,
        budget: int = CACHE_BYTES,
    ) -> None:
        """Decode the images. `check` sees each (name, pixels) as read, `on_image` counts them.

        Raises ImageError on the first image (in the order given) that cannot be used.
        """
        if not paths:
            raise DataError("no images to load")
        self.paths, self.image_format, self.size, self.allow = list(paths), image_format, size, allow
        shape = (image_format.channels, *size)
        fits = min(len(self.paths), max(1, budget // (4 * int(np.prod(shape)))))
        self.pool = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2))
        self.kept = np.empty((fits, *shape), np.float32)
        chunk = 64  # bounds what decoding holds beside the cache
        for start in range(0, len(self.paths), chunk):
            for i, small in enumerate(
                self.pool.map(lambda p: self._checked(p, check), self.paths[start : start + chunk]), start
            ):
                if i < fits:
                    self.kept[i] = small
                on_image()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return images (B, C, h, w), float32 in [0, 1], in the order of `indices`."""
        out = np.empty((len(indices), *self.kept.shape[1:]), np.float32)
        inside = indices < len(self.kept)
        out[inside] = self.kept[indices[inside]]
        outside = np.flatnonzero(~inside)
        for place, small in zip(
            outside, self.pool.map(self._small, [self.paths[i] for i in indices[outside]]), strict=True
        ):
            out[place] = small
        return out

    def _small(self, path: Path) -> np.ndarray:
        return images.load(path, self.image_format, self.size, allow=self.allow)[0]

    def _checked(self, path: Path, check: Callable[[str, np.ndarray], None]) -> np.ndarray:
        image = decoding.read(path)
        check(str(path), image)
        converted = images.convert(image, self.image_format, allow=self.allow, name=str(path))
        return images.resize(converted, self.size)
