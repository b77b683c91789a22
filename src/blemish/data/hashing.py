"""SHA-256 of files, of sets of them, and of the source of this package."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def source_digest(keep: Callable[[Path], bool] = lambda _file: True) -> str:
    """SHA-256 of the source of this package, 64 hex digits: of those files that `keep` holds of."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in filter(keep, sorted(package.rglob("*.py"))):
        digest.update(f"{file.relative_to(package).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. Raises `ImageError` if the file cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error


def fingerprint(digests: Sequence[str]) -> str:
    """SHA-256 (64 hex digits) of sorted lines, such as the `file_digest`s of a set of images.

    Our choice: order and names do not matter, so a copied or renamed data set is the same one; content
    and multiplicity do.
    """
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
