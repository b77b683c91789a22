"""A category whose parts lie at any angle, made of one whose parts all lie the same way.

    python benchmarks/turned.py --data DATA/mvtec_512/pill --out FOLDER
    python benchmarks/choice.py --data FOLDER/pill_turned

Each image is turned by an angle of its own, made smaller by 5 %, and moved by a fortieth of its side at most;
its mask with it. What comes into view has the colour of the image's border. So it can be seen what a method
loses when places say nothing, on a part that is known from elsewhere. FOLDER must lie outside the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.ndimage
from PIL import Image

from blemish.data.dataset import open_dataset
from blemish.data.masks import read_mask
from blemish.images import decode

SMALLER, MOVED = 0.95, 1 / 40


def turned(image: np.ndarray, angle: float, moved: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Turn an image (H, W, C) by an angle in radians about its middle; new pixels are `outside`, (C,)."""
    cos, sin = np.cos(angle) / SMALLER, np.sin(angle) / SMALLER
    matrix = np.array([[cos, -sin], [sin, cos]])
    middle = (np.array(image.shape[:2]) - 1) / 2
    offset = middle - matrix @ (middle + moved)
    planes = [
        scipy.ndimage.affine_transform(plane, matrix, offset, order=1, cval=float(value))
        for plane, value in zip(np.moveaxis(image, 2, 0), outside, strict=True)
    ]
    return np.stack(planes, axis=2)


def border(image: np.ndarray) -> np.ndarray:
    """Return the median colour (C,) of the image's uppermost and lowest rows."""
    rows = np.concatenate([image[:8], image[-8:]]).reshape(-1, image.shape[2])
    return np.median(rows, axis=0)


def main() -> None:
    """Write the turned category in MVTec layout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset, draws = open_dataset(options.data), np.random.default_rng(options.seed)
    root = options.out / f"{options.data.name}_turned"
    for sample in [*dataset.train, *dataset.test]:
        image = decode.read(sample.path)
        angle = draws.uniform(0, 2 * np.pi)
        moved = draws.uniform(-MOVED, MOVED, 2) * image.shape[:2]
        place = root / sample.path.relative_to(options.data).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(turned(image, angle, moved, border(image)).squeeze()).save(place)
        if sample.is_defect and dataset.has_masks:
            mask = read_mask(sample, image.shape[:2]).astype(np.float32)[..., None]
            beside = root / "ground_truth" / place.parent.name / f"{place.stem}_mask.png"
            beside.parent.mkdir(parents=True, exist_ok=True)
            seen = turned(mask, angle, moved, np.zeros(1))[..., 0] > 0.5
            Image.fromarray(np.uint8(seen) * 255).save(beside)
    print(root)


if __name__ == "__main__":
    main()
