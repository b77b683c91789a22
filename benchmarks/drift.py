"""The drift alarm: how often it is false, and after how many parts it is right.

    python benchmarks/drift.py --data DATA/mtd/magnetic_tile DATA/mvtec/bottle [--only PART ...]

late: drawn scores that change after 50 to 10,000 parts, for three forms of the evidence. good, rejects and
missed: lives of 5,000 drawn scores without a change, with such defects in between. real: PCA is trained on a
third of a category's good images. Of the others one half, drawn anew each time, calibrates, and the other is
production in random order, no image twice, as a repeated one would not be an independent part. From part 50
on the images, at the model's resolution, are darker, blurred or turned.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from bisect import bisect_left, bisect_right, insort
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, stats

from blemish.inference.load import load
from blemish.inference.postprocess import image_score
from blemish.methods.baselines.pca import PcaConfig
from blemish.station import drift, drift_equations
from blemish.station.drift import Drift
from blemish.training import fit

if TYPE_CHECKING:
    from collections.abc import Callable

DEFECTS = {  # their share, and the mean of their scores, where good ones are standard normal
    "good": (0.0, 0.0),
    "rejects": (0.02, 8.0),
    "missed": (0.02, 1.0),
}
PARTS = ("late", *DEFECTS, "real")
LEVEL = drift.LEVEL
CHANGE = 50  # the part from which on real production is changed, from 1
RUN_LENGTH = 1e6  # parts between two false alarms of the Shiryaev-Roberts form, on average, at least
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of (C, 128, 128), black is 0
    "brightness -10 %": lambda x: x * 0.9,
    "brightness -30 %": lambda x: x * 0.7,
    "blur 1 px": lambda x: ndimage.gaussian_filter(x, (0, 1, 1)),
    "blur 2 px": lambda x: ndimage.gaussian_filter(x, (0, 2, 2)),
    "rotation 2 deg": lambda x: ndimage.rotate(x, 2, (2, 1), reshape=False, order=1, mode="reflect"),
    "rotation 10 deg": lambda x: ndimage.rotate(x, 10, (2, 1), reshape=False, order=1, mode="reflect"),
}


def ranks(calibration: np.ndarray, production: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return what `Drift.p` is for each part (nan beyond c), for up to CELLS scores, none of them equal."""
    n = len(calibration)
    ascending = np.sort(calibration).tolist()
    edges = ascending[: n - max(1, math.floor(drift.BEYOND * (n + 1)))]
    limit = ascending[len(edges)]
    counted: list[int] = []  # the cells of what came after the edges
    p = np.full(len(production), np.nan)
    for t, (score, v) in enumerate(zip(production.tolist(), random.random(len(production)), strict=True)):
        if score > limit:
            continue
        cell = bisect_right(edges, score)
        lower, upper = bisect_left(counted, cell), bisect_right(counted, cell)
        above = len(edges) - cell + len(counted) - upper
        p[t] = (above + v * (1 + upper - lower)) / (1 + len(edges) + len(counted))
        if len(edges) < drift.CELLS:
            edges.insert(cell, score)
        else:
            insort(counted, cell)
    return p


def evidences(p: np.ndarray, n: int, *, forms: bool = False) -> dict[str, np.ndarray]:
    """Return E (lives, parts), as the mean over start times and, if asked, in two other forms."""
    k = max(1, math.floor(drift.BEYOND * (n + 1)))
    q = drift_equations.largest_share(n, k, drift.UNKNOWN * LEVEL)
    body, beyond = drift_equations.stakes(1 - (1 - drift.DEFECT_SHARE) * (1 - q))
    shape = (len(p), len(drift_equations.SHIFTS), len(drift_equations.STAKES))
    names = ("mixture", "one start", "Shiryaev-Roberts") if forms else ("mixture",)
    capital = {name: np.zeros(shape) for name in names}
    found = {name: np.empty(p.shape) for name in names}
    for t in range(p.shape[1]):
        out = np.isnan(p[:, t])[:, None, None]
        gains = np.where(
            out, beyond, drift_equations.tilts(np.nan_to_num(p[:, t])[:, None])[..., None] * body
        )
        weight, later = drift_equations.start_weight(t + 1)
        new = {"mixture": weight, "one start": float(t == 0), "Shiryaev-Roberts": 1.0}
        for name in names:
            capital[name] = drift_equations.at_stake(capital[name], gains, new[name])
            found[name][:, t] = capital[name].mean(axis=(1, 2)) + (later if name == "mixture" else 0)
    return {name: (1 - drift.UNKNOWN) * e for name, e in found.items()}


