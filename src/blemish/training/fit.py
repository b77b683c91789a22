"""From a folder of good images to a model: split, load, train, calibrate, save."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blemish.data.dataset import open_dataset, split_good
from blemish.inference.detector import Detector
from blemish.inference.model_file import MODEL_NAME, ModelFile, save_model_file
from blemish.inference.torch_backend import TorchBackend
from blemish.methods.base import TrainedMethod
from blemish.methods.registry import method_named, preset_named
from blemish.training.batches import in_order
from blemish.training.calibrate import calibrate_model
from blemish.training.device import make_accelerator
from blemish.training.images import ImageOptions, load_images
from blemish.training.run_folder import (
    Outcome,
    identity_of,
    load_finished,
    provenance_of,
    refuse_to_overwrite,
    remove_checkpoint,
    write_run,
)
from blemish.training.trainer import Trainer
from blemish.training.watcher import Silent, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from blemish.data.cache import ImageCache
    from blemish.methods.base import Method
    from blemish.methods.config import DetectorConfig
    from blemish.training.images import TrainingImages

FIT_BATCH = 16
"""Images that a method without a training loop sees at a time."""


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
        refuse_to_overwrite(folder)
    dataset = open_dataset(Path(data))
    split = split_good(
        dataset,
        validation_fraction=config.validation_share,
        calibration_fraction=config.calibration_fraction,
        seed=seed,
    )
    provenance = provenance_of(dataset.name, split, seed)
    identity = identity_of(method, asdict(config), provenance)
    if folder is not None and (folder / MODEL_NAME).exists():
        return load_finished(folder, identity, device)
    accelerator = make_accelerator(device, precision)
    accelerator.wait_for_everyone()  # before the first process writes what the others have just looked for
    images = load_images(split, config, image_options or ImageOptions(), watcher.loading, seed)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    network = _make_network(kind, config, images.image_format.channels, seed)
    outcome = _train(
        network,
        images,
        accelerator,
        seed=seed,
        folder=folder,
        identity=identity,
        resume=resume,
        on_progress=watcher.training,
    )
    backend = TorchBackend(network, accelerator.device)
    model_file = _model_file(method, preset, network, images, provenance)
    model_file = calibrate_model(model_file, backend, split, images.held_out)
    if folder is not None and accelerator.is_main_process:
        write_run(folder, model_file, outcome, accelerator)
        save_model_file(folder / MODEL_NAME, model_file)  # last: this file says that a run is finished
        remove_checkpoint(folder)
    return Detector(model_file=model_file, backend=backend)


def _make_network(kind: type[Method[Any]], config: DetectorConfig, channels: int, seed: int) -> Method[Any]:
    """Make the network; its first weights follow from the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config, channels)


def _model_file(
    method: str, preset: str, network: Method[Any], images: TrainingImages, provenance: dict[str, Any]
) -> ModelFile:
    """Describe a finished network; thresholds and colours come with its calibration."""
    return ModelFile(
        method=method,
        preset=preset,
        config=asdict(network.config),
        image_format=images.image_format,
        allow=images.allow,
        display_range=(0.0, 1.0),
        provenance=provenance,
        tensors={k: v.detach().cpu().contiguous().numpy() for k, v in network.state_dict().items()},
    )


def _train(
    network: Method[Any],
    images: TrainingImages,
    accelerator: Accelerator,
    *,
    seed: int,
    folder: Path | None,
    identity: dict[str, Any],
    resume: bool,
    on_progress: Callable[[Trainer], None],
) -> Outcome:
    """Have the network learn: by the training loop, or by itself when it has no gradient to follow."""
    if not isinstance(network, TrainedMethod):
        return _fit_without_gradient(network.to(accelerator.device), images.train, accelerator.device, seed)
    trainer = Trainer(
        network,
        network.config,
        images.train,
        images.validation,
        scored=images.scored,
        accelerator=accelerator,
        seed=seed,
        folder=folder,
        identity=identity
        | {"image format": images.image_format.describe(), "precision": accelerator.mixed_precision},
    )
    return trainer.run(resume=resume, on_progress=on_progress)


def _fit_without_gradient(
    network: Method[Any], images: ImageCache, device: torch.device, seed: int
) -> Outcome:
    """Let a method without a training loop take what it needs from the training images."""
    began = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.fit(lambda: (torch.from_numpy(batch).to(device) for batch in in_order(images, FIT_BATCH)))
    return Outcome(seconds=time.monotonic() - began)
