"""A run folder: what may be written into it, what run.json says, and when a run is the same run."""

from __future__ import annotations

import csv
import importlib.metadata
import inspect
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch

from blemish.core.errors import UsageError
from blemish.core.files import remove_leftovers, temporary_for, write_whole
from blemish.core.ownership import owned
from blemish.data.dataset import with_region
from blemish.data.hashing import file_digest, fingerprint
from blemish.inference.model_file import MODEL_NAME, load_model_file, options_of
from blemish.inference.torch_backend import detector_of
from blemish.training.checkpoint import CHECKPOINT_FOLDER
from blemish.training.images import describe_format_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from accelerate import Accelerator

    from blemish.core.types import Sample
    from blemish.data.split import Split
    from blemish.inference.detector import Detector
    from blemish.inference.model_file import ModelFile
    from blemish.methods.config import DetectorConfig

P = ParamSpec("P")
R = TypeVar("R")
DROPPED = "suspects dropped"
"""What the identity of a run calls the share of training images that is not learnt."""
DROPPED_ENTRY = "dropped"
"""The entry of a model's provenance that says which images these are."""
TURNED = "aligned_given"
"""The entry of the provenance of a model that turns parts: whether the options asked for it."""
CANDIDATES_FOLDER = "choice"
"""Where a run of `auto` keeps what its candidates and members have learnt, until it is finished."""
DIGESTS = ("training_digests", "calibration_digests")
"""The entries of a model's provenance that name images, one by one: run.json has their fingerprints."""
PATIENCE_S = 10.0
"""Seconds that a training which goes on waits for another one to write its checkpoint and end."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished training reports.

    Epochs count from 1, as in log.csv; without validation images there is no best one. A method without a
    training loop has neither epochs nor steps.
    """

    epochs: int = 0
    steps: int = 0
    best_epoch: int | None = None
    best_validation_loss: float | None = None
    seconds: float


