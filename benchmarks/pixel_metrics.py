"""Time and memory of all pixel metrics on a test set at full resolution, against the usual way.

    python benchmarks/pixel_metrics.py --data ROOT/mvtec/bottle --maps FOLDER [--thresholds 200] [--out FILE]

The maps are PCA's, written to FOLDER unless they are there. Ours: `PixelPool`, everything that an evaluation
reports. The usual way: scikit-learn's roc_auc_score on all pixels laid end to end (the AUROC of each kind of
defect, which ours has, is spared it), and PRO by a loop over thresholds that counts the pixels of each region
above it. AU-PRO is checked against an exact one: scikit-learn's roc_curve in which a pixel weighs 1 / area of
its region. Peak memory is that of a process of its own, above what it had once it had imported everything and
measured one image, with the others read one at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score, roc_curve

from blemish.core.errors import ImageError
from blemish.data.dataset import open_dataset
from blemish.data.masks import read_mask
from blemish.metrics.pixels import PixelPool
from blemish.metrics.resampler import PixelResampler
from blemish.training import fit

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 0.3
Images = list[tuple[np.ndarray, np.ndarray, str]]
"""Maps float32 (H, W), masks bool (H, W), labels."""


def write_maps(data: Path, folder: Path) -> None:
    """Fit PCA, score the test images, and write maps, masks and labels."""
    detector, dataset = fit.fit(data, method="pca", device="cpu"), open_dataset(data)
    folder.mkdir(parents=True)
    predictions = detector.predict_many([s.path for s in dataset.test])
    for i, (sample, prediction) in enumerate(zip(dataset.test, predictions, strict=True)):
        if isinstance(prediction, ImageError):
            raise prediction
        height, width = prediction.anomaly_map.shape
        mask = read_mask(sample, (height, width))
        np.savez(folder / f"{i:05d}.npz", map=prediction.anomaly_map, mask=mask, label=sample.label)


def stream(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Read maps, masks and labels, one image at a time."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as image:
            yield image["map"], image["mask"], str(image["label"])


def ours(images: Images | Iterator[tuple[np.ndarray, np.ndarray, str]]) -> dict[str, float]:
    """Measure everything through one pool."""
    pool, labels = PixelPool(), set()
    for values, mask, label in images:
        pool.add(values, mask, label)
        labels |= {label} if mask.any() else set()
    pixel = pool.pixel_roc()
    found = {
        "pixel_auroc": pixel.auroc(),
        "pixel_auroc_fpr30": pixel.normalised_auroc(LIMIT),
        "pixel_auroc_fpr30_mcclish": pixel.mcclish(LIMIT),
        "aupro_fpr30": pool.pro_roc().normalised_auroc(LIMIT),
    }
    return found | {f"pixel_auroc {label}": pool.pixel_roc(label).auroc() for label in sorted(labels)}


def area_up_to(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Trapezoids from FPR 0 to `LIMIT`, cut there, divided by it."""
    inside = fpr < LIMIT
    x, y = np.append(fpr[inside], LIMIT), np.append(tpr[inside], np.interp(LIMIT, fpr, tpr))
    return float(np.trapezoid(y, x)) / LIMIT


def by_scikit_learn(images: Images) -> dict[str, float]:
    """All but PRO and the kinds of defect, from all pixels laid end to end."""
    values = np.concatenate([m.ravel() for m, _, _ in images])
    truth = np.concatenate([mask.ravel() for _, mask, _ in images])
    mcclish = float(roc_auc_score(truth, values, max_fpr=LIMIT))
    area = (2 * mcclish - 1) * (LIMIT - LIMIT**2 / 2) + LIMIT**2 / 2
    return {
        "pixel_auroc": float(roc_auc_score(truth, values)),
        "pixel_auroc_fpr30": area / LIMIT,
        "pixel_auroc_fpr30_mcclish": mcclish,
    }


def pro_by_thresholds(images: Images, thresholds: int) -> float:
    """AU-PRO from evenly spaced thresholds: per threshold, the share of each region that is above it."""
    regions = [ndimage.label(mask, np.ones((3, 3)))[0] for _, mask, _ in images]  # type: ignore[index]
    areas = [np.bincount(r.ravel())[1:] for r in regions]
    good = sum(int((~mask).sum()) for _, mask, _ in images)
    n_regions = sum(len(a) for a in areas)
    low, high = min(float(m.min()) for m, _, _ in images), max(float(m.max()) for m, _, _ in images)
    fpr, pro = [0.0], [0.0]
    for threshold in np.linspace(high, low, thresholds):
        false, overlap = 0, 0.0
        for (values, mask, _), region, area in zip(images, regions, areas, strict=True):
            above = values >= threshold
            false += int((above & ~mask).sum())
            if area.size:
                overlap += float((np.bincount(region[above], minlength=len(area) + 1)[1:] / area).sum())
        fpr.append(false / good)
        pro.append(overlap / n_regions)
    return area_up_to(np.array(fpr), np.array(pro))


