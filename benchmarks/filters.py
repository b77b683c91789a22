"""What each part of `filters` is worth: filters, levels, grid, shrinkage, smoothing, light, image score.

    python benchmarks/filters.py --data DATA/mvtec/bottle --data DATA/mvtec_512/pill … [--channels 1]

One change to the default at a time. Each variant learns the training images that are not for calibration and
scores the test split; the last rows standardise the default's maps at each place by the calibration images.
Writes benchmarks/results/filters.json and filters.md, a category at a time; what is there already is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from real import image_area, pixel_area, test_images
from torch import Tensor

from blemish.core.files import write_whole
from blemish.data.dataset import Dataset, open_dataset
from blemish.data.split import split_good
from blemish.methods.density import features as filter_bank
from blemish.methods.density import filters
from blemish.methods.density.filters import Filters, FiltersConfig
from blemish.training.images import ImageOptions, TrainingImages, load_images
from blemish.training.watcher import Silent

RESULTS = Path(__file__).parent / "results"
SIZE = 256
SCORES = {"maximum": SIZE * SIZE, "top 0.2 %": 500, "top 1 %": 100, "top 5 %": 20}
"""Image scores: the mean of the map's largest values, one in so many."""

Change = Callable[[], contextlib.AbstractContextManager[object]]
own_features = filter_bank.features


