"""Data sets on disk: the MVTec layout and others, a plain folder of good images, or a CSV manifest.

A data set is a list of `Sample`s in three splits. Nothing is decoded here but masks; images are read by
`blemish.images`. Whatever contradicts itself is refused, because a wrong pairing of image and mask, or a
defect among the training images, gives numbers that look right and are not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import DataError, UsageError
from blemish.core.spelling import Spellings
from blemish.core.types import Sample
from blemish.data import layouts, manifest, mvtec
from blemish.data.hashing import file_digest, fingerprint
from blemish.data.part_names import PartNames, check_parts
from blemish.images.folders import LeftOut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blemish.data.masks import Saturation

FOLDERS_NAMED = 5
"""The most folders that `describe_training` names."""
MIN_TRAIN = 2
"""The fewest training images of a data set (our choice: one to learn from, one to validate on)."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as found on disk, each split sorted by path.

    `name` is the folder's (or the manifest's) name, `root` the folder that relative names refer to.
    `has_masks` is True if the test split has defective images and every one of them has a mask.
    `train` and `calibration` hold good images only. `saturations` say by the values of masks how much of a
    defect is enough to have found it, where the data set has that. `n_set_aside` counts defective training
    images: no method here learns from defects. `left_out` counts the files beside the images that are none.
    """

    name: str
    root: Path
    train: list[Sample]
    calibration: list[Sample]
    test: list[Sample]
    has_masks: bool
    left_out: LeftOut = field(default_factory=LeftOut, compare=False, repr=False)
    saturations: Mapping[int, Saturation] = field(default_factory=dict)
    n_set_aside: int = 0

    @property
    def products(self) -> list[str]:
        """The names of the products, sorted; empty for a data set of one, which has no name."""
        samples = (*self.train, *self.calibration, *self.test)
        return sorted({sample.product for sample in samples if sample.product is not None})

    def of_product(self, name: str) -> Dataset:
        """Return what there is of one product, as a data set by its name."""
        train, calibration, test = (
            [sample for sample in part if sample.product == name]
            for part in (self.train, self.calibration, self.test)
        )
        masks = [sample.mask is not None for sample in test if sample.is_defect]
        has_masks = bool(masks) and all(masks)
        parts = {"train": train, "calibration": calibration, "test": test}
        return replace(self, name=name, has_masks=has_masks, n_set_aside=0, left_out=LeftOut(), **parts)


def open_dataset(
    data: Path, *, need_train: bool = True, layout: str = "auto", names: PartNames | None = None
) -> Dataset:
    """Find the images, labels and masks of a data set.

    `data` is one of

    - a category in MVTec layout (Bergmann et al., 2019), recognised by its `train` folder: `train/good`,
      `test/<defect|good>`, `ground_truth/<defect>/<stem>_mask.<suffix>` (or, for a whole folder,
      `<stem>.<suffix>`), and optionally `calibration/good`. What lies beside these folders is ignored,
      what lies in them must be as said. A mask belongs to the image whose stem it bears. Without a
      `ground_truth` folder there are no masks;
      with one, each defective image has exactly one;
    - a folder of good images, with or without sub-folders;
    - a category in the layout of another data set, one of `layouts.LAYOUTS`, recognised by its folders, or
      as `layout` says;
    - a CSV manifest `path,split,label,mask,part,view,product,roi`: paths absolute or relative to it,
      `split` one of train, calibration, test; an empty label means good; blanks around a cell do not count.
      Either every defective row has a mask or none has, and every row has a product or none; any row may have
      a region of interest.

    `need_train=False` also accepts a folder that has `test` but no `train`, and any number of training
    images; otherwise at least `MIN_TRAIN` are needed, of each product. `layout` is auto, mvtec, or a name in
    `LAYOUTS`.
    `names` tell the part of each image, where the data set does not; equal ones in two splits are two parts.
    Raises `DataError`, and `UsageError` for an unknown layout, or for one of a manifest.
    """
    data = Spellings().same(Path(data)) or Path(data)
    left_out = LeftOut()
    found, saturations = _find_samples(data, need_train, left_out, layout)
    found = found if names is None else names.name(found)
    check_parts(found)
    samples = [s for s in found if s.split == "test" or not s.is_defect]
    parts = {
        split: sorted((s for s in samples if s.split == split), key=path_key) for split in manifest.SPLITS
    }
    n_train = len(parts["train"])
    if need_train and n_train < MIN_TRAIN:
        raise DataError(
            f"{data}: {n_train} good image(s) to train on{_named(left_out)}; at least "
            f"{MIN_TRAIN} are needed, add some"
        )
    if not samples:
        raise DataError(f"{data}: holds no image{_named(left_out)}; read are PNG, JPEG, TIFF, BMP and WebP")
    defects = [s for s in parts["test"] if s.is_defect]
    is_folder = data.is_dir()
    dataset = Dataset(
        name=data.resolve().name if is_folder else data.stem,
        root=data if is_folder else data.parent,
        has_masks=bool(defects) and all(s.mask is not None for s in defects),
        left_out=left_out,
        saturations=saturations,
        n_set_aside=len(found) - len(samples),
        **parts,
    )
    for product in dataset.products if need_train else ():
        n_train = len(dataset.of_product(product).train)
        if n_train < MIN_TRAIN:
            raise DataError(
                f"{data}: product {product}: {n_train} good image(s) to train on; at least {MIN_TRAIN} are "
                "needed, add some"
            )
    return dataset


def _named(left_out: LeftOut) -> str:
    return f", and {left_out} that are not read" if left_out else ""


def _find_samples(
    data: Path, need_train: bool, left_out: LeftOut, layout: str
) -> tuple[list[Sample], Mapping[int, Saturation]]:
    if data.is_dir():
        known = layouts.chosen(layout, data)
        if known is not None:
            return known.read(data, left_out), known.saturations(data)
        return mvtec.read(data, need_train=need_train, left_out=left_out), {}
    if layout != "auto" and data.exists():
        raise UsageError(f"--layout {layout}: is for a folder, and {data} is a file; leave it out")
    if data.is_file() and data.suffix.lower() == ".csv":
        return manifest.read(data), {}
    if data.exists():
        raise DataError(f"{data}: not a data set; give a folder, or a manifest named *.csv")
    raise DataError(f"{data}: no such file or folder; give a folder of images or a CSV manifest")


def path_key(sample: Sample) -> str:
    """Return what samples are sorted by."""
    return sample.path.as_posix()


def dataset_fingerprint(dataset: Dataset) -> str:
    """SHA-256 (64 hex digits) of all that a training and evaluation on a data set depends on.

    Our choice, as in `fingerprint`: the content of each image and mask with its split and label, whatever
    the names and the order. Raises `ImageError` if a file cannot be read.
    """
    samples = [*dataset.train, *dataset.calibration, *dataset.test]
    return fingerprint(
        [
            f"{s.split} {s.label} {with_region(s, file_digest(s.path))} "
            f"{' '.join(map(file_digest, s.masks)) or '-'}" + ("" if s.product is None else f" {s.product}")
            for s in samples
        ]
    )


def with_region(sample: Sample, digest: str) -> str:
    """Add to an image's digest that of its own region of interest, if it has one. Raises `ImageError`."""
    return digest if sample.roi is None else f"{digest} in {file_digest(sample.roi)}"


