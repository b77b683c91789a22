"""The CSV manifest: a data set as a table `path,split,label,mask,part,view,product,roi`, one image a row.

Paths are absolute or relative to the manifest. `split` is train, calibration or test. An empty label means
good, an empty mask means none. Images of one `part` are its views, and in one split. `product` is given for
all images or for none. `roi` is the image's own region of interest, a file as `--roi` takes it, or empty.
UTF-8, commas; blanks around a cell do not count.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from typing import TYPE_CHECKING, Literal

from blemish.core.errors import DataError, ImageError, UsageError
from blemish.core.spelling import Spellings, nfc
from blemish.core.types import GOOD, Sample
from blemish.images.regions import read_own

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COLUMNS = ("path", "split", "label", "mask", "part", "view", "product", "roi")
"""The columns of a manifest; all but the first two may be left out."""

PRODUCT = re.compile(r"\w(?:[\w .+-]{0,62}[\w+-])?")
"""Names of products: they name folders of reports too."""

_WORDS = """
good goods goodpart goodparts ok okay okey okpart normal nominal regular fine clean healthy intact perfect
flawless undamaged benign inlier pass passed accept accepted 0 00 none no null nan na false negative neg
nodefect nodefects nondefect nondefective notdefective defectfree withoutdefect nofault faultfree faultless
noanomaly nonanomaly nonanomalous anomalyfree io inordnung gut gutteil fehlerfrei bon conforme bueno buono
良品 合格 正常 良 ok品 정상 양품
"""
MEANS_GOOD = frozenset(_WORDS.split())
"""Labels of good parts in other data sets and tools, without case, blanks and marks (our choice)."""

SPLITS: dict[str, Literal["train", "calibration", "test"]] = {
    "train": "train",
    "calibration": "calibration",
    "test": "test",
}


def read(manifest: Path) -> list[Sample]:
    """Return the samples of a manifest in row order, not sorted.

    Raises `DataError`, naming the row (the header is row 1), for: an unknown column or split; a label that
    means good elsewhere; a file that does not exist; a path named twice; a defect outside test; a mask on a
    good image; a part in two splits; masks on some defective images but not on all; a product on some images
    but not on all; a region of interest that cannot be read, or that leaves next to nothing.
    """
    samples: list[Sample] = []
    spellings = Spellings()
    rows_of: dict[Path, int] = {}
    masked: bool | None = None  # of the defective images so far
    split_of: dict[str, str] = {}
    for row, cells in _read_rows(manifest):
        where = f"{manifest}, row {row}"
        sample = _make_sample(manifest.parent, where, cells, spellings)
        first = rows_of.setdefault(sample.path.resolve(), row)
        if first != row:
            raise DataError(f"{where}: {cells['path']} is also in row {first}; keep one of them")
        _check_part(sample, where, split_of)
        has_mask = sample.mask is not None
        if sample.is_defect and masked not in (None, has_mask):
            before = "a" if masked else "no"
            raise DataError(f"{where}: defects before it have {before} mask; give all a mask, or none")
        masked = has_mask if sample.is_defect else masked
        if samples and (sample.product is None) != (samples[0].product is None):
            before = "no" if sample.product else "a"
            raise DataError(f"{where}: rows before it have {before} product; give all a product, or none")
        samples.append(sample)
    return samples


def _read_rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows as dicts with all of `COLUMNS`, each with its line number (the header is line 1)."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [c.strip() for c in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{manifest}: not readable as a CSV file in UTF-8 ({reason}); save it so") from error
    header = lines[0][1] if lines else []
    unknown = [c for c in header if c not in COLUMNS]
    if unknown or len(set(header)) < len(header) or not {"path", "split"} <= set(header):
        raise DataError(
            f"{manifest}, row 1: columns {header}; must be {','.join(COLUMNS)}, once, comma-separated"
        )
    for row, cells in lines[1:]:
        if len(cells) > len(header):
            raise DataError(
                f"{manifest}, row {row}: {len(cells)} cells under {len(header)} columns; quote commas"
            )
    empty = dict.fromkeys(COLUMNS, "")
    return [(row, empty | dict(zip(header, cells, strict=False))) for row, cells in lines[1:] if any(cells)]


def _make_sample(folder: Path, where: str, cells: Mapping[str, str], spellings: Spellings) -> Sample:
    split = SPLITS.get(cells["split"])
    if split is None:
        raise DataError(f"{where}: split {cells['split']!r} is unknown; write one of {', '.join(SPLITS)}")
    label = nfc(cells["label"]) or GOOD
    check_label(label, where)
    if label != GOOD and split != "test":
        raise DataError(f"{where}: defect {label!r} in split {split}, which takes good images only; use test")
    if label == GOOD and cells["mask"]:
        raise DataError(
            f"{where}: mask {cells['mask']} on a good image; remove it, or give the defect's label"
        )
    path = _find_file(folder / cells["path"], where, f"image {cells['path']!r}", spellings)
    mask = None
    if cells["mask"]:
        mask = _find_file(folder / cells["mask"], where, f"mask {cells['mask']!r}", spellings)
    part, view = cells["part"] or None, cells["view"] or None
    product = check_product(nfc(cells["product"]), where) if cells["product"] else None
    return Sample(
        path=path,
        split=split,
        label=label,
        mask=mask,
        part=part,
        view=view,
        product=product,
        roi=_find_roi(folder, where, cells, spellings),
    )


def _check_part(sample: Sample, where: str, split_of: dict[str, str]) -> None:
    """Refuse a part in two splits; `split_of` has that of each part so far. Raises DataError."""
    before = sample.split if sample.part is None else split_of.setdefault(sample.part, sample.split)
    if before != sample.split:
        raise DataError(
            f"{where}: part {sample.part} is in {sample.split} here, and in {before} above; all its images "
            "must be in one split"
        )


def _find_roi(folder: Path, where: str, cells: Mapping[str, str], spellings: Spellings) -> Path | None:
    """Find the file of an image's own region, and read it once to refuse what is none. Raises DataError."""
    if not cells["roi"]:
        return None
    found = _find_file(folder / cells["roi"], where, f"region of interest {cells['roi']!r}", spellings)
    try:
        read_own(found)
    except (ImageError, UsageError) as error:
        raise DataError(f"{where}: {str(error).removeprefix('--roi ')}") from error
    return found


