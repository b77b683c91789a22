"""The charts of the sensitivity card: share found over size, a line for each contrast, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib import style
from matplotlib.figure import Figure

from blemish.report.charts import DEFECT, INK, SOUND, STYLE, THIRD, Chart, to_svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOOKS = ((SOUND, "o", ":"), (THIRD, "s", "--"), (DEFECT, "^", "-"))
"""Colour, marker and line of each contrast, the faintest first."""
APART = 1.06
"""Lines are moved aside by this factor, so that their intervals do not cover each other."""


def draw(card: Mapping[str, Any]) -> list[Chart]:
    """Draw a chart for each kind of the card."""
    points, charts = card["points"], []
    with style.context(["default", STYLE]):
        for number, kind in enumerate(dict.fromkeys(point["kind"] for point in points)):
            own = [point for point in points if point["kind"] == kind]
            figure = found_over_size(own, card["good_rejected"] / max(1, card["good_scored"]))
            charts.append(
                Chart(
                    title=f"Planted: {kind}",
                    alt=_alt(kind, own),
                    svg=to_svg(figure, f"sensitivity-{number}"),
                    note=f"Share of planted defects ({kind}) that are rejected, with 95 % intervals.",
                )
            )
    return charts


def _alt(kind: str, points: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for p in points:
        contrast = "" if p["contrast"] is None else f" at contrast {100 * p['contrast']:g} %"
        lines.append(f"{100 * p['size']:g} %{contrast}: {p['found']} of {p['n']}")
    return f"Planted defects found ({kind}), by size: {'; '.join(lines)}"


def found_over_size(points: Sequence[Mapping[str, Any]], without: float) -> Figure:
    """Draw the points of one kind; `without` is the share of good images rejected without a defect."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    contrasts = list(dict.fromkeys(point["contrast"] for point in points))
    looks = LOOKS if len(contrasts) > 1 else LOOKS[2:]
    for i, (contrast, (colour, marker, line)) in enumerate(zip(contrasts, looks, strict=False)):
        own = [point for point in points if point["contrast"] == contrast]
        x = [100 * point["size"] * APART ** (i - (len(contrasts) - 1) / 2) for point in own]
        y = [100 * point["share"] for point in own]
        reach = [[100 * (p["share"] - p["low"]) for p in own], [100 * (p["high"] - p["share"]) for p in own]]
        label = "found" if contrast is None else f"contrast {100 * contrast:g} %"
        axes.errorbar(
            x, y, yerr=reach, color=colour, marker=marker, linestyle=line, label=label, elinewidth=1,
            capsize=2, markersize=6, clip_on=False,
        )  # fmt: skip
    axes.axhline(100 * without, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="without a defect")
    sizes = {point["size"]: point["size_px"] for point in points}
    axes.set_xscale("log")
    axes.set_xticks([100 * size for size in sizes], [f"{100 * s:g} %\n{px} px" for s, px in sizes.items()])
    axes.set_xticks([], minor=True)
    axes.set(
        ylim=(-3, 103), xlabel="size, share of the image's shorter side", ylabel="planted defects found, %"
    )
    axes.margins(x=0.08)
    figure.legend(loc="outside upper center", ncols=2, fontsize=10)
    return figure
