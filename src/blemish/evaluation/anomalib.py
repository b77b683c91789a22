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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import BlemishError, UsageError
from blemish.core.types import Prediction
from blemish.data.dataset import open_dataset, split_good
from blemish.data.hashing import file_digest, fingerprint
from blemish.evaluation.evaluate import evaluate
from blemish.images import decode, preprocess
from blemish.inference import postprocess
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector
from blemish.inference.model_file import ModelFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from blemish.data.dataset import Split

METHOD = "anomalib"
CALIBRATION_FRACTION = 0.1
EPOCHS = 100
"""Epochs of models that name no number themselves, for which Lightning would take 1,000. anomalib's
configuration of GANomaly has this number, and an early stopping that we leave out, as it looks at labels."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a model says of an image: its score, and its map (h, w) if it makes one; unbounded."""

    score: float
    map: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Peer(Detector):
    """A detector that asks somebody else: `ask` gives an answer for each path, in order."""

    ask: Callable[[Sequence[Path]], list[Raw]]

    def predict_many(self, paths: Iterable[Path]) -> Iterator[Prediction]:  # type: ignore[override]  # no films
        """Ask for all at once; maps are brought to the images' own size, scores stay as they came."""
        asked = list(paths)
        for path, answer in zip(asked, self.ask(asked), strict=True):
            small = np.zeros((1, 1), np.float32) if answer.map is None else answer.map
            anomaly_map = postprocess.to_original_size(small, decode.read(path).shape[:2])
            calibration, threshold = self.model_file.calibration, self.threshold
            yield Prediction(
                path=str(path),
                score=answer.score,
                p_value=None if calibration is None else calibration.p_value(answer.score),
                threshold=threshold,
                anomalous=None if threshold is None else answer.score > threshold,
                anomaly_map=anomaly_map,
            )


def anomalib_version() -> str:
    """Return anomalib's version. Raises UsageError, with the cure, when it is not installed."""
    if importlib.util.find_spec("anomalib") is None:
        raise UsageError("anomalib is not installed here; pip install anomalib, or leave its models out")
    return importlib.metadata.version("anomalib")


def train_and_evaluate(model: str, data: Path, seed: int, out: Path) -> dict[str, Any]:
    """Train an anomalib model on a category, evaluate it, and write a run folder without a model file.

    Returns evaluation.json's content. Raises BlemishError for a model that anomalib does not have, and for
    data that cannot be used.
    """
    anomalib_version()
    dataset = open_dataset(data)
    split = split_good(dataset, validation_fraction=0, calibration_fraction=CALIBRATION_FRACTION, seed=seed)
    began = time.monotonic()
    ask = _train(model, [s.path for s in split.train], seed, out)
    seconds = time.monotonic() - began
    held_out = ask([s.path for s in split.calibration])
    model_file = _model_file(model, dataset.name, split, held_out, seed)
    _write_run(out, model_file, seconds)
    has_maps = all(answer.map is not None for answer in held_out)
    measured = replace(dataset, has_masks=dataset.has_masks and has_maps)
    return evaluate(Peer(model_file=model_file, network=_unused, ask=ask), measured, out / "evaluation")


def _train(model: str, good: Sequence[Path], seed: int, out: Path) -> Callable[[Sequence[Path]], list[Raw]]:
    """Train with anomalib's own engine and defaults; returns a function that scores images."""
    from anomalib import models
    from anomalib.callbacks import ModelCheckpoint
    from anomalib.data import Tabular
    from anomalib.engine import Engine
    from anomalib.post_processing import PostProcessor
    from lightning.pytorch import seed_everything

    kind = getattr(models, model, None)
    if kind is None:
        raise UsageError(f"anomalib:{model}: anomalib has no such model; names are as in anomalib.models")

    def images_of(split: str, paths: Sequence[Path]) -> Any:
        rows = [{"image_path": str(p.resolve()), "label_index": 0, "split": split} for p in paths]
        return Tabular(
            name=split,
            samples=rows + ([] if split == "test" else [rows[0] | {"split": "test"}]),
            num_workers=0,
            test_split_mode="from_dir",
            val_split_mode="same_as_test",
            seed=seed,
        )

    seed_everything(seed)
    raw = PostProcessor(enable_normalization=False, enable_thresholding=False)
    network = kind(post_processor=raw, evaluator=False, visualizer=False)
    engine = Engine(
        default_root_dir=out / "anomalib",
        logger=False,
        max_epochs=EPOCHS,  # a model's own number replaces it
        callbacks=[ModelCheckpoint(save_top_k=0)],  # none: 2 GB after each epoch for some models
    )
    engine.fit(model=network, datamodule=images_of("train", good))

    def ask(paths: Sequence[Path]) -> list[Raw]:
        found: dict[str, Raw] = {}
        for batch in engine.predict(model=network, datamodule=images_of("test", paths)) or []:
            maps = [None] * len(batch.image_path) if batch.anomaly_map is None else batch.anomaly_map
            for path, score, one in zip(batch.image_path, batch.pred_score, maps, strict=True):
                values = None if one is None else one.float().cpu().numpy().squeeze()
                found[str(path)] = Raw(score=float(score), map=values)
        return [found[str(path.resolve())] for path in paths]

    return ask


def _model_file(model: str, dataset: str, split: Split, held_out: Sequence[Raw], seed: int) -> ModelFile:
    """Describe the peer as our models are described; its weights stay with it."""
    maps = [answer.map for answer in held_out if answer.map is not None]
    scores = np.array([answer.score for answer in held_out])
    maxima = np.array([m.max() for m in maps]) if maps else scores
    low = float(np.median([np.median(m) for m in maps])) if maps else 0.0
    first = split.train[0].path
    digests = {file_digest(s.path): s.path.name for s in split.train}
    return ModelFile(
        method=f"{METHOD}:{model}",
        preset="default",
        config={},
        image_format=preprocess.format_of([(str(first), decode.read(first))]),
        size=maps[0].shape if maps else (1, 1),
        image_score="max",
        display_range=(low, low + 3 * (float(np.median(maxima)) - low)),
        calibration=calibrate(scores, maxima),
        provenance={
            "dataset": dataset,
            "fingerprint": fingerprint(list(digests)),
            "training_digests": digests,
            "images": {"train": len(split.train), "calibration": len(split.calibration)},
            "seed": seed,
            "versions": {p: importlib.metadata.version(p) for p in ("blemish", "anomalib", "torch")},
        },
    )


def _write_run(out: Path, model_file: ModelFile, seconds: float) -> None:
    import torch

    out.mkdir(parents=True, exist_ok=True)
    run = {
        "method": model_file.method,
        **{k: v for k, v in model_file.provenance.items() if k != "training_digests"},
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "result": {"seconds": seconds},
    }
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n")


def _unused(_: np.ndarray) -> np.ndarray:
    raise NotImplementedError("a peer is asked, not run")


def main(arguments: Sequence[str]) -> int:
    """Do what the module's docstring says; a refusal is one line on stderr and the exit code 2."""
    model, data, seed, out = arguments
    try:
        train_and_evaluate(model, Path(data), int(seed), Path(out))
    except BlemishError as error:
        print(f"blemish: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