def describe_training(dataset: Dataset) -> list[str]:
    """Say in a line for each split of good images how many are taken from which folders."""
    lines = []
    for split, samples in (("learning from", dataset.train), ("calibrating on", dataset.calibration)):
        counts = Counter(str(sample.path.parent) for sample in samples)
        named = ", ".join(f"{count} in {folder}" for folder, count in list(counts.items())[:FOLDERS_NAMED])
        more = len(counts) - FOLDERS_NAMED
        if samples:
            rest = f" and {more} more folder{'s' if more > 1 else ''}" if more > 0 else ""
            lines.append(f"{split} {len(samples)} images: {named}{rest}")
    if dataset.n_set_aside:
        lines.append(f"leaving out {dataset.n_set_aside} defective images of the training split")
    return lines


def check_evaluable(dataset: Dataset) -> None:
    """Refuse a data set without good or without defective test images. Raises DataError."""
    good = sum(not s.is_defect for s in dataset.test)
    defects = len(dataset.test) - good
    if not good or not defects:
        raise DataError(
            f"{dataset.root}: {good} good and {defects} defective test images; evaluation compares the two: "
            "add what is missing under test/good and test/<defect>, or use `blemish predict`"
        )


def find_leakage(train_digests: Mapping[str, Path | str], test: Sequence[Sample]) -> list[tuple[str, str]]:
    """Test images that are byte for byte a training image: pairs (training name, test path), in test order.

    `train_digests` maps `file_digest` to the name of a training image. Raises `ImageError` if a test
    image cannot be read. Our choice: bytes, not pixels; a re-encoded copy is not found.
    """
    digests = ((file_digest(s.path), s.path) for s in test)
    return [(str(train_digests[digest]), str(path)) for digest, path in digests if digest in train_digests]
