"""Scoring files to disk: a row, a map and an overlay for each, written as they come.

Rows are appended in the order of the inputs, each after its pictures are on disk, so that whatever stops
the run, every row written is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_origin

from blemish.core.errors import ImageError
from blemish.core.files import fit_name, name_limit, write_whole
from blemish.core.ownership import owned
from blemish.core.spreadsheet import TableWriter
from blemish.core.types import Prediction, ResultRow, field_types
from blemish.images import draw
from blemish.images.preview import OVERLAY_SIDE, Previews
from blemish.images.sources import Observed
from blemish.inference import stopped_run
from blemish.inference.prediction_counts import MAX_ERRORS_KEPT, PredictionCounts
from blemish.inference.promise import Promise
from blemish.inference.stopped_run import ROWS_NAME, SUMMARY_NAME, keep_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    import numpy as np

    from blemish.images.preview import Preview
    from blemish.images.sources import Frame
    from blemish.inference.detector import Detector

LISTS = tuple(name for name, kind in field_types(ResultRow).items() if get_origin(kind) is list)
"""Fields of a row that are lists, of which predictions.csv has the number of entries."""
COLUMNS = tuple(f"n_{name}" if name in LISTS else name for name in field_types(ResultRow))
"""The columns of predictions.csv."""

OverlayFormat = Literal["png", "jpeg", "webp"]
"""The file formats of overlays: without loss, and two that are a quarter as large and less."""
_ENDINGS: dict[OverlayFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""What file systems answer for a name or a path that they do not take."""

_IN_FLIGHT, _PIXELS_IN_FLIGHT = 8, 2**25  # images, and pixels of them, that may wait for their pictures


