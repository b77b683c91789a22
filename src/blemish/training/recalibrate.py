"""A trained model calibrated anew on good images that it has not learnt: the same network, new thresholds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import DataError, UsageError
from blemish.core.files import write_whole
from blemish.core.ownership import owned
from blemish.data.dataset import Split, open_dataset, with_region
from blemish.data.hashing import file_digest, fingerprint
from blemish.inference.counting import Counting
from blemish.inference.load import load
from blemish.inference.model_file import MODEL_NAME, find_model
from blemish.inference.onnx_backend import SUFFIX, version_bytes
from blemish.training.calibrate import calibrate_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.core.types import Sample
    from blemish.inference.model_file import ModelFile


def recalibrate(
    model: Path,
    data: Path,
    out: Path,
    *,
    sizes: Mapping[str, float] | None = None,
    layout: str = "auto",
    device: str = "auto",
) -> tuple[ModelFile, int]:
    """Write a model with thresholds of the good images of `data` that it has not learnt.

    Args:
        model: run folder, model file or exported model.
        data: good images, or a data set of which the good images of the training and calibration are taken.
        out: a folder for the model file; of an exported model the file, which ends in .onnx.
        sizes: fields of `Counting` that change; what counted before counts on in all others.
        layout: how `data` lies on the disk, as in `blemish.data.dataset.open_dataset`.
        device: auto, cpu or cuda.

    Returns what was written, and how many images were left out as the model has learnt them. Raises
    DataError when none is left, UsageError for an `out` of another kind or one that holds a model.
    """
    exported = model.suffix.lower() == SUFFIX
    file = out if exported else out / MODEL_NAME
    if exported != (out.suffix.lower() == SUFFIX):
        kind = "a file that ends in .onnx, as the model is exported" if exported else "a folder"
        raise UsageError(f"--out {out}: must be {kind}")
    if file.exists():
        raise UsageError(f"--out {out}: already holds a model; choose another --out, or remove it")
    dataset = open_dataset(data, layout=layout)
    detector = load(model, device=device)
    samples, left_out = _not_learnt([*dataset.train, *dataset.calibration], detector.model_file, data)
    about = {"data": dataset.name, "fingerprint": fingerprint([with_region(*each) for each in samples])}
    about |= {"images": len(samples), "from": file_digest(find_model(model))}
    source = detector.model_file
    wanted = replace(
        source,
        counting=_changed(source.counting, sizes or {}),
        provenance=source.provenance | {"recalibrated": about},
    )
    split = Split(train=[], validation=[], calibration=[sample for sample, _ in samples], digests={})
    with owned(file.parent, lock=f".{file.name}.lock", named=f"--out {out}"):
        found = calibrate_model(wanted, detector.backend, split)
        write_whole(file, version_bytes(find_model(model), found), durable=True)
    return found, left_out


def _changed(counting: Counting, sizes: Mapping[str, float]) -> Counting:
    """Return what counts with other sizes. Raises UsageError for sizes that would silently change unit."""
    if "mm_per_px" in sizes:
        for option, name in (("--min-area", "min_area"), ("--min-length", "min_length")):
            if getattr(counting, name) and name not in sizes:
                raise UsageError(
                    f"--mm-per-px {sizes['mm_per_px']:g}: give {option} too, whose unit it changes"
                )
    return replace(counting, **sizes)


def _not_learnt(
    samples: list[Sample], model_file: ModelFile, data: Path
) -> tuple[list[tuple[Sample, str]], int]:
    """Return the samples that a model has not learnt, each with its digest, and how many it has."""
    learnt = model_file.provenance.get("training_digests", {})
    with_digests = [(sample, file_digest(sample.path)) for sample in samples]
    found = [(sample, digest) for sample, digest in with_digests if digest not in learnt]
    if not found:
        raise DataError(
            f"--data {data}: the model has learnt all of its {len(samples)} good images, which then promise "
            "nothing; give good images that it has not seen"
        )
    return found, len(samples) - len(found)
