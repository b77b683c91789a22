"""Processes of blemish that start at once: forked from one that has imported what they need.

Each is a process of its own, with an environment, standard streams, signals and an exit code as any other;
only its imports are not done again. Where the start itself is looked at (an entry point, a launcher, what is
imported), `subprocess` is the way.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, Listener
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import pytest

IMPORTED = (
    *("blemish.training.fit", "accelerate", "blemish.evaluation.evaluate", "blemish.inference.onnx_backend"),
    *("blemish.inference.torch_backend", "blemish.cli.commands.bench", "blemish.cli.commands.predict"),
    *("blemish.cli.commands.train", "blemish.cli.commands.serve", "blemish.cli.commands.watch"),
    *("blemish.station.app", "uvicorn", "uvicorn.protocols.http.auto", "uvicorn.loops.auto", "scipy.ndimage"),
    *("blemish.station.connections", "blemish.station.notifications", "blemish.station.plc"),
    *("blemish.station.rollout", "alembic.command", "sqlite3", "uvicorn.lifespan.on"),
    *("blemish.cli.main", "anyio._backends._asyncio", "onnxruntime", "tifffile", "imagecodecs._png"),
    *("imagecodecs._imcd", "rich.progress", "pytest"),
)
"""What they need; a module that is not installed is left out, and its tests are skipped."""
OF_A_CLUSTER = ("ray", "pyarrow.parquet", "blemish.cluster.predict", "blemish.cluster.jobs")
"""What those need that ask a cluster, who add it (`also`)."""
OF_AN_EVALUATION = ("blemish.report.charts", "jinja2")
"""What an evaluation imports as well, for its report."""
OF_SEVERAL_PROCESSES = ("torch._dynamo", "torch.distributed.run")
"""What a training by several processes, and their launcher, import as well."""
_context = multiprocessing.get_context("forkserver")
_popen = subprocess.Popen


_more: list[str] = []


def also(modules: tuple[str, ...]) -> None:
    """Have these imported as well, unless a process has been started: then each does it by itself."""
    _more.extend(modules)


@functools.cache
def _prepare() -> None:
    """Have processes come from one that has imported all of it, and computes with one thread."""
    _context.set_forkserver_preload([*IMPORTED, *_more])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()


def blemish(*arguments: str | Path) -> int:
    """Run `blemish ARGUMENTS`."""
    from blemish.cli.main import main

    return main([str(argument) for argument in arguments])


def module(name: str, *arguments: str) -> int:
    """Run `python -m NAME ARGUMENTS`."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


def script(path: Path) -> int:
    """Run `python PATH`."""
    sys.argv = [str(path)]
    runpy.run_path(str(path), run_name="__main__")
    return 0


def forked(
    command: list[str], *, stdout: IO[Any] | int, env: Mapping[str, str] | None = None, **how: Any
) -> Warm | subprocess.Popen[Any]:
    """Start `python -m …` in the place of `subprocess.Popen`; all of its output goes to one file.

    What is read through pipes is started as it always is.
    """
    if isinstance(stdout, int):
        return _popen(command, stdout=stdout, env=env, **how)
    python, m, name, *arguments = command
    assert (python, m) == (sys.executable, "-m")
    return Warm(module, name, *arguments, out=Path(stdout.name), env=env)


def _begin(
    main: Callable[..., int],
    arguments: tuple[Any, ...],
    env: dict[str, str],
    folder: Path,
    streams: tuple[Path, Path],
) -> None:
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # it is where this environment says
    os.chdir(folder)
    for number, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["blemish", *map(str, arguments)]
    try:
        sys.exit(main(*arguments))
    finally:
        atexit._run_exitfuncs()


class Warm:
    """`main(*arguments)` in a process of its own; the rest is as of `subprocess.Popen`."""

    def __init__(
        self,
        main: Callable[..., int],
        *arguments: Any,
        out: Path,
        err: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; what it writes is appended to `out`, and errors to `err`, if that is another file."""
        _prepare()
        self.out, self.err = out, err or out
        given = (main, arguments, dict(env or os.environ), Path.cwd(), (self.out, self.err))
        self._process: BaseProcess = _context.Process(target=_begin, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it has ended; return what it has written."""
        self.wait(timeout)
        return self.out.read_text(), self.err.read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# --- for processes of other programs, as those of a cluster's nodes ---

ASKING = """
import os, sys
from multiprocessing.connection import Client
with Client(sys.argv[1]) as asked:
    asked.send((sys.argv[2:], dict(os.environ), os.readlink("/proc/self/fd/1")))
    sys.exit(asked.recv())
"""
"""A module for them: `python -m … ADDRESS NAME ARGUMENTS` ends as `python -m NAME ARGUMENTS` would."""


@contextmanager
def asked(address: Path) -> Iterator[None]:
    """Start, within, what is asked for at a socket of this name; who asks no more is not waited for."""

    def answer(asking: Connection) -> None:
        with asking:
            words, env, out = asking.recv()
            process = Warm(module, *words, out=Path(out), env=env)
            while process.poll() is None and not asking.poll(0.05):
                pass
            process.terminate()
            asking.send(process.wait())

    def listen() -> None:
        while True:
            try:
                asking = listener.accept()
            except OSError:  # it is closed
                return
            threading.Thread(target=answer, args=(asking,), daemon=True).start()

    with Listener(str(address), backlog=8) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield
