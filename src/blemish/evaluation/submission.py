"""Maps of MVTec AD 2's private test images, written as its evaluation server takes them.

    anomaly_images/<object>/<split>/<image>.tiff                float16, the map
    anomaly_images_thresholded/<object>/<split>/<image>.png     8 bits, 255 where a pixel is anomalous, else 0

The threshold is the calibration's, from `validation/good` alone. Source: Heckler-Kram et al., arXiv
2503.21622, and the data set's public code for submissions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import DataError, ImageError, UsageError
from blemish.core.ownership import owned
from blemish.data.layouts import mvtec_ad_2
from blemish.data.layouts.pairs import images_in
from blemish.images.draw import write_half_map, write_marks
from blemish.images.folders import LeftOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blemish.inference.detector import Detector

SPLITS = ("test_private", "test_private_mixed")
MOST = 60_000.0
"""The largest value of a written map; float16 has none beyond 65,504."""


def write_submission(
    detector: Detector, data: Path, out: Path, on_image: Callable[[], None] = lambda: None
) -> int:
    """Score a category's private test images, write both kinds of maps below `out`, and return their number.

    Maps are put on the model's own scale, 0 and 1 at the ends of its colours: an order that is kept, in
    numbers that float16 holds. Raises DataError for a folder without private test images, UsageError for a
    model without a threshold, ImageError for an image that cannot be used.
    """
    level = detector.pixel_threshold
    if level is None:
        raise UsageError(
            "the model has no calibration and so no threshold; train with --calibration-fraction"
        )
    images = private_images(data)
    low, high = detector.model_file.display_range
    with owned(out):
        for image, found in zip(images, detector.predict_many(images), strict=True):
            if isinstance(found, ImageError):
                raise found
            place = image.relative_to(data).with_suffix("")
            name = data.resolve().name
            scaled = (found.anomaly_map - low) / max(high - low, 1e-12)
            write_half_map(
                out / "anomaly_images" / name / f"{place}.tiff",
                np.clip(scaled, -MOST, MOST).astype(np.float16),
            )
            write_marks(out / "anomaly_images_thresholded" / name / f"{place}.png", found.anomaly_map > level)
            on_image()
    return len(images)


def private_images(data: Path, left_out: LeftOut | None = None) -> list[Path]:
    """Return the private test images of a category, sorted; files that are none are added to `left_out`.

    Raises DataError where there are none, and for two whose maps would have one name.
    """
    left_out = LeftOut() if left_out is None else left_out
    found = [path for split in SPLITS for path in images_in(data / split, left_out)]
    if not mvtec_ad_2.recognises(data) or not found:
        raise DataError(f"{data}: has no {' or '.join(SPLITS)} of MVTec AD 2; give a category of it")
    taken: dict[Path, Path] = {}
    for path in found:
        other = taken.setdefault(path.with_suffix(""), path)
        if other != path:
            raise DataError(f"{path}: its map would have the name of that of {other}; rename or remove one")
    return found
