"""What each part of the default's map is worth: one trained network, several maps of it.

    python benchmarks/map_options.py --data ROOT/mvtec/bottle RUN [--out FILE.json]

Scored at the network's input size; masks are reduced to it (a pixel is defective if half of its area is).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blemish.core.errors import UsageError
from blemish.data.dataset import open_dataset
from blemish.data.masks import read_mask
from blemish.data.split import split_good
from blemish.images import preprocess
from blemish.images.decode import read
from blemish.inference.model_file import ModelFile, load_model_file
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig
from blemish.metrics.roc import Roc, image_roc

SQUARED, ROOTED, SSIM = "squared", "root of squared", "1 - SSIM"
OPTIONS = {
    "squared, σ 4 (the paper's)": ([(SQUARED, 4)], False),
    "squared, σ 4, standardised": ([(SQUARED, 4)], True),
    "1 - SSIM, σ 4, standardised": ([(SSIM, 4)], True),
    "root of squared, σ 2, standardised": ([(ROOTED, 2)], True),
    "1 - SSIM, σ 2, standardised": ([(SSIM, 2)], True),
    "root of squared and 1 - SSIM, σ 2": ([(ROOTED, 2), (SSIM, 2)], True),
    "root of squared and 1 - SSIM, σ 8": ([(ROOTED, 8), (SSIM, 8)], True),
}
"""Name: errors to average, and whether each is standardised per place."""
COMPETING = "the larger of the last two"
JOINT = {"all errors together, at each place (the default)": True, "all errors together, one Gaussian": False}
"""Name: whether each place has a Gaussian of its own."""


def errors_of(network: Metal, x: Tensor) -> dict[tuple[str, int], Tensor]:
    """Every smoothed error of the images (n, C, H, W): (n, H, W) each."""
    chunks = []
    with torch.inference_mode():
        for part in x.split(64):
            e = network.errors(part)  # (B, 3 scales, 2 kinds, H, W), scales 2, 4, 8
            chunks.append(e)
    e = torch.cat(chunks)
    found = {}
    for i, sigma in enumerate((2, 4, 8)):
        found[ROOTED, sigma], found[SSIM, sigma] = e[:, i, 0], e[:, i, 1]
        found[SQUARED, sigma] = e[:, i, 0].square()
    return found


def standardised(error: Tensor, train: Tensor) -> Tensor:
    """(error - mean) / (spread + half the typical spread), per place, as the default does."""
    spread = train.std(0, correction=0)
    return (error - train.mean(0)) / (spread + 0.5 * spread.median() + 1e-6)


def network_of(model_file: ModelFile, **changes: object) -> Metal:
    """Build a run's network with three scales and both kinds of error averaged, whatever its own map."""
    if model_file.config.get("aligned"):
        raise UsageError("this run turns parts, which the maps here do not; train it with --no-aligned")
    settings = {"smoothing": (2.0, 4.0, 8.0), "error": "combined", "place_statistics": True}
    network = Metal(
        MetalConfig(**model_file.config | settings | changes), model_file.image_format.channels
    ).eval()
    learnt = {k: v for k, v in model_file.tensors.items() if not k.startswith(("place_", "error_"))}
    weights = {k: torch.from_numpy(v) for k, v in learnt.items()}
    network.load_state_dict(weights, strict=False)
    return network


def joint_maps(network: Metal, train: Tensor, test: Tensor) -> Tensor:
    """Return the maps of all errors together, at the images' size: (n, C, H, W) -> (n, H, W)."""
    with torch.inference_mode():
        network.finish(lambda: train.split(16))
        maps = torch.cat([network(part) for part in test.split(16)])
    return F.interpolate(maps[:, None], size=test.shape[2:], mode="bilinear")[:, 0]


def measure(maps: Tensor, defective: list[bool], masks: np.ndarray | None) -> dict[str, float | None]:
    """Areas of image and pixel curves of maps (n, H, W)."""
    values = maps.numpy()
    pixel = None if masks is None else Roc.of(values[~masks], values[masks])
    return {
        "image_auroc": image_roc(values.max(axis=(1, 2)), defective).auroc(),
        "pixel_auroc": pixel and pixel.auroc(),
        "pixel_auroc_fpr30": pixel and pixel.normalised_auroc(0.3),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model_file = load_model_file(options.run)
    dataset = open_dataset(options.data)
    split = split_good(
        dataset,
        validation_fraction=model_file.config["validation_fraction"],
        calibration_fraction=model_file.config["calibration_fraction"],
        seed=model_file.provenance["seed"],
    )

    def loaded(samples: list) -> Tensor:
        arrays = [
            preprocess.load(s.path, model_file.image_format, model_file.size, allow=model_file.allow)[0]
            for s in samples
        ]
        return torch.from_numpy(np.stack(arrays))

    train_images, test_images = loaded(split.train), loaded(dataset.test)

    def maps_of(network: Metal) -> dict[str, Tensor]:
        train, test = errors_of(network, train_images), errors_of(network, test_images)
        maps = {
            name: torch.stack([standardised(test[k], train[k]) if place else test[k] for k in parts]).mean(0)
            for name, (parts, place) in OPTIONS.items()
        }
        *_, fine, coarse = maps.values()
        return maps | {COMPETING: torch.maximum(fine, coarse)}

    maps = maps_of(network_of(model_file))
    for name, place in JOINT.items():
        for bounded in (True, False):
            if bounded and not model_file.config["bounded_context"]:
                continue
            network = network_of(model_file, error="joint", place_statistics=place, bounded_context=bounded)
            maps[name if bounded else f"{name}, context not bounded"] = joint_maps(
                network, train_images, test_images
            )
    masks = None
    if dataset.has_masks:
        full = [read_mask(s, read(s.path).shape[:2]) for s in dataset.test]
        masks = np.stack(
            [preprocess.resize(m[None].astype(np.float32), model_file.size)[0] >= 0.5 for m in full]
        )
    defective = [s.is_defect for s in dataset.test]
    rows = {name: measure(m, defective, masks) for name, m in maps.items()}
    for name, row in rows.items():
        shown = " ".join("  –  " if v is None else f"{v:.3f}" for v in row.values())
        print(f"{name:<62} {shown}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
