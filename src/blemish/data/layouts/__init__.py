"""The folders of other data sets, read as they come: one reader for each, in one list.

A reader is given the folder of one category and returns its samples, not sorted. It changes and copies
nothing. What a data set calls its validation images of good parts calibrates here. Its defective training
images are left out, as no method here learns from defects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.data.layouts import btad, dagm, ksdd2, mvtec_ad_2, mvtec_loco, real_iad, visa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from blemish.core.types import Sample
    from blemish.data.masks import Saturation
    from blemish.images.folders import LeftOut


def _no_saturations(_data: Path) -> Mapping[int, Saturation]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a data set lies on the disk.

    `recognises` looks at the names of a few folders and files alone; `read` raises DataError for what
    contradicts the layout; `saturations` are those of `blemish.data.masks.read_regions`.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, LeftOut], list[Sample]]
    saturations: Callable[[Path], Mapping[int, Saturation]] = _no_saturations


LAYOUTS = {
    each.name: each
    for each in (
        Layout(
            name="mvtec-ad-2",
            recognises=mvtec_ad_2.recognises,
            read=mvtec_ad_2.read,
        ),
        Layout(
            name="mvtec-loco",
            recognises=mvtec_loco.recognises,
            read=mvtec_loco.read,
            saturations=mvtec_loco.read_saturations,
        ),
        Layout(
            name="visa",
            recognises=visa.recognises,
            read=visa.read,
        ),
        Layout(
            name="btad",
            recognises=btad.recognises,
            read=btad.read,
        ),
        Layout(
            name="ksdd2",
            recognises=ksdd2.recognises,
            read=ksdd2.read,
        ),
        Layout(
            name="dagm",
            recognises=dagm.recognises,
            read=dagm.read,
        ),
        Layout(
            name="real-iad",
            recognises=real_iad.recognises,
            read=real_iad.read,
        ),
    )
}
"""The layouts by name, beside those that `blemish.data.mvtec` and `blemish.data.manifest` read."""


def recognised(data: Path) -> Layout | None:
    """Return the layout that a folder is recognisably in, or None."""
    return next((layout for layout in LAYOUTS.values() if layout.recognises(data)), None)
