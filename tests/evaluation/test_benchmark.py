"""The benchmark: what it plans, what it keeps, what it does again, and how it ends."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from commands import refused, run
from conftest import save, tiny_defect, tiny_image
from holding import HELD
from pictures import mask_of, mvtec_loco, picture
from processes import processes_of
from warm import Warm, forked

from blemish.core.errors import DataError, UsageError
from blemish.evaluation import benchmark, jobs, software
from blemish.evaluation.benchmark import Cell, Progress
from blemish.evaluation.benchmark_report import write_results
from blemish.methods import registry

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def category(folder: Path) -> Path:
    """A category of noise: 3 + 2 good images, 1 `hole` with its mask."""
    for i in range(3):
        picture(folder / "train" / "good" / f"{i}.png", i)
    for i in range(2):
        picture(folder / "test" / "good" / f"{i}.png", 10 + i)
    picture(folder / "test" / "hole" / "0.png", 20)
    mask_of(folder / "ground_truth" / "hole" / "0_mask.png")
    return folder


def plan(
    data: Path,
    *,
    methods: tuple[str, ...] = ("pca",),
    seeds: tuple[int, ...] = (0,),
    out: Path = Path("bench"),
) -> list[Cell]:
    return benchmark.plan(methods, benchmark.categories_in(data), seeds, out)


def folder_of(data: Path, out: Path = Path("bench"), **options: Any) -> str:
    (cell,) = plan(data, out=out, **options)
    return cell.folder.relative_to(out).as_posix()


# --- the plan ---


def test_seeds_are_outermost_so_that_a_bench_cut_short_has_whole_tables(tmp_path: Path):
    category(tmp_path / "a")
    category(tmp_path / "group" / "b")
    cells = plan(tmp_path, methods=("pca", "metal:paper-object", "pca"), seeds=(3, 1, 3))
    assert [(c.seed, c.category, c.method, c.preset) for c in cells] == [
        (3, "a", "pca", "default"),
        (3, "a", "metal", "paper-object"),
        (3, "group/b", "pca", "default"),
        (3, "group/b", "metal", "paper-object"),
        (1, "a", "pca", "default"),
        (1, "a", "metal", "paper-object"),
        (1, "group/b", "pca", "default"),
        (1, "group/b", "metal", "paper-object"),
    ]
    assert cells[3].name == "metal:paper-object on group/b, seed 3"
    assert cells[3].folder.parent == Path("bench/cells/metal+paper-object/group+b")
    assert cells[3].data == tmp_path / "group" / "b"
    assert len({c.folder for c in cells}) == 8


def test_a_cell_is_the_two_commands_that_a_user_would_type(tmp_path: Path):
    (cell,) = plan(category(tmp_path / "a"), methods=("metal:paper-object",), seeds=(7,))
    data, out = str(tmp_path / "a"), str(cell.folder)
    options = ["--method", "metal", "--preset", "paper-object", "--seed", "7", "--out", out, "--resume"]
    assert benchmark.commands(cell) == [
        ["blemish.cli", "train", "--data", data, *options],
        ["blemish.cli", "evaluate", "--data", data, "--model", out, "--no-sensitivity"],
    ]


def test_categories_are_found_one_or_two_levels_below_or_at_the_folder_itself(tmp_path: Path):
    a, b = category(tmp_path / "a"), category(tmp_path / "x" / "b")
    (tmp_path / "empty").mkdir()
    assert benchmark.categories_in(tmp_path) == {"a": a, "x/b": b}
    assert benchmark.categories_in(tmp_path, ["b", "a", "x/b"]) == {"x/b": b, "a": a}
    assert benchmark.categories_in(a) == {"a": a}
    category(tmp_path / "y" / "b")
    category(tmp_path / "y" / "a")
    assert list(benchmark.categories_in(tmp_path, ["y/b"])) == ["y/b"]
    assert list(benchmark.categories_in(tmp_path, ["a"])) == ["a"]  # the whole name of one
    with pytest.raises(DataError, match=r"category b is there more than once; give its whole name"):
        benchmark.categories_in(tmp_path, ["b"])
    with pytest.raises(DataError, match=r"category c is not there; there are a, x/b, y/a, y/b"):
        benchmark.categories_in(tmp_path, ["c"])
    with pytest.raises(DataError, match=r"holds no category"):
        benchmark.categories_in(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no such folder"):
        benchmark.categories_in(tmp_path / "nowhere")


def test_a_layout_finds_its_categories_and_is_told_to_the_commands(tmp_path: Path):
    loco, other = mvtec_loco(tmp_path / "loco"), category(tmp_path / "other")
    assert benchmark.categories_in(tmp_path) == {"loco/" + loco.name: loco, "other": other}
    assert benchmark.categories_in(tmp_path, layout="mvtec-loco") == {"loco/" + loco.name: loco}
    assert benchmark.categories_in(loco, layout="mvtec-loco") == {loco.name: loco}
    assert other in benchmark.categories_in(tmp_path, layout="mvtec").values()
    with pytest.raises(DataError, match="holds no category; one has Data/Images/Normal"):
        benchmark.categories_in(tmp_path, layout="visa")
    with pytest.raises(UsageError, match="--layout nonsense: is unknown"):
        benchmark.categories_in(tmp_path, layout="nonsense")
    found = benchmark.categories_in(loco, layout="mvtec-loco")
    (cell,) = benchmark.plan(["pca"], found, [0], tmp_path / "out", layout="mvtec-loco")
    assert [command[2:6] for command in benchmark.commands(cell)] == [
        ["--data", str(loco), "--layout", "mvtec-loco"],
        ["--data", str(loco), "--layout", "mvtec-loco"],
    ]
    (plain,) = benchmark.plan(["pca"], found, [0], tmp_path / "out")
    assert plain.folder == cell.folder  # the same images, whoever named their layout


def test_several_methods_are_one_by_a_plus(tmp_path: Path):
    given = ("pca+filters:shared", "pca:default+kde")
    one, two = benchmark.plan(given, {"a": category(tmp_path / "a")}, [0], tmp_path / "out")
    assert (one.method, one.preset) == ("pca+filters:shared", "default")
    assert one.identity["config"]["members"] == ("pca", "filters:shared")
    assert one.folder.parent == tmp_path / "out" / "cells" / "pca+filters+shared" / "a"
    assert one.commands()[0][4:8] == ["--method", "pca+filters:shared", "--preset", "default"]
    assert (two.method, two.preset) == ("pca:default+kde", "default")


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["nope"], "nope: no such method; choose one of auto, metal, "),
        (["pca", "pca:nope"], "nope: pca has no such preset; choose one of default"),
        (["anomalib:Padim"], "anomalib is not installed here; pip install anomalib"),
        (["pca+nope"], "pca+nope: no such member 'nope'; choose from metal, cpc-ad, "),
        ([], "--methods: name at least one"),
    ],
)
def test_a_method_that_is_not_there_is_refused_in_one_line(
    tmp_path: Path, capsys, monkeypatch, methods, said
):
    monkeypatch.setattr("blemish.evaluation.anomalib.importlib.util.find_spec", lambda _: None)
    category(tmp_path / "a")
    out = tmp_path / "out"
    assert said in refused(capsys, "bench", "--data", tmp_path, "--methods", *methods, "--out", out)
    assert not out.exists()


def test_without_a_seed_or_a_job_there_is_nothing_to_do(tmp_path: Path, capsys):
    category(tmp_path / "a")
    bench = ("bench", "--data", tmp_path, "--methods", "pca", "--out", tmp_path / "out")
    assert "--seeds: name at least one" in refused(capsys, *bench, "--seeds")
    for seed in ("-1", str(2**63)):
        said = refused(capsys, *bench, "--seeds", "0", seed)
        assert f"--seeds {seed}: must be at least 0 and below 2**63" in said
    assert not (tmp_path / "out").exists()
    assert "--jobs 0: must be 1 or larger" in refused(capsys, *bench, "--jobs", "0")
    assert "category c is not there" in refused(capsys, *bench, "--categories", "c")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["test", "ground_truth"], "0 good and 0 defective test images"),
        (["test/good"], "0 good and 1 defective test images"),
        (["test/hole", "ground_truth"], "2 good and 0 defective test images"),
        (["train/good/0.png", "train/good/1.png"], "1 good image(s) to train on"),
        (["ground_truth/hole/0_mask.png"], "has no mask"),
    ],
)
def test_a_category_that_cannot_be_evaluated_is_refused_before_any_training(
    tmp_path: Path, capsys, missing: list[str], said: str
):
    category(tmp_path / "a")
    bad = category(tmp_path / "b")
    for name in missing:
        shutil.rmtree(bad / name) if (bad / name).is_dir() else (bad / name).unlink()
    error = refused(capsys, "bench", "--data", tmp_path, "--methods", "pca", "--out", tmp_path / "out")
    assert said in error
    assert str(bad) in error
    assert not (tmp_path / "out").exists()


# --- what a cell's folder depends on ---


def relabel(root: Path) -> None:
    for part in ("test", "ground_truth"):
        (root / part / "hole").rename(root / part / "dent")


def held_out(root: Path) -> None:
    (root / "calibration" / "good").mkdir(parents=True)
    (root / "train" / "good" / "0.png").rename(root / "calibration" / "good" / "0.png")


def other_order(root: Path) -> None:
    """0, 1, 2 become 2, 1, 0: the same three files, listed the other way round."""
    good = root / "train" / "good"
    (good / "0.png").rename(good / "kept.png")
    (good / "2.png").rename(good / "0.png")
    (good / "kept.png").rename(good / "2.png")


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        (lambda root: picture(root / "train" / "good" / "0.png", 99), True),
        (lambda root: picture(root / "test" / "good" / "0.png", 99), True),
        (lambda root: picture(root / "test" / "good" / "2.png", 99), True),
        (lambda root: mask_of(root / "ground_truth" / "hole" / "0_mask.png", (255, 0)), True),
        (lambda root: shutil.rmtree(root / "ground_truth"), True),
        (relabel, True),
        (held_out, True),
        (other_order, False),
        (lambda root: (root / "test" / "good" / "0.png").rename(root / "test" / "good" / "z.png"), False),
        (lambda root: (root / "readme.txt").write_text("about"), False),
    ],
)
def test_the_folder_follows_the_datas_content_not_its_names(
    tmp_path: Path, change: Callable[[Path], object], moves: bool
):
    before = folder_of(category(tmp_path / "a"))
    change(tmp_path / "a")
    assert (folder_of(tmp_path / "a") != before) == moves


def test_the_folder_does_not_follow_the_place(tmp_path: Path, monkeypatch):
    here = folder_of(category(tmp_path / "a"))
    monkeypatch.chdir(tmp_path)
    assert folder_of(Path("a")) == here
    assert folder_of(tmp_path, out=tmp_path / "elsewhere") == here
    monkeypatch.chdir("a")
    assert folder_of(Path()) == here
    shutil.copytree(tmp_path / "a", tmp_path / "copies" / "a")
    assert folder_of(tmp_path / "copies") == here


def test_the_folder_follows_seed_options_and_libraries(tmp_path: Path, monkeypatch):
    category(tmp_path / "a")

    def digest(**options: Any) -> str:
        return folder_of(tmp_path / "a", **options).rsplit("-", 1)[1]

    seen = [digest(), digest(seeds=(1,)), digest(methods=("kde",)), digest(methods=("metal:paper-object",))]
    named = registry.preset_named
    with monkeypatch.context() as changed:
        changed.setattr(registry, "preset_named", lambda *a: replace(named(*a), image_score="max"))
        seen.append(digest())
    with monkeypatch.context() as changed:
        changed.setattr("importlib.metadata.version", lambda name: "9" if name == "torch" else "1")
        seen.append(digest())
        changed.setattr("importlib.metadata.version", lambda name: "1")
        seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert digest() == seen[0]


def test_results_of_older_code_stay_on_disk_and_out_of_the_results(tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    (old,) = plan(category(tmp_path / "a"), out=out)
    finish_by_hand(old, seconds=1)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"\n" if self.stem == "pca" else b""))
    (new,) = plan(tmp_path / "a", out=out)
    assert new.folder.parent == old.folder.parent
    write_results(out, [new], Progress(total=1, finished=0))
    content = json.loads((out / "results.json").read_text())
    assert content["cells"] == []
    assert content["missing"] == ["pca on a, seed 0"]
    assert old.result() is not None
    monkeypatch.undo()
    write_results(out, plan(tmp_path / "a", out=out), Progress(total=1, finished=1))
    (kept,) = json.loads((out / "results.json").read_text())["cells"]
    assert out / kept["run"] == old.folder


# --- running: with children that do what they are told ---

CHILD = """
import json, os, signal, sys, time
from pathlib import Path

