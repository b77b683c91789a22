"""An exported model in 8 bits: faster, smaller, with thresholds of its own, and what that costs.

`rounding` puts the trained layers in 8 bits. A rounded model scores otherwise, so its thresholds and colours
are made anew, from the same images that were held out of its training: without them a promised false-alarm
rate would be that of another model. Of several products each has its own, and what 8 bits cost is told in the
unit of the method.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, ImageError
from blemish.core.files import write_whole
from blemish.data.dataset import with_region
from blemish.data.hashing import file_digest, fingerprint
from blemish.data.masks import read_mask
from blemish.data.products import open_together
from blemish.data.split import split_good
from blemish.export.onnx import check_out, export
from blemish.export.rounding import round_layers
from blemish.inference.model_file import load_model_file
from blemish.inference.onnx_backend import attach, load_exported, portion_of
from blemish.metrics.pixels import PixelPool
from blemish.metrics.roc import image_roc
from blemish.training.calibrate import calibrate_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blemish.core.types import Sample
    from blemish.data.dataset import Dataset
    from blemish.data.part_names import PartNames
    from blemish.data.split import Split
    from blemish.inference.calibration import Calibration
    from blemish.inference.detector import Detector
    from blemish.inference.model_file import ModelFile

IMAGES = 64
"""Good training images that set the ranges of what flows between layers, at most."""
QUANTISATION = "quantisation"
"""The entry of a model's provenance that says so."""
SCORE_TOLERANCE = 1e-2
"""Largest difference of held-out images' scores from the model's own, as a share of the largest."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a model says in 32 and in 8 bits of the same images; pairs are in this order.

    The areas, in [0, 1], are of the data's test split; None when it does not tell good from bad, or has no
    masks. Differences are of good images' scores, as shares of the score in 32 bits.
    """

    layers: int
    images: int
    image_auroc: tuple[float, float] | None
    pixel_auroc: tuple[float, float] | None
    median_difference: float
    largest_difference: float


def quantise(
    model: Path,
    data: Path | Mapping[str, Path],
    out: Path,
    *,
    layout: str = "auto",
    names: PartNames | None = None,
) -> Comparison:
    """Write the model of a run folder or model file as ONNX in 8 bits, and measure what that costs.

    Args:
        model: run folder or model file.
        data: what it was trained on, or that of each product, by its name: the held-out images set the
            thresholds anew.
        out: the file to write; appears when it is whole.
        layout: how `data` lies on the disk, as in `open_dataset`.
        names: how the names of images tell their parts, as in the training.

    Raises DataError for other data, ModelError for a method without trained layers, and what `export` raises.
    """
    check_out(out)
    model_file, dataset = load_model_file(model), open_together(data, layout=layout, names=names)
    where = data if isinstance(data, Path) else dataset.root
    split = split_of(model_file, dataset, where, model)
    with tempfile.TemporaryDirectory(prefix=".blemish-") as temporary:
        file, rounded = Path(temporary) / "fp32.onnx", Path(temporary) / "int8.onnx"
        export(model, file)
        samples = [*split.train, *split.calibration, *dataset.test]
        exact = _of_all(load_exported(file), samples)
        _check_held_out(model_file, exact, split, where)
        layers = round_layers(
            file, rounded, model_file, exact, _some_of_each(_learnt(split, model_file)), model
        )
        backend = load_exported(rounded).backend
        noted = replace(model_file, provenance=model_file.provenance | {QUANTISATION: "int8"})
        _write(rounded, calibrate_model(noted, backend, split), out)
    return _compare(layers, exact, _of_all(load_exported(out), samples), dataset, split)


def _of_all(detector: Detector, samples: Sequence[Sample]) -> Detector:
    """Return the detector for images of all its products, whose scores then have the unit of the method."""
    alike = replace(detector, model_file=replace(detector.model_file, products=()))
    return alike.for_samples([replace(sample, product=None) for sample in samples])


def _learnt(split: Split, model_file: ModelFile) -> list[Sample]:
    """Return the training images that were learnt: suspects that were dropped say nothing of good ones."""
    dropped = model_file.provenance.get("dropped", {}).get("digests", {})
    return [sample for sample in split.train if split.digests[sample.path] not in dropped]


