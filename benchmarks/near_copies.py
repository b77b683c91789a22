"""Are good test images as near to the training images as those are to each other?

    python benchmarks/near_copies.py DATA [...] [--out FILE]

Where a folder of good images shows the same part more than once, an image held out of it has a near-copy
among those that stay, and a new part has none: the held-out images are not like new ones. For each image the
distance to the nearest other training image is taken: the root mean square difference in grey levels of
images averaged down to 16×16 pixels. A small p-value of the Mann-Whitney test of training against good
test images tells the difference.

DATA is a category in the MVTec layout. Writes FILE (default: benchmarks/results/near_copies.json).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from blemish.core.types import Sample
from blemish.data.dataset import Dataset, open_dataset

SIDE = 16


def vectors(samples: list[Sample]) -> np.ndarray:
    """Read images as (n, values) of 0 to 255, averaged down to `SIDE` by `SIDE` pixels."""
    shrunk = []
    for sample in samples:
        with Image.open(sample.path) as image:
            shrunk.append(np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.array(shrunk, dtype=np.float64).reshape(len(shrunk), -1)


def measure(dataset: Dataset) -> dict[str, Any]:
    train = vectors([*dataset.train, *dataset.calibration])
    test = vectors([s for s in dataset.test if not s.is_defect])
    within = cdist(train, train)
    np.fill_diagonal(within, np.inf)
    nearest = {"training": within.min(axis=1), "good test": cdist(test, train).min(axis=1)}
    nearest = {name: distances / np.sqrt(train.shape[1]) for name, distances in nearest.items()}
    return {
        "dataset": dataset.name,
        "nearest_training_image": {
            name: {"n": len(d), "min_10_50_90": np.percentile(d, [0, 10, 50, 90]).round(2).tolist()}
            for name, d in nearest.items()
        },
        "p_value": float(mannwhitneyu(nearest["training"], nearest["good test"]).pvalue),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/near_copies.json"))
    args = parser.parse_args()
    results = [measure(open_dataset(data)) for data in args.data]
    for result in results:
        print(json.dumps(result))
    args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
