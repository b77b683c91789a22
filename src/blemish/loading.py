"""Training images: decoded once and kept within a stated amount of memory, or decoded at each call."""

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


class ImageFiles:
    """Images by index, float32 (B, C, h, w) in [0, 1], decoded at each call just as scoring decodes them."""

    def __init__(
        self,
        paths: Sequence[Path],
        image_format: ImageFormat,
        size: tuple[int, int],
        *,
        allow: frozenset[str] = frozenset(),
    ) -> None:
        self.paths, self.image_format, self.size, self.allow = list(paths), image_format, size, allow
        self.pool = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return images in the order of `indices`. Raises ImageError for one that cannot be used."""
        return np.stack(list(self.pool.map(self._small, [self.paths[i] for i in indices])))

    def _small(self, path: Path) -> np.ndarray:
        return images.load(path, self.image_format, self.size, allow=self.allow)[0]


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
    ) -> None:
        """Decode the images. `check` sees each (name, pixels) as read, `on_image` counts them.

        Raises ImageError on the first image (in the order given) that cannot be used.
        """
        if not paths:
            raise DataError("no images to load")
        self.files = ImageFiles(paths, image_format, size, allow=allow)
        shape = (image_format.channels, *size)
        dtype = np.dtype(np.uint8 if compact and image_format.dtype == "uint8" else np.float32)
        fits = min(len(paths), max(1, budget // (dtype.itemsize * int(np.prod(shape)))))
        self.kept = np.empty((fits, *shape), dtype)
        chunk = 64  # bounds what decoding holds beside the cache
        for start in range(0, len(paths), chunk):
            for i, small in enumerate(
                self.files.pool.map(lambda p: self._checked(p, check), paths[start : start + chunk]), start
            ):
                if i < fits:
                    self.kept[i] = self._stored(small)
                on_image()

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

    def _checked(self, path: Path, check: Callable[[str, np.ndarray], None]) -> np.ndarray:
        image = decoding.read(path)
        check(str(path), image)
        files = self.files
        converted = images.convert(image, files.image_format, allow=files.allow, name=str(path))
        return images.resize(converted, files.size)
