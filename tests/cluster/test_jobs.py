"""A benchmark and trainings on a real cluster of two nodes, against the same ones on one machine."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import scored_on_cluster
from commands import QUICK, refused, run
from conftest import save, tiny_defect, tiny_image
from holding import HELD
from processes import free_port, parent_of, processes_of
from scored_on_cluster import nodes
from warm import ASKING, OF_AN_EVALUATION, Warm, also, asked, forked

from blemish.cli.commands.train import TrainOptions, what_makes_a_model
from blemish.cli.parser import parse_with_config
from blemish.cluster import attempts
from blemish.cluster import jobs as cells
from blemish.cluster.session import connect
from blemish.evaluation import benchmark
from blemish.evaluation.jobs import Progress
from blemish.methods import registry
from blemish.methods.config import DetectorConfig
from blemish.methods.registry import METHODS

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SMALL = (
    *("--image-size", "32", "--patch-size", "8", "--embedding", "8", "--hidden", "16", "--heads", "2"),
    *("--batch-size", "1", "--device", "cpu", "--precision", "fp32"),
)
WHILE = 300
"""Seconds that anything may take on a busy machine."""
environment = scored_on_cluster.environment


# --- a cluster of two nodes with one core each, for all tests of the file ---


@pytest.fixture(scope="module")
def cluster(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the two nodes."""
    also(OF_AN_EVALUATION)
    folder, source = tmp_path_factory.mktemp("modules"), Path(__file__).parents[2] / "src"
    (folder / "held.py").write_text(HELD)
    (folder / "asking.py").write_text(ASKING)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTHONPATH", f"{source}{os.pathsep}{folder}", prepend=os.pathsep)
        with nodes(2) as two:
            yield two.address


def wait_until(true: Callable[[], object], otherwise: str) -> None:
    end = time.monotonic() + WHILE
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)


# --- data, and jobs ---


def category(folder: Path, first: int = 0) -> Path:
    """Pictures of 64 x 64: 4 + 2 good ones, a `hole` and a `line`, with masks."""
    for i in range(4):
        save(folder / "train" / "good" / f"{i}.png", tiny_image(first + i))
    for i in range(2):
        save(folder / "test" / "good" / f"{i}.png", tiny_image(first + 100 + i))
    for kind in ("hole", "line"):
        image, mask = tiny_defect(kind, 0)
        save(folder / "test" / kind / "0.png", image)
        save(folder / "ground_truth" / kind / "0_mask.png", mask)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells of MeTAL are trained with these options, which may be added to."""
    options = [*SMALL]
    monkeypatch.setattr(benchmark, "commands", with_options(options))
    return options


def with_options(options: list[str], held: Path | None = None) -> Callable[[benchmark.Cell], list[list[str]]]:
    """The commands of cells, those that train MeTAL with these options, too; they wait where `held` says."""
    commands = benchmark.commands

    def changed(cell: benchmark.Cell) -> list[list[str]]:
        (module, *train), *rest = commands(cell)
        if cell.method != "metal":
            return [[module, *train], *rest]
        begin = [module] if held is None else ["held", str(held)]
        return [[*begin, *train, *options], *rest]

    return changed


def bench_with(options: list[str], held: Path, *arguments: str | Path) -> int:
    """Run `blemish bench ARGUMENTS` with these options for MeTAL, which waits where `held` says."""
    benchmark.commands = with_options(options, held)
    return run("bench", *arguments)


@contextmanager
def forked_on_the_nodes() -> Iterator[None]:
    """Have this process start, of its forks, what workers would start as new processes of Python."""
    order = cells.RayWorkers._order
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        address = Path(folder) / "asked"

        def changed(self: cells.RayWorkers, job: Any) -> attempts.JobOrder:
            told = order(self, job)
            asking = ["asking", str(address)]
            return replace(
                told, commands=[[*asking, *c] if c[0] == "blemish.cli" else c for c in told.commands]
            )

        patch.setattr(cells.RayWorkers, "_order", changed)
        with asked(address):
            yield


def planned(data: Path, out: Path, *methods: str) -> list[benchmark.Cell]:
    return benchmark.plan(methods, benchmark.categories_in(data), (0,), out)


def on(cluster: str, jobs: Any, on_change: Callable[[Progress], None] = lambda _: None) -> Progress:
    with connect(cluster):
        return cells.run(jobs, cpus=1, gpus=0, on_change=on_change)


def what_it_made(out: Path) -> dict[str, Any]:
    """All that the cells below a folder say, but for times: models and rows byte for byte."""
    made: dict[str, Any] = {}
    for file in sorted(out.rglob("cells/**/*")):
        name = file.relative_to(out).as_posix()
        if file.name in ("model.safetensors", "scores.csv"):
            made[name] = file.read_bytes()
        elif file.suffix == ".json":
            made[name] = timeless(json.loads(file.read_text().replace(str(out), "OUT")))
        elif file.is_file():
            made[name] = "a file"
    return made


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if "seconds" not in k}
    return value


def rows(log: Path) -> list[list[str]]:
    try:
        with log.open(newline="") as file:
            return list(csv.reader(file))[1:]
    except FileNotFoundError:
        return []


def attempt_of(job: Any, epochs: int = 0) -> Path:
    """Wait for an attempt at a job that has trained so long, and return its folder."""
    found: list[Path] = []

    def there() -> bool:
        known = [a for a in attempts.find_attempts(job.folder) if len(rows(a / "log.csv")) >= epochs]
        found[:] = [a for a in known if (a / "checkpoint" / "state.pt").exists()]
        return bool(found)

    wait_until(there, f"no attempt at {job.name}")
    return found[0]


# --- what a cluster makes is what one machine makes ---


@pytest.mark.slow
def test_a_bench_on_a_cluster_is_byte_for_byte_that_of_one_machine(
    tmp_path: Path, cluster: str, small: list[str], monkeypatch: pytest.MonkeyPatch, capfd
):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # a thread for each cell, here and there
    small += ["--epochs", "2"]
    category(tmp_path / "data" / "a")
    here, there = tmp_path / "here", tmp_path / "there"
    bench = ("bench", "--data", tmp_path / "data", "--methods", "pca", "metal")
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", forked)
        assert run(*bench, "--out", here) == 0
    capfd.readouterr()
    with forked_on_the_nodes():
        assert run(*bench, "--out", there, "--cluster", cluster) == 0
    said = capfd.readouterr()
    assert said.out == f"2 of 2 cells: {there / 'results.html'}\n"
    assert sorted(line.split(" on ")[0] for line in said.err.splitlines()) == ["metal", "pca"]
    wanted, made = what_it_made(here), what_it_made(there)
    assert sum(name.endswith(("model.safetensors", "scores.csv", "cell.json")) for name in wanted) == 6
    assert made == wanted
    assert attempts_below(there) == []
    outputs = [file.read_text() for file in sorted(there.rglob("output.txt"))]
    assert all(f"model: {there}/cells/" in text and "/." not in text for text in outputs)


def attempts_below(out: Path) -> list[str]:
    return sorted(folder.name for folder in out.rglob(".*.????????"))


# --- what is lost is done again, once ---


@pytest.mark.slow
def test_who_is_stopped_or_killed_leaves_nothing_running_and_costs_no_more_than_since_a_checkpoint(
    tmp_path: Path, cluster: str, small: list[str], single_thread: None, monkeypatch: pytest.MonkeyPatch
):
    """One after another: the driver is stopped, the driver is killed, a worker is killed."""
    small += ["--epochs", "40"]
    data, out, held = category(tmp_path / "data" / "a"), tmp_path / "out", tmp_path / "held"
    assert run("train", "--data", data, "--out", tmp_path / "alone", "--method=metal", *small) == 0
    (cell,) = planned(tmp_path / "data", out, "metal")
    bench = ("--cluster", cluster, "--data", tmp_path / "data", "--methods", "metal", "--out", out)

    def ended_by(number: int, epochs: int) -> tuple[int | None, list[str]]:
        """Start the bench, and signal it when so many epochs are trained: exit code and stderr."""
        held.write_text(str(epochs + 5))
        said, errors = (tmp_path / f"said-{number}.{name}" for name in ("out", "err"))
        process = Warm(bench_with, small, held, *bench, out=said, err=errors)
        attempt_of(cell, epochs)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=WHILE)
        wait_until(lambda: processes_of(out) == [], "an orphan goes on")
        return process.returncode, stderr.splitlines()

    assert ended_by(signal.SIGTERM, 5) == (130, ["blemish bench: stopped"])
    (stopped,) = attempts.find_attempts(cell.folder)
    assert (stopped / "output.txt").read_text().splitlines()[-1].startswith("blemish train: stopped in epoch")
    trained = rows(stopped / "log.csv")
    assert ended_by(signal.SIGKILL, len(trained) + 5) == (-signal.SIGKILL, [])
    assert cell.result() is None
    furthest = max(len(rows(attempt / "log.csv")) for attempt in attempts.find_attempts(cell.folder))

    ended: list[Progress] = []
    monkeypatch.setattr(benchmark, "commands", with_options([], held))  # beside those of `small`
    held.write_text(str(furthest + 10))
    with forked_on_the_nodes(), connect(cluster):
        follower = threading.Thread(
            target=lambda: ended.append(cells.run([cell], cpus=1, gpus=0, on_change=lambda _: None))
        )
        follower.start()
        (training,) = processes_of(attempt_of(cell, furthest + 5))
        os.kill(parent_of(training), signal.SIGKILL)
        held.unlink()
        follower.join(WHILE)
    assert (ended[0].finished, ended[0].failed) == (1, {})
    assert attempts_below(tmp_path) == []
    assert processes_of(out) == []
    alone, made = (folder / "model.safetensors" for folder in (tmp_path / "alone", cell.folder))
    assert made.read_bytes() == alone.read_bytes()
    log = rows(cell.folder / "log.csv")
    assert len(log) == 40
    assert log[: len(trained)] == trained  # seconds included: not trained again


def test_an_attempt_begins_with_the_newest_checkpoint_or_a_model(tmp_path: Path):
    folder, mine = tmp_path / "a [1]", tmp_path / ".a [1].00000000"
    mine.mkdir()
    attempts._copy_progress(folder, mine)
    assert list(mine.iterdir()) == []
    for i, place in enumerate((folder, tmp_path / ".a [1].11111111", tmp_path / ".a [1].22222222")):
        (place / "checkpoint").mkdir(parents=True)
        (place / "checkpoint" / "state.pt").write_text(str(i))
        os.utime(place / "checkpoint" / "state.pt", (i % 2, i % 2))
    attempts._copy_progress(folder, mine)
    taken = mine / "checkpoint" / "state.pt"
    assert (taken.read_text(), taken.stat().st_mtime) == ("1", 1)
    for name in ("run.json", "model.safetensors"):
        (folder / name).write_text(name)
    attempts._copy_progress(folder, mine)
    assert sorted(p.name for p in mine.iterdir()) == ["checkpoint", "model.safetensors", "run.json"]


def an_attempt(training: cells.Training, name: str, model: str) -> attempts.Attempt:
    """A folder as a worker leaves it."""
    folder = training.folder.with_name(name)
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "output.txt").write_text(f"model: {folder}/model.safetensors")
    (folder / "run.json").write_text(json.dumps({"command": ["cli.py", "x"], "result": {"seconds": 1.0}}))
    (folder / "model.safetensors").write_text(model)
    return attempts.Attempt(folder=name, seconds=1.0)


def a_training(tmp_path: Path) -> cells.Training:
    return cells.Training(
        category="a",
        data=tmp_path / "data",
        folder=tmp_path / "out" / "a",
        method="pca",
        options=("--method", "pca"),
        software={},
    )


def test_the_first_attempt_that_ends_is_kept_and_no_other_one(tmp_path: Path):
    training = a_training(tmp_path)
    first, late = (an_attempt(training, f".a.{i * 8}", i) for i in "12")
    unfinished = training.folder / "checkpoint" / "state.pt"
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    assert cells._adopt_attempt(training, first) is None
    assert attempts_below(tmp_path) == []
    an_attempt(training, late.folder or "", "2")
    assert cells._adopt_attempt(training, late) is None
    assert attempts_below(tmp_path) == []
    assert (training.folder / "model.safetensors").read_text() == "1"
    assert not unfinished.exists()
    command = json.loads((training.folder / "run.json").read_text())["command"]
    assert command[1:] == training.commands()[0][1:]
    assert training.summary_line() == "trained, 0.0 min"


def test_an_attempt_that_nobody_can_see_is_an_error_not_a_result(tmp_path: Path):
    said = cells._adopt_attempt(a_training(tmp_path), attempts.Attempt(folder=".a.12345678"))
    assert said is not None
    assert said.endswith("--out must lie on a file system that all machines of the cluster share")


# --- trainings ---


@pytest.mark.slow
def test_a_model_for_each_category_and_what_is_finished_is_not_done_again(
    tmp_path: Path, cluster: str, capsys, monkeypatch: pytest.MonkeyPatch
):
    data, out = tmp_path / "data", tmp_path / "out"
    for i, name in enumerate(("a", "b", "x/c")):
        category(data / name, first=10 * i)
    damaged = data / "b" / "train" / "good" / "1.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-200])
    train = ("train", "--cluster", cluster, "--data", data, "--out", out, "--seed", "7", *QUICK)

    with forked_on_the_nodes():
        assert run(*train) == 1
    said = capsys.readouterr()
    assert said.out == f"2 of 3 models: {out}\n"
    (failed,) = [line for line in said.err.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: b: blemish train: ")
    assert str(damaged) in failed
    assert str(damaged) in (out / "b" / "output.txt").read_text()
    model = out / "a" / "model.safetensors"
    assert sorted(p.name for p in model.parent.iterdir()) == ["log.csv", "model.safetensors", "run.json"]
    before = model.stat().st_mtime_ns
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run("train", "--data", data / "a", "--out", tmp_path / "alone", "--seed", "7", *QUICK) == 0
    assert model.read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes()

    damaged.write_bytes(whole)
    capsys.readouterr()
    assert run(*train) == 0
    assert capsys.readouterr().out == f"3 of 3 models: {out}\n"
    assert model.stat().st_mtime_ns == before
    assert sorted(p.parent.name for p in out.rglob("model.safetensors")) == ["a", "b", "x+c"]
    said = refused(capsys, *train, "--seed", "8")
    assert f"{out / 'a'}: already holds a finished run whose seed was 7, not 8" in said


@pytest.mark.slow
def test_what_cannot_be_done_is_one_line_of_each_job_and_nothing_is_lost(
    tmp_path: Path, cluster: str, capsys
):
    category(tmp_path / "data" / "a")
    kept = sorted(p for p in (tmp_path / "data").rglob("*") if p.is_file())
    train = ("train", "--data", tmp_path / "data", "--method", "pca", "--cluster", cluster)
    assert run(*train, "--out", tmp_path / "data") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("a: holds ground_truth, which is no part of a run; choose another --out")
    assert sorted(p for p in (tmp_path / "data").rglob("*") if p.is_file()) == kept
    assert "none of its machines has 9 CPUs" in refused(capsys, *train, "--cpus-per-model", "9")

    (cell,) = planned(tmp_path / "data", tmp_path / "out", "pca")
    libraries = cell.identity["libraries"] | {"numpy": "0.1"}
    differing = ({"code": "x"}, {"libraries": libraries})
    others = [replace(cell, identity=cell.identity | other) for other in differing]
    (first,), (second,) = (on(cluster, [other]).failed.values() for other in others)
    assert "its blemish differs from the driver's; install the same version on all machines" in first
    assert "and the driver 0.1; install the same version on all machines" in second
    assert attempts_below(tmp_path) == []


@pytest.mark.parametrize(("method", "preset"), [(m, p) for m in METHODS for p in METHODS[m].presets])
def test_a_training_gets_the_options_that_were_given(method: str, preset: str):
    usual = registry.preset_named(method, preset)

    def parsed(*words: str) -> tuple[TrainOptions, DetectorConfig]:
        options, config = parse_with_config("train", TrainOptions, usual, ["--data", "x", *words])
        return replace(options, cluster=None, categories=(), out=None, cpus_per_model=None), config

    named = ("--method", method, "--preset", preset)
    given = [*named, "--seed", "3", "--channels", "1", "--value-range", "-1.0", "2.5"]
    given += ["--tile-size", "640", "512", "--image-score", "max", "--calibration-fraction", "0.3"]
    switches = [name for name in ("exposure", "flip") if name in vars(usual)]
    given += [f"--{'no-' if getattr(usual, name) else ''}{name.replace('_', '-')}" for name in switches]
    options, config = parsed(*given)
    assert (options.seed, options.channels, options.value_range) == (3, 1, (-1.0, 2.5))
    changed = {"tile_size": (640, 512), "image_score": "max", "calibration_fraction": 0.3}
    assert config == replace(usual, **changed, **{name: not getattr(usual, name) for name in switches})
    driver = ["--cluster", "local", "--categories", "a", "b", "--cpus-per-model=2", "--out", "runs"]
    for at in range(0, len(given) + 1, len(given)):
        passed_on = what_makes_a_model(["--data", "x", *given[:at], *driver, *given[at:], "--resume"])
        assert passed_on == given  # so that they mean what was parsed above
    if "epochs" in vars(usual):
        assert vars(parsed(*named, "--epochs", "None")[1])["epochs"] is None


# --- refusals ---


def test_options_that_contradict_each_other_are_one_line(tmp_path: Path, capsys):
    category(tmp_path / "a")
    bench = ("bench", "--data", tmp_path, "--methods", "pca", "--out", tmp_path / "out")
    train = ("train", "--data", tmp_path, "--method", "pca", "--out", tmp_path / "out")
    nobody = f"127.0.0.1:{free_port()}"
    for command, said in (
        ((*bench, "--cpus-per-cell", "2"), "--cpus-per-cell: is for a cluster"),
        ((*bench, "--gpus-per-cell", "0"), "--gpus-per-cell: is for a cluster"),
        ((*bench, "--cluster", "local", "--jobs", "2"), "--jobs 2: is for one machine"),
        ((*bench, "--cluster", "local", "--cpus-per-cell", "0"), "--cpus-per-cell 0: must be 1 or larger"),
        ((*train, "--categories", "a"), "--categories: is for a cluster"),
        ((*train, "--cpus-per-model", "1"), "--cpus-per-model: is for a cluster"),
        ((*train, "--cluster", "local", "--gpus-per-model", "-1"), "-per-model -1: must be 0 or larger"),
        ((*train, "--cluster", "local", "--categories", "b"), "category b is not there; there are a"),
        ((*bench, "--cluster", nobody), f"--cluster {nobody}: nobody answers there"),
        ((*train, "--cluster", nobody), f"--cluster {nobody}: nobody answers there"),
        ((*bench, "--cluster", "nowhere"), "--cluster nowhere: must be local, HOST:PORT or ray://HOST:PORT"),
    ):
        assert said in refused(capsys, *command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["bench", "train"])
def test_without_ray_a_line_says_what_brings_it(tmp_path: Path, capsys, monkeypatch, command: str):
    category(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "ray", None)
    method = "--methods" if command == "bench" else "--method"
    said = refused(capsys, command, "--data", tmp_path, method, "pca", "--cluster", "local")
    assert said == f"blemish {command}: --cluster: ray is missing; pip install 'blemish[cluster]'"
