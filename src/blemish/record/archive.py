"""Files by the SHA-256 of their bytes: images as they came, and maps. The same bytes are kept once.

    folder/images/ab/abcdef...    folder/maps/ab/abcdef...    folder/images/ab/abcdef....NAME

The last ones are pictures of an image, which are made of it when they are first asked for, and go with it.

A file is there whole or not at all, and on disk when `put` returns. Threads and processes that put and remove
files need no lock: a file that is put while it is being removed stays.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blemish.core.errors import DataError
from blemish.core.files import make_folder, sync_folder, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

TRIED_BYTES = 2**16
"""Size of a file that is written to see whether the disk takes one."""
Kind = Literal["image", "map"]

_FOLDERS: dict[Kind, str] = {"image": "images", "map": "maps"}
_HASH = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"([0-9a-f]{64})(?:\.[^.].*)?")
MAKERS = 64
"""Threads that may make pictures at a time, of different images."""


@dataclass(frozen=True)
class StoredFile:
    """A file of the archive: what it is, its size in bytes, and when it was last put (seconds since 1970)."""

    kind: Kind
    hash: str
    size: int
    put: float


class Archive:
    """A folder of files that are named by their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._makers = [threading.Lock() for _ in range(MAKERS)]

    def put(self, data: bytes, kind: Kind) -> str:
        """Keep some bytes and return their SHA-256, 64 hex digits. Raises OSError when the disk refuses."""
        found = hashlib.sha256(data).hexdigest()
        target = self.path(found, kind)
        try:
            os.utime(target)  # also says to whoever wants to remove it just now that it is needed
            whole = target.stat().st_size == len(data) and target.read_bytes() == data
        except FileNotFoundError:
            whole = False
        if not whole:  # a file whose bytes were changed since is mended
            self._write(target, data)
        else:
            sync_folder(target.parent)  # another thread may have renamed it, but not forced it to disk yet
        return found

    def try_to_write(self) -> None:
        """Write a file to the disk, and remove it at once. Raises OSError when the disk refuses."""
        make_folder(self.folder)
        tried = self.folder / f".{secrets.token_hex(8)}.tmp"
        try:
            write_whole(tried, bytes(TRIED_BYTES), durable=True)
        finally:
            tried.unlink(missing_ok=True)

    def path(self, hash: str, kind: Kind) -> Path:
        """Return where a file lies, whether it is there or not. Raises DataError for what is no hash."""
        if not _HASH.fullmatch(hash):
            raise DataError(f"{hash!r}: is not a SHA-256; give 64 hex digits")
        return self.folder / _FOLDERS[kind] / hash[:2] / hash

    def read(self, hash: str, kind: Kind) -> bytes:
        """Return a file's bytes.

        Raises FileNotFoundError when it is not, or no longer, there; DataError when they are not those that
        were put.
        """
        data = self.path(hash, kind).read_bytes()
        if hashlib.sha256(data).hexdigest() != hash:
            raise DataError(
                f"{kind} {hash}: the bytes on disk are no longer those that were recorded; "
                "restore the file from a backup"
            )
        return data

    def picture(self, hash: str, name: str, make: Callable[[], bytes]) -> bytes:
        """Return the picture `name` of an image; it is made once, by one thread at a time, and then kept."""
        path = self.path(hash, "image")
        kept = path.with_name(f"{hash}.{name}")
        with self._makers[int(hash[:4], 16) % MAKERS]:
            try:
                return kept.read_bytes()
            except FileNotFoundError:
                made = make()
            with suppress(OSError):  # a full disk keeps no pictures, and shows them all the same
                write_whole(kept, made)
        return made

    def delete(self, hash: str, kind: Kind, *, put_before: datetime | None = None) -> int:
        """Remove a file if it is there, and was last put before that time; returns the bytes freed."""
        target = self.path(hash, kind)
        aside = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            target.rename(aside)  # from here on, whoever puts it writes it anew
        except FileNotFoundError:
            return self._delete_pictures(target)
        about = aside.stat()
        if put_before is not None and about.st_mtime >= put_before.timestamp():
            aside.replace(target)
            return 0
        aside.unlink()
        return about.st_size + self._delete_pictures(target)

    def _delete_pictures(self, target: Path) -> int:
        """Remove the pictures of an image; returns the bytes freed."""
        freed = 0
        for picture in target.parent.glob(f"{target.name}.*"):
            freed += picture.stat().st_size
            picture.unlink(missing_ok=True)
        return freed

    def files(self) -> Iterator[StoredFile]:
        """Yield every file, in no order that means something; a picture under the hash of its image."""
        for kind in _FOLDERS:
            for entry in self._entries(kind):
                if found := _NAME.fullmatch(entry.name):
                    about = entry.stat()
                    yield StoredFile(kind, found[1], about.st_size, about.st_mtime)

    def remove_leftovers(self, before: datetime) -> None:
        """Remove the unfinished files of writers that were killed before that time."""
        for kind in _FOLDERS:
            for entry in self._entries(kind):
                if entry.name.endswith(".tmp") and entry.stat().st_mtime < before.timestamp():
                    Path(entry.path).unlink(missing_ok=True)

    def _entries(self, kind: Kind) -> Iterator[os.DirEntry[str]]:
        top = self.folder / _FOLDERS[kind]
        for folder in sorted(top.iterdir()) if top.is_dir() else ():
            with os.scandir(folder) as entries:
                yield from list(entries)

    def _write(self, target: Path, data: bytes) -> None:
        make_folder(target.parent)
        write_whole(target, data, durable=True)
