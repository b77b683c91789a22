"""Table 3 of the MeTAL paper on one category, and the default's recipe, at an equal number of steps.

    python benchmarks/ablation.py --data ROOT/mvtec/bottle [--steps 200] [--seed 0] [--groups masks recipe]

Each variant is trained once, with the default preset's recipe but an unbounded context, and scored twice:
with the default's map, and with the paper's (squared error, one Gaussian of σ = 4, no statistics). Finished
variants are kept in the JSON and not trained again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from blemish.data.dataset import open_dataset
from blemish.data.masks import read_mask
from blemish.inference import torch_backend
from blemish.inference.detector import Detector
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig
from blemish.metrics.pixels import PixelPool
from blemish.metrics.roc import image_roc
from blemish.training import fit

VARIANTS = {
    "squares, no mask": {"stripes": "none", "masking": "none"},
    "squares": {"stripes": "none"},
    "squares + rows": {"stripes": "rows"},
    "squares + cols": {"stripes": "cols"},
    "rows + cols": {"stripes": "only"},
    "squares + rows + cols": {"stripes": "both"},
}
RECIPE = {
    "no exposure": {"exposure": False},
    "no mean image": {"center": False},
    "constant 1e-4": {"schedule": "constant", "learning_rate": 1e-4},
    "hidden 1024": {"hidden": 1024},
}
"""One change to the default at a time."""
PAPERS_MAP = {"error": "squared", "smoothing": (4.0,), "place_statistics": False}


def measure(detector: Detector, data: Path) -> dict[str, float]:
    """Score the test split; areas in [0, 1]."""
    dataset = open_dataset(data, need_train=False)
    pool, scores = PixelPool(), []
    for sample, prediction in zip(
        dataset.test, detector.predict_many([s.path for s in dataset.test]), strict=True
    ):
        height, width = prediction.anomaly_map.shape
        pool.add(prediction.anomaly_map, read_mask(sample, (height, width)))
        scores.append(prediction.score)
    pixel = pool.pixel_roc()
    return {
        "image_auroc": image_roc(scores, [s.is_defect for s in dataset.test]).auroc(),
        "pixel_auroc": pixel.auroc(),
        "pixel_auroc_fpr30": pixel.normalised_auroc(0.3),
        "pixel_auroc_fpr30_mcclish": pixel.mcclish(0.3),
    }


def with_papers_map(detector: Detector) -> Detector:
    """Keep the trained weights and show the paper's map of them."""
    model_file = detector.model_file
    config = MetalConfig(**(model_file.config | PAPERS_MAP))
    weights = {k: v for k, v in model_file.tensors.items() if not k.startswith("place_")}
    model_file = replace(model_file, config=asdict(config), tensors=weights, calibration=None)
    return torch_backend.detector_of(model_file, name="ablation", device="cpu")


def main() -> None:
    """Train what is missing, and write the results after each variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--maskings", nargs="+", default=["strict", "paper"])
    parser.add_argument("--groups", nargs="+", choices=["masks", "recipe"], default=["masks"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    variants = {
        f"{name} / {masking}": {"masking": masking} | changes
        for name, changes in VARIANTS.items()
        for masking in (options.maskings if "masking" not in changes else ["none"])
    }
    groups = {"masks": variants, "recipe": RECIPE}
    default = replace(Metal.presets["default"], bounded_context=False)
    for name, changes in [pair for group in options.groups for pair in groups[group].items()]:
        key = f"{name} / {options.steps} steps / seed {options.seed}"
        if key not in results:
            config = replace(default, steps=options.steps, **changes)
            detector = fit.fit(options.data, config=config, seed=options.seed)
            results[key] = {
                "default map": measure(detector, options.data),
                "paper's map": measure(with_papers_map(detector), options.data),
            }
            options.out.write_text(json.dumps(results, indent=2) + "\n")
            print(key, json.dumps(results[key]), flush=True)


if __name__ == "__main__":
    main()