def false_alarms(kind: str, lives: int, n: int, parts: int = 5000) -> dict[str, float]:
    """Return the share of lives with an alarm, and its 95 % interval, while good production is unchanged."""
    share, mean = DEFECTS[kind]
    random = np.random.default_rng(3)
    p = np.empty((lives, parts))
    for life in p:
        scores = random.normal(size=parts) + mean * (random.random(parts) < share)
        life[:] = ranks(random.normal(size=n), scores, random)
    alarms = int((evidences(p, n)["mixture"] >= 1 / LEVEL).any(axis=1).sum())
    interval = stats.binomtest(alarms, lives).proportion_ci()
    found = {"lives": lives, "alarms": alarms, "low": interval.low, "high": interval.high}
    print(f"{kind}: {found}", flush=True)
    return found


def summary(delays: np.ndarray) -> dict[str, float | None]:
    """Return median and 95 % of delays in parts, None where the alarm did not come, and the share it came."""
    middle, most = np.quantile(delays, (0.5, 0.95), method="higher")
    return {
        "median": None if np.isinf(middle) else float(middle),
        "95 %": None if np.isinf(most) else float(most),
        "told": float(np.isfinite(delays).mean()),
    }


def delays_of(alarms: np.ndarray, before: int) -> np.ndarray:
    """Return how many parts after the first `before` it took in alarms (lives, parts); infinite: never."""
    after = alarms[~alarms[:, :before].any(axis=1), before:]
    return np.where(after.any(axis=1), after.argmax(axis=1) + 1.0, np.inf)


def late_changes(lives: int, n: int, seed: int) -> dict[str, dict[str, dict[str, dict]]]:
    """Return delays by form of the evidence, change (offset, spread) and number of parts before it."""
    random = np.random.default_rng(seed)
    kinds = {"+1 sd": (1, 1), "+2 sd": (2, 1), "-1 sd": (-1, 1), "-2 sd": (-2, 1), "spread x2": (0, 2)}
    limits = {"mixture": 1 / LEVEL, "one start": 1 / LEVEL, "Shiryaev-Roberts": RUN_LENGTH}
    found: dict[str, dict[str, dict[str, dict]]] = {name: {} for name in limits}
    for kind, (offset, spread) in kinds.items():
        for before in (50, 1000, 10_000):
            p = np.empty((lives, before + 500))
            for life in p:
                scores = random.normal(size=len(life))
                scores[before:] = offset + spread * scores[before:]
                life[:] = ranks(random.normal(size=n), scores, random)
            for form, e in evidences(p, n, forms=True).items():
                delays = delays_of(e >= limits[form], before)
                found[form].setdefault(kind, {})[str(before)] = summary(delays)
                print(f"{form}, {kind} after {before}: {summary(delays)}", flush=True)
    return found


