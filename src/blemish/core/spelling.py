"""Names that look the same and are not: they differ in their Unicode form.

An accented letter is one code point (NFC, as most keyboards and programs write) or two (NFD, as macOS and
some NAS systems store). To Linux these are two names.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from pathlib import Path


class Spellings:
    """Finds files by names of the same letters; each folder is listed once, so make one for each use."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def same(self, path: Path) -> Path | None:
        """Return what lies at a path, or at one whose names are the same letters in another Unicode form.

        None: there is nothing, or more than one, which is not ours to choose from.
        """
        if os.path.lexists(path):
            return path
        if path.parent == path:
            return None
        folder = self.same(path.parent)
        if folder is None:
            return None
        if os.path.lexists(folder / path.name):
            return folder / path.name
        names = [n for n in self._names(folder).get(loose(path.name), []) if nfc(n) == nfc(path.name)]
        return folder / names[0] if len(names) == 1 else None

    def near(self, path: Path) -> list[str]:
        """Return the names beside a path that differ from its own in form, case, width or blanks alone."""
        folder = self.same(path.parent)
        return [] if folder is None else sorted(self._names(folder).get(loose(path.name), []))

    def _names(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listed:
            found = defaultdict(list)
            try:
                for name in os.listdir(folder):  # noqa: PTH208
                    found[loose(name)].append(name)
            except OSError:  # no folder, or one that may not be listed
                pass
            self._listed[folder] = found
        return self._listed[folder]


def nfc(text: str) -> str:
    """Return a text with its letters composed (Unicode's form NFC)."""
    return unicodedata.normalize("NFC", text)


def loose(text: str) -> str:
    """Return what a text has in common with those that a person may take it for: no case, width or blanks."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
