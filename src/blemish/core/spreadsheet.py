"""CSV files that people open in a spreadsheet, which takes some texts for formulas and runs them.

A text that would be one gets an apostrophe in front, and what begins like such a text gets one more, so that
`text_of` finds each text again. Numbers, also those below zero, stay numbers.
"""

from __future__ import annotations

import csv
import re
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FORMULA = re.compile(r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]")
_NUMBER = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)? *", re.IGNORECASE)


def cell_of(value: Any) -> Any:
    """Return what a cell is given: a text that a spreadsheet would run with an apostrophe before it."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value) or not _FORMULA.match(value):
        return value
    return f"'{value}"


def text_of(cell: str) -> str:
    """Return the text that a cell of `cell_of` holds."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class TableWriter:
    """Writes the rows of a CSV file, each ended by a line feed, with texts as `cell_of` has them."""

    def __init__(self, file: IO[str], columns: Sequence[str]) -> None:
        """Write the header. `file` is open for text with `newline=""`."""
        # the csv module quotes what ends a row; told that both do, it quotes a carriage return in a text too
        self._writer = csv.DictWriter(_LineFeeds(file), columns, extrasaction="ignore", lineterminator="\r\n")
        self._writer.writeheader()

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row; what is no column is left out, None is empty."""
        self._writer.writerow({name: cell_of(value) for name, value in row.items()})


class _LineFeeds:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")
