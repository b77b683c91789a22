"""What it brings not to learn the most suspicious training images, where some of them are defective.

    python benchmarks/drop_suspects.py --data CATEGORY [--shares 0 0.05 0.1] [--drops 0 0.05 0.1]
        [--methods filters pca] [--seeds 0 1 2] [--out FILE]

Of a category in MVTec layout, defective test images are drawn and put among the good training images, so that
they are the given share of all. The rest of the test images are scored. Image and pixel AUROC, and the rates
at a promised 5 %, are of those; `caught` is the share of the defects among the training images (those that
calibrate left out) that was not learnt.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from blemish.core.errors import ImageError
from blemish.data.dataset import open_dataset
from blemish.data.hashing import file_digest
from blemish.data.masks import read_mask
from blemish.metrics.pixels import PixelPool
from blemish.metrics.roc import image_roc
from blemish.training.fit import fit


def measured(data: Path, method: str, share: float, drop: float, seed: int) -> dict[str, float | str | None]:
    dataset = open_dataset(data)
    rng = np.random.default_rng(seed)
    defective = [s for s in dataset.test if s.is_defect]
    n = round(share * len(dataset.train) / (1 - share))
    chosen = [defective[i] for i in sorted(rng.permutation(len(defective))[:n])]
    mixed = [*dataset.train, *(replace(s, split="train", label="good", mask=None) for s in chosen)]
    test = [s for s in dataset.test if s not in chosen]
    detector = fit(
        replace(dataset, train=mixed, calibration=[]),
        method=method,
        seed=seed,
        drop_suspects=drop,
        device="cpu",
    )
    scores, pool, rejected = [], PixelPool(), []
    for sample, found in zip(test, detector.predict_many([s.path for s in test]), strict=True):
        assert not isinstance(found, ImageError)
        scores.append(found.score)
        rejected.append(bool(found.anomalous))
        height, width = found.anomaly_map.shape
        pool.add(
            found.anomaly_map, read_mask(sample, (height, width)), sample.label, is_good=not sample.is_defect
        )
    bad = np.array([s.is_defect for s in test])
    known = detector.model_file.provenance
    dropped = set(known.get("dropped", {}).get("digests", {}))
    names = known["training_digests"].keys() & {file_digest(s.path) for s in chosen}
    return {
        "data": data.name,
        "method": method,
        "share": share,
        "drop": drop,
        "seed": seed,
        "planted": len(chosen),
        "planted_in_training": len(names),
        "caught": len(names & dropped) / len(names) if names else None,
        "image_auroc": image_roc(np.array(scores), bad).auroc(),
        "pixel_auroc": pool.pixel_roc().auroc(),
        "false_alarm_rate": float(np.mean(np.array(rejected)[~bad])),
        "detection_rate": float(np.mean(np.array(rejected)[bad])),
    }


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["filters", "pca"])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.05, 0.1])
    parser.add_argument("--drops", type=float, nargs="+", default=[0.0, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out and options.out.exists() else []
    done = {(row["method"], row["share"], row["drop"], row["seed"]) for row in rows}
    for method in options.methods:
        for share in options.shares:
            for drop in options.drops:
                for seed in options.seeds:
                    if (method, share, drop, seed) in done:
                        continue  # of a measurement that was stopped
                    rows.append(measured(options.data, method, share, drop, seed))
                    print(json.dumps(rows[-1]), flush=True)
                    if options.out:
                        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
