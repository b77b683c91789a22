"""From a folder of good images to a model: split, load, train, calibrate, save."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from blemish.core.errors import ImageError, TrainingError, UsageError
from blemish.core.files import write_whole
from blemish.core.types import DetectorConfig, TrainedConfig
from blemish.data.cache import CACHE_BYTES, ImageCache
from blemish.data.dataset import open_dataset, split_good
from blemish.data.hashing import file_digest, fingerprint
from blemish.images import decode, preprocess
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector
from blemish.inference.model_file import MODEL_NAME, ModelFile, load_model_file, save_model_file
from blemish.inference.torch_backend import detector_of, method_named, options_of, preset_named, runner
from blemish.training.trainer import Outcome, Trainer, in_order, make_accelerator

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish.data.dataset import Split

CHECKPOINT_FOLDER = "checkpoint"
FIT_BATCH = 16
"""Images that a method without a training loop sees at a time."""
DISPLAY_IMAGES = 64
"""Good images that fix an overlay's colours when none were held out to calibrate."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How the training images are to be read; the defaults accept whatever they all share."""

    channels: int | None = None
    """Convert RGB to grey (1) or grey to RGB (3); None: as they are."""
    bit_depth: int | None = None
    """Bits that 16-bit files really use (10, 12, 14 or 16)."""
    value_range: tuple[float, float] | None = None
    """Values of float images that mean 0 and 1."""


class Watcher(Protocol):
    """Told what training is doing; the command line draws it."""

    def loading(self, total: int) -> Callable[[], None]:
        """Return what to call for each decoded image."""
        ...

    def training(self, trainer: Trainer) -> None:
        """Training made a step."""
        ...


class Silent:
    """A watcher that says nothing."""

    def loading(self, total: int) -> Callable[[], None]:
        """Return what to call for each decoded image."""
        return lambda: None

    def training(self, trainer: Trainer) -> None:
        """Do nothing."""


def fit(
    data: str | Path,
    *,
    method: str = "metal",
    preset: str = "default",
    config: DetectorConfig | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = False,
    image_options: ImageOptions | None = None,
    watcher: Watcher | None = None,
) -> Detector:
    """Learn what good looks like from the good images of `data`, and return the detector.

    Args:
        data: a category in MVTec layout, a folder of good images, or a CSV manifest.
        method: a name in METHODS.
        preset: a preset of the method; `config`, if given, replaces its options.
        config: the method's options.
        out: run folder for model.safetensors, run.json, log.csv and checkpoints; None keeps nothing.
        seed: fixes the split, the initial weights and the order of images.
        device: auto, cpu or cuda.
        precision: auto, fp32 or bf16.
        resume: go on from the run folder's checkpoint.
        image_options: declared channels, bit depth or value range of the images.
        watcher: is told of the progress.

    Started by torchrun or `accelerate launch`, each process returns the detector and the first one writes.
    Raises BlemishError, one line, on whatever cannot be done.
    """
    watcher = watcher or Silent()
    kind = method_named(method)
    config = config or preset_named(method, preset)
    folder = None if out is None else Path(out)
    if folder is not None and not resume:
        _refuse_to_overwrite(folder)
    dataset = open_dataset(Path(data))
    split = split_good(
        dataset,
        validation_fraction=config.validation_fraction if isinstance(config, TrainedConfig) else 0.0,
        calibration_fraction=config.calibration_fraction,
        seed=seed,
    )
    provenance = _provenance(dataset.name, split, seed)
    identity = _identity(method, asdict(config), provenance)
    if folder is not None and (folder / MODEL_NAME).exists():
        return _finished_run(folder, identity, device)
    accelerator = make_accelerator(device, precision)
    accelerator.wait_for_everyone()  # before the first process writes what the others have just looked for
    options = image_options or ImageOptions()
    train_images, validation = _load_images(split, config, options, watcher, seed)
    image_format, allow = train_images.files.image_format, train_images.files.allow
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind(config, image_format.channels)  # type: ignore[arg-type]
    if isinstance(config, TrainedConfig):
        larger = config.loading_size != config.size  # kept for random crops, and decoded anew for statistics
        trainer = Trainer(
            network,
            config,
            train_images,
            validation,
            scored=train_images.files.at_size(config.size) if larger else train_images,
            accelerator=accelerator,
            seed=seed,
            folder=folder,
            identity=identity
            | {"image format": image_format.describe(), "precision": accelerator.mixed_precision},
        )
        outcome = trainer.run(resume=resume, on_progress=watcher.training)
    else:
        outcome = _look(network.to(accelerator.device), train_images, accelerator.device, seed)
    run_network = runner(network, accelerator.device)
    model_file = ModelFile(
        method=method,
        preset=preset,
        config=asdict(config),
        image_format=image_format,
        allow=allow,
        size=config.size,
        image_score=config.image_score,
        patch_map=config.patch_map,
        tiling=config.tiling,
        display_range=(0.0, 1.0),
        provenance=provenance,
        tensors={k: v.detach().cpu().contiguous().numpy() for k, v in network.state_dict().items()},
    )
    model_file = calibrated(model_file, run_network, split)
    if folder is not None and accelerator.is_main_process:
        _write_run(folder, model_file, outcome, accelerator, split)
        save_model_file(
            folder / MODEL_NAME, model_file
        )  # last, as this file is what says that a run is finished
        _remove_checkpoint(folder)
    return Detector(model_file=model_file, network=run_network)


