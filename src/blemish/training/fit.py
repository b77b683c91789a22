"""From a folder of good images to a model: split, load, train, calibrate, save."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.core.errors import Interrupted, UsageError
from blemish.data.dataset import Dataset
from blemish.data.known_defects import read_known_defects
from blemish.data.products import open_together
from blemish.data.split import split_good
from blemish.inference.counting import Counting
from blemish.inference.detector import Detector
from blemish.inference.model_file import MODEL_NAME, ModelFile, model_file_bytes, save_model_file
from blemish.inference.part_models import PARTS_NAME
from blemish.inference.torch_backend import TorchBackend
from blemish.methods.auto import AutoConfig
from blemish.methods.registry import combination, method_named, method_of, preset_named
from blemish.training import known_defects as known_in_choice
from blemish.training import suspects
from blemish.training.alignment import with_alignment
from blemish.training.auto import fit_auto, remove_trial, shaped
from blemish.training.calibrate import calibrate_model
from blemish.training.device import make_accelerator
from blemish.training.images import ImageOptions, describe_format, load_images
from blemish.training.learn import LearningTask, learn, make_network
from blemish.training.part_calibration import calibrates_parts, save_parts
from blemish.training.run_folder import (
    calibration_fingerprint,
    identity_of,
    load_finished,
    owns_run_folder,
    products_identity,
    provenance_of,
    refuse_to_overwrite,
    remove_checkpoint,
    turned_provenance,
    write_run,
)
from blemish.training.watcher import Silent, Watcher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accelerate import Accelerator

    from blemish.core.types import Sample
    from blemish.data.part_names import PartNames
    from blemish.data.split import Split
    from blemish.methods.base import Method, Start
    from blemish.methods.config import DetectorConfig
    from blemish.training.images import TrainingImages
    from blemish.training.run_folder import Outcome


@owns_run_folder
def fit(
    data: str | Path | Dataset | Mapping[str, str | Path],
    *,
    method: str | None = None,
    preset: str = "default",
    config: DetectorConfig | None = None,
    layout: str = "auto",
    names: PartNames | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = False,
    image_options: ImageOptions | None = None,
    known_defects: str | Path | None = None,
    drop_suspects: float = 0.0,
    counting: Counting | None = None,
    watcher: Watcher | None = None,
) -> Detector:
    """Learn what good looks like from the good images of `data`, and return the detector.

    Args:
        data: a category in MVTec layout, a folder of good images, a CSV manifest, or what was found there; or
            one of these for each product, by its name.
        method: a name in METHODS, or several that one model combines, METHOD+METHOD, each METHOD or
            METHOD:PRESET; None: the one that `config` belongs to, or auto.
        preset: a preset of the method; `config`, if given, replaces its options.
        config: the method's options.
        layout: how `data` lies on the disk: auto, mvtec, or a name in `blemish.data.layouts.LAYOUTS`.
        names: how names of images tell the part that they show, where the data set does not: no part is
            learnt and held out, and the run folder gets a `parts.json`, by which parts are decided.
        out: run folder for model.safetensors, run.json, log.csv and checkpoints; None keeps nothing.
        seed: fixes the split, the initial weights and the order of images.
        device: auto, cpu or cuda.
        precision: auto, fp32 or bf16.
        resume: go on from the run folder's checkpoint.
        image_options: declared channels, bit depth or value range of the images.
        known_defects: a folder of defective images, with or without masks: they help auto to choose, and are
            never learnt.
        drop_suspects: share of the training images, in [0, 0.5], that is not learnt: those that a quick model
            of the others finds most unusual.
        counting: where, and from which size on, a region counts; None: all regions do.
        watcher: is told of the progress.

    Started by torchrun or `accelerate launch`, each process returns the detector and the first one writes.
    Raises BlemishError, one line, on whatever cannot be done.
    """
    watcher, image_options = watcher or Silent(), image_options or ImageOptions()
    counting = counting or Counting()
    method, config = _asked_for(method, preset, config)
    kind = method_named(method)
    start, folder = kind.start(config), None if out is None else Path(out)
    config = start.config
    known = [] if known_defects is None else read_known_defects(Path(known_defects))
    known_in_choice.check_use(known, method, config)
    suspects.check_share(drop_suspects, config)
    if folder is not None and not resume:
        refuse_to_overwrite(folder)
    dataset = data if isinstance(data, Dataset) else open_together(data, layout=layout, names=names)
    split = _split_of(dataset, config, seed)
    has_parts = calibrates_parts(split)
    if isinstance(config, AutoConfig):
        config = shaped(config, split)
    provenance = provenance_of(dataset.name, split, seed) | start.provenance
    provenance |= known_in_choice.provenance_of(known)
    identity = _identity(method, config, provenance, counting, drop_suspects)
    if folder is not None and (folder / MODEL_NAME).exists():
        wanted = identity | {"precision": precision, "what counts": counting.describe()}
        return load_finished(folder, wanted | describe_format(split, image_options), split, device)
    accelerator = make_accelerator(device, precision)
    accelerator.wait_for_everyone()  # before the first process writes what the others have just looked for
    images = load_images(split, config, image_options, watcher.loading, seed, roi=counting.roi)
    images, dropped = suspects.without_suspects(images, split, drop_suspects, seed)
    identity |= {"calibration images": calibration_fingerprint(split)} if has_parts else {}
    task = _task_of(images, accelerator, seed, folder, identity, watcher, resume=resume)
    try:
        network, outcome, choice = _learn(kind, start, config, images, task, watcher, known)
    except Interrupted as stopped:
        cure = f"go on with --resume --out {folder}" if folder else "nothing was kept (no --out)"
        raise Interrupted(f"{stopped}; {cure}") from None
    provenance |= dropped | choice | turned_provenance(config, network.config)
    backend = TorchBackend(network, accelerator.device)
    model_file = replace(_model_file(method, preset, network, images, provenance), counting=counting)
    model_file = calibrate_model(model_file, backend, split, images.held_out)
    if folder is not None and accelerator.is_main_process:
        write_run(folder, model_file, outcome, accelerator, split)
        _save(folder, model_file, backend, split if has_parts else None)
    return Detector(model_file=model_file, backend=backend)


def _identity(
    method: str,
    config: DetectorConfig,
    provenance: dict[str, Any],
    counting: Counting,
    drop_suspects: float,
) -> dict[str, Any]:
    """Return what must be the same for a run to be the same, the images' format left out."""
    identity = identity_of(method, asdict(config), provenance) | products_identity(provenance)
    return identity | counting.identity() | suspects.identity_of(drop_suspects)


