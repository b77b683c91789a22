"""What is said of parts beside their images: parts.jsonl, parts.csv, and their views side by side.

A row of a part has the decision of the part, and in `views` what is known of each of its images; the images'
own rows are where they always are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from blemish.core.errors import DataError
from blemish.core.spreadsheet import TableWriter
from blemish.images.montage import write_side_by_side
from blemish.inference.parts import PartDecision, ViewScore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from blemish.inference.parts import PartRule

ROWS_NAME, TABLE_NAME = "parts.jsonl", "parts.csv"
TAKEN = ("path", "score", "p_value", "overlay", "error")
"""What a part says of an image as the image's own row does."""
PICTURES = "parts"
"""The folder of the pictures of parts."""


@dataclass(frozen=True, kw_only=True)
class PartView:
    """One image of a part, as its own row has it; `view` is None where views are not told apart."""

    view: str | None = None
    path: str | None = None
    score: float | None = None
    p_value: float | None = None
    decision: str = "failed"
    overlay: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Named:
    part: str


@dataclass(frozen=True, kw_only=True)
class PartRow(PartDecision, _Named):
    """A row of parts.jsonl: the part's name, what is decided of it, and what is known of its views.

    Its keys are in this order, as the name's base comes last.
    """

    views: list[PartView] = field(default_factory=list)
    picture: str | None = None
    """Its views side by side, relative to the output folder."""
    error: str | None = None
    """Why nothing can be decided, in one line."""


class Ranked(Protocol):
    """What was scored, and how unusual it is."""

    @property
    def score(self) -> float | None: ...  # noqa: D102

    @property
    def p_value(self) -> float | None: ...  # noqa: D102


V = TypeVar("V", bound=Ranked)

COLUMNS = (*(each.name for each in fields(PartRow) if each.name != "views"), "n_views")
"""The columns of parts.csv."""


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """Numbers of parts: decided, anomalous, for review, incomplete, failed; the first errors."""

    parts: int = 0
    anomalous: int = 0
    review: int = 0
    incomplete: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


def part_row(part: str, rows: Sequence[tuple[str | None, Mapping[str, Any]]], rule: PartRule) -> PartRow:
    """Decide of a part by the rows of its images, each with its view."""
    views = [
        PartView(view=view, decision=row["decision"], **{name: row.get(name) for name in TAKEN})
        for view, row in sorted(rows, key=lambda each: (each[0] or "", str(each[1]["path"])))
    ]
    given = [ViewScore(view=v.view, score=v.score, p_value=v.p_value) for v in views]
    try:
        found = asdict(rule.decide(given))
    except DataError as error:
        return PartRow(part=part, decision="failed", views=views, error=f"part {part}: {error}")
    error = f"part {part}: none of its images can be used" if found["decision"] == "failed" else None
    return PartRow(part=part, views=views, error=error, **found)


def picture_names(parts: Iterable[str]) -> dict[str, str]:
    """Return where the picture of each part is, relative to the output folder: names that all systems take.

    A name of other letters, and names that differ in case alone, as `A1` and `a1`, which are one file where
    case does not count, get a mark, a hash of the part's name.
    """
    plain = {part: re.sub(r"[^A-Za-z0-9_-]+", "-", part)[:60].strip("-") for part in parts}
    twins = Counter(part.casefold() for part, name in plain.items() if name == part)
    return {
        part: f"{PICTURES}/{name}{'' if name == part and twins[part.casefold()] == 1 else _mark(part)}.png"
        for part, name in plain.items()
    }


def _mark(part: str) -> str:
    return f"~{hashlib.sha256(part.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def draw_part(row: PartRow, out: Path, name: str) -> None:
    """Write the views of a part side by side to `name` below `out`, the worst one marked. Raises OSError."""
    worst = worst_of(row.views)
    pictures = []
    for view in row.views:
        shown = view.view or Path(str(view.path)).name
        verdict = "cannot be used" if view.p_value is None else f"p {view.p_value:.3g}"
        marked = view is worst and row.decision in ("rejected", "review")
        pictures.append((f"{shown}: {verdict}", view.overlay and out / view.overlay, marked))
    pictures += [(f"{view}: missing", None, True) for view in row.missing if view not in _views(row)]
    write_side_by_side(out / name, pictures)


def worst_of(views: Iterable[V]) -> V | None:
    """Return the most unusual view; None: none has a p-value."""
    with_p = [(view.p_value, -(view.score or 0.0), view) for view in views if view.p_value is not None]
    return min(with_p, key=lambda each: each[:2])[2] if with_p else None


def _views(row: PartRow) -> set[str | None]:
    return {view.view for view in row.views}


def write_parts(
    parts: Mapping[str, Sequence[tuple[str | None, Mapping[str, Any]]]],
    rule: PartRule,
    out: Path,
    *,
    pictures: bool,
) -> PartCounts:
    """Write parts.jsonl, parts.csv and the pictures of parts, in order of their names. Raises OSError."""
    rows = [part_row(part, parts[part], rule) for part in sorted(parts)]
    names = picture_names(parts)
    with (
        (out / ROWS_NAME).open("w", encoding="utf-8") as lines,
        (out / TABLE_NAME).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = TableWriter(file, COLUMNS)
        for row in rows:
            written = asdict(row)
            if pictures:
                written["picture"] = names[row.part]
                draw_part(row, out, names[row.part])
            lines.write(json.dumps(written) + "\n")
            table.write(written | {"missing": " ".join(row.missing), "n_views": len(row.views)})
    return count_parts(rows)


def count_parts(rows: Iterable[PartRow]) -> PartCounts:
    """Count parts by what was decided of them."""
    rows = list(rows)
    errors = [row.error for row in rows if row.error is not None]
    return PartCounts(
        parts=len(rows),
        anomalous=sum(row.decision == "rejected" for row in rows),
        review=sum(row.decision == "review" for row in rows),
        incomplete=sum(bool(row.missing) for row in rows),
        failed=len(errors),
        errors=errors[:20],
    )