def _some_of_each(good: Sequence[Sample]) -> list[Path]:
    """Return `IMAGES` good images at most: the first ones of each product, of each as many."""
    most, taken = max(1, IMAGES // len({s.product for s in good})), Counter[str | None]()
    found = []
    for sample in good:
        taken[sample.product] += 1
        if taken[sample.product] <= most:
            found.append(sample.path)
    return found


def split_of(model_file: ModelFile, dataset: Dataset, data: Path, model: Path) -> Split:
    """Cut a data set as the training of a model cut it. Raises DataError when it is not the same images."""
    known = [each.product.name for each in model_file.products]
    if known != dataset.products and model_file.product is None:
        given, those = (", ".join(names) or "no products" for names in (dataset.products, known))
        raise _other_data(data, f"has {given}, and {model} has {those} (--products, or a manifest)")
    split = split_good(
        dataset,
        validation_fraction=model_file.config.get("validation_fraction", 0.0),
        calibration_fraction=model_file.config["calibration_fraction"],
        seed=model_file.provenance["seed"],
    )
    found = fingerprint([with_region(s, file_digest(s.path)) for s in (*split.train, *split.validation)])
    if found != model_file.provenance["fingerprint"]:
        raise _other_data(data, f"its good images are not those that {model} was trained on")
    return split


def _other_data(data: Path, why: str) -> DataError:
    return DataError(f"--data {data}: {why}; give that training's, whose held-out images set the thresholds")


def _check_held_out(model_file: ModelFile, exact: Detector, split: Split, data: Path) -> None:
    """The fingerprint is of what was trained on; the held-out images are known by their scores."""
    known = _calibrations(model_file)
    count = sum(calibration.n for calibration in known.values())
    if count != len(split.calibration):
        raise _other_data(data, f"{len(split.calibration)} images are held out, not {count}")
    again = _calibrations(calibrate_model(model_file, exact.backend, split)) if known else {}
    if again.keys() != known.keys() or not all(_alike(again[name], known[name]) for name in known):
        raise _other_data(data, "the images held out are not those that calibrated the model")


def _calibrations(model_file: ModelFile) -> dict[str | None, Calibration]:
    """Return the calibration of each product, or by None that of a model of one; those that there are."""
    each = {p.product.name: p.calibration for p in model_file.products} or {None: model_file.calibration}
    return {name: calibration for name, calibration in each.items() if calibration is not None}


def _alike(again: Calibration, known: Calibration) -> bool:
    """Whether scores are those that are known, up to rounding."""
    if again.n != known.n:
        return False
    return np.abs(again.scores - known.scores).max() <= SCORE_TOLERANCE * np.abs(known.scores).max()


def _write(rounded: Path, model_file: ModelFile, out: Path) -> None:
    """Write the rounded graph with its own calibration: whole or not at all."""
    import onnx

    graph = onnx.load(rounded)
    attach(graph, model_file, portion=portion_of(graph))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, graph.SerializeToString())


# --- what it costs --------------------------------------------------------------------------------------


def _compare(layers: int, exact: Detector, rounded: Detector, dataset: Dataset, split: Split) -> Comparison:
    defective = np.array([s.is_defect for s in dataset.test])
    tells = bool(defective.any() and not defective.all())
    samples = dataset.test if tells else (split.calibration or split.train[:IMAGES])
    masks = tells and dataset.has_masks
    (a, a_pixel), (b, b_pixel) = (_score_all(detector, samples, masks) for detector in (exact, rounded))
    good = ~defective if tells else np.ones(len(samples), bool)
    difference = np.abs(b[good] - a[good]) / np.maximum(np.abs(a[good]), 1e-12)
    areas = None
    if tells:
        areas = image_roc(a, defective).auroc(), image_roc(b, defective).auroc()
    return Comparison(
        layers=layers,
        images=len(samples),
        image_auroc=areas,
        pixel_auroc=(a_pixel, b_pixel) if a_pixel is not None and b_pixel is not None else None,
        median_difference=float(np.median(difference)),
        largest_difference=float(difference.max()),
    )


def _score_all(detector: Detector, samples: Sequence[Sample], masks: bool) -> tuple[np.ndarray, float | None]:
    """Scores (n,) of images and, with their masks, the pixel AUROC; None where masks or maps are all 0."""
    pool, scores, drawn, marked = PixelPool(), [], False, False
    for sample, prediction in zip(samples, detector.predict_many(s.path for s in samples), strict=True):
        if isinstance(prediction, ImageError):
            raise prediction
        scores.append(prediction.score)
        if masks:
            height, width = prediction.anomaly_map.shape
            mask = read_mask(sample, (height, width))
            pool.add(prediction.anomaly_map, mask, sample.label)
            drawn, marked = drawn or bool(prediction.anomaly_map.any()), marked or bool(mask.any())
    return np.array(scores), pool.pixel_roc().auroc() if drawn and marked else None
