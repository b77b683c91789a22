"""The charts of the report, as SVG that follows the page's light and dark colours."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from blemish.core.errors import DataError
from blemish.core.types import GOOD
from blemish.report.html import format_area

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from blemish.report.content import ReportCurve, ReportImage, ReportOverlap

# matplotlib writes fixed colours, the page needs variables that change with the scheme: each chart is
# drawn in these stand-ins, which nothing else uses, and they are replaced in the SVG text.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SOUND, DEFECT, THIRD = "#040404", "#050505", "#060606"
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    SOUND: "var(--sound)",
    DEFECT: "var(--defect)",
    THIRD: "var(--third)",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "blemish",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 2,
}
RESOLUTION = 400
"""A curve is thinned to steps of 1 / `RESOLUTION`. Our choice: finer than the pixels it is drawn with."""


RATE_TICKS = (1e-6, 1e-4, 1e-2, 1.0)
"""Rates that the axis of `per_image` names."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart for the page: `svg` is trusted markup, or None if there is nothing to draw."""

    title: str
    alt: str
    svg: str | None
    note: str


def draw(
    evaluation: Mapping[str, Any],
    images: list[ReportImage],
    curves: list[ReportCurve],
    training_log: Path | None,
) -> list[Chart]:
    """Draw the ROC curves, the histogram of the scores and the training losses.

    Raises `DataError` for a training log that cannot be read.
    """
    losses = {} if training_log is None else read_log(training_log)
    fpr, tpr = evaluation["false_alarm_rate"], evaluation["detection_rate"]
    good = sum(image.label == GOOD for image in images)
    bad = len(images) - good
    areas = ", ".join(f"{curve.name} {format_area(curve.area)}" for curve in curves)
    left = "Defects found against false alarms, over all thresholds. Up and to the left is better."
    apart = "The less the two overlap, the better. Right of the threshold, a part is rejected."
    falls = "Loss per epoch, lower is better."
    with style.context(["default", STYLE]):
        roc_svg = to_svg(roc(curves, fpr=fpr, tpr=tpr), "roc") if curves else None
        scores_svg = to_svg(histogram(images, evaluation["threshold"]), "scores") if images else None
        training_svg = to_svg(training(losses), "training") if losses else None
    return [
        _chart("ROC curves", f"ROC curves and their areas: {areas}", roc_svg, left, "No curves to draw."),
        _chart(
            "Scores", f"Scores of {good} good and {bad} defective images", scores_svg, apart, "No images."
        ),
        _chart(
            "Training", "Loss over the epochs of training", training_svg, falls, "No training log to draw."
        ),
    ]


def draw_overlap(overlap: ReportOverlap) -> Chart:
    """Draw the overlap per image, from which AUPIMO comes."""
    with style.context(["default", STYLE]):
        svg = to_svg(per_image(overlap), "overlap")
    low, high = (as_percent(rate) for rate in overlap.rates)
    return Chart(
        title="Overlap per image",
        alt=f"Overlap of {len(overlap.areas)} defective images over the share of false pixels on good images",
        svg=svg,
        note="One line for each defective image: the share of its defective pixels above a threshold, "
        "against the share of pixels of good images above it. AUPIMO is the mean height in the shaded band, "
        f"from {low} to {high}. A line at the bottom of the band is a defect whose place is not seen.",
    )


def _chart(title: str, alt: str, svg: str | None, note: str, otherwise: str) -> Chart:
    return Chart(title=title, alt=alt, svg=svg, note=otherwise if svg is None else note)


