"""Which part an image shows, and which view of it: by patterns for file names, or as a manifest says.

A part that several cameras see has several images. All of them go the same way: what is learnt, what
calibrates and what is tested has no part in common with the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from blemish.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blemish.core.types import Sample


@dataclass(frozen=True, kw_only=True)
class PartNames:
    r"""How the name of an image tells its part and its view: patterns with one group each.

    `part` and `view` are regular expressions, searched in the file's name; one with a `/` in it is searched
    in the whole path, with forward slashes. `(\d+)_\w+\.png` finds 17 in 17_top.png. Without `view` the
    images of a part are not told apart. Raises UsageError for a pattern of another form.
    """

    part: str
    view: str | None = None

    def __post_init__(self) -> None:
        """Refuse patterns that cannot be used."""
        for option, pattern in (("--part-pattern", self.part), ("--view-pattern", self.view)):
            if pattern is not None:
                _check(option, pattern)

    def of(self, path: str | PurePath) -> tuple[str, str | None]:
        """Return the part that an image shows and its view, None: not told. Raises DataError for neither."""
        part = _found("--part-pattern", self.part, path)
        return part, None if self.view is None else _found("--view-pattern", self.view, path)

    def name(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return the samples with their parts and views. Raises DataError, also where they have some."""
        named = []
        for sample in samples:
            if sample.part is not None:
                raise DataError(
                    f"--part-pattern {self.part}: the data set names the parts itself ({sample.path} shows "
                    f"{sample.part}); leave the pattern out"
                )
            part, view = self.of(sample.path)
            named.append(replace(sample, part=part, view=view))
        return named


def make_part_names(part: str | None, view: str | None) -> PartNames | None:
    """Make them of two options, None where none is given. Raises UsageError for a view alone."""
    if part is None and view is not None:
        raise UsageError(f"--view-pattern {view}: is for views of parts; give --part-pattern too")
    return None if part is None else PartNames(part=part, view=view)


def parts_shown(
    paths: Sequence[Path], names: PartNames | None, samples: Sequence[Sample]
) -> list[tuple[str, str | None]] | None:
    """Return the part and the view of each image, by patterns or as samples say it; None: nobody tells them.

    Raises DataError where they are told of some images only, and as `PartNames.of` and `name` do.
    """
    if names is not None:
        names.name(samples)
        return [names.of(path) for path in paths]
    given = {str(s.path): (s.part, s.view) for s in samples if s.part is not None}
    if not given:
        return None
    for path in paths:
        if str(path) not in given:
            raise DataError(f"{path}: its part is not told; tell that of all images, or of none")
    return [given[str(path)] for path in paths]


def check_parts(samples: Sequence[Sample]) -> None:
    """Refuse parts or views of some images only, and a view that a part has twice in a split.

    Raises DataError.
    """
    if all(s.part is None and s.view is None for s in samples):
        return
    with_views = any(s.view is not None for s in samples)
    seen: dict[tuple[str, str, str], Sample] = {}
    for sample in samples:
        if sample.part is None or (sample.view is None and with_views):
            what = "part" if sample.part is None else "view"
            raise DataError(f"{sample.path}: its {what} is not told; tell that of all images, or of none")
        if sample.view is None:
            continue
        other = seen.setdefault((sample.split, sample.part, sample.view), sample)
        if other is not sample:
            raise DataError(
                f"{sample.path}: part {sample.part} has the view {sample.view} already, {other.path}; "
                "name them apart (a pattern with / in it sees the folders too)"
            )


def _check(option: str, pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UsageError(f"{option} {pattern}: is no regular expression ({error}); correct it") from error
    if groups != 1:
        raise UsageError(
            f"{option} {pattern}: has {groups} groups; put round brackets around what names it, once: "
            r"(\d+)_\w+\.png"
        )


def _found(option: str, pattern: str, path: str | PurePath) -> str:
    whole = PurePath(path).as_posix()
    match = re.search(pattern, whole if "/" in pattern else PurePath(path).name)
    if match is None or not match[1]:
        raise DataError(f"{path}: {option} {pattern} does not find anything in its name; correct the pattern")
    return match[1]
