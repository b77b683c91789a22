"""Whether an audit names pictures of another product, and no others.

    python benchmarks/other_products.py --data CATEGORY CATEGORY [...] [--seed 0]

Of each category 30 good training images and 8 defective test images are drawn, and 3 good ones of each other
category are put among them. It is counted which of all these are called another product.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from blemish.data.dataset import open_dataset
from blemish.evaluation.audit import ALIKE, OTHER
from blemish.evaluation.looks import Looks, likeness, look_at


def drawn(data: Path, seed: int) -> tuple[list[Looks], list[Looks]]:
    """Return how 30 good and 8 defective images look."""
    dataset, rng = open_dataset(data), np.random.default_rng(seed)
    defective = [s for s in dataset.test if s.is_defect]
    chosen = (
        [dataset.train[i] for i in rng.permutation(len(dataset.train))[:30]],
        [defective[i] for i in rng.permutation(len(defective))[:8]],
    )
    good, bad = ([look_at(sample.path) for sample in samples] for samples in chosen)
    return good, bad


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    looks = {data.name: drawn(data, options.seed) for data in options.data}
    for name, (good, bad) in looks.items():
        for other in looks.keys() - {name}:
            alike = likeness([*good, *bad, *looks[other][0][:3]])
            usual = float(np.median(alike))
            named = (alike < OTHER * usual) & (usual >= ALIKE)
            counts = [int(part.sum()) for part in np.split(named, [len(good), len(good) + len(bad)])]
            found = dict(zip(("good", "defective", "of_other"), counts, strict=True))
            print(json.dumps({"data": name, "other": other, "median": round(usual, 3)} | found))


if __name__ == "__main__":
    main()
