"""Test images scored in order, their overlays and thumbnails drawn meanwhile."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from blemish.core.errors import ImageError
from blemish.core.files import fit_name
from blemish.images.draw import write_thumbnail
from blemish.images.preview import OVERLAY_SIDE, THUMBNAIL_SIDE, Previews
from blemish.images.sources import Observed
from blemish.inference.predict_folder import exceeds_waiting_limit, write_overlay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from blemish.core.types import Prediction, Sample
    from blemish.data.dataset import Dataset
    from blemish.inference.detector import Detector


def predict_and_draw(
    detector: Detector, dataset: Dataset, out: Path
) -> Iterator[tuple[Sample, Prediction, float]]:
    """Yield (sample, prediction, seconds the detector took) in order; pictures are drawn meanwhile."""
    drawing: deque[tuple[Future, int]] = deque()
    pending: deque[Previews] = deque()
    with (
        closing(detector.predict_many(_observe(dataset.test, pending))) as results,
        ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool,
    ):
        for sample in dataset.test:
            began = time.perf_counter()
            prediction = next(results)
            elapsed = time.perf_counter() - began
            if isinstance(prediction, ImageError):
                raise prediction
            name, previews = name_of_sample(sample, dataset), pending.popleft()
            pictures = pool.submit(_write_pictures, detector, previews, prediction, out, name)
            drawing.append((pictures, prediction.anomaly_map.size))
            while exceeds_waiting_limit([pixels for _, pixels in drawing]):
                drawing.popleft()[0].result()
            yield sample, prediction, elapsed
        for future, _ in drawing:
            future.result()


def _observe(samples: Sequence[Sample], pending: deque[Previews]) -> Iterator[Observed]:
    """Hand on what is to be scored, and note what its pictures will show of it."""
    for sample in samples:
        pending.append(Previews(OVERLAY_SIDE, THUMBNAIL_SIDE))
        yield Observed(source=sample.path, observe=pending[-1].observe)


def _write_pictures(
    detector: Detector, previews: Previews, prediction: Prediction, out: Path, name: str
) -> None:
    write_overlay(detector, previews.by_side[OVERLAY_SIDE], prediction, out / overlay_name(name))
    write_thumbnail(out / thumbnail_name(name), previews.by_side[THUMBNAIL_SIDE])


def name_of_sample(sample: Sample, dataset: Dataset) -> str:
    """Name a test image by its path below the data set, with forward slashes."""
    path = sample.path
    return (path.relative_to(dataset.root) if path.is_relative_to(dataset.root) else path).as_posix()


def overlay_name(name: str) -> str:
    """Return the path of an image's overlay below the evaluation's folder."""
    return f"overlays/{_inside(name, '.png')}"


def thumbnail_name(name: str) -> str:
    """Return the path of an image's thumbnail below the evaluation's folder."""
    return f"thumbnails/{_inside(name, '.jpg')}"


def _inside(name: str, ending: str) -> str:
    """Make a path that a manifest may have led outside of its folder one that stays below a folder.

    Such a one gets a mark, a hash of the whole name, so that it never has the path of another image.
    """
    *folders, last = ("up" if part == ".." else part for part in name.lstrip("/").split("/"))
    if name.startswith("/") or ".." in name.split("/"):
        last += f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return "/".join([*folders, fit_name(last, ending)])