def to_svg(figure: Figure, name: str) -> str:
    """Render as an `<svg>` element: colours by CSS variable, ids unique on a page with several charts."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub("|".join(VARIABLES), lambda match: VARIABLES[match[0]], text)


def roc(curves: list[ReportCurve], *, fpr: float | None, tpr: float | None) -> Figure:
    """Draw the curves, and the point (`fpr`, `tpr`) that the threshold stands for if both are known."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2, linestyle=(0, (4, 3)))
    looks = ((SOUND, "-"), (DEFECT, "--"), (THIRD, "-."))
    for i, curve in enumerate(curves):
        colour, line = looks[i % len(looks)]
        keep = thin(curve.fpr, curve.tpr)
        label = f"{curve.name} {format_area(curve.area)}"
        axes.plot(curve.fpr[keep], curve.tpr[keep], color=colour, linestyle=line, label=label, clip_on=False)
    if fpr is not None and tpr is not None:
        axes.plot([fpr], [tpr], "o", color=INK, markersize=7, label="at the threshold", clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false-positive rate", ylabel="true-positive rate or overlap")
    axes.legend(loc="lower right")
    return figure


def per_image(overlap: ReportOverlap) -> Figure:
    """Draw a line for each defective image, their mean, and the band whose mean height is AUPIMO."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(*overlap.rates, color=GRID, linewidth=0)
    axes.plot(overlap.fpr, overlap.overlaps.T, color=DEFECT, linewidth=0.8, alpha=0.35)
    label = f"mean, AUPIMO {format_area(float(overlap.areas.mean()))}"
    axes.plot(overlap.fpr, overlap.overlaps.mean(axis=0), color=INK, label=label)
    axes.set(xscale="log", xlim=(overlap.fpr[0], overlap.fpr[-1]), ylim=(0, 1))
    axes.set_xticks(RATE_TICKS, [as_percent(rate) for rate in RATE_TICKS])
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel="false pixels on good images", ylabel="overlap of one image")
    axes.legend(loc="lower right")
    return figure


def as_percent(rate: float) -> str:
    """Write a rate in [0, 1] as people read it: 1e-05 is 0.001 %."""
    return f"{100 * rate:.10f}".rstrip("0").rstrip(".") + " %"


def thin(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Choose indices of a curve (N,), ends included; a left-out point is within a step of a kept one.

    Pixel curves have a point per pixel. Our choice: equal steps along the path, so that neither the steep
    nor the flat part is starved; at most 2 `RESOLUTION` + 2 points of a monotone curve in [0, 1] are left.
    """
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    _, first = np.unique(np.floor(length * RESOLUTION), return_index=True)
    return np.union1d(first, [len(x) - 1])


def histogram(images: list[ReportImage], threshold: float | None) -> Figure:
    """Draw how many good and how many defective images have which score."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if threshold is not None and not math.isfinite(threshold):
        threshold = None
    edges = bin_edges(np.array([image.score for image in images]), threshold)
    for name, colour, is_good in (("good", SOUND, True), ("defective", DEFECT, False)):
        scores = [image.score for image in images if (image.label == GOOD) == is_good]
        if scores:
            counts = np.histogram(scores, edges)[0]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.45, linewidth=0)
            axes.stairs(counts, edges, color=colour, linewidth=1.4, label=f"{name} ({len(scores)})")
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.5, linestyle=(0, (4, 2)), label="threshold")
    axes.set(xlabel="image score", ylabel="images", xlim=(edges[0], edges[-1]))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper right")
    return figure


def bin_edges(scores: np.ndarray, threshold: float | None, *, n: int = 36) -> np.ndarray:
    """Cut the range of the scores (N,) into about `n` bins, none of them on both sides of the threshold."""
    ends = scores if threshold is None else np.append(scores, threshold)
    low, high = float(ends.min()), float(ends.max())
    width = (high - low) / n or abs(low) / n or 1.0
    # A score equal to the threshold is accepted, so it belongs to the bin on the left.
    origin = low if threshold is None else float(np.nextafter(threshold, np.inf))
    # One bin more on either side: room to breathe, and no score is lost to rounding.
    first, last = math.floor((low - origin) / width) - 1, math.ceil((high - origin) / width) + 1
    return origin + width * np.arange(first, last + 1)


def read_log(path: Path) -> dict[str, dict[str, list[float]]]:
    """Read the columns to be drawn, by the member that they are of; "" where the log names no members.

    An empty cell is NaN. Raises DataError for what is no training log.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: {error}; a training log must be readable; give None to go without"
        ) from error
    for name in ("epoch", "train_loss"):
        if name not in names:
            raise DataError(f"{path}: no column {name}; a training log has one; give None to go without")
    drawn = [name for name in ("epoch", "train_loss", "validation_loss") if name in names]
    found: dict[str, dict[str, list[float]]] = {}
    try:
        for row in rows:
            columns = found.setdefault(row.get("member") or "", {name: [] for name in drawn})
            for name in drawn:
                columns[name].append(float(row[name] or "nan"))
    except ValueError as error:
        raise DataError(f"{path}: {error}; losses must be numbers; give None to go without") from error
    return found


def training(logs: Mapping[str, Mapping[str, list[float]]]) -> Figure:
    """Draw what `read_log` read: losses per epoch, on a logarithmic axis if they span more than a decade."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    kinds = (("train_loss", "training"), ("validation_loss", "validation"))
    lines = [
        (f"{member}, {label}" if member else label, log["epoch"], log[key])
        for member, log in logs.items()
        for key, label in kinds
        if key in log and np.isfinite(log[key]).any()
    ]
    looks = [(colour, line) for line in ("-", "--", ":") for colour in (SOUND, DEFECT, THIRD)]
    for i, (label, epochs, values) in enumerate(lines):
        colour, line = looks[i % len(looks)]
        marker = "." if len(epochs) <= 40 else ""
        axes.plot(epochs, values, color=colour, linestyle=line, label=label, marker=marker, markersize=6)
    finite = np.array([value for _, _, values in lines for value in values if math.isfinite(value)])
    if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right")
    return figure
