"""The folders of other data sets, read as they come: one reader for each, in one list.

A reader is given the folder of one category and returns its samples, not sorted. It changes and copies
nothing. What a data set calls its validation images of good parts calibrates here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import DataError, UsageError
from blemish.data.layouts import btad, dagm, ksdd2, mvtec_ad_2, mvtec_loco, real_iad, visa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blemish.core.types import Sample
    from blemish.data.masks import Saturation
    from blemish.images.folders import LeftOut


def _no_saturations(_data: Path) -> Mapping[int, Saturation]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a data set lies on the disk.

    `holds` says in words what a category has; `recognises` looks at the names of a few folders and files
    alone; `read` raises DataError for what contradicts the layout; `saturations` are those of
    `blemish.data.masks.read_regions`.
    """

    name: str
    holds: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, LeftOut], list[Sample]]
    saturations: Callable[[Path], Mapping[int, Saturation]] = _no_saturations


_MVTEC_AD_2 = Layout(
    name="mvtec-ad-2",
    holds="train/good and test_public",
    recognises=mvtec_ad_2.recognises,
    read=mvtec_ad_2.read,
)
_MVTEC_LOCO = Layout(
    name="mvtec-loco",
    holds="train/good and defects_config.json",
    recognises=mvtec_loco.recognises,
    read=mvtec_loco.read,
    saturations=mvtec_loco.read_saturations,
)
_VISA = Layout(name="visa", holds="Data/Images/Normal", recognises=visa.recognises, read=visa.read)
_BTAD = Layout(name="btad", holds="train/ok and test/ko", recognises=btad.recognises, read=btad.read)
_KSDD2 = Layout(
    name="ksdd2",
    holds="train and test, both with *_GT.png",
    recognises=ksdd2.recognises,
    read=ksdd2.read,
)
_DAGM = Layout(
    name="dagm",
    holds="Train/Label and Test/Label",
    recognises=dagm.recognises,
    read=dagm.read,
)
_REAL_IAD = Layout(
    name="real-iad",
    holds="OK and NG, and two levels above it realiad_jsons with a JSON file of its name",
    recognises=real_iad.recognises,
    read=real_iad.read,
)
_ONE_VIEW = [
    replace(_REAL_IAD, name=f"real-iad-{view.lower()}", read=partial(real_iad.read_view, view=view))
    for view in real_iad.VIEWS
]
_ALL = (_MVTEC_AD_2, _MVTEC_LOCO, _VISA, _BTAD, _KSDD2, _DAGM, _REAL_IAD, *_ONE_VIEW)
LAYOUTS = {layout.name: layout for layout in _ALL}
"""The layouts by name, beside those that `blemish.data.mvtec` and `blemish.data.manifest` read. Where several
recognise a folder, the first one is meant."""


def recognised(data: Path) -> Layout | None:
    """Return the layout that a folder is recognisably in, or None."""
    return next((layout for layout in LAYOUTS.values() if layout.recognises(data)), None)


def chosen(name: str, data: Path) -> Layout | None:
    """Return the layout that `--layout` names for a folder; None means that of MVTec AD, or good images.

    Raises UsageError for an unknown name, DataError for a folder that is in another layout.
    """
    if name == "auto":
        return recognised(data)
    check_name(name)
    if name == "mvtec":
        return None
    if not LAYOUTS[name].recognises(data):
        raise DataError(
            f"{data}: is no category of {name}, which has {LAYOUTS[name].holds}; give such a folder"
        )
    return LAYOUTS[name]


def check_name(name: str) -> None:
    """Raise UsageError for what is no layout."""
    if name not in ("auto", "mvtec", *LAYOUTS):
        raise UsageError(f"--layout {name}: is unknown; choose auto, mvtec, {', '.join(LAYOUTS)}")


def is_category(folder: Path, name: str) -> bool:
    """Whether a folder is in the layout of this name; with auto, in any but that of MVTec AD."""
    return recognised(folder) is not None if name == "auto" else LAYOUTS[name].recognises(folder)


def find_categories(root: Path, name: str = "auto") -> list[Path]:
    """Find the folders in the layout of this name, one or two levels below `root`, sorted.

    With auto those in any but that of MVTec AD, whose own `blemish.data.mvtec` finds.
    """
    below = list(_folders_in(root))
    below += [folder for each in below for folder in _folders_in(each)]
    return sorted(folder for folder in below if is_category(folder, name))


def _folders_in(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        yield from (Path(e.path) for e in entries if not e.name.startswith(".") and e.is_dir())