def _split_of(dataset: Dataset, config: DetectorConfig, seed: int) -> Split:
    return split_good(
        dataset,
        validation_fraction=config.validation_share,
        calibration_fraction=config.calibration_fraction,
        seed=seed,
    )


def _task_of(
    images: TrainingImages,
    accelerator: Accelerator,
    seed: int,
    folder: Path | None,
    identity: dict[str, Any],
    watcher: Watcher,
    *,
    resume: bool,
) -> LearningTask:
    """Say what is learnt and where it is kept, and make the run folder."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    found = {"image format": images.image_format.describe(), "precision": accelerator.mixed_precision}
    return LearningTask(
        train=images.train,
        validation=images.validation,
        scored=images.scored,
        accelerator=accelerator,
        seed=seed,
        folder=folder,
        identity=identity | found,
        resume=resume,
        on_progress=watcher.training,
        covered=images.regions.cover_something,
    )


def _save(folder: Path, model_file: ModelFile, backend: TorchBackend, parts: Split | None) -> None:
    """Write the model of a run that is over, and what calibrates parts, None: there are none."""
    if parts is not None:
        detector, data = Detector(model_file=model_file, backend=backend), model_file.provenance["dataset"]
        save_parts(folder / PARTS_NAME, detector, parts, model_file_bytes(model_file), data=data)
    save_model_file(folder / MODEL_NAME, model_file)  # last: this file says that a run is finished
    remove_checkpoint(folder)
    remove_trial(folder)


def _learn(
    kind: type[Method[Any]],
    start: Start,
    config: DetectorConfig,
    images: TrainingImages,
    task: LearningTask,
    watcher: Watcher,
    known: list[Sample],
) -> tuple[Method[Any], Outcome, dict[str, Any]]:
    """Have a network learn, or candidates and what is chosen; returns what the model says of that as well."""
    if not isinstance(config, AutoConfig):
        config, images = with_alignment(config, images)
        task = replace(task, train=images.train, validation=images.validation, scored=images.scored)
        channels, alignment = images.image_format.channels, images.alignment
        network = make_network(kind, config, channels, task.seed, start.tensors, alignment)
        return network, learn(network, config, task), {}
    network, outcome, chosen = fit_auto(
        config, images, task, watcher=watcher, tensors=start.tensors, known=known
    )
    return network, outcome, {"choice": chosen | {"given": config.members}}


def _asked_for(method: str | None, preset: str, config: DetectorConfig | None) -> tuple[str, DetectorConfig]:
    """Return the method and its options; of METHOD+METHOD those of `auto`. Raises UsageError."""
    method = method or (method_of(config) if config else "auto")
    kind = method_named(method)
    config = config or preset_named(method, preset)
    if not isinstance(config, kind.config_type):
        raise UsageError(
            f"config {type(config).__name__}: --method {method} takes a {kind.config_type.__name__}"
        )
    return combination(method, config)


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
