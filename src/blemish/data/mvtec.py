"""Folders as data sets: the MVTec layout, or a plain folder of good images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from blemish.core.errors import DataError
from blemish.core.spelling import Spellings, nfc
from blemish.core.types import GOOD, Sample
from blemish.data import manifest
from blemish.images import folders

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def read(data: Path, *, need_train: bool) -> list[Sample]:
    """Return the samples of a folder, not sorted; `blemish.data.dataset.open_dataset` has the rules.

    Raises `DataError` for whatever contradicts them, naming the file or folder.
    """
    if (data / "train").is_dir() or (not need_train and (data / "test").is_dir()):
        good = _good_samples(data, "train") + _good_samples(data, "calibration")
        return good + _test_samples(data)
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
    return [Sample(path=p, split="train") for p in folders.list_images(data)]


def find_categories(root: Path) -> list[Path]:
    """Find the folders with `train/good`, one or two levels below `root`, sorted."""
    return sorted(p.parent.parent for depth in ("*", "*/*") for p in root.glob(f"{depth}/train/{GOOD}"))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _good_samples(data: Path, split: Literal["train", "calibration"]) -> list[Sample]:
    folder = data / split
    for child in _subfolders(folder):
        if child.name != GOOD:
            raise DataError(f"{child}: {split}/ may hold only {GOOD}/; move this folder away or under test/")
    if folder.is_dir() and not (folder / GOOD).is_dir():
        raise DataError(f"{folder}: has no folder {GOOD}/; put the good images into {folder / GOOD}")
    _refuse_loose_images(folder)
    found = folders.list_images(folder / GOOD) if folder.is_dir() else []
    return [Sample(path=p, split=split) for p in found]


def _refuse_loose_images(folder: Path) -> None:
    """Refuse an image beside the label folders: it has no label, and its absence would go unnoticed."""
    if folder.is_dir():
        for path in folders.list_images(folder):
            if path.parent == folder:
                raise DataError(
                    f"{path}: has no label; move it into {folder / GOOD} or a folder of its label"
                )


def _test_samples(data: Path) -> list[Sample]:
    _refuse_loose_images(data / "test")
    truth = data / "ground_truth"
    samples: list[Sample] = []
    for folder in _subfolders(data / "test"):
        label = folder.name
        manifest.check_label(label, str(folder))
        found = folders.list_images(folder)
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


def _pair_masks(found: Sequence[Path], folder: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Pair each image with the mask of the same stem (and sub-folder); a sorted order would hide a gap."""
    by_stem = _index_by_stem(found, folder)
    masks = _index_by_stem(folders.list_images(truth), truth) if truth.is_dir() else {}
    pairs = []
    for stem, path in by_stem.items():
        if f"{stem}_mask" not in masks:
            raise DataError(f"{path}: has no mask; add {truth / stem}_mask.png")
        pairs.append((path, masks[f"{stem}_mask"]))
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
