"""What names in a folder say: classes, splits, masks. A folder of good images holds none of them.

A defect, a test image or a mask that is learnt as a good part is never found again, and nothing shows it. So
a folder is refused where the names of its sub-folders or files mean such a thing. Our choice: only names that
mean nothing else, as whole words, whatever their case, blanks and marks; `2026-11-01`, `cam1` or `lot_7` mean
nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import DataError
from blemish.data.manifest import MEANS_GOOD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_GOOD_ELSEWHERE = "0 00 none no null nan na false negative neg regular nominal fine benign accept"
_BAD = """
bad ng nok nogood notgood notok nonok ko abnormal anomal anomaly anomalies anomalous defect defects
defective defectives defected defekt fail fails failed failing failure failures fault faults faulty
reject rejects rejected broken damage damaged scrap scrapped outlier outliers invalid flaw flaws flawed
blemish blemishes blemished imperfect unhealthy nonconforming nonconform noncompliant nio nichtinordnung
schlecht schlechtteil ausschuss fehler fehlerhaft malo mauvais difettoso cattivo
不良 不良品 不合格 ng品 불량 불량품 異常 异常
"""
_SPLITS = """
train training test testing tests val valid validation validate eval evaluation holdout calibration
testpublic testprivate testprivatemixed
"""
_MASKS = """
mask masks groundtruth groundtruths gt gts segmentation segmentations segmask segmasks seg segs annotation
annotations anno annos annot annots labelmap labelmaps labelmask labelmasks
"""
_MASKS_OR_PARTS = "label labels truth"
_NEUTRAL = """
image images img imgs picture pictures pic pics photo photos part parts sample samples data dataset set
sets file files folder dir example examples item items piece pieces object objects
"""
NAMES_GOOD = MEANS_GOOD - frozenset(_GOOD_ELSEWHERE.split())
"""Folders of good parts; refused only beside other folders of images."""
NAMES_BAD = frozenset(_BAD.split())
"""Folders of bad parts."""
NAMES_SPLITS = frozenset(_SPLITS.split())
"""Folders of splits."""
NAMES_MASKS = frozenset(_MASKS.split())
"""Folders of masks; `label`, `labels` and `truth` count where they hold a file of an image's name."""
_PERHAPS_MASKS = frozenset(_MASKS_OR_PARTS.split())
_NOTHING = frozenset(_NEUTRAL.split())
NAMES_TWO_CLASSES = (
    {"0", "1"},
    {"true", "false"},
    {"yes", "no"},
    {"positive", "negative"},
    {"pos", "neg"},
    {"class0", "class1"},
    {"label0", "label1"},
)
"""Two folders, and no others beside them, that are two classes."""

_MASK_WORD = (
    "(masks?|labels?|lbl|msk|gt|ground[ _-]?truth|truth|seg|segm|segmask|segmentation|annot?(ation)?)"
)
_MASK_OF = re.compile(rf"(?:(?P<a>.+?)[ ._-]+{_MASK_WORD}|{_MASK_WORD}[ ._-]+(?P<b>.+))", re.IGNORECASE)
_SUFFIX_WITHIN = re.compile(r"\.(png|jpe?g|tiff?|bmp|webp)$", re.IGNORECASE)


def plain(name: str) -> str:
    """Return a name without case, blanks, marks and words that say nothing: `NG_Images` is `ng`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name)).casefold()
    parts = [word for word in re.split(r"[\W_]+", words) if word and word not in _NOTHING]
    return "".join(parts)


def _without_number(name: str) -> str:
    return re.sub(r"(?<=\D)\d+$", "", plain(name))


def is_bad(name: str) -> bool:
    """Whether a folder's name means bad parts."""
    return _without_number(name) in NAMES_BAD


def is_good(name: str) -> bool:
    """Whether a folder's name means good parts."""
    return _without_number(name) in NAMES_GOOD


def refuse_classes_and_masks(folder: Path, images: Sequence[Path]) -> None:
    """Refuse a folder of classes or splits, or with masks in it. Raises DataError, one line."""
    refuse_masks(folder, images)
    below: dict[Path, set[str]] = defaultdict(set)  # sub-folders with images, by their folder
    for path in images:
        for place in list(path.relative_to(folder).parents)[:-1]:
            below[place.parent].add(place.name)
    found = sorted(place / name for place, names in below.items() for name in names if _is_class(name, names))
    if found:
        shown = ", ".join(f"{place.as_posix()}/" for place in found[:5]) + (", ..." if len(found) > 5 else "")
        raise DataError(
            f"{folder}: has {shown}, which by their names are classes or splits; training takes good images "
            f"only; {_cure(folder, below)}"
        )


def _is_class(name: str, siblings: set[str]) -> bool:
    """Whether a sub-folder's name is that of a class or a split, beside these others."""
    return (
        plain(name) in NAMES_SPLITS
        or is_bad(name)
        or (is_good(name) and not all(map(is_good, siblings)))
        or ({plain(each) for each in siblings} in NAMES_TWO_CLASSES and len(siblings) == 2)
    )


def _cure(folder: Path, below: dict[Path, set[str]]) -> str:
    found = [place / name for place, names in below.items() for name in names]
    good = [place for place in found if is_good(place.name)]
    train = [place for place in found if _is_training(place.name)]
    if good:
        best = min(good, key=lambda place: (not any(map(_is_training, place.parts)), place))
        return f"give {folder / best}"
    if train:
        return f"give {folder / min(train)} if it holds good images alone"
    return "give a folder that holds good images alone"


def _is_training(name: str) -> bool:
    return plain(name) in ("train", "training")


def refuse_masks(folder: Path, images: Sequence[Path]) -> None:
    """Refuse masks among images: files named as the mask of another one, and folders of masks."""
    stems = {(path.parent, path.stem.casefold()): path for path in images}
    for (place, stem), path in stems.items():
        base = _base_of_mask(stem)
        other = stems.get((place, base)) if base else None
        if other is not None:
            raise DataError(
                f"{path}: is by its name the mask of {other.name}, beside it; put masks elsewhere, as "
                "ground_truth/<defect>/<stem>_mask.png, or rename it if it shows a part"
            )
    _refuse_mask_folders(folder, images)


def _refuse_mask_folders(folder: Path, images: Iterable[Path]) -> None:
    masks: list[Path] = []
    perhaps: list[Path] = []
    parts: dict[str, Path] = {}
    for path in images:
        names = {plain(name) for name in path.relative_to(folder).parts[:-1]}
        if names & NAMES_MASKS:
            masks.append(path)
        elif names & _PERHAPS_MASKS:
            perhaps.append(path)
        else:
            parts[path.stem.casefold()] = path
    stems = [(path, path.stem.casefold()) for path in (*masks, *perhaps)]
    pairs = [(path, parts.get(stem) or parts.get(_base_of_mask(stem) or stem)) for path, stem in stems]
    named = [(path, part) for path, part in pairs if part is not None] or [(path, None) for path in masks]
    for path, part in named[:1]:
        of = "" if part is None else f" of {part.relative_to(folder)}"
        raise DataError(
            f"{folder}: {path.relative_to(folder)} is by its folder's name a mask{of}; give the "
            "folder of the images alone"
        )


def _base_of_mask(stem: str) -> str | None:
    """Return the stem of the image that a mask's stem names."""
    found = _MASK_OF.fullmatch(stem)
    return _SUFFIX_WITHIN.sub("", found["a"] or found["b"]) if found else None
