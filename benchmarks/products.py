"""One model of several products against one each: does it find as much, and is the promise kept for each?

    python benchmarks/products.py [--data ROOT] [--out DIR] [--methods pca filters] [--splits 200]
        [--sets NAME ...] [--steps N] [--name products]

For bottle, pill, magnetic tile and a PIPED part below ROOT (default: BLEMISH_DATA), in grey: a method learns
half of the good training images, of all products together and of each one alone. The other half and the good
test images are scored; so are the defective ones.

Measured: the image AUROC of each product by both models; that of all images together, by the method's own
scores and by standardised ones; and false alarms. For these, half of the good images of each product, drawn
at random, calibrate, the rest is tested, and again, `--splits` times, with

    one threshold    of the calibration images of all products, for the method's own scores
    standardised     the same, for scores less the median, over the median deviation, of their product
    per product      of the calibration images of the product: what a model of several products has

`--steps` shortens the training of a method that has one. Writes products.json and products.md, or files of
another `--name`; methods that are not named stay as they are there.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tables import markdown

from blemish.core.types import Prediction
from blemish.data.dataset import open_dataset
from blemish.data.hashing import file_digest
from blemish.data.products import open_products, put_together
from blemish.inference.calibration import calibrate
from blemish.inference.products import Product
from blemish.methods.baselines.pca import PcaConfig
from blemish.methods.registry import preset_named
from blemish.metrics.roc import Roc
from blemish.training.fit import ImageOptions, fit

if TYPE_CHECKING:
    from blemish.data.dataset import Dataset
    from blemish.inference.detector import Detector

SETS = {
    "bottle": "mvtec/bottle",
    "pill": "mvtec_512/pill",
    "magnetic tile": "mtd/magnetic_tile",
    "gla01": "piped/pa_gla01_tl",
}
RATE = 0.10


def learn(dataset: Dataset, method: str, steps: int | None) -> Detector:
    """Train on half of the good images; the others are told by their digests."""
    common: dict[str, Any] = {"image_size": 128, "calibration_fraction": 0.5}
    common |= {} if steps is None else {"steps": steps}
    config = (
        PcaConfig(image_score="max", **common)
        if method == "pca"
        else replace(preset_named(method, "default"), **common)
    )
    grey = ImageOptions(channels=1)
    return fit(dataset, config=config, device="cpu", image_options=grey)


def scored(detector: Detector, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the method's own scores of the good images that were not learnt, and of the defective ones."""
    learnt = detector.model_file.provenance["training_digests"]
    good = [s.path for s in dataset.train if file_digest(s.path) not in learnt]
    good += [s.path for s in dataset.test if not s.is_defect]
    bad = [s.path for s in dataset.test if s.is_defect]
    found = []
    for paths in (good, bad):
        answers = [answer for answer in detector.predict_many(paths) if isinstance(answer, Prediction)]
        assert len(answers) == len(paths)
        found.append(np.array([answer.score for answer in answers]))
    own = detector.model_file.product or Product(name="-")
    good_scores, bad_scores = (own.centre + own.scale * scores for scores in found)
    return good_scores, bad_scores


def split_rates(good: dict[str, np.ndarray], splits: int) -> dict[str, dict[str, list[float]]]:
    """Return for each way to decide, and each product, the mean share of good images that is alarmed."""
    rng = np.random.default_rng(0)
    shares: dict[str, dict[str, list[float]]] = {
        way: {name: [] for name in good} for way in ("one threshold", "standardised", "per product")
    }
    for _ in range(splits):
        drawn = {name: scores[rng.permutation(len(scores))] for name, scores in good.items()}
        halves = {name: np.split(scores, [len(scores) // 2]) for name, scores in drawn.items()}
        units = {name: Product.of_scores(name, first) for name, (first, _) in halves.items()}
        alike = {name: [(h - units[name].centre) / units[name].scale for h in halves[name]] for name in good}
        for way, given in (("one threshold", halves), ("standardised", alike)):
            pooled = np.concatenate([first for first, _ in given.values()])
            limit = calibrate(pooled, pooled).threshold(RATE)
            for name, (_, rest) in given.items():
                shares[way][name].append(float(np.mean(rest > limit)))
        for name, (first, rest) in halves.items():
            limit = calibrate(first, first).threshold(RATE)
            shares["per product"][name].append(float(np.mean(rest > limit)))
    return shares


def measure(
    method: str, products: dict[str, Dataset], alone: dict[str, Dataset], splits: int, steps: int | None
) -> dict[str, Any]:
    together = learn(put_together(products), method, steps)
    good: dict[str, np.ndarray] = {}
    bad: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {"products": {}}
    for name, dataset in products.items():
        good[name], bad[name] = scored(together.for_product(name), dataset)
        own_good, own_bad = scored(learn(alone[name], method, steps), dataset)
        n = len(good[name]) // 2
        found["products"][name] = {
            "good": len(good[name]),
            "defective": len(bad[name]),
            "auroc_together": Roc.of([*good[name]], [*bad[name]]).auroc(),
            "auroc_alone": Roc.of([*own_good], [*own_bad]).auroc(),
            "expected_rate": calibrate(range(n), range(n)).rank(RATE) / (n + 1),
        }
        print(method, name, found["products"][name], flush=True)
    units = {name: Product.of_scores(name, scores) for name, scores in good.items()}

    def pooled(scores: dict[str, np.ndarray], *, standardised: bool) -> list[float]:
        given = {n: (s - units[n].centre) / units[n].scale if standardised else s for n, s in scores.items()}
        return [float(score) for each in given.values() for score in each]

    for key, standardised in (("auroc_of_all", False), ("auroc_of_all_standardised", True)):
        both = (pooled(scores, standardised=standardised) for scores in (good, bad))
        found[key] = Roc.of(*both).auroc()
    for way, each in split_rates(good, splits).items():
        for name, rates in each.items():
            error = float(np.std(rates) / np.sqrt(splits))
            found["products"][name][way] = {"realised": float(np.mean(rates)), "standard_error": error}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    ways = ("one threshold", "standardised", "per product")
    header = ["method", "product", "AUROC, one model each", "AUROC, one model of all"]
    header += [*(f"false alarms, {way}" for way in ways), "expected"]
    rows = []
    for method, each in found.items():
        for name, one in each["products"].items():
            areas = [f"{one[key]:.3f}" for key in ("auroc_alone", "auroc_together")]
            rates = [*(one[way]["realised"] for way in ways), one["expected_rate"]]
            rows.append([method, name, *areas, *(f"{100 * rate:.1f} %" for rate in rates)])
    return markdown(header, rows)


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BLEMISH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--methods", nargs="+", default=["pca", "filters"])
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--name", default="products")
    args = parser.parse_args()
    products = open_products({name: args.data / SETS[name] for name in args.sets})
    alone = {name: open_dataset(args.data / SETS[name]) for name in args.sets}
    file = args.out / f"{args.name}.json"
    found = json.loads(file.read_text())["methods"] if file.exists() else {}
    for method in args.methods:
        found[method] = measure(method, products, alone, args.splits, args.steps)
        content = {"splits": args.splits, "rate": RATE, "methods": found}
        file.write_text(json.dumps(content, indent=1) + "\n")
        file.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
