"""Does a decision for a part of several views keep its promise? Realised rates over random splits.

    python benchmarks/views.py [--data ROOT] [--out DIR] [--splits 200] [--sets NAME ...]

For bottle, pill and magnetic tile below ROOT (default: BLEMISH_DATA): PCA learns half of the good training
images, and scores the other half, the good test images and the defective ones. Artificial parts are made of
them: VIEWS images at random are the views of a part, named 1, 2, 3; a defective part has one defective image
in a view at random. Two worlds:

    free     the views of a part have nothing in common
    shared   half of the parts' views are alike: the good images are sorted by score, and neighbours make a
             part, in every second part; so views of one part depend on each other, as they do in a factory

Half of the good parts, drawn at random, calibrate, of the others MOST_GOOD are tested, and MOST_BAD of the
defective ones, `--splits` times. Four rules:

    any view, at the threshold of images    what comes of deciding image by image
    together                                parts calibrated in all their views
    apart (Bonferroni)                      each view calibrated alone, smallest p-value times views; refused
                                            where the parts are too few
    together, rejected or for review        the second rate

The scores of view 2 are stretched tenfold and of view 3 a hundredfold, as other cameras' would be; images
are decided within their view. Random splits are exchangeable by construction: this checks that what is
calibrated is what decides. Writes views.json and views.md; sets that are not named stay as they are there.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from tables import markdown

from blemish.core.errors import UsageError
from blemish.core.types import Prediction
from blemish.data.dataset import open_dataset
from blemish.inference.calibration import calibrate
from blemish.inference.parts import ApartRule, PartCalibration, TogetherRule, ViewScore
from blemish.methods.baselines.pca import PcaConfig
from blemish.training.fit import fit

SETS = {"bottle": "mvtec/bottle", "pill": "mvtec_512/pill", "magnetic tile": "mtd/magnetic_tile"}
REJECT, REVIEW = 0.10, 0.20
VIEWS = (2, 3)
MOST_GOOD, MOST_BAD = 40, 150


def scores_of(name: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the image scores of good images that are not learnt, and of defective ones."""
    dataset = open_dataset(root / SETS[name])
    config = PcaConfig(image_size=128, image_score="max", calibration_fraction=0.5)
    detector = fit(replace(dataset, calibration=[]), config=config, seed=0, device="cpu")
    learnt = {*detector.model_file.provenance["training_digests"].values()}
    good = [s.path for s in dataset.train if s.path.name not in learnt]
    good += [s.path for s in dataset.test if not s.is_defect]
    bad = [s.path for s in dataset.test if s.is_defect]
    found = []
    for paths in (good, bad):
        answers = replace(detector, maps=False).predict_many(paths)
        found.append(np.array([a.score for a in answers if isinstance(a, Prediction)]))
    return found[0], found[1]


def parts_of(
    good: np.ndarray, bad: np.ndarray, views: int, *, shared: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make good and defective parts, (n, views) and (m, views), each view in a unit of its own."""
    n = len(good) // views
    bad = bad if len(bad) <= MOST_BAD else rng.choice(bad, MOST_BAD, replace=False)
    scores = rng.permutation(good)[: n * views]
    if shared:
        alike = np.sort(scores[: n // 2 * views]).reshape(-1, views)
        scores = np.vstack([alike, scores[n // 2 * views :].reshape(-1, views)])
    whole = rng.permutation(scores.reshape(n, views))
    defective = whole[rng.integers(0, n, len(bad))]
    defective[np.arange(len(bad)), rng.integers(0, views, len(bad))] = bad
    units = 10.0 ** np.arange(views)
    return whole * units, defective * units


def rejected(known: np.ndarray, asked: np.ndarray) -> dict[str, np.ndarray]:
    """Calibrate on parts, and say by each rule which of the others it rejects."""
    views = tuple(map(str, range(1, known.shape[1] + 1)))
    each = {view: calibrate(column, column) for view, column in zip(views, known.T, strict=True)}
    together = TogetherRule(PartCalibration(scores=known, views=views), rate=REJECT, review_rate=REVIEW)
    try:
        apart = ApartRule(lambda view: each[str(view)], names=views, rate=REJECT)
    except UsageError:  # too few parts for the rate
        apart = None
    found: dict[str, list[bool]] = {name: [] for name in RULES}
    limits = np.array([each[view].threshold(REJECT) for view in views])
    for row in asked:
        seen = [
            ViewScore(view=view, score=score, p_value=each[view].p_value(score))
            for view, score in zip(views, row.tolist(), strict=True)
        ]
        decision = together.decide(seen).decision
        found["any view, at the threshold of images"].append(bool((row > limits).any()))
        found["together"].append(decision == "rejected")
        if apart is not None:
            found["apart (Bonferroni)"].append(apart.decide(seen).decision == "rejected")
        found["together, rejected or for review"].append(decision != "accepted")
    return {name: np.array(values) for name, values in found.items() if values}


RULES = (
    "any view, at the threshold of images",
    "together",
    "apart (Bonferroni)",
    "together, rejected or for review",
)


def measure(good: np.ndarray, bad: np.ndarray, views: int, *, shared: bool, splits: int) -> dict:
    rng = np.random.default_rng(views)
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
    for _ in range(splits):
        whole, defective = parts_of(good, bad, views, shared=shared, rng=rng)
        n = len(whole) // 2
        asked = whole[n : n + MOST_GOOD]
        alarms, hits = rejected(whole[:n], asked), rejected(whole[:n], defective)
        for name in alarms:
            shares[name].append((alarms[name].mean(), hits[name].mean()))
    n = len(good) // views // 2
    k = {rate: calibrate(range(n), range(n)).rank(rate) for rate in (REJECT, REVIEW)}
    rules = {}
    for name in filter(shares.get, RULES):
        rate = REVIEW if name.endswith("for review") else REJECT
        rules[name] = {
            "rate": rate,
            "expected": k[rate] / (n + 1) if name.startswith("together") else None,
            "realised": float(np.mean([a for a, _ in shares[name]])),
            "standard_error": float(np.std([a for a, _ in shares[name]]) / np.sqrt(splits)),
            "found": float(np.mean([b for _, b in shares[name]])),
        }
    return {"calibration_parts": n, "rules": rules}


def table(found: dict[str, dict]) -> str:
    rows = []
    kinds = [(views, world) for views in VIEWS for world in ("free", "shared")]
    for views, world in kinds:
        rows.append([f"**{views} views, {world}**", *[""] * len(found)])
        for rule in RULES:
            cells = [rule]
            for each in found.values():
                one = each[f"{views} views, {world}"]["rules"].get(rule)
                if one is None:
                    cells.append("refused")
                    continue
                cells.append(f"{100 * one['realised']:.1f} / {100 * one['found']:.1f}")
            rows.append(cells)
    return markdown(["rule", *found], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BLEMISH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    args = parser.parse_args()
    file = args.out / "views.json"
    before = json.loads(file.read_text())["sets"] if file.exists() else {}
    found: dict[str, dict] = {name: before[name] for name in SETS if name in before}
    for name in args.sets:
        good, bad = scores_of(name, args.data)
        found[name] = {"good": len(good), "defective": len(bad)}
        for views in VIEWS:
            for world in ("free", "shared"):
                one = measure(good, bad, views, shared=world == "shared", splits=args.splits)
                found[name][f"{views} views, {world}"] = one
        print(name, json.dumps(found[name], indent=1), flush=True)
    content = {"splits": args.splits, "reject": REJECT, "review": REVIEW, "sets": found}
    file.write_text(json.dumps(content, indent=1) + "\n")
    (args.out / "views.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
