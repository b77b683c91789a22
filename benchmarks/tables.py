"""Tables in Markdown, as the benchmarks write them beside their figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a head; a row has as many cells as it, and those of a heading are empty."""
    lines = [f"| {' | '.join(cells)} |".replace("  ", " ") for cells in (header, *rows)]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines) + "\n"
