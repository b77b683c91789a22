"""What of an installation a method's figures depend on: its code, and the versions of libraries.

Which files are a method's code follows from the methods, which import torch (`code_of`). What a machine has
of these files is found without it, as a worker of a cluster does.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blemish.data.hashing import file_digest, fingerprint, source_digest

PACKAGE = Path(__file__).parents[1]
FIGURES = ("core", "images", "data", "methods", "metrics", "inference", "training", "evaluation")
"""The rooms whose code can move a figure; the others show figures, or call these."""
LIBRARIES = ("torch", "numpy", "scipy", "pillow", "tifffile", "imagecodecs")


@dataclass(frozen=True, kw_only=True)
class Code:
    """The source that can move a method's figures: `FIGURES`, without what only other methods use."""

    others: frozenset[str] = frozenset()
    """Files of other methods, by their path in this package."""
    outside: tuple[str, ...] = ()
    """Modules of other packages that bring the method."""

    def fingerprint(self) -> str:
        """SHA-256 of these files as this machine has them, 64 hex digits."""
        ours = source_digest(self._counts)
        outside = [file_digest(file) for file in map(_file_of, self.outside) if file is not None]
        return fingerprint([ours, *outside]) if outside else ours

    def _counts(self, file: Path) -> bool:
        path = file.relative_to(PACKAGE)
        return path.parts[0] in FIGURES and path.as_posix() not in self.others


def software(code: Code) -> dict[str, Any]:
    """Return what this machine has of what figures depend on: the code's digest, the libraries' versions."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"code": code.fingerprint(), "libraries": libraries}


def code_of(method: str) -> Code:
    """Find which source can move a method's figures.

    A method's files are its own and what these import. Of a method that another package brings, its own file
    counts as well; of METHOD+METHOD, all members' files; of `auto`, all methods' files.
    """
    from blemish.methods.registry import METHODS, members_of

    members = members_of(method)
    names = ("auto", *(member.partition(":")[0] for member in members)) if members else (method,)
    kinds = {Path(inspect.getfile(METHODS[name])): METHODS[name] for name in names if name in METHODS}
    others = set() if method == "auto" else _files_of_methods() - _with_imports(set(kinds))
    return Code(
        others=frozenset(file.relative_to(PACKAGE).as_posix() for file in others),
        outside=tuple(kind.__module__ for file, kind in kinds.items() if not file.is_relative_to(PACKAGE)),
    )


def _file_of(module: str) -> Path | None:
    """Find the file of a module without importing it; None: this machine does not have it."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # nor its package
        return None
    return None if found is None or found.origin is None else Path(found.origin)


def _files_of_methods() -> set[Path]:
    """Find the files of single methods: all but the contract, the registry and the shared components."""
    room, shared = PACKAGE / "methods", ("__init__", "base", "config", "registry")
    files = (file for file in room.rglob("*.py") if file.stem not in shared)
    return {file for file in files if not file.is_relative_to(room / "components")}


def _with_imports(files: set[Path]) -> set[Path]:
    """Return files and those of single methods that they import, directly or not."""
    known, found, waiting = _files_of_methods(), set(files), list(files)
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_bytes())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("blemish.methods."):
                continue
            place = PACKAGE.joinpath(*str(node.module).split(".")[1:])
            named = {place.with_suffix(".py"), *(place / f"{name.name}.py" for name in node.names)}
            new = (named & known) - found
            found |= new
            waiting += new
    return found
