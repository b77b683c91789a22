"""Looking at other processes, by /proc, and where they can meet."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_held: list[socket.socket] = []


def processes_of(folder: Path) -> list[int]:
    """The processes whose command line names something below a folder, but this one."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                named = os.fsencode(folder) in (process / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            found += [int(process.name)] if named else []
    return found


def parent_of(process: int) -> int:
    """The process that started one."""
    return int((Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[1])


def free_port() -> int:
    """A port of the loopback where nobody listens; until this process ends, nobody is given it by chance."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, who may listen there then
    held.bind(("127.0.0.1", 0))
    _held.append(held)
    return held.getsockname()[1]