def write_log(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write log.csv anew: a row per finished epoch, so that a resumed run has each once."""
    with temporary_for(folder / "log.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_log(folder: Path) -> list[dict[str, str]]:
    """Return the rows of log.csv, as they stand there."""
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def owns_run_folder(training: Callable[P, R]) -> Callable[P, R]:
    """Have a training be the only one in the folder `out`; of several processes the first one sees to it.

    Nobody writes into a finished run. One that is to go on (`resume`) waits a little for the process that
    leaves it. Raises UsageError, with the owner's process id, for a folder that another one writes.
    """
    signature = inspect.signature(training)

    @wraps(training)
    def owning(*args: P.args, **options: P.kwargs) -> R:
        given = signature.bind(*args, **options).arguments
        out, patience = given.get("out"), PATIENCE_S if given.get("resume") else 0.0
        first = os.environ.get("RANK", "0") == "0"
        if out is None or not first or (Path(out) / MODEL_NAME).exists():
            return training(*args, **options)
        with owned(Path(out), patience_s=patience):
            return training(*args, **options)

    return owning


def refuse_to_overwrite(folder: Path) -> None:
    """Refuse a folder that holds a run, finished or not. Raises UsageError."""
    if (folder / MODEL_NAME).exists():
        raise UsageError(f"{folder}: already holds a finished run; choose another --out, or remove it")
    if (folder / CHECKPOINT_FOLDER).exists() or _has_candidates(folder):
        raise UsageError(f"{folder}: holds an unfinished run; add --resume, or choose another --out")


def _has_candidates(folder: Path) -> bool:
    """Return whether a run of `auto` was stopped here: what its candidates have learnt is kept."""
    kept = folder / CANDIDATES_FOLDER
    return any(kept.glob("*.npz")) or any(kept.glob(f"*/{CHECKPOINT_FOLDER}"))


def identity_of(method: str, config: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to be the same; what was chosen counts as it was given."""
    choice = provenance.get("choice")
    given = choice and choice["given"]
    return {
        "method": method,
        **config,
        **({"members": given and tuple(given)} if choice else {}),
        **({"aligned": provenance[TURNED]} if TURNED in provenance else {}),
        "seed": provenance["seed"],
        "training images": provenance["fingerprint"],
        "known defects": provenance.get("known_defects", {}).get("fingerprint"),
    }


def turned_provenance(asked: DetectorConfig, found: DetectorConfig) -> dict[str, Any]:
    """Say of a model that turns parts what the options asked for; of another one nothing."""
    return {TURNED: asked.aligned} if found.aligned else {}


def products_identity(provenance: dict[str, Any]) -> dict[str, Any]:
    """What of several products must be the same; nothing for a training of one."""
    return {"products": provenance["products"]} if "products" in provenance else {}


def load_finished(folder: Path, wanted: dict[str, Any], split: Split, device: str) -> Detector:
    """Load the finished run that `resume` met, if it is the one that is asked for. Raises UsageError."""
    wanted = wanted | {"calibration images": calibration_fingerprint(split)}
    detector = detector_of(load_model_file(folder), name=str(folder), device=device)
    model_file = detector.model_file
    found = identity_of(model_file.method, options_of(model_file), model_file.provenance)
    found |= describe_format_of(model_file.image_format, model_file.allow)
    found |= {"what counts": model_file.counting.describe()}
    found |= _said_of_run(folder, wanted)
    found[DROPPED] = model_file.provenance.get(DROPPED_ENTRY, {}).get("share", 0.0)
    found |= products_identity(model_file.provenance)
    found.setdefault("aligned", wanted["aligned"])  # a model from before that option
    wanted = {DROPPED: 0.0, "products": None} | wanted
    for key in wanted:
        if wanted[key] != found.get(key):
            raise UsageError(
                f"{folder}: already holds a finished run whose {key} was {found.get(key)}, not "
                f"{wanted[key]}; choose another --out, or remove it"
            )
    return detector


def _said_of_run(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what only run.json says of a run; as wanted where it says nothing, or anything would do."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        run = {}
    said = {
        "calibration images": run.get("calibration_fingerprint"),
        "precision": run.get("machine", {}).get("precision") if wanted.get("precision") != "auto" else None,
    }
    return {key: wanted.get(key) if value is None else value for key, value in said.items()}


def calibration_fingerprint(split: Split) -> str:
    """Return the fingerprint of the images that a run is calibrated on."""
    return fingerprint([with_region(s, _digest(split, s)) for s in split.calibration])


def _digest(split: Split, sample: Sample) -> str:
    """Return an image's digest; those of calibration images of their own are not in the split."""
    return split.digests.get(sample.path) or file_digest(sample.path)


def provenance_of(name: str, split: Split, seed: int) -> dict[str, Any]:
    """What an auditor asks for: which images, by content; which seed; which software."""
    fitted = [*split.train, *split.validation]
    digests = [split.digests[s.path] for s in fitted]
    products = _products_of(split)
    return {
        "dataset": name,
        "fingerprint": fingerprint([with_region(s, split.digests[s.path]) for s in fitted]),
        "training_digests": dict(zip(digests, (s.path.name for s in fitted), strict=True)),
        "calibration_digests": {_digest(split, s): s.path.name for s in split.calibration},
        "images": {
            "train": len(split.train),
            "validation": len(split.validation),
            "calibration": len(split.calibration),
        },
        "seed": seed,
        "versions": _versions(),
        **({"products": products} if products else {}),
    }


def _products_of(split: Split) -> dict[str, dict[str, Any]]:
    """Return of each product how many images there are, and which ones were learnt; empty for one product."""
    parts = {"train": split.train, "validation": split.validation, "calibration": split.calibration}
    named = sorted({s.product for part in parts.values() for s in part if s.product is not None})
    found: dict[str, dict[str, Any]] = {}
    for name in named:
        own = {key: [s for s in part if s.product == name] for key, part in parts.items()}
        digests = [split.digests[s.path] for s in (*own["train"], *own["validation"])]
        found[name] = {key: len(part) for key, part in own.items()} | {"fingerprint": fingerprint(digests)}
    return found


@cache
def _versions() -> dict[str, str]:
    """The versions of what a result depends on; they stay while a process runs."""
    packages = ("blemish", "torch", "numpy", "pillow", "tifffile", "imagecodecs", "scipy")
    return {p: importlib.metadata.version(p) for p in packages} | {"python": platform.python_version()}


def write_run(
    folder: Path, model_file: ModelFile, outcome: Outcome, accelerator: Accelerator, split: Split
) -> None:
    """Write run.json: options, images, versions, machine, times and result."""
    run = {
        "method": model_file.method,
        "preset": model_file.preset,
        "config": model_file.config,
        "image_format": asdict(model_file.image_format),
        **{k: v for k, v in model_file.provenance.items() if k not in DIGESTS},
        "calibration_fingerprint": calibration_fingerprint(split),
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


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished run, and what killed processes left half written."""
    remove_leftovers(folder)
    checkpoint = folder / CHECKPOINT_FOLDER
    if checkpoint.exists():
        remove_leftovers(checkpoint)
        for file in checkpoint.glob("state.*"):
            file.unlink()
        checkpoint.rmdir()