def predict_to_folder(
    detector: Detector,
    inputs: Iterable[tuple[Path | Frame, Path]],
    out: Path,
    *,
    overlays: OverlayFormat | None = "png",
    on_row: Callable[[dict[str, Any]], None] = lambda _row: None,
    identity: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> PredictionCounts:
    """Score every input and write predictions.jsonl, predictions.csv, summary.json, maps/ and overlays/.

    `overlays` is their format; None: no pictures, neither overlays nor maps.
    Films have to be given as their frames (`video.expand_films`), which are read as they are needed.
    An input that cannot be used becomes a row with its error. `identity` and `resume` are as in
    `stopped_run.begin`: the files are in the end those of a run without a stop. Raises UsageError when `out`
    already holds other predictions or another process writes it, and OSError when it cannot be written.
    """
    with owned(out):
        kept = stopped_run.begin(out, identity, resume=resume)
        rows = inspect(detector, inputs, out, overlays=overlays, kept=kept)
        counts = write_predictions(rows, detector, out, on_row)
        stopped_run.end(out)
    return counts


def write_predictions(
    rows: Generator[dict[str, Any], None, None],
    detector: Detector,
    out: Path,
    on_row: Callable[[dict[str, Any]], None],
) -> PredictionCounts:
    """Write predictions.jsonl, predictions.csv and summary.json of rows, and close them. Raises OSError."""
    scored = anomalous = review = 0
    errors: list[str] = []
    with (
        closing(rows),  # a traceback keeps them, and their threads, after an error
        (out / ROWS_NAME).open("w", encoding="utf-8") as lines,
        # surrogateescape: a file name that is not UTF-8 is written as the bytes it is
        (out / "predictions.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        writer = TableWriter(table, columns_of(detector))
        for row in rows:
            _write_row(row, lines, writer, table)
            scored += row["error"] is None
            anomalous += row["anomalous"] is True
            review += row["decision"] == "review"
            errors += [row["error"]] if row["error"] else []
            on_row(row)
    counts = PredictionCounts(
        scored=scored,
        anomalous=anomalous,
        failed=len(errors),
        errors=errors[:MAX_ERRORS_KEPT],
        review=review,
    )
    write_summary(out, asdict(counts) | Promise.fields_of(Promise.of_each(detector)))
    return counts


def columns_of(detector: Detector) -> tuple[str, ...]:
    """Return the columns of predictions.csv; with the product where the model has several."""
    return (*COLUMNS, "product") if has_products(detector) else COLUMNS


def has_products(detector: Detector) -> bool:
    """Whether rows say which product a part is."""
    return bool(detector.model_file.products) or detector.model_file.product is not None


def write_summary(out: Path, content: dict[str, Any]) -> None:
    """Write summary.json: counts, and the false-alarm rate in force with the images that carry it."""
    write_whole(out / SUMMARY_NAME, json.dumps(content, indent=2) + "\n")


def _write_row(row: dict[str, Any], lines: IO[str], writer: TableWriter, table: IO[str]) -> None:
    lines.write(json.dumps(row) + "\n")
    writer.write(row | {f"n_{name}": len(row[name]) for name in LISTS})
    lines.flush()
    table.flush()


def inspect(
    detector: Detector,
    inputs: Iterable[tuple[Path | Frame, Path]],
    out: Path,
    *,
    overlays: OverlayFormat | None = "png",
    kept: deque[dict[str, Any]] | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Score (file, its place below `out`) in order and yield their rows, each when its pictures are on disk.

    `overlays` is the format of overlays; None: no pictures. A few are written at a time. `kept` are rows of a
    stopped run, which are taken from it. Raises OSError when `out` cannot be written.
    """
    inputs = yield from keep_batches(kept or deque(), inputs, detector.batch_size)
    pending: deque[_PendingInput] = deque()
    limit, ending = name_limit(out), _ENDINGS.get(overlays) if overlays else None
    waiting: deque[tuple[dict[str, Any], Future | None, int]] = deque()
    scorer = detector if ending else replace(detector, maps=False)
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
        for result in scorer.predict_many(_observe_inputs(inputs, pending, ending)):
            one = pending.popleft()
            row = row_of(one.path, result)
            if has_products(detector):
                own = detector.of(one.path).model_file.product
                row["product"] = own and own.name
            if isinstance(result, ImageError) or ending is None:
                waiting.append((row, None, 0))
            else:
                row |= _picture_names(one.place, limit, ending)
                pictures = pool.submit(_write_pictures, detector, one, row, result, out)
                waiting.append((row, pictures, result.anomaly_map.size))
            del result  # the map of a large image is large
            while waiting and (exceeds_waiting_limit([w[2] for w in waiting]) or waiting[0][1] is None):
                yield _wait_for_pictures(*waiting.popleft()[:2])
        while waiting:
            yield _wait_for_pictures(*waiting.popleft()[:2])


@dataclass(frozen=True)
class _PendingInput:
    """An input that is being scored: its name, the place of its pictures, and its previews."""

    path: str
    place: Path
    previews: Previews


def _observe_inputs(
    inputs: Iterable[tuple[Path | Frame, Path]], pending: deque[_PendingInput], ending: str | None
) -> Iterator[Observed]:
    """Yield each input for scoring, and append to `pending` what is needed once it is scored."""
    sides = () if ending is None else (OVERLAY_SIDE,)
    for path, place in inputs:
        pending.append(_PendingInput(str(path), place, Previews(*sides)))
        yield Observed(source=path, observe=pending[-1].previews.observe)


def _pictures(ending: str) -> dict[str, tuple[str, str]]:
    """Return the pictures of an input by their field: the folder that they go to, and how names end."""
    return {"map": ("maps", ".tiff"), "overlay": ("overlays", ending)}


def _picture_names(place: Path, limit: int, ending: str) -> dict[str, str]:
    """Return where the pictures of an input go, relative to the output folder: at the input's own place.

    A name that has more than `limit` bytes with its ending is shortened (`files.fit_name`).
    """
    folder = Path(*(fit_name(part, "", limit) for part in place.parent.parts))
    return {
        field: (Path(kind) / folder / fit_name(place.name, ending, limit)).as_posix()
        for field, (kind, ending) in _pictures(ending).items()
    }


def _plain_names(place: Path, ending: str) -> dict[str, str]:
    """Return names for pictures that every file system takes: letters and digits, and a hash of the place."""
    mark = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", place.name)[:60].strip("-")
    return {field: f"{kind}/{stem}~{mark}{ending}" for field, (kind, ending) in _pictures(ending).items()}


def exceeds_waiting_limit(pixels: Sequence[int]) -> bool:
    """Tell whether images of these pixel counts are too many to hold until their pictures are written."""
    return len(pixels) > _IN_FLIGHT or sum(pixels) > _PIXELS_IN_FLIGHT


def _wait_for_pictures(row: dict[str, Any], pictures: Future | None) -> dict[str, Any]:
    if pictures is not None:
        pictures.result()  # a full disk stops the run here
    return row


def row_of(path: str, result: Prediction | ImageError) -> dict[str, Any]:
    """Make the row of an input from its prediction or error, without the paths of pictures."""
    if isinstance(result, ImageError):
        return asdict(ResultRow(path=path, score=None, error=str(result)))
    return asdict(ResultRow(**result.shared_fields(), decision=result.decision)) | {"path": path}


def _write_pictures(
    detector: Detector, one: _PendingInput, row: dict[str, Any], prediction: Prediction, out: Path
) -> None:
    try:
        _write_both(detector, one.previews, row, prediction, out)
    except OSError as error:
        if error.errno not in _NAME_REFUSED:
            raise
        # an odd name is no reason to leave an input, or the rest, without a row
        row |= _plain_names(one.place, Path(row["overlay"]).suffix)
        _write_both(detector, one.previews, row, prediction, out)


def _write_both(
    detector: Detector, previews: Previews, row: dict[str, Any], prediction: Prediction, out: Path
) -> None:
    write_overlay(detector, previews.by_side[OVERLAY_SIDE], prediction, out / row["overlay"])
    draw.write_map(out / row["map"], prediction.anomaly_map)


def write_overlay(
    detector: Detector, image: np.ndarray | Preview, prediction: Prediction, target: Path
) -> None:
    """Draw an image (H, W, C), or its preview, with its heat map.

    When the model is calibrated the regions that count have contours.
    """
    detector = detector.of(prediction.path)
    low, high = detector.model_file.display_range
    level, counting = detector.pixel_threshold, detector.counting_of(prediction.path)
    heat = draw.Heat(
        map_hw=prediction.anomaly_map,
        low=low,
        high=high,
        contour_level=level,
        outlined=None if level is None else counting.outlined(prediction.anomaly_map, level),
        inside=counting.inside(prediction.anomaly_map.shape),
    )
    draw.write_overlay(target, image, heat)
