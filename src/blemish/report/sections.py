"""Content of a page that is also written as Markdown: sections of sentences and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKED = re.compile(r"([\\`*_\[\]<>|#])")
"""What Markdown would take for its own."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; each row has as many cells as `head`."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the card: a heading, sentences that are a list, and tables below them."""

    title: str
    sentences: list[str]
    tables: tuple[Table, ...] = ()

    @property
    def anchor(self) -> str:
        """What a link within the page names it by."""
        return self.title.split()[0].lower()


def markdown_of(title: str, sentence: str, sections: Sequence[Section]) -> str:
    """Write a card as Markdown. What Markdown would take for its own in names is escaped."""
    lines = [f"# {_plain(title)}", "", _plain(sentence)]
    for section in sections:
        lines += ["", f"## {_plain(section.title)}", ""]
        lines += [f"- {_plain(each)}" for each in section.sentences]
        for table in section.tables:
            rows = [table.head, ["---"] * len(table.head), *table.rows]
            lines += ["", *(f"| {' | '.join(c if c == '---' else _plain(c) for c in row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return MARKED.sub(r"\\\1", " ".join(text.split()))