def _find_file(path: Path, where: str, what: str, spellings: Spellings) -> Path:
    """Find a file, also where its name is stored in another Unicode form. Raises DataError."""
    found = spellings.same(path)
    if found is not None and found.is_file():
        return found
    near = [ascii(name) for name in spellings.near(path) if name != path.name][:3]
    cure = "paths are absolute or relative to the manifest"
    if near:
        cure = f"beside it is {' and '.join(near)}, which is another name: write that one"
    raise DataError(f"{where}: {what} is not a file; {cure}")


def check_label(label: str, where: str) -> None:
    """Refuse what means good elsewhere, as `OK`, `normal` or `0`; `where` opens the message, a DataError."""
    if label != GOOD and _plain(label) in MEANS_GOOD:
        raise DataError(
            f"{where}: label {label!r} would count as a defect, and elsewhere it means good; "
            f"write {GOOD!r}, or give the defect another name"
        )


def check_product(name: str, where: str) -> str:
    """Return the name of a product, or refuse it by a DataError; `where` opens the message."""
    if not PRODUCT.fullmatch(name):
        raise DataError(
            f"{where}: product {name!r}: a name has 1 to 64 letters, digits, blanks and . _ + -, and begins "
            "with a letter or digit; rename it"
        )
    return name


def _plain(label: str) -> str:
    """Return a label without case, accents of width, blanks and marks: `No-Defect` is `nodefect`."""
    letters = unicodedata.normalize("NFKC", label).casefold()
    return re.sub(r"[\s._\-/()]+", "", letters)
