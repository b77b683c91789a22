"""Cells of a benchmark, and trainings, on a cluster: each is a task of Ray.

A task is an attempt at a job, in a folder of its own (`blemish.cluster.attempts`). When its worker is lost,
Ray begins another elsewhere. Only here, where they are waited for, is an attempt put in the job's place, by
renaming its folder, once: what an attempt that was given up may yet write, nobody reads.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cluster.attempts import SHARED_DISK_RULE, Attempt, JobOrder, find_attempts, run_attempt
from blemish.cluster.session import MAX_RETRIES
from blemish.core.errors import UsageError
from blemish.core.files import write_whole
from blemish.core.ownership import LOCK_NAME
from blemish.evaluation import benchmark
from blemish.evaluation.jobs import OUTPUT_NAME, failure_line, run_jobs
from blemish.evaluation.software import code_of, software
from blemish.inference.model_file import MODEL_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.evaluation.jobs import Job, Progress

RUN_FILES = {
    *("anomalib", "checkpoint", "evaluation", "log.csv", "run.json"),
    *(MODEL_NAME, OUTPUT_NAME, benchmark.CELL_NAME),
}
"""The files of a run folder, beside temporary ones; nothing else is ever removed."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model of one category.

    `data` is the category's folder, `folder` where the run lies, `options` the other options of
    `blemish train`, `software` what every machine must have.
    """

    category: str
    data: Path
    folder: Path
    method: str
    options: tuple[str, ...]
    software: dict[str, Any]

    @property
    def name(self) -> str:
        """Name it by its category."""
        return self.category

    @property
    def cost_key(self) -> tuple[str, str]:
        """Return what decides how long it takes."""
        return self.method, self.category

    def absolute(self) -> Training:
        """Return the training with absolute paths."""
        return replace(self, data=self.data.absolute(), folder=self.folder.absolute())

    def commands(self) -> list[list[str]]:
        """Return the command line that makes it, after `python -m`."""
        where = ["--data", str(self.data), "--out", str(self.folder)]
        return [["blemish.cli", "train", *where, *self.options, "--resume"]]

    def complete(self, folder: Path, seconds: float) -> None:
        """Leave a run folder as `blemish train` does."""
        (folder / OUTPUT_NAME).unlink()

    def result(self) -> dict[str, Any] | None:
        """Return what run.json says of the finished training, or None."""
        if not (self.folder / MODEL_NAME).exists():
            return None
        return json.loads((self.folder / "run.json").read_text())["result"]

    def summary_line(self) -> str:
        """Say how long it took."""
        return f"trained, {(self.result() or {})['seconds'] / 60:.1f} min"


def trainings(
    categories: dict[str, Path], out: Path, *, method: str, options: Sequence[str]
) -> list[Training]:
    """List a training for each category, into `out/<category>`; a slash in a name becomes a plus."""
    needed = software(code_of(method))
    return [
        Training(
            category=category,
            data=data,
            folder=out / category.replace("/", "+"),
            method=method,
            options=tuple(options),
            software=needed,
        )
        for category, data in categories.items()
    ]


def run(jobs: Sequence[Job], *, cpus: int, gpus: int, on_change: Callable[[Progress], None]) -> Progress:
    """Do the jobs that are not finished on the connected cluster, each with so many CPUs and GPUs.

    Progress, failures and interruptions are as in `benchmark.run`. Raises UsageError when no machine has so
    many.
    """
    return run_jobs(jobs, RayWorkers(cpus, gpus), on_change)


# --- the driver -------------------------------------------------------------------------------------------


class RayWorkers:
    """The workers of the connected cluster."""

    def __init__(self, cpus: int, gpus: int) -> None:
        import ray

        self.cpus, self.gpus = cpus, gpus
        if not self._room():
            wanted = f"{cpus} CPUs" + (f" and {gpus} GPUs" if gpus else "")
            raise UsageError(f"--cluster: none of its machines has {wanted} for a job; ask for fewer")
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_RETRIES, scheduling_strategy="SPREAD")
        self._begin = task(run_attempt)
        self._running: set[Any] = set()
        self._closed = False

    def capacity(self) -> int:
        """Return how many jobs fit on the machines that are there now; 1 at least: a job may wait."""
        return max(1, self._room())

    def _room(self) -> int:
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = {name: n for name, n in (("CPU", self.cpus), ("GPU", self.gpus)) if n}
        return sum(int(min(has.get(name, 0) // n for name, n in wanted.items())) for has in alive)

    def run(self, job: Job) -> str | None:
        """Have a worker do a job, and put the folder of the attempt that ends in the job's place."""
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        foreign = _foreign_file(job.folder)
        if foreign is not None:
            return f"{job.folder}: holds {foreign}, which is no part of a run; choose another --out"
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        task = self._begin.remote(self._order(job.absolute()))
        self._running.add(task)
        if self._closed:  # since the last look, before `close` could see this task
            ray.cancel(task)
        try:
            ended = ray.get(task)
        except TaskCancelledError:
            return "stopped"
        except RayTaskError as error:
            return failure_line(error.cause)
        except RayError as error:
            return f"its worker was lost, and {MAX_RETRIES} more after it: {failure_line(error)}"
        finally:
            self._running.discard(task)
        return _adopt_attempt(job, ended)

    def _order(self, job: Job) -> JobOrder:
        return JobOrder(
            folder=job.folder,
            commands=job.commands(),
            code=code_of(job.method),
            software=job.software,
            threads=self.cpus,
            gpus=self.gpus,
        )

    def close(self) -> None:
        """Cancel all tasks: they write a checkpoint and end."""
        import ray

        self._closed = True
        for task in list(self._running):
            ray.cancel(task)


def _adopt_attempt(job: Job, ended: Attempt) -> str | None:
    """Put an attempt in the job's place, done or not: its output and checkpoint are to be found there."""
    if ended.folder is None:
        return ended.error
    folder = job.folder.with_name(ended.folder)
    if not folder.is_dir():
        return f"{folder}: written by a worker, and not there; {SHARED_DISK_RULE}"
    there, here = str(folder.absolute()), str(job.folder)
    output = folder / OUTPUT_NAME
    write_whole(output, output.read_bytes().replace(os.fsencode(there), os.fsencode(here)))
    _restore_command(job, folder / "run.json")
    if ended.error is None:
        job.complete(folder, ended.seconds)
    if job.result() is None:  # or another driver was first
        _remove_run_files(job.folder)
        folder.rename(job.folder)
    if ended.error is None:
        for other in find_attempts(job.folder):
            shutil.rmtree(other, ignore_errors=True)  # it may be written to yet, by who was given up
        return None
    return ended.error.replace(there, here)


def _restore_command(job: Job, about: Path) -> None:
    """Let run.json name the command that a user would have typed, not an attempt's."""
    if about.exists():
        run = json.loads(about.read_text())
        if "command" in run:
            run["command"][1:] = job.commands()[0][1:]
            write_whole(about, json.dumps(run, indent=2) + "\n")


def _foreign_file(folder: Path) -> str | None:
    """Name something in a job's folder that no run has written, or None."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return next((name for name in names if not _is_run_file(name)), None)


def _is_run_file(name: str) -> bool:
    return name in (*RUN_FILES, LOCK_NAME) or (name.startswith(".") and name.endswith(".tmp"))


def _remove_run_files(folder: Path) -> None:
    """Remove what a run may hold; the rest, if any, keeps an attempt from being renamed to it."""
    for entry in list(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir() and _is_run_file(entry.name):
            shutil.rmtree(entry)
        elif _is_run_file(entry.name):
            entry.unlink()
