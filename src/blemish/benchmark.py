"""A benchmark that anyone can rerun: methods × categories × seeds.

A cell is one method on one category with one seed: the commands `blemish train` and `blemish evaluate`, in a
process of their own. Its folder is named by a digest of all that its figures depend on: options, seed, the
data's content, the code, the libraries. So a finished cell is never done again, an interrupted one goes on
from its checkpoint, and figures of other code or data are never mixed in: they lie in other folders.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from blemish import fitting, layout, peer
from blemish.data import check_evaluable, dataset_fingerprint, open_dataset
from blemish.methods import METHODS
from blemish.page import write_whole
from blemish.types import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOOKS = {
    *("__init__", "_disc", "_report_charts", "arguments", "benchmark", "benchmark_page", "cli"),
    *("comparison", "drawing", "export", "hooks", "opening", "page", "predicting", "published", "report"),
    *("grabbing", "quantising", "runtime", "synthetic", "terminal", "video", "watching"),
}
"""Modules that only show figures, or call those that make them, as all of the station's do: a change of
theirs moves none."""

LIBRARIES = ("torch", "numpy", "scipy", "pillow", "tifffile", "imagecodecs")
CELL_NAME = "cell.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one category with one seed.

    `data` is the category's folder, `folder` where the run lies, `identity` what its figures depend on.
    """

    method: str
    preset: str
    category: str
    seed: int
    data: Path
    folder: Path
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        """Say which cell it is, in words."""
        return f"{label_of(self.method, self.preset)} on {self.category}, seed {self.seed}"

    def result(self) -> dict[str, Any] | None:
        """Return what the finished cell says, or None."""
        file = self.folder / CELL_NAME
        return json.loads(file.read_text()) if file.exists() else None


@dataclass(kw_only=True)
class Progress:
    """Where a benchmark stands. `failed` holds each failed cell's name and its error, one line.

    `latest` says how the cell went that ended last.
    """

    total: int
    finished: int
    running: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds_left: float | None = None
    latest: str | None = None


# --- planning ---------------------------------------------------------------------------------------------


def label_of(method: str, preset: str) -> str:
    """Name a method as `--methods` takes it: with the preset where it is not the default."""
    return method if preset == "default" else f"{method}:{preset}"


def categories_in(root: Path, wanted: Sequence[str] = ()) -> dict[str, Path]:
    """Find categories in MVTec layout by name: `root` itself, or folders one or two levels below it.

    With `wanted`, only those, each by its whole name or its last part. Raises DataError when there are none,
    or when one that is wanted is not there or not the only one of that name.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that holds categories in MVTec layout")
    found = {folder.relative_to(root).as_posix(): folder for folder in layout.categories_below(root)}
    if (root / "train").is_dir():
        found = {root.resolve().name: root}
    if not found:
        raise DataError(f"{root}: holds no category; one has the folders train/good and test")
    chosen = {}
    for name in wanted or found:
        hits = [name] if name in found else [full for full in found if full.rsplit("/", 1)[-1] == name]
        if len(hits) != 1:
            why = "is there more than once; give its whole name" if hits else "is not there"
            raise DataError(f"{root}: category {name} {why}; there are {', '.join(found)}")
        chosen[hits[0]] = found[hits[0]]
    return chosen


def plan(methods: Sequence[str], categories: dict[str, Path], seeds: Sequence[int], out: Path) -> list[Cell]:
    """List the cells, seeds outermost: a benchmark cut short then has whole tables of fewer seeds.

    `methods` are names, `name:preset`, or `anomalib:Model` where anomalib is installed. Raises UsageError for
    one that does not exist, DataError for a category that has nothing to train or to evaluate on.
    """
    for option, given in (("methods", methods), ("seeds", seeds)):
        if not given:
            raise UsageError(f"--{option}: name at least one")
    chosen = []
    for given in dict.fromkeys(methods):
        method, _, preset = given.partition(":")
        if method == peer.METHOD and preset:
            config = {"anomalib": peer.anomalib_version()}
        else:
            config = asdict(fitting.preset_named(method, preset or "default"))
        code = code_fingerprint(method)
        chosen.append({"method": method, "preset": preset or "default", "config": config, "code": code})
    fingerprints = {}
    for name, folder in categories.items():
        dataset = open_dataset(folder)
        check_evaluable(dataset)
        fingerprints[name] = dataset_fingerprint(dataset)
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return [
        _cell(one | {"seed": seed, "data": fingerprints[name], "libraries": libraries}, name, folder, out)
        for seed in dict.fromkeys(seeds)
        for name, folder in categories.items()
        for one in chosen
    ]


def _cell(identity: dict[str, Any], category: str, data: Path, out: Path) -> Cell:
    method, preset, seed = identity["method"], identity["preset"], identity["seed"]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    place = out / "cells" / label_of(method, preset).replace(":", "+") / category.replace("/", "+")
    return Cell(
        method=method,
        preset=preset,
        category=category,
        seed=seed,
        data=data,
        folder=place / f"{seed}-{digest[:10]}",
        identity=identity,
    )


def code_fingerprint(method: str) -> str:
    """SHA-256 of the source that can move a method's figures: the package without looks and other methods."""
    package = Path(__file__).parent
    others = {Path(inspect.getfile(kind)) for kind in METHODS.values()}
    others -= {Path(inspect.getfile(METHODS[method]))} if method in METHODS else set()
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        station = file.is_relative_to(package / "station")
        if file not in others and file.stem not in LOOKS and not station:
            digest.update(f"{file.relative_to(package).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def commands(cell: Cell) -> list[list[str]]:
    """Return the command lines that make a cell, after `python -m`."""
    method = ["--method", cell.method, "--preset", cell.preset, "--seed", str(cell.seed)]
    data, run = ["--data", str(cell.data)], str(cell.folder)
    if cell.method == peer.METHOD:
        return [["blemish.peer", cell.preset, str(cell.data), str(cell.seed), run]]
    train = ["blemish.cli", "train", *data, *method, "--out", run, "--resume"]
    return [train, ["blemish.cli", "evaluate", *data, "--model", run]]


# --- running ----------------------------------------------------------------------------------------------


def run(cells: Sequence[Cell], *, jobs: int, on_change: Callable[[Progress], None]) -> Progress:
    """Run the cells that are not finished, `jobs` at a time, each on its share of the machine's cores.

    `on_change` is called before the first, and after each. A cell that fails is noted and the others go on;
    the next run tries it again. KeyboardInterrupt stops the running cells, which keep their checkpoints.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: must be 1 or larger")
    progress = Progress(total=len(cells), finished=sum(cell.result() is not None for cell in cells))
    waiting = [cell for cell in cells if cell.result() is None]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(max_workers=jobs) as pool, _Children() as children:
        running: dict[Future, Cell] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[pool.submit(children.run, cell, threads)] = cell
            progress.running = [cell.name for cell in running.values()]
            progress.seconds_left = _seconds_left(cells, [*waiting, *running.values()], jobs)
            on_change(progress)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, error = running.pop(future), future.result()
                if error is None:
                    progress.finished += 1
                else:
                    progress.failed[cell.name] = error
                progress.latest = f"{cell.name}: {error or _in_short(cell.result() or {})}"
    progress.running, progress.seconds_left = [], None
    on_change(progress)
    return progress


class _Children:
    """The processes of the running cells, which do not outlive this one."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def __enter__(self) -> _Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask all to save what they have and end."""
        self.stopped = True
        for process in list(self.running):
            process.terminate()

    def run(self, cell: Cell, threads: int) -> str | None:
        """Train and evaluate a cell. Returns what went wrong in one line, or None."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        for command in commands(cell):
            if self.stopped:
                return "stopped"
            error = self._call(command, cell.folder / "output.txt", threads)
            if error is not None:
                return error
        result = _result_of(cell, time.monotonic() - began)
        write_whole(cell.folder / CELL_NAME, json.dumps(result, indent=2) + "\n")
        return None

    def _call(self, command: list[str], output: Path, threads: int) -> str | None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with output.open("a+") as log:
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=_end_with_parent,
                start_new_session=True,  # Ctrl-C reaches it through `stop`, once
            )
            self.running.add(process)
            if self.stopped:  # since the last look, before `stop` could see this process
                process.terminate()
            code = process.wait()
            self.running.discard(process)
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


def _result_of(cell: Cell, seconds: float) -> dict[str, Any]:
    about = json.loads((cell.folder / "run.json").read_text())
    return {
        "category": cell.category,
        **cell.identity,
        "commands": [" ".join(["python -m", *command]) for command in commands(cell)],
        "machine": about["machine"],
        "versions": about["versions"],
        "training": about["result"],
        "seconds": seconds,
        "evaluation": json.loads((cell.folder / "evaluation" / "evaluation.json").read_text()),
    }


def _in_short(result: dict[str, Any]) -> str:
    areas = {name: result["evaluation"][f"{name}_auroc"] for name in ("image", "pixel")}
    known = [f"{name} AUROC {value:.3f}" for name, value in areas.items() if value is not None]
    return f"{', '.join(known)}, {result['seconds'] / 60:.1f} min"


def _seconds_left(cells: Sequence[Cell], remaining: Sequence[Cell], jobs: int) -> float | None:
    """Estimate from finished cells of the same method, on the same category if there are any."""
    finished = [(cell, result["seconds"]) for cell in cells if (result := cell.result()) is not None]
    if not finished:
        return None

    def expected(cell: Cell) -> float:
        same = [(c, s) for c, s in finished if (c.method, c.preset) == (cell.method, cell.preset)] or finished
        return mean([s for c, s in same if c.category == cell.category] or [s for _, s in same])

    return sum(map(expected, remaining)) / jobs
