"""An attempt at a job by a worker, on any machine of a cluster.

It works in a folder of its own beside the job's, `.<name>.<attempt>`, so that two attempts never meet, also
when the first was only believed to be lost. It begins with the newest checkpoint that another attempt, or an
interrupted run in the job's own folder, has left.
"""

from __future__ import annotations

import glob
import shutil
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from blemish.core.files import temporary_for
from blemish.evaluation.jobs import OUTPUT_NAME, run_module, thread_variables
from blemish.evaluation.software import Code, software
from blemish.inference.model_file import MODEL_NAME

SHARED_DISK_RULE = "--out must lie on a file system that all machines of the cluster share"


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """What a worker is told: the job's folder and commands, with absolute paths, and what they need.

    `software` is what the driver has of the `code` that the job runs, and of the libraries.
    """

    folder: Path
    commands: list[list[str]]
    code: Code
    software: dict[str, Any]
    threads: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The result of an attempt: the name of its folder (None: there is none), its seconds, or its error."""

    folder: str | None = None
    seconds: float = 0.0
    error: str | None = None


def run_attempt(order: JobOrder) -> Attempt:
    """Work at a job in a new folder, beginning with what other attempts have left."""
    refusal = _software_difference(order)
    if refusal is not None:
        return Attempt(error=refusal)
    folder = order.folder.with_name(f".{order.folder.name}.{uuid4().hex[:8]}")
    try:
        folder.mkdir()
    except OSError as error:
        return Attempt(error=f"{socket.gethostname()}: {folder.parent}: {error.strerror}; {SHARED_DISK_RULE}")
    with suppress(OSError):  # it is being removed, or its machine is gone: then from the beginning
        _copy_progress(order.folder, folder)
    variables = thread_variables(order.threads) | ({} if order.gpus else {"CUDA_VISIBLE_DEVICES": ""})
    began = time.monotonic()
    for words in order.commands:
        command = [str(folder) if word == str(order.folder) else word for word in words]
        error = run_module(command, folder / OUTPUT_NAME, variables, threading.Event())
        if error is not None:
            return Attempt(folder=folder.name, error=error)
    return Attempt(folder=folder.name, seconds=time.monotonic() - began)


def _software_difference(order: JobOrder) -> str | None:
    """Return how this machine's software differs from the driver's, in one line; None: it does not."""
    ours, wanted, host = software(order.code), order.software, socket.gethostname()
    if ours["code"] != wanted["code"]:
        return f"{host}: its blemish differs from the driver's; install the same version on all machines"
    for name, version in wanted["libraries"].items():
        if ours["libraries"][name] != version:
            found = ours["libraries"][name]
            versions = f"has {name} {found}, and the driver {version}"
            return f"{host}: {versions}; install the same version on all machines"
    return None


def find_attempts(folder: Path) -> list[Path]:
    """Find the folders of attempts at the job whose folder this is."""
    return list(folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}"))


def _copy_progress(folder: Path, mine: Path) -> None:
    """Copy the finished model of another attempt, or else the newest checkpoint.

    Both are written whole or not at all, and what was trained depends on nothing but the job: so whoever it
    is from, and whether or not that one goes on, `--resume` ends with the same weights.
    """
    others = [other for other in (folder, *find_attempts(folder)) if other != mine]
    for names in (("run.json", "log.csv", MODEL_NAME), ("checkpoint/state.pt",)):
        found = [other for other in others if (other / names[-1]).exists()]
        if found:
            furthest = max(found, key=lambda other: (other / names[-1]).stat().st_mtime)
            for name in names:
                if (furthest / name).exists():
                    _copy(furthest / name, mine / name)
            return


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with temporary_for(target) as part:
        shutil.copy2(source, part)  # with its time, which says how far it is
