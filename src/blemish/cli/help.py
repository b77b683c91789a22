"""Help as plain text: an option, what it takes, and beside it what it means, its choices and its default."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

INDENT = 26
"""The column at which descriptions begin."""


class HelpWriter:
    """Writes the help of a command; what it gets is described by `cyclopts.help.protocols.HelpFormatter`."""

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Write the line that begins with `usage:`."""
        _write(console, f"usage: {_text(console, usage)}\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Write what the command does, paragraph by paragraph."""
        for paragraph in _text(console, description).split("\n\n"):
            _write(console, textwrap.fill(paragraph, options.max_width) + "\n")

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Write a group of options, the required ones first."""
        _write(console, f"{panel.title}:")
        for entry in sorted(panel.entries, key=lambda entry: not entry.required):
            head = f"  {_head(entry)}"
            body = textwrap.wrap(_meaning(console, entry), max(options.max_width - INDENT, 20)) or [""]
            if len(head) + 2 > INDENT:
                _write(console, head)
                head = ""
            for i, line in enumerate(body):
                _write(console, f"{head if i == 0 else '':<{INDENT}}{line}")
        _write(console, "")


def _head(entry: HelpEntry) -> str:
    """Name an option, and what stands for its value."""
    value = entry.metavar or ""
    if entry.choices:
        value = value.replace("CHOICE", f"{{{','.join(entry.choices)}}}")
    if entry.positional_label:
        return value or entry.positional_label
    return f"{', '.join(entry.all_options)} {value}".rstrip()


def _meaning(console: Console, entry: HelpEntry) -> str:
    words = [*_text(console, entry.description).split()]
    if entry.required:
        words.append("(required)")
    elif entry.default:
        words += ["(default:", f"{entry.default})"]
    return " ".join(words)


def _text(console: Console, renderable: Any) -> str:
    """Return the words of what the parser would draw."""
    wide = console.options.update(width=10_000)
    return "".join(segment.text for segment in console.render(renderable, wide)).strip()


def _write(console: Console, text: str) -> None:
    print(text, file=console.file)  # the console itself would end the process where nobody reads
