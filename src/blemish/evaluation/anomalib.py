"""A door to anomalib: its models on the same images and splits, measured by our metrics on their raw scores.

anomalib is not a dependency. It brings its own preprocessing and training. What it says of an image is taken
before its normalisation, which clamps, and without its threshold, which is fitted on test images: thresholds
come from our calibration, on good images that the model has not seen.

    python -m blemish.evaluation.anomalib MODEL DATA SEED OUT
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import BlemishError, UsageError
from blemish.core.files import write_whole
from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.evaluation.evaluate import evaluate
from blemish.images import decode, preprocess
from blemish.inference.backend import Output
from blemish.inference.detector import Detector
from blemish.inference.model_file import ModelFile
from blemish.training.calibrate import calibrate_model
from blemish.training.run_folder import DIGESTS, provenance_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.data.split import Split

METHOD = "anomalib"
CALIBRATION_FRACTION = 0.1
EPOCHS = 100
"""Epochs of models that name no number themselves, for which Lightning would take 1,000. anomalib's
configuration of GANomaly has this number, and an early stopping that we leave out, as it looks at labels."""


class AnomalibBackend:
    """Runs a model of anomalib's, which resizes and normalises the images itself."""

    def __init__(self, network: Any) -> None:
        """Take a trained `AnomalibModule` whose post-processor neither clamps nor thresholds."""
        self.network = network.eval()

    def run(self, images: np.ndarray) -> Output:
        """Score images, float32 (B, 1 or 3, h, w) in [0, 1]; of a model without maps they are of one zero."""
        import torch

        x = torch.from_numpy(images)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        with torch.inference_mode():
            answer = self.network(x.to(self.network.device))
        maps = np.zeros((len(x), 1, 1), np.float32)
        if answer.anomaly_map is not None:
            values = answer.anomaly_map.float().cpu().numpy()
            maps = values.reshape(len(x), *values.shape[-2:])
        return Output(maps, answer.pred_score.float().cpu().numpy().reshape(len(x)))


def anomalib_version() -> str:
    """Return anomalib's version. Raises UsageError, with the cure, when it is not installed."""
    if importlib.util.find_spec("anomalib") is None:
        raise UsageError("anomalib is not installed here; pip install anomalib, or leave its models out")
    return importlib.metadata.version("anomalib")


def train_and_evaluate(model: str, data: Path, seed: int, out: Path, layout: str = "auto") -> dict[str, Any]:
    """Train an anomalib model on a category, evaluate it, and write a run folder without a model file.

    Returns evaluation.json's content. Raises BlemishError for a model that anomalib does not have, and for
    data that cannot be used.
    """
    anomalib_version()
    dataset = open_dataset(data, layout=layout)
    split = split_good(dataset, validation_fraction=0, calibration_fraction=CALIBRATION_FRACTION, seed=seed)
    began = time.monotonic()
    backend = AnomalibBackend(_train(model, [s.path for s in split.train], seed, out))
    seconds = time.monotonic() - began
    model_file = calibrate_model(_model_file(model, dataset.name, split, seed), backend, split)
    _write_run(out, model_file, seconds)
    blank = np.zeros((1, model_file.image_format.channels, *model_file.size), np.float32)
    has_maps = backend.run(blank).maps.size > 1
    measured = replace(dataset, has_masks=dataset.has_masks and has_maps)
    return evaluate(Detector(model_file=model_file, backend=backend), measured, out / "evaluation")


def _train(model: str, good: Sequence[Path], seed: int, out: Path) -> Any:
    """Train with anomalib's own engine and defaults; returns its model."""
    models = importlib.import_module("anomalib.models")
    from anomalib.callbacks import ModelCheckpoint
    from anomalib.data import Tabular
    from anomalib.engine import Engine
    from anomalib.post_processing import PostProcessor
    from lightning.pytorch import seed_everything

    kind = getattr(models, model, None)
    if kind is None:
        raise UsageError(f"anomalib:{model}: anomalib has no such model; names are as in anomalib.models")
    seed_everything(seed)
    raw = PostProcessor(enable_normalization=False, enable_thresholding=False)
    network = kind(post_processor=raw, evaluator=False, visualizer=False)
    engine = Engine(
        default_root_dir=out / "anomalib",
        logger=False,
        max_epochs=EPOCHS,  # a model's own number replaces it
        callbacks=[ModelCheckpoint(save_top_k=0)],  # none: 2 GB after each epoch for some models
    )
    rows = [{"image_path": str(p.resolve()), "label_index": 0, "split": "train"} for p in good]
    images = Tabular(
        name="train",
        samples=[*rows, rows[0] | {"split": "test"}],  # it always wants something to test on
        num_workers=0,
        test_split_mode="from_dir",
        val_split_mode="same_as_test",
        seed=seed,
    )
    engine.fit(model=network, datamodule=images)
    return network


def _model_file(model: str, dataset: str, split: Split, seed: int) -> ModelFile:
    """Describe the peer as our models are described; its weights stay with it.

    Images go to it at the size of the first training image, and are resized once more by its own rules.
    """
    first = split.train[0].path
    image = decode.read(first)
    provenance = provenance_of(dataset, split, seed)
    return ModelFile(
        method=f"{METHOD}:{model}",
        preset="default",
        config={"image_size": list(image.shape[:2]), "image_score": "max"},
        image_format=preprocess.format_of([(str(first), image)]),
        display_range=(0.0, 1.0),
        provenance=provenance
        | {
            "images": {"train": len(split.train), "calibration": len(split.calibration)},
            "versions": {p: importlib.metadata.version(p) for p in ("blemish", "anomalib", "torch")},
        },
    )


def _write_run(out: Path, model_file: ModelFile, seconds: float) -> None:
    import torch

    out.mkdir(parents=True, exist_ok=True)
    run = {
        "method": model_file.method,
        **{k: v for k, v in model_file.provenance.items() if k not in DIGESTS},
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "result": {"seconds": seconds},
    }
    write_whole(out / "run.json", json.dumps(run, indent=2) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Do what the module's docstring says; a refusal is one line on stderr and the exit code 2."""
    model, data, seed, out, *layout = arguments
    try:
        train_and_evaluate(model, Path(data), int(seed), Path(out), *layout)
    except BlemishError as error:
        print(f"blemish: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
