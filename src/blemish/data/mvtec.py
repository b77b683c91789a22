"""Folders as data sets: the MVTec layout, or a plain folder of good images."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from blemish.core.errors import DataError
from blemish.core.spelling import Spellings, nfc
from blemish.core.types import GOOD, Sample
from blemish.data import folder_names, manifest
from blemish.images import folders

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from blemish.images.folders import LeftOut

LAYOUT = {"train": "train", "test": "test", "calibration": "calibration", "groundtruth": "ground_truth"}
"""The folders of the layout, by their names without case and marks."""


def read(data: Path, *, need_train: bool, left_out: LeftOut | None = None) -> list[Sample]:
    """Return the samples of a folder, not sorted; `blemish.data.dataset.open_dataset` has the rules.

    Files that are no image are added to `left_out`. Raises `DataError` for whatever contradicts the rules,
    naming the file or folder.
    """
    _refuse_other_spellings(data)
    if (data / "train").is_dir() or (not need_train and (data / "test").is_dir()):
        good = _good_samples(data, "train", left_out) + _good_samples(data, "calibration", left_out)
        return good + _test_samples(data, left_out)
    for name in ("test", "ground_truth"):
        if (data / name).is_dir():
            raise DataError(f"{data}: has {name}/ but no train/good; put the good training images there")
    categories = find_categories(data)
    if categories:
        found = ", ".join(str(c) for c in categories[:5]) + (", ..." if len(categories) > 5 else "")
        raise DataError(f"{data}: holds several categories, not one; give one of {found}")
    classes = [p.name for p in _subfolders(data) if folders.list_images(p)]
    if GOOD in classes and len(classes) > 1:
        other = next(c for c in classes if c != GOOD)
        raise DataError(
            f"{data}: has {other}/ beside {GOOD}/, training takes good images only; give {data / GOOD}"
        )
    images = folders.list_images(data, left_out)
    folder_names.refuse_classes_and_masks(data, images)
    return [Sample(path=p, split="train") for p in images]


def _refuse_other_spellings(data: Path) -> None:
    """Refuse `Train`, `Ground-Truth` and the like: a file system may take them for the layout's."""
    for folder in _subfolders(data):
        name = LAYOUT.get(folder_names.plain(folder.name))
        if name is not None and folder.name != name and name.replace("_", "") == _letters(folder.name):
            raise DataError(f"{folder}: is spelled otherwise than {name}/ of the layout; rename it to {name}")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def find_categories(root: Path) -> list[Path]:
    """Find the folders with `train/good`, one or two levels below `root`, sorted."""
    return sorted(p.parent.parent for depth in ("*", "*/*") for p in root.glob(f"{depth}/train/{GOOD}"))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_dir() and not (p.name.startswith(".") or folders.is_service_folder(p.name))
    )


def _good_samples(
    data: Path, split: Literal["train", "calibration"], left_out: LeftOut | None
) -> list[Sample]:
    folder = data / split
    for child in _subfolders(folder):
        if child.name != GOOD and folder_names.is_good(child.name):
            raise DataError(f"{child}: {split}/ may hold only {GOOD}/; rename this folder to {GOOD}")
        if child.name != GOOD:
            raise DataError(f"{child}: {split}/ may hold only {GOOD}/; move this folder away or under test/")
    if folder.is_dir() and not (folder / GOOD).is_dir():
        raise DataError(f"{folder}: has no folder {GOOD}/; put the good images into {folder / GOOD}")
    _refuse_loose_images(folder)
    found = folders.list_images(folder / GOOD, left_out) if folder.is_dir() else []
    folder_names.refuse_classes_and_masks(folder / GOOD, found)
    return [Sample(path=p, split=split) for p in found]


def _refuse_loose_images(folder: Path) -> None:
    """Refuse an image beside the label folders: it has no label, and its absence would go unnoticed."""
    if folder.is_dir():
        for path in folders.list_images(folder):
            if path.parent == folder:
                raise DataError(
                    f"{path}: has no label; move it into {folder / GOOD} or a folder of its label"
                )


def _test_samples(data: Path, left_out: LeftOut | None) -> list[Sample]:
    _refuse_loose_images(data / "test")
    truth = data / "ground_truth"
    samples: list[Sample] = []
    _refuse_other_labels(truth, [folder.name for folder in _subfolders(data / "test")])
    for folder in _subfolders(data / "test"):
        label = folder.name
        manifest.check_label(label, str(folder))
        found = folders.list_images(folder, left_out)
        _check_test_folder(folder, found)
        if label == GOOD or not truth.is_dir():
            samples += [Sample(path=p, split="test", label=label) for p in found]
        else:
            pairs = _pair_masks(found, folder, Spellings().same(truth / label) or truth / label)
            samples += [Sample(path=p, split="test", label=label, mask=mask) for p, mask in pairs]
    if truth.is_dir():
        paired = {s.mask for s in samples}
        for mask in folders.list_images(truth):
            if mask not in paired:
                raise DataError(
                    f"{mask}: a mask without a defective image <stem> beside <stem>_mask; remove it"
                )
    return samples


def _check_test_folder(folder: Path, images: Sequence[Path]) -> None:
    """Refuse masks that would count as test images, and classes that would count as good ones."""
    if folder.name == GOOD:
        folder_names.refuse_classes_and_masks(folder, images)
    elif folder_names.plain(folder.name) in folder_names.NAMES_MASKS:
        raise DataError(f"{folder}: masks lie in ground_truth/<defect>/, not under test/; move them there")
    else:
        folder_names.refuse_masks(folder, images)


def _refuse_other_labels(truth: Path, labels: Iterable[str]) -> None:
    """Refuse masks of `Dent` for images of `dent`, which one file system pairs and another does not."""
    spelled = {label.casefold(): label for label in labels}
    for folder in _subfolders(truth):
        label = spelled.get(folder.name.casefold())
        if label is not None and nfc(label) != nfc(folder.name):
            raise DataError(f"{folder}: is spelled otherwise than test/{label}; rename one of them")


def _pair_masks(found: Sequence[Path], folder: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Pair each image with its mask, <stem>_mask or <stem> for all; a sorted order would hide a gap."""
    by_stem = _index_by_stem(found, folder)
    masks = _index_by_stem(folders.list_images(truth), truth) if truth.is_dir() else {}
    ending = "" if masks and not any(stem.endswith("_mask") for stem in masks) else "_mask"
    pairs = []
    for stem, path in by_stem.items():
        if f"{stem}{ending}" not in masks:
            raise DataError(f"{path}: has no mask; add {truth / stem}{ending}.png")
        pairs.append((path, masks[f"{stem}{ending}"]))
    return pairs


def _index_by_stem(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        stem = nfc(path.relative_to(folder).with_suffix("").as_posix())
        if stem in found:
            raise DataError(
                f"{path}: has the stem of {found[stem]}, masks pair by stem; rename or remove one"
            )
        found[stem] = path
    return found
