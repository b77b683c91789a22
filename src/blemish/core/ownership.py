"""One owner for each output folder: whoever writes into it holds a lock, and the next one is refused.

The lock is the operating system's, on a file in the folder. It ends with its owner's process, however that
ends: the file that a crash leaves locks nobody out. It belongs to the file, not to its name, so the same
folder by another path, or through a link, is the same folder. The file holds the owner's process id, for the
message alone. A file system without locks gives no such protection.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from blemish.core.errors import BlemishError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_NAME = ".lock"
SERVE_LOCK_NAME = ".serve.lock"
"""The lock of a station, of its own, as `watch` may keep its record in the same folder."""
_FAR = 2**30  # on Windows a locked byte cannot be read by others: it lies behind all that is written
_held: ContextVar[frozenset[tuple[int, int]]] = ContextVar("held", default=frozenset())


@contextmanager
def owned(
    folder: Path,
    *,
    lock: str = LOCK_NAME,
    named: str | None = None,
    option: str = "--out",
    patience_s: float = 0.0,
) -> Iterator[None]:
    """Be the only one that writes into a folder, which is made if need be, while the block runs.

    Args:
        folder: what is owned. Who owns it already, in this thread, may ask again.
        lock: the file of the lock; others than `LOCK_NAME` share the folder with its owner.
        named: what a refusal calls it; None: the folder.
        option: what a refusal tells to choose anew.
        patience_s: seconds to wait for an owner that is about to end.

    Raises UsageError, with the owner's process id, for one that has an owner; OSError for a folder that
    cannot be written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file, until = folder / lock, time.monotonic() + patience_s
    if _key(file) in _held.get():
        yield
        return
    while (opened := _take(file)) is None:
        if time.monotonic() >= until:
            owner = _owner_of(file)
            raise UsageError(
                f"{named or folder}: {owner} writes there now; wait until it ends, or choose another {option}"
            )
        time.sleep(0.05)
    key = _key(file)
    token = _held.set(_held.get() | ({key} if key else frozenset()))
    refused = False
    try:
        yield
    except BlemishError:
        refused = True
        raise
    finally:
        _held.reset(token)
        with suppress(OSError):  # on Windows an open file stays
            file.unlink()
        os.close(opened)
        if made and refused:
            with suppress(OSError):  # it stays where something is in it
                folder.rmdir()


def _take(file: Path) -> int | None:
    """Lock the file and put this process into it; None: another one has it. Raises OSError."""
    while True:
        try:
            opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            error.filename = str(file.parent)  # nobody has asked for the other name
            raise
        try:
            if not _lock(opened):
                os.close(opened)
                return None
            about = os.fstat(opened)
            if _key(file) == (about.st_dev, about.st_ino):  # its last owner may have removed it meanwhile
                with suppress(OSError):  # a full disk will be told where it is in the way
                    os.ftruncate(opened, 0)
                    os.write(opened, f"{os.getpid()} {socket.gethostname()}\n".encode())
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)


def _lock(opened: int) -> bool:
    """Lock an open file for this process; False: another one has it."""
    try:
        if sys.platform == "win32":
            os.lseek(opened, _FAR, os.SEEK_SET)
            msvcrt.locking(opened, msvcrt.LK_NBLCK, 1)
            os.lseek(opened, 0, os.SEEK_SET)
        else:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _owner_of(file: Path) -> str:
    """Say which process has locked a file, as far as it has come to say so."""
    for _ in range(20):
        with suppress(OSError, ValueError):
            number, host = file.read_text().split()
            here = host == socket.gethostname()
            if not here or _is_alive(int(number)):
                return f"process {int(number)}" + ("" if here else f" on {host}")
        time.sleep(0.005)  # it has the lock, and is about to write its number
    return "another process"


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _key(file: Path) -> tuple[int, int] | None:
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino
