"""Scoring on a real cluster of two nodes: the rows of `blemish predict`, each once, whatever dies."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import scored_on_cluster
import waiting
from commands import refused, run
from conftest import save, tiny_image
from scored_on_cluster import (
    PARTS,
    PATIENCE,
    SCORING,
    check_equal_but_for_batches,
    held_predict,
    is_alive,
    nodes,
    plain_rows,
    workers,
)
from warm import Warm

pytest.importorskip("ray", reason="ray is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytest.importorskip("psutil", reason="psutil is not installed")

environment, model, inputs = scored_on_cluster.environment, scored_on_cluster.model, scored_on_cluster.inputs
plain_out, plain = scored_on_cluster.plain_out, scored_on_cluster.plain


@pytest.fixture(scope="module")
def two_nodes(environment: None) -> Iterator[Any]:
    """Two nodes of one core each."""
    with nodes(2) as cluster:
        yield cluster


def parts_of(out: Path) -> dict[str, int]:
    """The finished partitions and when each was written."""
    return {p.name: p.stat().st_mtime_ns for p in sorted(out.glob("part-*.parquet"))}


def rows_of(out: Path) -> list[dict]:
    return [row for name in parts_of(out) for row in pq.read_table(out / name).to_pylist()]


def wait_for(true: Callable[[], Any]) -> None:
    waiting.wait_for(true, PATIENCE, every=0.02)


# --- the rows ---


@pytest.fixture(scope="module")
def in_parquet(inputs: Path, plain: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Parquet files of the same images, in the same order, called otherwise; but for the one that is not
    there.
    """
    import pyarrow as pa

    folder, paths = tmp_path_factory.mktemp("parquet"), paths_of_files(plain)
    columns = {"path": list(map(copied, paths)), "image": [Path(path).read_bytes() for path in paths]}
    table = pa.table(columns | {"more": [0] * len(paths)})
    pq.write_table(table.slice(0, 21), folder / "a.parquet", row_group_size=5)
    pq.write_table(table.slice(21), folder / "b.parquet", row_group_size=100)
    return folder


def copied(path: str) -> str:
    return path.replace("/in/", "/copy/")


