"""How `--method auto` chose, for people: a sentence, and the table of its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_ROWS = 12
"""Rows of the table at most, the best ones: all groups of nine candidates would fill the page."""


@dataclass(frozen=True, kw_only=True)
class ChoiceRow:
    """A candidate of the table: areas in [0, 1], or why there are none; `chosen` marks what was kept.

    The areas of known defects are None where none were shown, that of pixels also where none were marked.
    """

    name: str
    chosen: bool
    image_auroc: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    error: str | None
    known_image_auroc: float | None = None
    known_pixel_auroc: float | None = None


def name_of(members: list[str]) -> str:
    """Name what is one method, or several together."""
    return " + ".join(members)


def rows_of(choice: Mapping[str, Any]) -> list[ChoiceRow]:
    """Return the candidates of a choice, as choice.json has it, the best by the mean of both areas first.

    At most `MOST_ROWS`, what was chosen always among them; candidates that failed come last, all of them.
    """
    rows = [
        ChoiceRow(
            name=name_of(row["members"]),
            chosen=list(row["members"]) == list(choice["members"]),
            image_auroc=row.get("image_auroc"),
            pixel_auroc=row.get("pixel_auroc"),
            pixel_ap=row.get("pixel_ap"),
            error=row.get("error"),
            known_image_auroc=row.get("known_image_auroc"),
            known_pixel_auroc=row.get("known_pixel_auroc"),
        )
        for row in choice["candidates"]
    ]
    failed = [row for row in rows if row.pixel_auroc is None]
    ranked = sorted((row for row in rows if row.pixel_auroc is not None), key=_mean_area, reverse=True)
    best = ranked[:MOST_ROWS]
    if not any(row.chosen for row in best):
        best = [*best[:-1], *(row for row in ranked if row.chosen)]
    return best + failed


def _mean_area(row: ChoiceRow) -> float:
    """The measure of the choice, without what several methods together and known defects add to it."""
    return ((row.image_auroc or 0) + (row.pixel_auroc or 0)) / 2


def sentence_of(choice: Mapping[str, Any]) -> str | None:
    """Say in one line what was chosen and by which figures; None where nothing was to be chosen.

    Figures are image and pixel AUROC on planted defects; of the others the best by the mean of both is told.
    """
    rows = [row for row in rows_of(choice) if row.pixel_auroc is not None]
    chosen = next((row for row in rows if row.chosen), None)
    if chosen is None:
        return None
    other = next((row for row in rows if not row.chosen), None)
    beside = "" if other is None else f"; {other.name} {_areas(other)}"
    turned = "parts turned to lie alike, then " if choice.get("aligned") else ""
    return f"{turned}{chosen.name} (AUROC of planted images / pixels {_areas(chosen)}{beside})"


def _areas(row: ChoiceRow) -> str:
    return f"{row.image_auroc or 0:.3f} / {row.pixel_auroc or 0:.3f}"
