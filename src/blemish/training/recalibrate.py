"""A trained model calibrated anew on good images that it has not learnt: the same network, new thresholds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import DataError, UsageError
from blemish.core.files import write_whole
from blemish.core.ownership import owned
from blemish.data.dataset import with_region
from blemish.data.hashing import file_digest, fingerprint
from blemish.data.products import label, open_together
from blemish.data.split import Split, refuse_shared
from blemish.inference.counting import Counting
from blemish.inference.detector_arguments import check_region
from blemish.inference.load import load
from blemish.inference.model_file import MODEL_NAME, find_model
from blemish.inference.onnx_backend import SUFFIX, version_bytes
from blemish.inference.part_models import ViewModels, calibrating_models, products_error
from blemish.training.calibrate import calibrate_model
from blemish.training.part_calibration import calibrates_parts, save_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.core.types import Sample
    from blemish.data.dataset import Dataset
    from blemish.data.part_names import PartNames
    from blemish.images.roi import Roi
    from blemish.inference.model_file import ModelFile


def recalibrate(
    model: Path,
    data: Path | Mapping[str, Path],
    out: Path,
    *,
    sizes: Mapping[str, float] | None = None,
    roi: Roi | None = None,
    layout: str = "auto",
    device: str = "auto",
    product: str | None = None,
    names: PartNames | None = None,
) -> tuple[ModelFile, int]:
    """Write a model with thresholds of the good images of `data` that it has not learnt.

    Where the parts are told that images show, decisions of parts with several views are calibrated too, in a
    `parts.json` beside the model; of a part of which the model has learnt an image nothing is taken.

    Args:
        model: run folder, model file or exported model.
        data: good images, or a data set of which the good images of the training and calibration are taken;
            or one for each product, by its name. Products that are not in it stay as they are.
        out: a folder for the model file; of an exported model the file, which ends in .onnx.
        sizes: fields of `Counting` that change; what counted before counts on in all others.
        roi: where images count from now on, of what counted in the training; None: as before.
        layout: how `data` lies on the disk, as in `blemish.data.dataset.open_dataset`.
        device: auto, cpu or cuda.
        product: what all the images show, where the model has several products and `data` names none.
        names: how the names of images tell their parts; None: they do not, or a manifest does.

    Returns what was written, and how many images were left out as the model has learnt them. Raises
    DataError when none is left, none of the parts has all views, or an image is of two products; UsageError
    for an `out` of another kind or one that holds a model, and for parts that several models decide of.
    """
    file = _file_to_write(model, out)
    dataset = open_together(data, layout=layout, names=names)
    detector = load(model, device=device)
    if names is not None and detector.model_file.products:
        raise products_error(model)
    if roi is not None:
        check_region(detector)
    counting = _changed(detector.model_file.counting, sizes or {}, roi)
    dataset = _of_known_products(dataset, detector.model_file, counting, product)
    samples, left_out = _not_learnt(dataset, detector.model_file, data)
    about = {"data": dataset.name, "fingerprint": fingerprint([with_region(*each) for each in samples])}
    about |= {"images": len(samples), "from": file_digest(find_model(model))}
    source = detector.model_file
    digests = {digest: sample.path.name for sample, digest in samples}
    if source.products:  # those of the others stay
        digests = source.provenance.get("calibration_digests", {}) | digests
    wanted = replace(
        source,
        counting=counting,
        provenance=source.provenance | {"recalibrated": about, "calibration_digests": digests},
    )
    split = Split(train=[], validation=[], calibration=[sample for sample, _ in samples], digests={})
    has_parts = not source.products and calibrates_parts(split)
    if has_parts:
        _refuse_other_models(model)
    with owned(file.parent, lock=f".{file.name}.lock", named=f"--out {out}"):
        _refuse_written(file, out)  # another one may have been quicker
        found = calibrate_model(wanted, detector.backend, split)
        if source.product is not None:
            found = found.of_product(source.product.name)
        content = version_bytes(find_model(model), found)
        if has_parts:
            new, parts = replace(detector, model_file=found), ViewModels(usual=out).calibration_file
            save_parts(parts, new, split, content, data=dataset.name)
        write_whole(file, content, durable=True)  # last: this file says that all is done
    return found, left_out


def _file_to_write(model: Path, out: Path) -> Path:
    """Return the model file that `out` means. Raises UsageError for one of another kind, or that is there."""
    exported = model.suffix.lower() == SUFFIX
    file = out if exported else out / MODEL_NAME
    if exported != (out.suffix.lower() == SUFFIX):
        kind = "a file that ends in .onnx, as the model is exported" if exported else "a folder"
        raise UsageError(f"--out {out}: must be {kind}")
    _refuse_written(file, out)
    return file


def _refuse_written(file: Path, out: Path) -> None:
    """Raise UsageError for a model file that is there."""
    if file.exists():
        raise UsageError(f"--out {out}: already holds a model; choose another --out, or remove it")


def _refuse_other_models(model: Path) -> None:
    """Raise UsageError for a model whose parts are decided with other models of views."""
    file = ViewModels(usual=model).calibration_file
    if file.exists() and len(calibrating_models(file)) > 1:
        raise UsageError(
            f"{file}: decides by models of other views too; recalibrate each model without --part-pattern, "
            "then calibrate the parts by `blemish parts --view-model VIEW=MODEL`"
        )


def _changed(counting: Counting, sizes: Mapping[str, float], roi: Roi | None) -> Counting:
    """Return what counts with other sizes, in a region. Raises UsageError where only the unit changes."""
    if "mm_per_px" in sizes:
        for option, name in (("--min-area", "min_area"), ("--min-length", "min_length")):
            if getattr(counting, name) and name not in sizes:
                raise UsageError(
                    f"--mm-per-px {sizes['mm_per_px']:g}: give {option} too, whose unit it changes"
                )
    return replace(counting, **sizes, inner=roi or counting.inner)


def _of_known_products(
    dataset: Dataset, model_file: ModelFile, counting: Counting, product: str | None
) -> Dataset:
    """Return the images with the products that they calibrate. Raises UsageError for an unknown one."""
    if product is not None and dataset.products:
        raise UsageError(f"--product {product}: the images have products of their own; leave it out")
    own = model_file.product.name if model_file.product is not None else None
    named = dataset if (product or own) is None or dataset.products else label(dataset, product or own or "")
    for name in named.products or [None]:
        model_file.of_product(name)
    missing = [p.product.name for p in model_file.products if p.product.name not in named.products]
    if missing and counting != model_file.counting:
        raise UsageError(
            f"other sizes or regions make new scores for all products: give images of {missing[0]} too"
        )
    return named


def _not_learnt(
    dataset: Dataset, model_file: ModelFile, data: object
) -> tuple[list[tuple[Sample, str]], int]:
    """Return the images that a model has not learnt, each with its digest, and how many it has.

    Those of a part of which it has learnt another image count as learnt. Raises DataError where
    it has learnt all of a product, and for an image of two products.
    """
    samples = [*dataset.train, *dataset.calibration]
    learnt = model_file.provenance.get("training_digests", {})
    with_digests = [(sample, file_digest(sample.path)) for sample in samples]
    refuse_shared(with_digests)
    known = {(s.part, s.split) for s, digest in with_digests if digest in learnt and s.part is not None}
    found = [
        (sample, digest)
        for sample, digest in with_digests
        if digest not in learnt and (sample.part, sample.split) not in known
    ]
    for name in dataset.products or [None]:
        own = [sample for sample in samples if sample.product == name]
        if all(sample.product != name for sample, _ in found):
            where = f"--data {data}" if name is None else f"product {name}"
            raise DataError(
                f"{where}: the model has learnt all of its {len(own)} good images, which then promise "
                "nothing; give good images that it has not seen"
            )
    return found, len(samples) - len(found)