def exact_pro(images: Images) -> float:
    """AU-PRO from scikit-learn's weighted curve."""
    weight = []
    for _, mask, _ in images:
        regions = ndimage.label(mask, np.ones((3, 3)))[0]  # type: ignore[index]
        weight.append(np.where(mask, 1 / np.bincount(regions.ravel())[regions], 1))
    fpr, tpr, _ = roc_curve(
        np.concatenate([mask.ravel() for _, mask, _ in images]),
        np.concatenate([m.ravel() for m, _, _ in images]),
        sample_weight=np.concatenate([w.ravel() for w in weight]),
    )
    return area_up_to(fpr, tpr)


def peak_mib() -> float:
    """Return the peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(folder: Path) -> None:
    """Print by how much the metrics of a folder's maps raise the peak memory of this process."""
    ours([next(stream(folder))])  # imports what is imported late
    before = peak_mib()
    ours(stream(folder))
    print(peak_mib() - before)


def timed(call, *arguments):
    """Return a call's result and its seconds."""
    began = time.perf_counter()
    result = call(*arguments)
    seconds = time.perf_counter() - began
    print(f"{call.__name__}: {seconds:.1f} s", file=sys.stderr)
    return result, seconds


def resampler_of(images: Images) -> PixelResampler:
    """Add the images to a resampler."""
    resampler = PixelResampler()
    for values, mask, _ in images:
        resampler.add(values, mask)
    return resampler


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--thresholds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pixel_metrics.json"))
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--memory", action="store_true", help="print the peak memory in MiB, and no more")
    options = parser.parse_args()
    if not options.maps.exists():
        write_maps(options.data, options.maps)
    if options.memory:
        measure_memory(options.maps)
        return
    command = [sys.executable, __file__, "--maps", str(options.maps), "--memory"]
    memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    images = list(stream(options.maps))
    maps_mib = sum(values.nbytes for values, _, _ in images) / 2**20
    found, seconds = timed(ours, images)
    resampler, adding = timed(resampler_of, images)
    intervals, drawing = timed(resampler.intervals)
    once = resampler.measures(np.ones((1, len(images)), dtype=np.int64))
    theirs, sklearn_seconds = timed(by_scikit_learn, images)
    looped, loop_seconds = timed(pro_by_thresholds, images, options.thresholds)
    exact = theirs | {"aupro_fpr30": timed(exact_pro, images)[0]}
    result = {
        "images": len(images),
        "pixels": sum(values.size for values, _, _ in images),
        "defective pixels": sum(int(mask.sum()) for _, mask, _ in images),
        "ours seconds": seconds,
        "scikit-learn seconds": sklearn_seconds,
        "threshold loop seconds": loop_seconds,
        "thresholds": options.thresholds,
        "times faster": (sklearn_seconds + loop_seconds) / seconds,
        "maps MiB": maps_mib,
        "ours peak MiB": memory,
        "peak / maps": memory / maps_mib,
        "threshold loop AU-PRO": looped,
        "per defect": {k: v for k, v in found.items() if k not in exact},
        "measures": {
            k: {"ours": found[k], "exact": v, "differ": abs(found[k] - v)} for k, v in exact.items()
        },
        "intervals": intervals,
        "intervals: all images once": {name: float(values[0]) for name, values in vars(once).items()},
        "intervals: add seconds": adding,
        "intervals: 1,000 resamples seconds": drawing,
    }
    text = json.dumps(result, indent=2)
    print(text)
    print(table(result))
    options.out.write_text(text + "\n")


def table(result: dict) -> str:
    """Lay the result out as Markdown."""
    rows = [
        "| measure | ours | exact, another way | differ |",
        "|---|---|---|---|",
        *(
            f"| {name} | {m['ours']:.6f} | {m['exact']:.6f} | {m['differ']:.1e} |"
            for name, m in result["measures"].items()
        ),
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