def paths_of_files(plain: list[dict]) -> list[str]:
    return [row["path"] for row in plain if Path(row["path"]).is_file()]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A command that has run: its words, its folder, and what it has said."""

    command: tuple[str | Path, ...]
    out: Path
    said: tuple[str, str]


@pytest.fixture(scope="module")
def scored(
    two_nodes: Any, model: Path, inputs: Path, in_parquet: Path, tmp_path_factory: pytest.TempPathFactory
) -> Scored:
    """The files, which fill three partitions, and after them the same images of Parquet files. Read only."""
    out = tmp_path_factory.mktemp("scored") / "out"
    command = ("predict", "--model", model, inputs, in_parquet / "*.parquet", "--out", out)
    command = (*command, "--cluster", two_nodes.address, "--partition", "16", *PARTS)
    with redirect_stdout(StringIO()) as told, redirect_stderr(StringIO()) as errors:
        assert run(*command) == 1
    return Scored(command=command, out=out, said=(told.getvalue(), errors.getvalue()))


def test_rows_are_those_of_predict_to_the_last_bit(scored: Scored, plain: list[dict]):
    rows, out = rows_of(scored.out), scored.out
    assert rows[: len(plain)] == plain
    assert [row["error"] is None for row in plain].count(False) == 3
    assert any(row["anomalous"] and row["regions"] for row in plain)
    shown, errors = scored.said
    assert shown.startswith("90 scored, ")
    assert f"5 failed: {out}/part-*.parquet" in shown
    told = [f"failed: {row['error']}" for row in rows + parts_decided(out) if row["error"]]
    assert sorted(errors.splitlines()) == sorted(told)  # as partitions end, in any order
    assert sorted(parts_of(out)) == [f"part-{i:06d}.parquet" for i in range(6)]
    assert not list(out.glob(".*"))
    summary = json.loads((out / "_summary.json").read_text())
    assert (summary["scored"], summary["failed"], summary["partitions"]) == (90, 5, 6)


def parts_decided(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "_parts.jsonl").read_text().splitlines()]


def test_parts_are_those_of_predict_to_the_last_bit(scored: Scored, plain_out: Path):
    parts = [json.loads(line) for line in (plain_out / "parts.jsonl").read_text().splitlines()]
    assert [part for part in parts_decided(scored.out) if part["part"].startswith("in/")] == parts
    assert {part["decision"] for part in parts} == {"accepted", "rejected", "review", "failed"}
    table = (scored.out / "_parts.csv").read_text().splitlines()
    assert [line for line in table if not line.startswith("copy/")] == (
        (plain_out / "parts.csv").read_text().splitlines()
    )
    assert f"failed: {scored.out}/_parts.csv" in scored.said[0]


def test_images_in_parquet_files_have_the_same_rows(scored: Scored, plain: list[dict]):
    rows, paths = rows_of(scored.out)[len(plain) :], paths_of_files(plain)
    assert [row["path"] for row in rows] == list(map(copied, paths))
    check_equal_but_for_batches(rows, [row for row in plain if row["path"] in paths])


def test_a_repeat_does_nothing_and_another_run_into_the_same_folder_is_refused(
    two_nodes: Any, scored: Scored, model: Path, inputs: Path, tmp_path: Path, capsys: Any, tiny_onnx: Path
):
    before = parts_of(scored.out)
    assert run(*scored.command) == 1
    assert capsys.readouterr() == scored.said
    base = ("predict", "--cluster", two_nodes.address, "--partition", "16", *PARTS, "--out")
    given = scored.command[3:5]
    for other, what in (
        (("--model", tiny_onnx, *given), "model"),
        (("--model", model, inputs / "odd"), "inputs"),
        (("--model", model, *given, "--false-alarm-rate", "0.2"), "--false-alarm-rate"),
        (("--model", model, *given, "--batch-size", "8"), "--batch-size"),
    ):
        line = refused(capsys, *base, scored.out, *other)
        assert f"{scored.out}: was started with another {what}; choose another --out" in line
    unknown = Path(shutil.copytree(scored.out, tmp_path / "out"))
    (unknown / "_run.json").unlink()  # rows of nobody knows what
    there = parts_of(unknown)
    assert "already holds predictions; choose another --out" in refused(
        capsys, *base, unknown, "--model", model, *given
    )
    assert parts_of(unknown) == there
    assert parts_of(scored.out) == before


# --- whatever dies ---

MANY = 256


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many files, of eight pictures."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(8):
        save(folder / "pictures" / f"{i}.png", tiny_image(i))
    (folder / "in").mkdir()
    for i in range(MANY):
        (folder / "in" / f"{i:04d}.png").hardlink_to(folder / "pictures" / f"{i % 8}.png")
    return folder / "in"


@pytest.fixture(scope="module")
def many_rows(
    environment: None, model: Path, many: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    """What each of them is, from one process: a batch of eight pictures twice, over and over."""
    few = tmp_path_factory.mktemp("few")
    for file in sorted(many.iterdir())[:16]:
        (few / file.name).hardlink_to(file)
    rows = plain_rows(model, few, tmp_path_factory.mktemp("plain") / "out")
    return [rows[i % 16] | {"path": str(path)} for i, path in enumerate(sorted(many.iterdir()))]


@pytest.mark.slow
def test_whatever_dies_costs_no_row_and_doubles_none(
    two_nodes: Any, model: Path, many: Path, many_rows: list[dict], tmp_path: Path
):
    """One after another: the command by Ctrl-C, the command by a kill, a node, a worker."""
    out, held, finished = tmp_path / "out", tmp_path / "held", [dict[str, int]()]
    arguments = ("--model", model, many, "--out", out, "--cluster", two_nodes.address, "--partition", "16")

    def go_on(nodes: int = 2) -> Warm:
        """Start the command; wait until three more partitions are finished, and each node writes another."""
        whole, left = len(finished[-1]) + 3, {*out.glob(".*.tmp")}
        held.write_text(str(whole))
        said, errors = (tmp_path / f"{whole}.{name}" for name in ("out", "err"))
        driver = Warm(held_predict, held, *arguments, out=said, err=errors)
        wait_for(lambda: (len(parts_of(out)), len(workers(SCORING))) == (whole, nodes))
        wait_for(lambda: len({*out.glob(".*.tmp")} - left) == nodes)
        return driver

    def keep() -> None:
        """Remember what is finished by now: it stays as it is."""
        finished.append(parts_of(out))
        assert not (out / "_summary.json").exists()

    driver = go_on()
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=PATIENCE)
    assert (driver.returncode, said[1]) == (130, "blemish predict: stopped\n")
    wait_for(lambda: not workers())
    keep()

    driver = go_on()
    driver.kill()
    driver.communicate()
    wait_for(lambda: not workers())
    keep()

    third = two_nodes.add_node(num_cpus=1)
    try:
        driver = go_on(nodes=3)
        three = workers(SCORING)
    finally:
        two_nodes.remove_node(third, allow_graceful=False)
    wait_for(lambda: sum(map(is_alive, three)) == 2)
    keep()
    next(filter(is_alive, three)).kill()
    keep()

    held.write_text(str(MANY))
    said = driver.communicate(timeout=PATIENCE)
    assert (driver.returncode, said[1]) == (0, ""), said
    assert rows_of(out) == many_rows
    there = parts_of(out)
    for before in finished:
        assert {name: there[name] for name in before} == before
    assert json.loads((out / "_summary.json").read_text())["scored"] == MANY
    assert not list(out.glob(".*"))


# --- refused ---


@pytest.mark.slow
def test_without_ray_it_is_one_line(tiny_onnx: Path, inputs: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'ray': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from blemish.cli.main import main\n"
        f"sys.exit(main(['predict', '--model', {str(tiny_onnx)!r}, {str(inputs)!r}, '--cluster', 'local']))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr == "blemish predict: --cluster: ray is missing; pip install 'blemish[cluster]'\n"


def test_options_that_do_not_fit_are_refused(tiny_onnx: Path, inputs: Path, capsys: Any):
    base = ("predict", "--model", tiny_onnx, inputs)
    assert "--every 2: is for films" in refused(capsys, *base, "--cluster", "local", "--every", "2")
    line = refused(capsys, *base, "--cluster", "local", "--partition", "40")
    assert line.endswith("--partition 40: must be a multiple of --batch-size 16")
    assert "--partition 64: is for scoring on a cluster" in refused(capsys, *base, "--partition", "64")
    assert "--out s3://b/x: is for scoring on a cluster" in refused(capsys, *base, "--out", "s3://b/x")
