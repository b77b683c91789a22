"""Is the promised false-alarm rate kept? Realised rates over random splits of good images.

    python benchmarks/calibration.py SCORES.csv|RUN [...] --out DIR [--splits 1000]

Each CSV file has the columns `path,label,score`; its rows with the label `good` are used. Of an evaluated
run folder these are its test images, and its calibration images beside them: neither were trained on. Half
of them, drawn at random, calibrate; the other half is tested; and again, `--splits` times. With n calibration
and m test images without equal scores, the false alarms of a split are beta-binomial(m, k, n + 1 - k),
k = floor(rate (n + 1)) and mean m k / (n + 1): the band and the mean that the realised rates must show.
Equal scores only lower the rates.

Random splits are exchangeable by construction: this checks the arithmetic and shows how far a single
split strays from the promise. It cannot show that next month's parts resemble this month's.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy import stats

from blemish.core.errors import BlemishError, DataError, UsageError
from blemish.core.types import GOOD
from blemish.inference.calibration import calibrate
from blemish.inference.model_file import load_model_file

mpl.use("Agg")
RATES = (0.01, 0.05, 0.10)


def good_scores(path: Path) -> np.ndarray:
    if path.is_dir():
        calibration = load_model_file(path).calibration
        held_out = [] if calibration is None else calibration.scores
        return np.concatenate([good_scores(path / "evaluation" / "scores.csv"), held_out])
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"path", "label", "score"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path}: columns {sorted(missing)} are missing; it needs path,label,score")
        scores = np.array([float(row["score"]) for row in reader if row["label"] == GOOD])
    if len(scores) < 2:
        raise DataError(f"{path}: {len(scores)} good images; a split needs at least 2")
    return scores


def realised(scores: np.ndarray, rate: float, splits: int, seed: int) -> np.ndarray:
    """Share of false alarms (splits,) among the test half of every split."""
    rng = np.random.default_rng(seed)
    n = len(scores) // 2
    shares = np.empty(splits)
    for i in range(splits):
        drawn = rng.permutation(scores)
        shares[i] = np.mean(drawn[n:] > calibrate(drawn[:n], drawn[:n]).threshold(rate))
    return shares


def measure(scores: np.ndarray, rate: float, splits: int, seed: int) -> tuple[dict, np.ndarray]:
    n = len(scores) // 2
    m = len(scores) - n
    try:
        shares = realised(scores, rate, splits, seed)
    except UsageError as refused:
        return {"rate": rate, "promised": False, "why": str(refused)}, np.empty(0)
    k = round(calibrate(range(n), range(n)).threshold(rate))  # the order statistic n - k, counted from 0
    theory = stats.betabinom(m, n - k, k + 1)
    error = float(theory.std() / m / math.sqrt(splits))
    found = {
        "rate": rate,
        "promised": True,
        "mean_expected": float(theory.mean() / m),
        "mean_realised": float(shares.mean()),
        "standard_error_of_mean": error,
        "mean_deviation_in_standard_errors": float((shares.mean() - theory.mean() / m) / error),
        "band95_expected": [float(theory.ppf(q) / m) for q in (0.025, 0.975)],
        "band95_realised": [float(q) for q in np.quantile(shares, (0.025, 0.975))],
        "splits_inside_band": float(
            np.mean((theory.ppf(0.025) / m <= shares) & (shares <= theory.ppf(0.975) / m))
        ),
        "mean_is_at_most_rate": bool(shares.mean() <= rate + 4 * error),
    }
    return found, shares


def draw(figure_path: Path, measured: list[tuple[str, int, list[tuple[dict, np.ndarray]]]]) -> None:
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(
        len(measured), len(RATES), figsize=(4 * len(RATES), 2.8 * len(measured)), squeeze=False
    )
    for row, (name, m, columns) in zip(grid, measured, strict=True):
        for axes, (found, shares) in zip(row, columns, strict=True):
            axes.set_title(f"{name}, asked {found['rate']:.0%}", fontsize=9)
            if not found["promised"]:
                axes.text(0.5, 0.5, "too few images\nto promise this rate", ha="center", va="center")
                axes.set_axis_off()
                continue
            counts = np.arange(np.rint(shares.max() * m) + 2)
            axes.hist(shares, bins=(counts - 0.5) / m, color="tab:blue", alpha=0.6, label="splits")
            axes.set_ylabel("splits", fontsize=8)
            axes.axvspan(*found["band95_expected"], color="bisque", zorder=0, label="95 % band, theory")
            axes.axvline(found["mean_expected"], color="tab:orange", label="mean, theory")
            axes.axvline(found["mean_realised"], color="tab:blue", ls="--", label="mean, realised")
            axes.axvline(found["rate"], color="black", ls=":", label="rate asked")
            axes.set_xlabel("false alarms / good test images", fontsize=8)
            axes.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(figure_path, dpi=120)
    plt.close(figure)


def run(paths: list[Path], out: Path, splits: int, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files, measured = [], []
    for path in paths:
        scores = good_scores(path)
        n = len(scores) // 2
        columns = [measure(scores, rate, splits, seed) for rate in RATES]
        files.append(
            {
                "file": path.name,
                "good_images": len(scores),
                "distinct_scores": len(np.unique(scores)),
                "calibration_images": n,
                "test_images": len(scores) - n,
                "rates": [found for found, _ in columns],
            }
        )
        measured.append((path.name, len(scores) - n, columns))
        for found, _ in columns:
            print(f"{path.name}: {found['rate']:.0%}", end=" ")
            if found["promised"]:
                low, high = found["band95_expected"]
                print(f"mean {found['mean_realised']:.4f}, expected {found['mean_expected']:.4f}", end=" ")
                print(f"(one split: {low:.3f} to {high:.3f}, {found['splits_inside_band']:.1%} inside)")
            else:
                print(found["why"])
    report = {"splits": splits, "seed": seed, "files": files}
    (out / "calibration.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw(out / "calibration.png", measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scores", nargs="+", type=Path, help="CSV files path,label,score, or run folders")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of calibration.json and calibration.png"
    )
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.splits < 1:
        parser.error(f"--splits {arguments.splits}: give 1 or more")
    try:
        run(arguments.scores, arguments.out, arguments.splits, arguments.seed)
    except (BlemishError, OSError, ValueError) as refused:
        raise SystemExit(f"calibration.py: {refused}") from refused


if __name__ == "__main__":
    main()
