"""Do two rates, sizes and regions of interest keep their promises? Realised rates over random splits.

    python benchmarks/counting.py [--data ROOT] [--out DIR] [--splits 200]

For bottle, pill and magnetic tile below ROOT (default: BLEMISH_DATA): PCA learns half of the good training
images. The other half and the good test images are scored; so are the defective ones. Half of those good
ones, drawn at random, calibrate, the rest is tested, and again, `--splits` times. Four models:

    plain    as it is
    sizes    regions of AREA pixels or more count, once by new thresholds, once by a filter after the
             decision: the maxima of the maps calibrate, and a part is rejected when a large region is left
    roi      an ellipse in the middle of the image counts, the model is trained with it; not for magnetic
             tile, whose images have many shapes
    after    the plain model, which counts in the left half of the image alone after its training, with the
             thresholds of before and with new ones

Random splits are exchangeable by construction: this checks that the scores which are calibrated are those
that decide. Writes counting.json and counting.md.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from tables import markdown

from blemish.core.types import Prediction
from blemish.data.dataset import Dataset, open_dataset
from blemish.images.roi import roi_of
from blemish.inference.calibration import calibrate
from blemish.inference.counting import Counting
from blemish.inference.detector import Detector
from blemish.methods.baselines.pca import PcaConfig
from blemish.training.fit import fit

SETS = {"bottle": "mvtec/bottle", "pill": "mvtec_512/pill", "magnetic tile": "mtd/magnetic_tile"}
AREAS = {"bottle": 100.0, "pill": 40.0, "magnetic tile": 40.0}
MANY_SHAPES = ("magnetic tile",)
REJECT, REVIEW = 0.05, 0.10


def ellipse(side: int = 256) -> np.ndarray:
    """Return a mask of an ellipse in the middle, 0.8 of each side: half of the image."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    return np.hypot(x, y) <= 0.8


def learn(dataset: Dataset, seed: int, counting: Counting) -> Detector:
    """Train on half of the good images; the others are told by their digests."""
    config = PcaConfig(image_size=128, image_score="max", calibration_fraction=0.5)
    return fit(replace(dataset, calibration=[]), config=config, seed=seed, device="cpu", counting=counting)


def scored(detector: Detector, paths: list[Path], *countings: Counting) -> np.ndarray:
    """Score images (n, 1 + k): the model's own score, and the peak of the map for each counting."""
    found = []
    for answer in detector.predict_many(paths):
        assert isinstance(answer, Prediction)
        found.append([answer.score, *(each.peak(answer.anomaly_map) for each in countings)])
    return np.array(found)


def realised(good: np.ndarray, bad: np.ndarray, rate: float, splits: int, *, by: int, of: int) -> dict:
    """Calibrate on column `by`, decide on column `of`; return the mean share of good and bad above it."""
    rng, shares = np.random.default_rng(0), []
    n = len(good) // 2
    for _ in range(splits):
        drawn = good[rng.permutation(len(good))]
        limit = calibrate(drawn[:n, by], drawn[:n, by]).threshold(rate)
        shares.append([np.mean(drawn[n:, of] > limit), np.mean(bad[:, of] > limit)])
    (alarms, found), spread = np.mean(shares, axis=0), np.std(shares, axis=0)[0]
    k = calibrate(range(n), range(n)).rank(rate)
    return {
        "rate": rate,
        "expected": k / (n + 1),
        "realised": float(alarms),
        "standard_error": float(spread / np.sqrt(splits)),
        "found": float(found),
    }


def measure(name: str, root: Path, splits: int) -> dict:
    dataset = open_dataset(root / SETS[name])
    sizes, roi = Counting(min_area=AREAS[name]), Counting(roi=roi_of(ellipse()))
    arms: dict[str, dict] = {}
    plain = learn(dataset, 0, Counting())
    learnt = {*plain.model_file.provenance["training_digests"].values()}
    good = [s.path for s in dataset.train if s.path.name not in learnt]
    good += [s.path for s in dataset.test if not s.is_defect]
    bad = [s.path for s in dataset.test if s.is_defect]
    g, b = scored(plain, good, Counting(), sizes), scored(plain, bad, Counting(), sizes)
    arms["plain, rejected"] = realised(g, b, REJECT, splits, by=0, of=0)
    arms["plain, rejected or for review"] = realised(g, b, REVIEW, splits, by=0, of=0)
    arms["sizes, filter after the decision"] = realised(g, b, REJECT, splits, by=1, of=2)
    arms["sizes, new thresholds"] = realised(g, b, REJECT, splits, by=2, of=2)
    arms["sizes, rejected or for review"] = realised(g, b, REVIEW, splits, by=2, of=2)
    if name not in MANY_SHAPES:
        arms |= region_after(plain, good, bad, splits)
        inner = learn(dataset, 0, roi)
        g, b = scored(inner, good), scored(inner, bad)
        arms["roi, rejected"] = realised(g, b, REJECT, splits, by=0, of=0)
        arms["roi, rejected or for review"] = realised(g, b, REVIEW, splits, by=0, of=0)
    return {"good": len(good), "defective": len(bad), "min_area_px": AREAS[name], "arms": arms}


def region_after(plain: Detector, good: list[Path], bad: list[Path], splits: int) -> dict[str, dict]:
    """Measure a region that is given after the training: with the thresholds of before, and with new ones."""
    left = np.tile(np.arange(256) < 128, (256, 1))  # the part lies in the ellipse, and would lose nothing
    later = replace(plain, model_file=replace(plain.model_file, counting=Counting(inner=roi_of(left))))
    g, b = (np.hstack([scored(plain, of), scored(later, of)]) for of in (good, bad))
    return {
        "roi after the training, old thresholds": realised(g, b, REJECT, splits, by=0, of=1),
        "roi after the training, new thresholds": realised(g, b, REJECT, splits, by=1, of=1),
        "roi after the training, rejected or for review": realised(g, b, REVIEW, splits, by=1, of=1),
    }


def table(found: dict[str, dict]) -> str:
    rows = []
    for arm in next(iter(found.values()))["arms"]:
        cells = [arm]
        for each in found.values():
            one = each["arms"].get(arm)
            if one is None:
                cells.append("–")
                continue
            numbers = [one[key] for key in ("realised", "expected", "found")]
            cells.append(" / ".join(f"{100 * number:.1f}" for number in numbers))
        rows.append(cells)
    return markdown(["model", *found], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BLEMISH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--splits", type=int, default=200)
    args = parser.parse_args()
    found = {}
    for name in SETS:
        found[name] = measure(name, args.data, args.splits)
        print(name, json.dumps(found[name], indent=1), flush=True)
    content = {"splits": args.splits, "sets": found}
    (args.out / "counting.json").write_text(json.dumps(content, indent=1) + "\n")
    (args.out / "counting.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