def _refuse_to_overwrite(folder: Path) -> None:
    if (folder / MODEL_NAME).exists():
        raise UsageError(f"{folder}: already holds a finished run; choose another --out, or remove it")
    if (folder / CHECKPOINT_FOLDER).exists():
        raise UsageError(f"{folder}: holds an unfinished run; add --resume, or choose another --out")


def _identity(method: str, config: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to be the same."""
    return {
        "method": method,
        **config,
        "seed": provenance["seed"],
        "training images": provenance["fingerprint"],
    }


def _finished_run(folder: Path, wanted: dict[str, Any], device: str) -> Detector:
    """Load the finished run that `resume` met, if it is the one that is asked for."""
    detector = detector_of(load_model_file(folder), name=str(folder), device=device)
    model_file = detector.model_file
    found = _identity(model_file.method, options_of(model_file), model_file.provenance)
    for key in wanted:
        if wanted[key] != found.get(key):
            raise UsageError(
                f"{folder}: already holds a finished run whose {key} was {found.get(key)}, not "
                f"{wanted[key]}; choose another --out, or remove it"
            )
    return detector


def _load_images(
    split: Split, config: DetectorConfig, options: ImageOptions, watcher: Watcher, seed: int
) -> tuple[ImageCache, ImageCache | None]:
    """Decode training and validation images, each checked against the format of the first one.

    Calibration images are checked as well: a bad one has to be found before the training, not after it.
    """
    declared = asdict(options)
    first_name = str(split.train[0].path)
    first = decode.read(split.train[0].path)
    image_format = preprocess.format_of([(first_name, first)], **declared)
    allow = frozenset({"channels"}) if options.channels is not None else frozenset()

    def check(name: str, image: np.ndarray) -> None:
        preprocess.format_of([(first_name, first), (name, image)], **declared)

    larger = config.loading_size != config.size
    parts = (
        (split.train, config.loading_size),
        (split.validation, config.size),
        (split.calibration, config.size),
    )
    tick = watcher.loading(sum(len(samples) for samples, _ in parts))
    caches = [
        ImageCache(
            [s.path for s in samples],
            image_format,
            size,
            allow=allow,
            check=check,
            on_image=tick,
            compact=larger and samples is split.train,
            tiling=config.tiling,
            seed=seed,
            budget=0 if samples is split.calibration else CACHE_BYTES,
        )
        if samples
        else None
        for samples, size in parts
    ]
    if caches[0] is None:
        raise TrainingError("no training images are left after the split; lower the fractions held out")
    return caches[0], caches[1]


def _provenance(name: str, split: Split, seed: int) -> dict[str, Any]:
    """What an auditor asks for: which images, by content; which seed; which software."""
    fitted = [*split.train, *split.validation]
    digests = [file_digest(s.path) for s in fitted]
    packages = ("blemish", "torch", "numpy", "pillow", "tifffile", "imagecodecs", "scipy")
    return {
        "dataset": name,
        "fingerprint": fingerprint(digests),
        "training_digests": dict(zip(digests, (s.path.name for s in fitted), strict=True)),
        "images": {
            "train": len(split.train),
            "validation": len(split.validation),
            "calibration": len(split.calibration),
        },
        "seed": seed,
        "versions": {p: importlib.metadata.version(p) for p in packages}
        | {"python": platform.python_version()},
    }


def _look(network: Any, images: ImageCache, device: torch.device, seed: int) -> Outcome:
    """Let a method without a training loop take what it needs from the training images."""
    began = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.fit(lambda: (torch.from_numpy(batch).to(device) for batch in in_order(images, FIT_BATCH)))
    return Outcome(seconds=time.monotonic() - began)


def calibrated(model_file: ModelFile, network: Callable[[np.ndarray], np.ndarray], split: Split) -> ModelFile:
    """Score good images with the finished model: their scores set thresholds, their maps the colours.

    The colours of an overlay begin at a good image's median and end three times as far above it as its
    highest point. Our choice: fixed by good images, so that equal colours mean equal values on every picture
    of a model. Calibration images, if there are any, say it best: they were not trained on.
    """
    seen = split.calibration or (split.validation or split.train)[:DISPLAY_IMAGES]
    detector = Detector(model_file=model_file, network=network)
    scores, maxima, medians = [], [], []
    for prediction in detector.predict_many([s.path for s in seen]):
        if isinstance(prediction, ImageError):
            raise prediction
        scores.append(prediction.score)
        maxima.append(float(prediction.anomaly_map.max()))
        medians.append(float(np.median(prediction.anomaly_map)))
    low = float(np.median(medians))
    return replace(
        model_file,
        calibration=calibrate(np.asarray(scores), np.asarray(maxima)) if split.calibration else None,
        display_range=(low, low + 3 * (float(np.median(maxima)) - low)),
    )


def _write_run(folder: Path, model_file: ModelFile, outcome: Outcome, accelerator: Any, split: Split) -> None:
    run = {
        "method": model_file.method,
        "preset": model_file.preset,
        "config": model_file.config,
        "image_format": asdict(model_file.image_format),
        **{k: v for k, v in model_file.provenance.items() if k != "training_digests"},
        "machine": {
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "device": str(accelerator.device),
            "precision": accelerator.mixed_precision.replace("no", "fp32"),
        },
        "command": sys.argv,
        "result": asdict(outcome),
    }
    write_whole(folder / "run.json", json.dumps(run, indent=2) + "\n")


def _remove_checkpoint(folder: Path) -> None:
    for file in (folder / CHECKPOINT_FOLDER).glob("state.*"):
        file.unlink()
    if (folder / CHECKPOINT_FOLDER).exists():
        (folder / CHECKPOINT_FOLDER).rmdir()