what, folder = sys.argv[1], Path(sys.argv[2])
began = time.monotonic()
print("this line is not the last")
if what == "fails":
    print("blemish train: x.png: broken [/old]; mend it")
    sys.exit(2)
if what == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "waits":
    (folder / "began").touch()
    time.sleep(60)
if what == "meets":
    (folder / "began").touch()
    while len(list(folder.parents[2].rglob("began"))) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
(folder / "evaluation").mkdir(exist_ok=True)
threads = {k: os.environ[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
result = {"times": [began, time.monotonic()], "seconds": 1.0}
if what != "evaluates":
    about = {"machine": threads | {"threads": 1}, "versions": {}, "result": result}
    (folder / "run.json").write_text(json.dumps(about))
areas = ("image_auroc", "pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "aupro_fpr30")
evaluation = dict.fromkeys(areas) | {"image_auroc": 0.75, "seconds_per_image": 0.1}
(folder / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch) -> dict[str, str]:
    """What the children do, by the cell's name; without a word they finish."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "told_child.py").write_text(CHILD)
    (tmp_path / "modules" / "held.py").write_text(HELD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)
    orders: dict[str, str] = {}

    def command(cell: Cell) -> list[list[str]]:
        return [["told_child", orders.get(cell.name, "finishes"), str(cell.folder)]]

    monkeypatch.setattr(benchmark, "commands", command)
    return orders


def cells_in(out: Path, *names: str, seeds: tuple[int, ...] = (0,)) -> list[Cell]:
    """Cells named `method/category`, without a data set."""
    return [
        Cell(
            method=name.split("/")[0],
            preset="default",
            category=name.split("/")[1],
            seed=seed,
            data=out,
            folder=out / "cells" / name / str(seed),
            identity={"method": name.split("/")[0], "preset": "default", "seed": seed},
        )
        for seed in seeds
        for name in names
    ]


def finish_by_hand(cell: Cell, *, seconds: float) -> None:
    cell.folder.mkdir(parents=True)
    (cell.folder / "cell.json").write_text(json.dumps(RESULT | cell.identity | {"seconds": seconds}))


RESULT = {
    "category": "a",
    "machine": {"threads": 1},
    "training": {"seconds": 1.0},
    "evaluation": {
        "image_auroc": 0.75,
        "seconds_per_image": 0.1,
        **dict.fromkeys(("pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "aupro_fpr30")),
    },
}


def watch(cells: list[Cell], jobs: int) -> tuple[Progress, list[Progress]]:
    seen: list[Progress] = []
    last = benchmark.run(
        cells, jobs=jobs, on_change=lambda now: seen.append(replace(now, running=[*now.running]))
    )
    return last, seen


def stamp(cell: Cell) -> tuple[bytes, int]:
    file = cell.folder / "cell.json"
    return file.read_bytes(), file.stat().st_mtime_ns


def test_so_many_cells_at_a_time_share_the_cores(tmp_path: Path, told, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    cells = cells_in(tmp_path, "pca/a", "pca/b", "kde/a", "kde/b")
    told |= dict.fromkeys([c.name for c in cells], "meets")
    last, seen = watch(cells, jobs=2)
    results = [c.result() or {} for c in cells]
    times = [r["training"]["times"] for r in results]
    together = [sum(a < began < b or a == began for a, b in times) for began, _ in times]
    assert max(together) == 2
    threads = {(r["machine"]["OMP_NUM_THREADS"], r["machine"]["MKL_NUM_THREADS"]) for r in results}
    assert threads == {("3", "3")}
    assert all(r["seconds"] >= 0.1 for r in results)
    assert (last.total, last.finished, last.failed, last.running) == (4, 4, {}, [])
    assert seen[0].running == ["pca on a, seed 0", "pca on b, seed 0"]
    assert max(len(now.running) for now in seen) == 2
    assert seen[0].just_ended == []
    lines = [line for now in seen for line in now.just_ended]
    assert sorted(line.split(" on ")[0] for line in lines) == ["kde", "kde", "pca", "pca"]
    assert all(re.search(r", seed 0: image AUROC 0\.750, \d+\.\d min$", line) for line in lines)


def test_of_jobs_that_end_together_each_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "FIRST_COMPLETED", ALL_COMPLETED)
    told: list[str] = []
    workers: Any = SimpleNamespace(capacity=lambda: 2, run=lambda _: "is broken", close=lambda: None)
    jobs.run_jobs(cells_in(tmp_path, "pca/a", "pca/b"), workers, lambda now: told.extend(now.just_ended))
    assert sorted(told) == ["pca on a, seed 0: is broken", "pca on b, seed 0: is broken"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "x/results"), "OSError: [Errno 28] No space left on device"),
        (KeyError("image_auroc"), "KeyError: 'image_auroc'"),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "UnicodeDecodeError: 'utf-8' codec",
        ),
    ],
)
def test_an_error_in_one_job_is_its_line_and_the_others_go_on(error: Exception, said: str, tmp_path: Path):
    begun: list[str] = []

    def work(cell: jobs.Job) -> str:
        begun.append(cell.name)
        if len(begun) == 1:
            raise error
        return "is broken"

    workers: Any = SimpleNamespace(capacity=lambda: 1, run=work, close=lambda: None)
    last = jobs.run_jobs(cells_in(tmp_path, "pca/a", "pca/b"), workers, lambda _: None)
    assert last.failed["pca on a, seed 0"].startswith(said)
    assert last.failed["pca on b, seed 0"] == "is broken"


def test_what_a_job_printed_need_not_be_utf_8(tmp_path: Path):
    (tmp_path / "log.txt").write_bytes(b"\xff before\n")
    (tmp_path / "prints.py").write_text("import sys\nsys.stdout.buffer.write(b'caf\\xe9\\n')\nsys.exit(3)\n")
    places = {"PYTHONPATH": str(tmp_path)}
    assert jobs.run_module(["prints"], tmp_path / "log.txt", places, Event()) == "caf\\xe9"


def test_what_is_left_is_estimated_from_what_is_finished(tmp_path: Path, told):
    done = cells_in(tmp_path, "pca/a", "pca/b")
    for cell, seconds in zip(done, (60, 180), strict=True):
        finish_by_hand(cell, seconds=seconds)
    left = cells_in(tmp_path, "pca/a", "pca/c", "kde/b", seeds=(1,))
    _, seen = watch([*done, *left], jobs=2)
    # pca on a: 60 s as with the other seed; on c: its mean, (60 + 180) / 2; kde on b: what pca took there
    assert seen[0].seconds_left == pytest.approx((60 + 120 + 180) / 2)
    assert [now.seconds_left is None for now in seen] == [False] * (len(seen) - 1) + [True]
    _, seen = watch(cells_in(tmp_path / "fresh", "pca/a"), jobs=1)
    assert [now.seconds_left for now in seen] == [None, None]


def test_a_failure_is_one_line_and_tried_again_while_the_finished_stay(tmp_path: Path, told, monkeypatch):
    cells = cells_in(tmp_path, "pca/a", "kde/a", "metal/a")
    told |= {"pca on a, seed 0": "fails", "kde on a, seed 0": "dies"}
    last, _ = watch(cells, jobs=1)
    assert last.failed == {
        "pca on a, seed 0": "blemish train: x.png: broken [/old]; mend it",
        "kde on a, seed 0": "killed by signal 9: not enough memory?",
    }
    assert [c.result() is None for c in cells] == [True, True, False]
    assert (last.finished, last.total) == (1, 3)
    kept = stamp(cells[2])
    told.clear()
    last, seen = watch(cells, jobs=1)
    assert (last.finished, last.failed) == (3, {})
    assert seen[0].running == ["pca on a, seed 0"]
    assert stamp(cells[2]) == kept
    monkeypatch.setattr(subprocess, "Popen", None)
    assert watch(cells, jobs=1)[0].finished == 3  # without any child


def test_what_a_worker_raises_is_one_line_of_the_job_with_its_kind(tmp_path: Path):
    cells = cells_in(tmp_path, "pca/a", "kde/a", "metal/a")
    raised = {"pca": OSError("no room\n  on the disk"), "kde": KeyError("path"), "metal": ValueError()}

    class Failing(jobs.Processes):
        def run(self, job: Any) -> str | None:
            raise raised[job.method]

    last = jobs.run_jobs(cells, Failing(1), lambda _: None)
    assert last.failed == {
        "pca on a, seed 0": "OSError: no room on the disk",
        "kde on a, seed 0": "KeyError: 'path'",
        "metal on a, seed 0": "ValueError",
    }


def test_the_second_command_waits_for_the_first_to_succeed(tmp_path: Path, told, monkeypatch):
    (cell,) = cells_in(tmp_path, "pca/a")
    first = ["told_child", "fails", str(cell.folder)]
    monkeypatch.setattr(
        benchmark, "commands", lambda _: [first, ["told_child", "finishes", str(cell.folder)]]
    )
    assert watch([cell], jobs=1)[0].failed
    assert cell.result() is None
    assert not (cell.folder / "run.json").exists()


@ON_LINUX
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whatever_ends_the_bench_ends_its_children(tmp_path: Path, told, error):
    cells = cells_in(tmp_path, "pca/a", "kde/a", "metal/a")
    told |= {"pca on a, seed 0": "waits"}

    def stop_at_the_second(now: Progress) -> None:
        if now.finished:
            wait_for(cells[0].folder / "began")
            raise error

    with pytest.raises(error):
        benchmark.run(cells, jobs=2, on_change=stop_at_the_second)
    assert processes_of(tmp_path) == []
    assert not (cells[0].folder / "run.json").exists()  # it did not come to its end
    assert cells[0].result() is None
    assert cells[1].result() is not None


def wait_for(file: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.01)


def test_square_brackets_in_an_error_are_text(tmp_path: Path, told, capsys):
    category(tmp_path / "data" / "nut [/old]")
    told["pca on nut [/old], seed 0"] = "fails"
    bench = ("bench", "--data", tmp_path / "data", "--methods", "pca", "--out", tmp_path / "out")
    assert run(*bench) == 1
    printed = capsys.readouterr()
    line = "pca on nut [/old], seed 0: blemish train: x.png: broken [/old]; mend it"
    assert printed.err.splitlines() == [line, f"failed: {line}"]
    assert printed.out == f"0 of 1 cells: {tmp_path / 'out' / 'results.html'}\n"


# --- running: the real commands ---


def small_category(folder: Path, train: int = 3) -> Path:
    """Pictures of 64 x 64: `train` + 2 good ones, a `hole` and a `line`, with masks."""
    for i in range(train):
        save(folder / "train" / "good" / f"{i}.png", tiny_image(i))
    for i in range(2):
        save(folder / "test" / "good" / f"{i}.png", tiny_image(100 + i))
    for kind in ("hole", "line"):
        image, mask = tiny_defect(kind, 0)
        save(folder / "test" / kind / "0.png", image)
        save(folder / "ground_truth" / kind / "0_mask.png", mask)
    return folder


@pytest.mark.slow
def test_a_bench_by_the_command_line(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(subprocess, "Popen", forked)
    data, out = tmp_path / "data", tmp_path / "out"
    small_category(data / "a")
    damaged = small_category(data / "nut 100%") / "train" / "good" / "1.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-200])
    bench = ("bench", "--data", data, "--out", out, "--jobs", "2", "--methods", "pca")

    assert run(*bench) == 1
    printed = capsys.readouterr()
    assert printed.out == f"1 of 2 cells: {out / 'results.html'}\n"
    (failed,) = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: pca on nut 100%, seed 0: blemish train: ")
    assert str(damaged) in failed
    content = json.loads((out / "results.json").read_text())
    assert [c["category"] for c in content["cells"]] == ["a"]
    assert content["missing"] == list(content["failed"]) == ["pca on nut 100%, seed 0"]
    (first,) = [(file.read_bytes(), file.stat().st_mtime_ns) for file in out.rglob("cell.json")]

    damaged.write_bytes(whole)
    assert run(*bench) == 0
    assert names_in(out, data) == ["pca a 0", "pca nut 100% 0"]
    assert run(*bench, "--methods", "pca", "kde", "--categories", "a") == 0
    assert names_in(out, data) == ["pca a 0", "kde a 0"]
    assert run(*bench, "--seeds", "0", "1", "--categories", "a") == 0
    assert names_in(out, data) == ["pca a 0", "pca a 1"]
    assert len(list(out.rglob("cell.json"))) == 4
    assert first in [(file.read_bytes(), file.stat().st_mtime_ns) for file in out.rglob("cell.json")]

    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is left to do
    assert run(*bench) == 0
    assert names_in(out, data) == ["pca a 0", "pca nut 100% 0"]


def names_in(out: Path, data: Path) -> list[str]:
    """The cells of the results; each has its figures, and all that they depend on."""
    content = json.loads((out / "results.json").read_text())
    cells = content["cells"]
    assert (content["failed"], content["missing"]) == ({}, [])
    for cell in cells:
        usual = registry.preset_named(cell["method"], "default")
        assert cell["config"] == json.loads(json.dumps(vars(usual)))
        assert cell["code"] == software.code_of(cell["method"]).fingerprint()
        assert len(cell["data"]) == 64
        assert set(cell["libraries"]) == set(software.LIBRARIES) <= set(cell["versions"])
        assert cell["machine"]["threads"] == 1
        assert 0 <= cell["training"]["seconds"] < cell["seconds"]
        assert str(data / cell["category"]) in cell["commands"][0]
        evaluation = json.loads((out / cell["run"] / "evaluation" / "evaluation.json").read_text())
        assert cell["evaluation"] == evaluation
        assert evaluation["dataset"] == cell["category"]
        assert (out / cell["run"] / "evaluation" / "report.html").exists()
        assert (out / cell["run"] / "model.safetensors").exists()
    for page in ("results.md", "results.html"):
        assert f"{len(cells)} of {len(cells)} cells are done." in (out / page).read_text()
    return [f"{c['method']} {c['category']} {c['seed']}" for c in cells]


def small_bench(held: Path, *arguments: str | Path) -> int:
    """Run `blemish bench` with a small MeTAL, which waits where `held` says, and little else."""
    os.cpu_count = lambda: 1  # two threads of so small a network would mostly wait for each other
    real = benchmark.commands

    def small(cell: Cell) -> list[list[str]]:
        if cell.method == "pca":
            return [["told_child", "finishes", str(cell.folder)]]
        _, *train = real(cell)[0]
        return [["held", str(held), *train, *SMALL.split()], ["told_child", "evaluates", str(cell.folder)]]

    benchmark.commands = small
    return run("bench", *arguments)


SMALL = (
    "--image-size 32 --patch-size 8 --embedding 8 --hidden 16 --heads 2 --epochs 40 "
    "--device cpu --precision fp32"
)


def rows(log: Path) -> list[str]:
    return log.read_text().splitlines()[1:] if log.exists() else []


@ON_LINUX
@pytest.mark.slow
def test_a_bench_that_is_stopped_and_killed_goes_on_where_it_stood(tmp_path: Path, told):
    data, out = small_category(tmp_path / "data" / "a"), tmp_path / "out"
    pca, training = plan(data, methods=("pca", "metal"), out=out)
    metal, number, held = training.folder, itertools.count(), tmp_path / "held"

    def bench() -> Warm:
        said = tmp_path / f"{next(number)}"
        arguments = (held, "--data", data, "--methods", "pca", "metal", "--out", out)
        return Warm(small_bench, *arguments, out=said.with_suffix(".out"), err=said.with_suffix(".err"))

    def ended_at(epoch: int, number: int) -> tuple[int, str]:
        """Start the bench, and signal it when MeTAL has trained so long: exit code and stderr."""
        held.write_text(str(epoch + 5))
        process = bench()
        while len(rows(metal / "log.csv")) < epoch:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        assert len(processes_of(metal)) == 1
        process.send_signal(number)
        _, stderr = process.communicate(timeout=300)
        held.unlink()
        assert process.returncode is not None
        return process.returncode, stderr

    code, stderr = ended_at(10, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in stderr
    assert [x for x in stderr.splitlines() if x.startswith("blemish")] == ["blemish bench: stopped"]
    assert processes_of(out) == []
    assert (metal / "checkpoint" / "state.pt").exists()
    told = (metal / "output.txt").read_text().splitlines()[-1]
    assert told.startswith("blemish train: stopped in epoch")
    kept, trained = stamp(pca), rows(metal / "log.csv")

    assert ended_at(len(trained) + 10, signal.SIGKILL)[0] == -signal.SIGKILL
    end = time.monotonic() + 60
    while processes_of(out):
        assert time.monotonic() < end, "an orphan goes on"
        time.sleep(0.05)

    assert bench().wait() == 0
    assert stamp(pca) == kept
    assert [row.split(",")[0] for row in rows(metal / "log.csv")] == [str(i) for i in range(1, 41)]
    assert rows(metal / "log.csv")[: len(trained)] == trained  # seconds included: not trained again
    content = json.loads((out / "results.json").read_text())
    assert [c["method"] for c in content["cells"]] == ["pca", "metal"]