def real_scores(data: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the scores of good images not trained on, as they are and changed, and those of defects."""
    good = sorted((data / "train" / "good").iterdir()) + sorted((data / "test" / "good").iterdir())
    order = np.random.default_rng(0).permutation(len(good))
    third = len(good) // 3
    with tempfile.TemporaryDirectory() as folder:
        category = Path(folder) / "category" / "train" / "good"
        category.mkdir(parents=True)
        for i in order[:third]:
            (category / f"{i:05d}{good[i].suffix}").symlink_to(good[i].resolve())
        fit.fit(category.parents[1], method="pca", out=Path(folder) / "run", device="cpu")
        detector = load(Path(folder) / "run")

    def score(pixels: np.ndarray) -> float:
        return image_score(detector.backend.run(pixels[np.newaxis]).maps[0], PcaConfig().image_score)

    rest = [detector.prepare(good[i])[0] for i in order[third:]]
    scores = {"none": np.array([score(pixels) for pixels in rest])}
    for name, change in CHANGES.items():
        scores[name] = np.array([score(change(pixels)) for pixels in rest])
    files = [f for kind in sorted((data / "test").iterdir()) if kind.name != "good" for f in kind.iterdir()]
    return scores, np.array([score(detector.prepare(file)[0]) for file in sorted(files)])


def life_of(calibration: np.ndarray, production: np.ndarray, seed: int) -> tuple[np.ndarray, Drift]:
    """Return log10 of E after each part, and the state in the end."""
    watched = Drift(calibration, seed=seed)
    return np.array([watched.update(score) for score in production]), watched


def real(data: Path, shuffles: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Return figures of real images, and the lives (shuffles, parts) behind them by name."""
    scores, defects = real_scores(data)
    random = np.random.default_rng(1)
    n, total = len(scores["none"]) // 2, len(scores["none"])
    lives: dict[str, list[np.ndarray]] = {}
    since: dict[str, list[int]] = {name: [] for name in CHANGES}
    for seed in range(shuffles):
        drawn = random.permutation(total)
        calibration, production = scores["none"][drawn[:n]], scores["none"][drawn[n:]]
        is_defect = random.random(total - n) < 0.02
        mixed = np.where(is_defect, random.choice(defects, total - n), production)
        for name, run in (("no change", production), ("no change, 2 % defects", mixed)):
            lives.setdefault(name, []).append(life_of(calibration, run, seed)[0])
        for name in CHANGES:
            changed = np.concatenate([production[: CHANGE - 1], scores[name][drawn[n:]][CHANGE - 1 :]])
            evidence, watched = life_of(calibration, changed, seed)
            lives.setdefault(name, []).append(evidence)
            since[name] += [watched.since] if watched.since else []
    stacked = {name: np.array(evidence) for name, evidence in lives.items()}
    alarms = {name: e >= -math.log10(LEVEL) for name, e in stacked.items()}
    figures: dict[str, object] = {"calibration images": n, "production images": total - n}
    for name in stacked:
        if name in CHANGES:
            figures[name] = summary(delays_of(alarms[name], CHANGE - 1)) | {
                "chance of a higher score": float(np.mean(scores["none"][:, None] < scores[name])),
                "since, median": float(np.median(since[name])) if since[name] else None,
            }
        else:
            figures[name] = {"alarms": int(alarms[name].any(axis=1).sum()), "lives": shuffles}
        print(f"{data.name}, {name}: {figures[name]}", flush=True)
    return figures, stacked


def draw(file: Path, late: dict, lives: dict[str, dict[str, np.ndarray]]) -> None:
    """Plot, of the real categories, the evidence and the delays; and the delays of drawn scores by form."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(lives) + 1, 2, figsize=(12, 4 * len(lives) + 4), squeeze=False)
    for row, (category, runs) in zip(axes, lives.items(), strict=False):
        for i, (name, evidence) in enumerate(runs.items()):
            parts = np.arange(1, evidence.shape[1] + 1)
            row[0].plot(parts, np.median(evidence, axis=0), color=f"C{i}", label=name)
            if name not in CHANGES:
                row[0].plot(parts, np.quantile(evidence, 0.99, axis=0), f"C{i}--", label=f"{name}, 99 %")
                continue
            delays = delays_of(evidence >= -math.log10(LEVEL), CHANGE - 1)
            since = np.arange(len(parts) - CHANGE + 2)
            row[1].plot(since, [np.mean(delays <= part) for part in since], color=f"C{i}", label=name)
        row[0].axhline(-math.log10(LEVEL), color="black", ls=":", label=f"alarm, level {LEVEL:.0%}")
        row[0].axvline(CHANGE, color="grey", lw=0.8)
        row[0].set(title=f"{category}, medians", xlabel="part", ylabel="log10 E", ylim=(-2, 8))
        row[1].set(title=f"{category}, changed from part {CHANGE} on", xlabel="parts since the change")
        row[1].set(ylabel="share of lives with the alarm", ylim=(-0.02, 1.02))
    for side, kind in zip(axes[-1], ("+1 sd", "-2 sd"), strict=True):
        for i, (form, kinds) in enumerate(late.items()):
            found = [(int(b), d["median"]) for b, d in kinds[kind].items() if d["median"] is not None]
            side.plot([b for b, _ in found], [d for _, d in found], "os^"[i] + "-", label=form)
        side.set(title=f"drawn scores, {kind}", xscale="log", xlabel="parts before the change")
        side.set(ylabel="median delay in parts", ylim=(0, None))
    for panel in axes.flat:
        panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="categories, MVTec layout")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--lives", type=int, default=2000, help="of drawn scores, without a change")
    parser.add_argument("--shuffles", type=int, default=200, help="of the real images")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the others' figures stay")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "drift.json"
    figures: dict = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    figures |= {"level": LEVEL, "defect share": drift.DEFECT_SHARE}
    if "late" in options.only:
        figures["late"] = late_changes(max(1, options.lives // 10), 100, seed=2)
    for kind in [kind for kind in DEFECTS if kind in options.only]:
        figures.setdefault("false alarms", {})[kind] = false_alarms(kind, options.lives, 100)
    if "real" in options.only:
        found = {data.name: real(data, options.shuffles) for data in options.data}
        figures["real"] = {name: measured for name, (measured, _) in found.items()}
        lives = {name: behind for name, (_, behind) in found.items()}
        draw(options.out / "drift.png", figures.get("late", {}), lives)
    file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
