"""Running jobs side by side, here or on a cluster: what runs, what failed, and what is left.

A job is a few commands of blemish that fill a folder. `run_jobs` hands jobs to workers, as many at a time as
they have room for: processes of this machine (`Processes`), or those of a cluster (`blemish.cluster.jobs`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any, Protocol

from blemish.core.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

OUTPUT_NAME = "output.txt"
"""What a job's commands have printed."""
MAX_PARALLEL_JOBS = 1000
"""Jobs at a time at most; each has a thread here that waits for it."""
CAPACITY_CHECK_S = 5.0
"""Seconds between two questions whether the workers have more room by now."""


class Job(Protocol):
    """A piece of work that is done as a whole, in a folder of its own."""

    @property
    def name(self) -> str:
        """Which one it is, in words."""
        ...

    @property
    def cost_key(self) -> tuple[str, str]:
        """What decides how long it takes: its method, and its data."""
        ...

    @property
    def folder(self) -> Path:
        """Where its result lies."""
        ...

    @property
    def method(self) -> str:
        """The method whose code it runs."""
        ...

    @property
    def software(self) -> dict[str, Any]:
        """What a machine must have to do it, as `blemish.evaluation.software` says."""
        ...

    def absolute(self) -> Self:
        """Return the same job with paths that mean the same wherever a process stands."""
        ...

    def commands(self) -> list[list[str]]:
        """Return its command lines, after `python -m`; the folder is a word of its own in them."""
        ...

    def complete(self, folder: Path, seconds: float) -> None:
        """Turn what its commands wrote into `folder`, in so many seconds, into a finished result."""
        ...

    def result(self) -> dict[str, Any] | None:
        """Return what the finished job says, its `seconds` at least, or None."""
        ...

    def summary_line(self) -> str:
        """Return a line that says how the finished job went."""
        ...


class Workers(Protocol):
    """What does jobs."""

    def capacity(self) -> int:
        """Return how many jobs they have room for, the running ones included."""
        ...

    def run(self, job: Job) -> str | None:
        """Do a job; return when it is done, with what went wrong in one line, or None."""
        ...

    def close(self) -> None:
        """Have running jobs write a checkpoint and end; `run` then returns."""
        ...


@dataclass(kw_only=True)
class Progress:
    """Where the jobs stand. `failed` holds each failed job's name and its error, one line.

    `just_ended` says of each job that ended since the last call how it went.
    """

    total: int
    finished: int
    running: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds_left: float | None = None
    just_ended: list[str] = field(default_factory=list)


def run_jobs(jobs: Sequence[Job], workers: Workers, on_change: Callable[[Progress], None]) -> Progress:
    """Do the jobs that are not finished.

    `on_change` is called before the first, and after each. A job that fails is noted and the others go on.
    Whatever ends this, KeyboardInterrupt included, closes the workers.
    """
    waiting = [job for job in jobs if job.result() is None]
    progress = Progress(total=len(jobs), finished=len(jobs) - len(waiting))
    ended: set[Future] = set()
    with ThreadPoolExecutor(max_workers=MAX_PARALLEL_JOBS) as pool, closing(workers):
        running: dict[Future, Job] = {}
        while waiting or running:
            room = min(workers.capacity(), MAX_PARALLEL_JOBS)
            begun = [waiting.pop(0) for _ in range(min(room - len(running), len(waiting)))]
            running |= {pool.submit(_run, workers, job): job for job in begun}
            if begun or ended:
                progress.running = [job.name for job in running.values()]
                progress.seconds_left = _seconds_left(jobs, [*waiting, *running.values()], room)
                on_change(progress)
                progress.just_ended = []
            ended = wait(running, timeout=CAPACITY_CHECK_S, return_when=FIRST_COMPLETED).done
            for future in ended:
                job = running.pop(future)
                _note(progress, job, future.result())
    progress.running, progress.seconds_left = [], None
    on_change(progress)
    return progress


def _run(workers: Workers, job: Job) -> str | None:
    """Have a job done; what its folder or its files refuse is what went wrong with this job alone."""
    try:
        return workers.run(job)
    except (OSError, LookupError, ValueError) as error:
        return failure_line(error)


def failure_line(error: BaseException) -> str:
    """Say in one line what went wrong, with the error's kind: many texts alone say too little, or nothing."""
    said, kind = one_line(error), type(error).__name__
    return f"{kind}: {said}" if said else kind


def _note(progress: Progress, job: Job, error: str | None) -> None:
    if error is None:
        progress.finished += 1
    else:
        progress.failed[job.name] = error
    progress.just_ended.append(f"{job.name}: {error or job.summary_line()}")


def _seconds_left(jobs: Sequence[Job], remaining: Sequence[Job], at_a_time: int) -> float | None:
    """Estimate from finished jobs of the same kind, on the same thing if there are any."""
    finished = [(job.cost_key, result["seconds"]) for job in jobs if (result := job.result()) is not None]
    if not finished:
        return None

    def expected(job: Job) -> float:
        kind, thing = job.cost_key
        same = [(like, s) for like, s in finished if like[0] == kind] or finished
        return mean([s for like, s in same if like[1] == thing] or [s for _, s in same])

    return sum(map(expected, remaining)) / at_a_time


class Processes:
    """Processes of this machine, so many at a time; they do not outlive this one."""

    def __init__(self, at_a_time: int) -> None:
        self.at_a_time = at_a_time
        self.threads = max(1, (os.cpu_count() or 1) // at_a_time)
        self._stop = threading.Event()

    def capacity(self) -> int:
        """Return how many jobs run at a time."""
        return self.at_a_time

    def run(self, job: Job) -> str | None:
        """Do a job in its folder, going on with what lies there."""
        job.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        for command in job.commands():
            error = run_module(command, job.folder / OUTPUT_NAME, thread_variables(self.threads), self._stop)
            if error is not None:
                return error
        job.complete(job.folder, time.monotonic() - began)
        return None

    def close(self) -> None:
        """Ask all to write a checkpoint and end."""
        self._stop.set()


def thread_variables(threads: int) -> dict[str, str]:
    """Return the variables that give a process so many threads."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def run_module(
    command: list[str], output: Path, variables: Mapping[str, str], stop: threading.Event
) -> str | None:
    """Run `python -m command` until it ends or `stop` is set, appending what it prints to `output`.

    Returns what went wrong in one line, or None. It does not outlive whoever calls.
    """
    if stop.is_set():
        return "stopped"
    with output.open("a+", encoding="utf-8", errors="backslashreplace") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
            preexec_fn=_end_with_parent,
            start_new_session=True,  # Ctrl-C reaches it from here, once
        )
        try:
            while process.poll() is None and not stop.wait(0.05):
                pass
        finally:  # it is over, or has to save what it has and end
            process.terminate()
            code = process.wait()
        if code == 0:
            return None
        log.seek(start)
        lines = log.read().strip().splitlines()
    if code < 0:
        return f"killed by signal {-code}" + (": not enough memory?" if code == -signal.SIGKILL else "")
    return lines[-1] if lines else f"ended with {code}"


def _end_with_parent() -> None:
    """Have the kernel end this process by SIGTERM when its parent dies, however it does; Linux only."""
    if _PRCTL is not None:
        _PRCTL(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


_PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
