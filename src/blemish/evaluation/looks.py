"""How pictures look, whatever they show: exposure, sharpness, and which are nearly copies of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.images.decode import read
from blemish.images.preview import preview_of
from blemish.images.resize import resize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SIDE = 512
"""The longer side, at most, at which exposure and sharpness are measured, in pixels."""
SMALL = 64
"""The side of the small grey picture by which copies are found, in pixels."""
COPY_SHARE = 0.3
"""Two images are near-copies if they differ by less than this share of the usual difference of neighbours."""
COPY_FLOOR = 0.002
"""The same in standard deviations of a picture, where most images are copies: what a new encoding does."""
ROWS = 256
"""Images that are compared with all others at a time, which bounds the memory that it takes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """Of one image: its mean grey, log10 of its Laplacian's variance, and a small grey picture.

    `exposure` is in the unit of the image's type, where integers have 1 at their largest number, 255 or
    65535, and floats are as they are. `peak` is the largest size of its values in that unit; of 8 bits it is
    1, as they use their whole range. Sharpness is of the picture stretched as it is shown.
    `small` is float32 (SMALL²,), of mean 0 and standard deviation 1, or all 0 for a plain image. Sources:
    the variance of the Laplacian as sharpness is that of Pech-Pacheco et al., ICPR 2000.
    """

    exposure: float
    sharpness: float
    small: np.ndarray
    peak: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Two images that are nearly the same.

    `difference` is the root mean square difference of their small pictures, in standard deviations.
    `across` says that one is a training image and the other a calibration image, which makes a promised rate
    look better than it is.
    """

    a: str
    b: str
    difference: float
    across: bool


def look_at(path: Path) -> Looks:
    """Measure how an image looks. Raises ImageError if it cannot be read."""
    image = read(path)
    grey = preview_of(image, side=SIDE).rgb().mean(axis=0)
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    small = resize(grey[None], (SMALL, SMALL)).astype(np.float32).ravel()
    spread = float(small.std())
    exposure, peak = float(grey.mean()), 1.0
    if image.dtype != np.uint8:  # whose picture is stretched from its lowest to its highest value
        full = 65535.0 if image.dtype == np.uint16 else 1.0
        low, high = float(image.min()) / full, float(image.max()) / full
        exposure, peak = low + exposure * (high - low), max(abs(low), abs(high))
    return Looks(
        exposure=exposure,
        peak=peak,
        sharpness=float(np.log10(inner.var() + 1e-12)),
        small=(small - small.mean()) / spread if spread > 1e-6 else np.zeros_like(small),
    )


def likeness(looks: Sequence[Looks]) -> np.ndarray:
    """Return the correlation of each image's small picture with the median picture of all, (n,), in [-1, 1].

    Parts that lie alike have one near 1. Parts that move or turn, and plain surfaces, have a low one: their
    median picture shows nothing.
    """
    pictures = np.stack([each.small for each in looks]).astype(np.float64)
    middle = np.median(pictures, axis=0)
    middle = middle - middle.mean()
    spread = float(middle.std())
    return pictures @ middle / (pictures.shape[1] * spread) if spread > 1e-6 else np.zeros(len(looks))


def modified_z(values: np.ndarray, least: float) -> np.ndarray:
    """Say how far each of (n,) values lies from their median: 0.6745 (x - median) / MAD.

    MAD is the median of the distances from the median, so a few odd values do not hide themselves. Where it
    is less than `least`, above 0, that is taken. Source: Iglewicz and Hoaglin 1993; `least` is ours.
    """
    distance = values - np.median(values)
    return 0.6745 * distance / max(float(np.median(np.abs(distance))), least)


def find_copies(looks: Sequence[Looks], names: Sequence[str], splits: Sequence[str]) -> list[Copy]:
    """Find the pairs of near-copies, the closest first.

    A pair counts if it differs by at most `COPY_SHARE` of the median, over the images, of the difference to
    the nearest other image, or by at most `COPY_FLOOR` (our choice).
    """
    pictures = np.stack([each.small for each in looks]).astype(np.float64)
    nearest = np.full(len(pictures), np.inf)
    for first, differences in _differences(pictures):
        np.fill_diagonal(differences, np.inf)
        rows, later = nearest[first : first + len(differences)], nearest[first:]
        np.minimum(rows, differences.min(axis=1), out=rows)
        np.minimum(later, differences.min(axis=0), out=later)
    limit = max(COPY_FLOOR, COPY_SHARE * float(np.median(nearest)))
    pairs = [
        Copy(
            a=names[first + i],
            b=names[first + j],
            difference=float(differences[i, j]),
            across=splits[first + i] != splits[first + j],
        )
        for first, differences in _differences(pictures)
        for i, j in np.argwhere(np.triu(differences <= limit, k=1)).tolist()
    ]
    return sorted(pairs, key=lambda pair: (pair.difference, pair.a, pair.b))


def _differences(pictures: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield root mean square differences of pictures (n, k), `ROWS` of them at a time.

    Each is a number of a picture, `first`, and float64 (rows, n - first): of the pictures from there on to
    themselves and all later ones.
    """
    squares = (pictures**2).sum(axis=1)
    for first in range(0, len(pictures), ROWS):
        last = first + ROWS
        squared = pictures[first:last] @ pictures[first:].T
        squared *= -2
        squared += squares[first:last, None]
        squared += squares[first:]
        np.maximum(squared, 0, out=squared)
        squared /= pictures.shape[1]
        yield first, np.sqrt(squared, out=squared)


def group_copies(names: Sequence[str], copies: Sequence[Copy]) -> list[list[int]]:
    """Join copies, and copies of copies: each image, by its index, is in one group, most of them alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    node = {name: i for i, name in enumerate(dict.fromkeys(names))}
    ends = [node[pair.a] for pair in copies], [node[pair.b] for pair in copies]
    joined = coo_array((np.ones(len(copies), dtype=bool), ends), shape=(len(node), len(node)))
    _, group_of = connected_components(joined, directed=False)
    groups: dict[int, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(int(group_of[node[name]]), []).append(i)
    return list(groups.values())
