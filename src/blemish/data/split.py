"""The good images of a data set in three parts: to learn from, to validate and to calibrate on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, UsageError
from blemish.core.seeds import check_seed
from blemish.data.dataset import path_key
from blemish.data.hashing import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from blemish.core.types import Sample
    from blemish.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Split:
    """The good images of a data set, cut into three parts without an image in common.

    `digests` are the `file_digest`s of the data set's training images, which the parts were drawn by.
    """

    train: list[Sample]
    validation: list[Sample]
    calibration: list[Sample]
    digests: Mapping[Path, str] = field(compare=False, repr=False)


def split_good(
    dataset: Dataset, *, validation_fraction: float, calibration_fraction: float, seed: int
) -> Split:
    """Cut the training images into training, validation and calibration parts, each sorted by path.

    Fractions are of all training images, in [0, 1) with a sum below 1. A part gets `fraction * n` images,
    rounded to nearest, halves up, and at least 1 if the fraction is above 0. If the data set brings its
    own calibration images these are used as they are and `calibration_fraction` is not applied. Of several
    products each is cut by itself, as if it were alone.

    Identical files (by digest), and all images of one product part (`Sample.part`), always go the same way,
    else the calibration would see what training has fitted; a split's part may therefore exceed its number by
    the size of its last group less one.
    The draw is a permutation by numpy's PCG64 of the groups, sorted by path relative to the root: the
    same on every machine, whatever the order on disk.

    Raises `UsageError` on a bad fraction or seed; `DataError` if no training image would remain, if
    one of the data set's own calibration images is also a training image, or one image of two products.
    """
    _check_split(validation_fraction, calibration_fraction, seed)
    cut = partial(_split_one, validation=validation_fraction, calibration=calibration_fraction, seed=seed)
    if not dataset.products:
        return cut(dataset)
    return _joined([cut(dataset.of_product(name)) for name in dataset.products])


def _joined(splits: list[Split]) -> Split:
    """Put the splits of several products together. Raises DataError for an image that two of them have."""
    good = (s for split in splits for s in (*split.train, *split.validation, *split.calibration))
    digests = {path: digest for split in splits for path, digest in split.digests.items()}
    refuse_shared((s, digests.get(s.path) or file_digest(s.path)) for s in good)
    parts = (
        sorted((s for split in splits for s in part(split)), key=path_key)
        for part in (attrgetter("train"), attrgetter("validation"), attrgetter("calibration"))
    )
    train, validation, calibration = parts
    return Split(train=train, validation=validation, calibration=calibration, digests=digests)


def refuse_shared(samples: Iterable[tuple[Sample, str]]) -> None:
    """Refuse an image that two products have; each sample has its digest beside it. Raises DataError."""
    owners: dict[str, Sample] = {}
    for sample, digest in samples:
        twin = owners.setdefault(digest, sample)
        if twin.product != sample.product:
            raise DataError(
                f"{sample.path}: same content as {twin.path}, which is of product {twin.product}, not "
                f"{sample.product}; remove one"
            )


def _split_one(dataset: Dataset, *, validation: float, calibration: float, seed: int) -> Split:
    """Cut the images of one product, as `split_good` does, by shares."""
    digests = {sample.path: file_digest(sample.path) for sample in dataset.train}
    groups = _group_alike(dataset, digests)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(groups))
    queue = [groups[i] for i in order]
    n = len(dataset.train)
    held_out = 0.0 if dataset.calibration else calibration
    calibrating = _take(queue, _part_size(held_out, n))
    validating = _take(queue, _part_size(validation, n))
    rest = _take(queue, n)
    if not rest:
        least = 1 + (validation > 0) + (held_out > 0)
        raise DataError(
            f"{dataset.root}: {n} good image(s), {len(groups)} different; no training image left after "
            f"{len(validating)} to validate and {len(calibrating)} to calibrate; "
            f"give {least} different ones or more"
        )
    chosen = [replace(s, split="calibration") for s in calibrating]
    return Split(
        train=rest, validation=validating, calibration=chosen or list(dataset.calibration), digests=digests
    )


def _group_alike(dataset: Dataset, digests: Mapping[Path, str]) -> list[list[Sample]]:
    """Group training images that are identical or show one part, in order of path.

    None may be a calibration image as well.
    """
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in sorted(dataset.train, key=lambda s: _relative_name(s.path, dataset.root)):
        keys = [("digest", digests[sample.path])]
        keys += [] if sample.part is None else [("part", sample.part)]
        known = [groups[key] for key in keys if key in groups]
        group = known[0] if known else []
        group.append(sample)
        groups |= dict.fromkeys(keys, group)
        for other in known[1:]:
            if other is not group:  # an image of this part is also one of another part
                group += other
                groups |= {key: group for key, members in groups.items() if members is other}
    for sample in dataset.calibration:
        twin = groups.get(("digest", file_digest(sample.path)))
        if twin:
            raise DataError(f"{sample.path}: same content as training image {twin[0].path}; remove one")
    return list({id(group): group for group in groups.values()}.values())


def _check_split(validation_fraction: float, calibration_fraction: float, seed: int) -> None:
    named = {"validation fraction": validation_fraction, "calibration fraction": calibration_fraction}
    for name, fraction in named.items():
        if not 0 <= fraction < 1:
            raise UsageError(f"{name} {fraction}: must be at least 0 and below 1")
    if sum(named.values()) >= 1:
        raise UsageError(
            f"validation and calibration fractions sum to {sum(named.values())}; keep it below 1"
        )
    check_seed(seed)


def _relative_name(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _part_size(fraction: float, n: int) -> int:
    return max(1, math.floor(fraction * n + 0.5)) if fraction > 0 else 0


def _take(queue: list[list[Sample]], count: int) -> list[Sample]:
    """Take whole groups off the queue until `count` images are taken or none is left, sorted by path."""
    taken: list[Sample] = []
    while queue and len(taken) < count:
        taken += queue.pop(0)
    return sorted(taken, key=path_key)
