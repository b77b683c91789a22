"""Whether an audit finds defects that were put among good images: recall and precision on real data.

    python benchmarks/audit.py --data CATEGORY [CATEGORY ...] [--shares 0.05 0.1] [--seeds 0] [--out FILE]

Of each category, in MVTec layout, defective test images are drawn and put among the good training images, so
that they are the given share of all. `blemish audit` is not told. Recall: the share of them that are
suspects; precision: the share of suspects that are of them. A share of 0 says how many good are suspects.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from blemish.data.dataset import open_dataset
from blemish.evaluation.audit import audit
from blemish.evaluation.pictures import name_of_sample


def planted(data: Path, share: float, seed: int, most: int | None) -> dict[str, float]:
    """Plant, audit, count."""
    dataset = open_dataset(data)
    rng = np.random.default_rng(seed)
    kept = sorted(rng.permutation(len(dataset.train))[:most].tolist())
    good = [dataset.train[i] for i in kept]
    defective = [s for s in dataset.test if s.is_defect]
    n = round(share * len(good) / (1 - share))
    chosen = [defective[i] for i in sorted(rng.permutation(len(defective))[:n])]
    mixed = [*good, *(replace(s, split="train", label="good", mask=None) for s in chosen)]
    names = {name_of_sample(s, dataset) for s in chosen}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        found = audit(replace(dataset, train=mixed, calibration=[]), Path(out), seed=seed, device="cpu")
    hits = sum(each.path in names for each in found.suspects)
    first = sum(each.path in names for each in found.findings[: len(names)])
    return {
        "data": data.name,
        "share": share,
        "seed": seed,
        "images": len(mixed),
        "planted": len(chosen),
        "suspects": len(found.suspects),
        "recall": hits / len(chosen) if chosen else float("nan"),
        "precision": hits / len(found.suspects) if found.suspects else float("nan"),
        "among_the_first": first / len(chosen) if chosen else float("nan"),
        "copies": len(found.copies),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Run all of it, a line each."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--most", type=int, help="take so many good images at most, drawn by the seed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for data in options.data:
        for share in options.shares:
            for seed in options.seeds:
                rows.append(planted(data, share, seed, options.most))
                print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