def columns(levels: int, channels: int) -> dict[str, list[int]]:
    """Name the numbers of a feature: those of Gabor pairs, of means and of stds."""
    found: dict[str, list[int]] = {"Gabor pairs": [], "means": [], "stds": []}
    at = 0
    for level in range(levels):
        local = channels if level < filter_bank.LOCAL_LEVELS else 0
        for name, n in (("Gabor pairs", filter_bank.DIRECTIONS), ("means", local), ("stds", local)):
            found[name] += range(at, at + n)
            at += n
    return found


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Leave out one kind of numbers."""

    def kept(channels: int) -> list[int]:
        by_name = columns(filter_bank.LEVELS, channels)
        return sorted(i for other, numbers in by_name.items() if other != name for i in numbers)

    def features(x: Tensor, *rest: Any) -> Tensor:
        return own_features(x, *rest)[..., kept(x.shape[1])]

    with (
        patch.object(filter_bank, "features", features),
        patch.object(filter_bank, "feature_width", lambda channels: len(kept(channels))),
    ):
        yield


def levels(n: int) -> Change:
    """Have so many levels in the pyramid."""
    return lambda: patch.object(filter_bank, "LEVELS", n)


def shrinking(toward: float) -> Change:
    """Draw covariances to their mean by a fixed share instead of by d / (d + n)."""

    def shrink(covariance: Tensor, n: int) -> Tensor:
        return covariance.lerp(covariance.mean(dim=0, keepdim=True), toward)

    return lambda: patch.object(filters, "shrink_to_mean", shrink)


def ridge(added: float) -> Change:
    """Add another ridge to each variance."""
    return lambda: patch.object(filters, "RIDGE", added)


VARIANTS: dict[str, tuple[dict[str, Any], Change]] = {
    "default": ({}, contextlib.nullcontext),
    "rel": ({"light": "rel"}, contextlib.nullcontext),
    "neighbours": ({"density": "neighbours"}, contextlib.nullcontext),
    "neighbours, rel": ({"density": "neighbours", "light": "rel"}, contextlib.nullcontext),
    "shared": ({"density": "shared"}, contextlib.nullcontext),
    "shared, rel": ({"density": "shared", "light": "rel"}, contextlib.nullcontext),
    "without Gabor pairs": ({}, lambda: without("Gabor pairs")),
    "without means": ({}, lambda: without("means")),
    "without stds": ({}, lambda: without("stds")),
    "3 levels": ({}, levels(3)),
    "5 levels": ({}, levels(5)),
    "grid 32": ({"grid": 32}, contextlib.nullcontext),
    "grid 48": ({"grid": 48}, contextlib.nullcontext),
    "covariance of the place alone": ({}, shrinking(0.0)),
    "one covariance for all places": ({}, shrinking(1.0)),
    "ridge 0.001": ({}, ridge(0.001)),
    "ridge 0.1": ({}, ridge(0.1)),
    "smoothing 2": ({"smoothing": 2.0}, contextlib.nullcontext),
    "smoothing 8": ({"smoothing": 8.0}, contextlib.nullcontext),
}


def areas(maps: np.ndarray, defective: np.ndarray, masks: np.ndarray | None) -> dict[str, float]:
    """Image AUROC by each image score, and pixel AUROC where there are masks."""
    found = {name: image_area(maps, defective, one_in) for name, one_in in SCORES.items()}
    return found if masks is None else found | {"pixel": pixel_area(maps, masks)}


def test_arrays(dataset: Dataset, images: TrainingImages) -> tuple[Tensor, np.ndarray, np.ndarray | None]:
    """Read the test split: images (n, C, H, W), which are defective, and masks (n, H / 2, W / 2)."""
    seen = list(test_images(dataset, images, (SIZE, SIZE)))
    masks = np.stack([one.mask for one in seen]) if dataset.has_masks else None
    return torch.cat([one.image for one in seen]), np.array([one.defective for one in seen]), masks


@torch.inference_mode()
def maps_of(network: Filters, images: Tensor) -> np.ndarray:
    """Maps at half size, (n, h, w)."""
    maps = torch.cat([network(image) for image in images.split(1)])
    return torch.nn.functional.avg_pool2d(maps[:, None], 2)[:, 0].numpy()


def measure(data: Path, channels: int | None, seed: int) -> dict[str, Any]:
    """Measure all variants on one category."""
    dataset = open_dataset(data)
    split = split_good(dataset, validation_fraction=0.0, calibration_fraction=0.1, seed=seed)
    config = FiltersConfig(image_size=SIZE)
    images = load_images(split, config, ImageOptions(channels=channels), Silent().loading, seed)
    numbers = np.array_split(np.arange(len(images.train)), max(1, len(images.train) // 16))
    test, defective, masks = test_arrays(dataset, images)
    calibration = torch.from_numpy(images.held_out.batch(np.arange(len(images.held_out))))
    found = {}
    for name, (options, change) in VARIANTS.items():
        with change():
            network = Filters(FiltersConfig(image_size=SIZE, **options), test.shape[1]).eval()
            network.fit(lambda: (torch.from_numpy(images.train.batch(part)) for part in numbers))
            maps = maps_of(network, test)
            found[name] = areas(maps, defective, masks)
            if name == "default":
                good = maps_of(network, calibration)
                kept = maps, good.mean(axis=0), good.std(axis=0)
        print(f"  {name}: {found[name]}", flush=True)
    maps, mean, std = kept
    found["default, standardised at each place"] = areas((maps - mean) / (std + 1e-3), defective, masks)
    found["default, standardised, std with a floor"] = areas(
        (maps - mean) / (std + std.mean()), defective, masks
    )
    found["default, less its mean at each place"] = areas(maps - mean, defective, masks)
    return found


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Write all as a table: image AUROC by the mean of the top 1 %, and pixel AUROC."""
    names = list(found)
    lines = ["| variant | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for variant in next(iter(found.values())):
        cells = [found[name][variant] for name in names]
        each = [
            f"{c['top 1 %']:.3f} / {c['pixel']:.3f}" if "pixel" in c else f"{c['top 1 %']:.3f}" for c in cells
        ]
        lines.append(f"| {variant} | " + " | ".join(each) + " |")
    lines += [
        "",
        "| image score of the default | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for score in SCORES:
        lines.append(f"| {score} | " + " | ".join(f"{found[n]['default'][score]:.3f}" for n in names) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the categories that are named, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--channels", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = RESULTS / "filters.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for data in options.data:
        print(data.name, flush=True)
        if data.name not in found:
            found[data.name] = measure(data, options.channels, options.seed)
        write_whole(path, json.dumps(found, indent=2) + "\n")
        write_whole(path.with_suffix(".md"), table(found))


if __name__ == "__main__":
    main()
