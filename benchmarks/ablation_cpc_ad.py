"""What CPC-AD's paper leaves open, measured on one category at an equal number of steps.

    python benchmarks/ablation_cpc_ad.py --data ROOT/mvtec/bottle [--steps 400] [--seed 0] [--only NAME ...]

`training`: one network for each change to the default. `scoring`: the default's network, scored in other
ways, nothing retrained. Finished entries are kept in the JSON and not measured again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from blemish.data.cache import ImageFiles
from blemish.data.dataset import open_dataset
from blemish.data.masks import read_mask
from blemish.data.split import split_good
from blemish.inference import postprocess
from blemish.inference.backend import Output
from blemish.inference.detector import Detector
from blemish.inference.model_file import options_of
from blemish.inference.torch_backend import TorchBackend
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.metrics.pixels import PixelPool
from blemish.metrics.roc import image_roc
from blemish.training import fit

if TYPE_CHECKING:
    from collections.abc import Iterator

PAPERS = {
    "score": "infonce",
    "bank": 16,
    "place_statistics": False,
    "place_density": False,
    "interpolation": "nearest",
}
"""The paper's way to score, on whatever network."""

TRAINING = {
    "default": {},
    "one epoch": {"epochs": 1},
    "no sub-patch skipped": {"skip": 0},
    "two skipped, K = 4": {"skip": 2, "steps_ahead": 4},
    "K = 1": {"steps_ahead": 1},
    "K = 3": {"steps_ahead": 3},
    "four encoders": {"shared_encoder": False},
    "pairs anywhere in the image": {"window": "image"},
    "64 training negatives": {"negatives": 64},
    "no exposure": {"exposure": False},
    "no crops, no flips": {"crop": 1.0, "flip": False},
}
_RAW = {"place_statistics": False, "place_density": False}
SCORING = (
    {
        f"raw {rule}, bank of {m}": _RAW | {"score": rule, "bank": m}
        for rule in ("infonce", "margin")
        for m in (16, 256, 1024)
    }
    | {f"{rule}, standardised": {"score": rule, "place_density": False} for rule in ("infonce", "margin")}
    | {f"{rule} and density": {"score": rule} for rule in ("infonce", "margin")}
    | {
        "raw infonce, bank of 256, sum over the pairs": _RAW | {"score": "infonce", "combine": "sum"},
        "raw infonce, bank of 256, map in blocks": _RAW | {"score": "infonce", "interpolation": "nearest"},
        "margin and density, map in blocks": {"score": "margin", "interpolation": "nearest"},
    }
)
IMAGE_SCORES = ("max", "top1", "top5", "mean")


def measure(detector: Detector, data: Path) -> dict[str, float]:
    """Score the test split: image AUROC by four image scores, and of the map at the images' own size."""
    dataset = open_dataset(data, need_train=False)
    labels = [s.is_defect for s in dataset.test]
    grids: list[np.ndarray] = []

    class Keeping:
        """Runs the detector's network, and keeps its maps."""

        def run(self, images: np.ndarray) -> Output:
            output = detector.backend.run(images)
            grids.extend(output.maps)
            return output

    pool, has_masks = PixelPool(), any(s.mask for s in dataset.test)
    watched = replace(detector, backend=Keeping())
    for sample, prediction in zip(
        dataset.test, watched.predict_many([s.path for s in dataset.test]), strict=True
    ):
        if has_masks:
            height, width = prediction.anomaly_map.shape
            pool.add(prediction.anomaly_map, read_mask(sample, (height, width)))
    result = {
        f"image_auroc_{how}": image_roc([postprocess.image_score(g, how) for g in grids], labels).auroc()
        for how in IMAGE_SCORES
    }
    if has_masks:
        pixel = pool.pixel_roc()
        result |= {"pixel_auroc": pixel.auroc(), "pixel_auroc_fpr30": pixel.normalised_auroc(0.3)}
    return result


def rescored(detector: Detector, changes: dict, data: Path, seed: int) -> Detector:
    """Keep the encoder and W; make bank and place statistics anew as `changes` ask."""
    model_file = detector.model_file
    config = CpcAdConfig(**(options_of(model_file) | changes))
    network = CpcAd(config, model_file.image_format.channels)
    made = ("bank", "place_mean", "place_spread", "place_encoding", "place_whitening")
    kept = {k: torch.from_numpy(v) for k, v in model_file.tensors.items() if k not in made}
    network.load_state_dict(kept, strict=False)
    network.eval()
    dataset = open_dataset(data)
    split = split_good(
        dataset,
        validation_fraction=config.validation_fraction,
        calibration_fraction=config.calibration_fraction,
        seed=seed,
    )
    files = ImageFiles(
        [s.path for s in split.train], model_file.image_format, config.size, allow=model_file.allow
    )
    network.finish(lambda: _batches(files))
    model_file = replace(model_file, config=asdict(config), calibration=None)
    return Detector(model_file=model_file, backend=TorchBackend(network, torch.device("cpu")))


def _batches(files: ImageFiles) -> Iterator[torch.Tensor]:
    for start in range(0, len(files), 8):
        yield torch.from_numpy(files.batch(np.arange(start, min(start + 8, len(files)))))


def main() -> None:
    """Measure what is missing, and write the results after each entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=CpcAdConfig().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=TRAINING, default=list(TRAINING))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation_cpc_ad"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation_cpc_ad.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}

    where = f"{options.data.name} / {options.steps} steps / seed {options.seed}"

    def keep(key: str, detector: Detector, changes: dict | None) -> None:
        if key not in results:
            if changes is not None:
                detector = rescored(detector, changes, options.data, options.seed)
            results[key] = measure(detector, options.data)
            options.out.write_text(json.dumps(results, indent=2) + "\n")
            print(key, json.dumps(results[key]), flush=True)

    for name in options.only:
        ways = {"default's scoring": None, "paper's scoring": PAPERS}
        wanted = {f"{where} / training / {name} / {how}": changes for how, changes in ways.items()}
        if name == "default":
            wanted |= {f"{where} / scoring / {how}": changes for how, changes in SCORING.items()}
        if set(wanted) <= set(results):
            continue
        config = replace(
            CpcAd.presets["default"], aligned=False, **({"steps": options.steps} | TRAINING[name])
        )
        run = options.runs / f"{where} / {name}".replace(" / ", "+").replace(" ", "_")
        detector = fit.fit(
            options.data, method="cpc-ad", config=config, seed=options.seed, out=run, resume=True
        )
        for key, changes in wanted.items():
            keep(key, detector, changes)


if __name__ == "__main__":
    main()
