"""The one writer of whole files: a reader finds the old content or the new, never a part of either.

The bytes go into a temporary file in the same folder, whose name no other call has, and a rename puts it in
place. `durable` also forces the file and its folder to disk, so that it outlasts a power cut: for what is
promised once it is answered. `mode` is the file's permissions, which hold from its first byte on. Leftovers
of killed processes end in `.tmp` and begin with a dot.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_BYTES = 255
"""Bytes of a file's name at most, where the file system does not say."""


@contextmanager
def temporary_for(path: Path, *, durable: bool = False, mode: int | None = None) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of `path` when the block ends well.

    When it does not, the temporary file is removed and `path` stays as it was. With a `mode` the file is
    there already, empty, with these permissions. Raises OSError where the folder cannot be written.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        if mode is not None:
            part.touch(mode, exist_ok=False)
        yield part
        if durable:
            _sync(part, os.O_RDWR)
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):  # where it could not be made it cannot be removed either
            part.unlink()
        if isinstance(error, OSError) and error.filename == str(part):  # nobody has asked for that name
            error.filename = str(path)
        raise
    if durable:
        sync_folder(path.parent)


def write_whole(path: Path, content: str | bytes, *, durable: bool = False, mode: int | None = None) -> None:
    """Write a file at once: bytes as they are, text as UTF-8 (what is not, as from file names, escaped)."""
    data = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    with temporary_for(path, mode=mode) as part, part.open("wb") as file:
        file.write(data)
        if durable:  # here, as the file need not be opened again for it
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync_folder(path.parent)


def name_limit(folder: Path) -> int:
    """Return how many bytes a file's name may have in a folder that is there: 255 almost everywhere."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has no such call, some file systems no answer
        return NAME_BYTES


def fit_name(stem: str, ending: str, limit: int = NAME_BYTES) -> str:
    """Return stem + ending, in `limit` bytes at most.

    What is too long is cut at a whole character, and a hash of the stem takes the place of what is cut, so
    that two names stay two.
    """
    name = stem + ending
    if len(os.fsencode(name)) <= limit:
        return name
    mark = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]}{ending}"
    kept, room = "", limit - len(os.fsencode(mark))
    for character in stem:
        room -= len(os.fsencode(character))
        if room < 0:
            break
        kept += character
    return kept + mark


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and force their entries to disk; one that is there stays as it is."""
    if folder.is_dir():
        return
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def make_private_folder(folder: Path, *, ours: bool = False) -> None:
    """Make a folder that nobody but its owner enters.

    One that is there stays as it is; where it is `ours`, other users are locked out of it, its group is not.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if ours:
            lock_others_out(folder)


def lock_others_out(path: Path) -> None:
    """Take the rights of other users, who are not of its group, to a file or folder of ours."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007 and not mode & stat.S_ISVTX:  # a folder for everybody, such as /tmp, stays one
        with suppress(PermissionError):  # it is another user's, who decides
            path.chmod(mode & ~0o007)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in a folder that nobody else writes to now."""
    for part in folder.glob(".*.tmp"):
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a new or renamed file is found after a power cut."""
    if hasattr(os, "O_DIRECTORY"):  # Windows has no such thing
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
