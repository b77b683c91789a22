"""Reading and writing files in folders and in object stores (URLs, through fsspec), which fail at times.

A failing store says nothing about an image, so it is asked again with growing waits, and if it keeps failing
the run stops with a StoreError. A missing file is an answer, not a failure. Of a folder's errors only those
count as failures that come from a network or a broken disk (`_RETRYABLE_ERRNOS`).
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from blemish.core.errors import BlemishError, DataError, ImageError, UsageError, one_line
from blemish.core.files import remove_leftovers, temporary_for
from blemish.evaluation.jobs import failure_line

if TYPE_CHECKING:
    import pyarrow.parquet as pq

T = TypeVar("T")
MAX_TRIES = 6
"""How often a store that fails is asked in all."""
FIRST_WAIT_S = 0.5
"""Seconds before the second try at most, doubled each time; at random, but at least half of that."""
NOT_FOUND_ERRORS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
READ_AHEAD_BYTES = 4 * 2**20
"""Bytes of a request at least, when part of an object is read."""

_RETRYABLE_ERRNOS = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ENOTCONN, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE),
}
_LOCAL_SCHEMES = ("file", "local", "memory")


class StoreError(BlemishError):
    """A store does not answer, or answers with failures, however often it is asked."""


def is_url(name: str) -> bool:
    """Whether this is a URL and no path."""
    return "://" in name


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system that serves a URL, and the name that it has there.

    Raises UsageError for a scheme that nothing installed serves, or that other processes do not see.
    """
    import fsspec

    if url.split("://")[0] in _LOCAL_SCHEMES:
        raise UsageError(f"{url}: is no URL that all machines see; give a path, or a URL as s3://...")
    try:
        return fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{url}: {one_line(error)}") from error


def with_retries(action: Callable[[], T], name: str) -> T:
    """Return what `action` returns, and try again while the store that holds `name` fails.

    Raises what `action` raises if that is an answer (the file is missing, or is no image); raises StoreError
    when the store fails `MAX_TRIES` times, or denies access.
    """
    import tenacity  # of `blemish[cluster]`, whose lack is told when Ray is missed

    def can_be_retried(error: BaseException) -> bool:
        return _is_failure(error, name) and not isinstance(error, PermissionError)

    half = FIRST_WAIT_S / 2
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(can_be_retried),
        stop=tenacity.stop_after_attempt(MAX_TRIES),
        wait=tenacity.wait_exponential(half) + tenacity.wait_random_exponential(half),
        reraise=True,
    )
    try:
        return retrying(action)
    except Exception as error:  # each store has exceptions of its own
        if not _is_failure(error, name):
            raise
        text = f"{name}: its store keeps failing ({failure_line(error)}); "
        text += "when it works again, repeat the command to continue"
        raise StoreError(text) from error


def _is_failure(error: BaseException, name: str) -> bool:
    """Whether this is the store's failure, and not its answer. Ctrl-C is neither."""
    if not isinstance(error, Exception):
        return False
    cause = error.__cause__ if isinstance(error, ImageError) else error
    if cause is None or isinstance(cause, BlemishError):
        return False
    if is_url(name):
        return not isinstance(cause, NOT_FOUND_ERRORS)
    return isinstance(cause, OSError) and cause.errno in _RETRYABLE_ERRNOS


# --- a folder for results ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OutputFolder:
    """A folder or URL for results, in which a file appears whole or not at all."""

    location: str
    """Its absolute path, or URL."""

    def path_of(self, name: str) -> str:
        """Return the path or URL of a file in it."""
        return f"{self.location.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """Read a file, None: there is none. Raises StoreError."""
        full = self.path_of(name)
        try:
            return with_retries(partial(_read, full), full)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file. Raises StoreError, or OSError for a folder that cannot be written."""
        with self.temporary_for(name) as part:
            part.write_bytes(content)

    @contextmanager
    def temporary_for(self, name: str) -> Iterator[Path]:
        """Give a path to write to; when the block ends well what is there appears as the file `name`.

        Raises StoreError, or OSError for a folder that cannot be written.
        """
        full = self.path_of(name)
        if is_url(self.location):
            with TemporaryDirectory(prefix="blemish-") as folder:
                part = Path(folder) / "part"
                yield part
                system, key = file_system(full)
                with_retries(partial(system.put_file, str(part), key), full)
            return
        target = Path(full)
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_for(target, durable=True) as part:
            yield part

    def names(self) -> list[str]:
        """Return the names of what is in it; none where it is not there yet. Raises StoreError."""
        if not is_url(self.location):
            return os.listdir(self.location) if Path(self.location).is_dir() else []  # noqa: PTH208
        system, key = file_system(self.location)
        try:
            found = with_retries(partial(system.ls, key, detail=False), self.location)
        except FileNotFoundError:
            return []
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in found]

    def remove_leftovers(self) -> None:
        """Remove the temporary files of writers that were killed; call it when nobody writes any more."""
        if not is_url(self.location):
            remove_leftovers(Path(self.location))


def _read(full: str) -> bytes:
    if not is_url(full):
        return Path(full).read_bytes()
    system, key = file_system(full)
    return system.cat_file(key)


# --- Parquet ----------------------------------------------------------------------------------------------


def open_parquet(full: str) -> pq.ParquetFile:
    """Open a Parquet file, to be read piece by piece.

    Raises FileNotFoundError, StoreError, or DataError for what is no whole Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_url(full) and not Path(full).is_file():
        raise FileNotFoundError(full)
    source = io.BufferedReader(_RemoteFile(full), READ_AHEAD_BYTES) if is_url(full) else full
    try:
        return pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"{full}: is not a whole Parquet file ({one_line(error)}); write it again") from error


class _RemoteFile(io.RawIOBase):
    """An object as a file; each piece is read with retries."""

    def __init__(self, url: str) -> None:
        self.url, (self.system, self.key) = url, file_system(url)
        self.length: int = with_retries(partial(self.system.size, self.key), url)
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self.position = offset + (0, self.position, self.length)[whence]
        return self.position

    def readinto(self, buffer: Any, /) -> int:
        end = min(self.position + len(buffer), self.length)
        if end <= self.position:
            return 0
        # by their names: in s3fs a version comes before them
        read = partial(self.system.cat_file, self.key, start=self.position, end=end)
        piece = with_retries(read, self.url)
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)
