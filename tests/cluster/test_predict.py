"""Scoring on a real cluster of two nodes: the rows of `blemish predict`, each once, whatever dies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from commands import refused, run
from conftest import save, tiny_image
from faulty_s3 import SETTINGS, FaultyS3, client_of, faulty_s3

pytest.importorskip("ray", reason="ray is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
psutil = pytest.importorskip("psutil", reason="psutil is not installed")

PATIENCE = 300
"""Seconds after which a test gives up waiting; it says nothing of speed."""


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """One thread each, for sums equal to the last bit; keys of the S3 reach the nodes, not its address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **SETTINGS}.items():
            patch.setenv(name, value)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # or they wait for all other tests
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture(scope="module")
def two_nodes(environment: None) -> Iterator[Any]:
    """Two nodes of one core each, without what gathers logs and asks for more nodes: no test looks at it."""
    from ray.cluster_utils import Cluster

    less = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **less})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def model(pca_onnx: Path) -> Path:
    """Principal components of 32 x 32 pixels, exported."""
    return pca_onnx


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 files in two folders: good parts, one with a hole, one damaged, one missing behind a link."""
    folder = tmp_path_factory.mktemp("inputs") / "in"
    for i in range(45):
        picture = tiny_image(100 + i)
        if i == 20:
            picture[20:40, 20:40] = 0
        save(folder / ("odd" if i % 2 else "even") / f"{i:03d}.png", picture)
    (folder / "even" / "010-damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    (folder / "odd" / "text.png").write_text("no image")
    (folder / "odd" / "gone.png").symlink_to("/nowhere/gone.png")
    return folder


PARTS = ("--part-pattern", r"(\w+/\w+/\w\w)[^/]*$", "--views", "5")
"""Parts as in/even/01, of which some have five images, some fewer, and one has six."""


@pytest.fixture(scope="module")
def plain_out(environment: None, model: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `blemish predict` writes in one process."""
    out = tmp_path_factory.mktemp("plain") / "out"
    plain_rows(model, inputs, out, *PARTS, "--no-pictures")
    return out


@pytest.fixture(scope="module")
def plain(plain_out: Path) -> list[dict]:
    """The rows of `blemish predict` in one process."""
    return read_rows(plain_out)


def plain_rows(model: Path, inputs: Path, out: Path, *options: str) -> list[dict]:
    code = command("--model", model, inputs, "--out", out, *options).wait(PATIENCE)
    assert code in (0, 1)
    return read_rows(out)


def read_rows(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("map", "overlay")} for row in rows]


def command(*arguments: str | Path, **environment: str) -> subprocess.Popen:
    """Start `blemish predict ARGUMENTS`."""
    return subprocess.Popen(
        [sys.executable, "-m", "blemish.cli", "predict", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def parts_of(out: Path) -> dict[str, int]:
    """The finished partitions and when each was written."""
    return {p.name: p.stat().st_mtime_ns for p in sorted(out.glob("part-*.parquet"))}


def rows_of(out: Path) -> list[dict]:
    return [row for name in parts_of(out) for row in pq.read_table(out / name).to_pylist()]


def wait_for(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return found


def workers() -> list[Any]:
    """The processes that score, of the cluster that this process started."""
    return [p for p in psutil.Process().children(recursive=True) if is_alive(p)]


def is_alive(process: Any) -> bool:
    """Whether this is a process that scores, and has not ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "MapWorker" in "".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


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


def check_equal_but_for_batches(rows: list[dict], expected: list[dict]) -> None:
    """Compare rows whose batches differ, by a file that is missing: sums may differ in their last bits."""
    for row, other in zip(rows, expected, strict=True):
        if other["error"] is None:
            assert row["score"] == pytest.approx(other["score"], rel=1e-6)
        for name in ("p_value", "threshold", "anomalous"):
            assert row[name] == other[name]
        assert [r["area_px"] for r in row["regions"]] == [r["area_px"] for r in other["regions"]]
        assert (row["error"] is None) == (other["error"] is None)


# --- whatever dies ---

MANY = 1200


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many files, of eight pictures that take their time."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(8):
        save(folder / "pictures" / f"{i}.png", tiny_image(i).repeat(8, 0).repeat(8, 1))
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
    out, finished = tmp_path / "out", [dict[str, int]()]
    arguments = ("--model", model, many, "--out", out, "--cluster", two_nodes.address, "--partition", "16")

    def go_on(workers_too: int = 0) -> None:
        """Wait until three more partitions are finished, and so many workers are there."""
        wait_for(lambda: len(parts_of(out)) >= len(finished[-1]) + 3 and len(workers()) >= workers_too)

    def keep() -> None:
        """Remember what is finished by now: it stays as it is."""
        finished.append(parts_of(out))
        assert len(finished[-1]) < MANY // 16, "it was over before anything could die"
        assert not (out / "_summary.json").exists()

    driver = command(*arguments)
    go_on()
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=PATIENCE)
    assert (driver.returncode, said[1]) == (130, "blemish predict: stopped\n")
    wait_for(lambda: not workers())
    keep()

    driver = command(*arguments)
    go_on()
    driver.kill()
    driver.communicate()
    wait_for(lambda: not workers())
    keep()

    third = two_nodes.add_node(num_cpus=1)
    try:
        driver = command(*arguments)
        go_on(workers_too=3)
        three = workers()
    finally:
        two_nodes.remove_node(third, allow_graceful=False)
    wait_for(lambda: sum(map(is_alive, three)) == 2)
    keep()
    next(filter(is_alive, three)).kill()
    keep()

    said = driver.communicate(timeout=PATIENCE)
    assert (driver.returncode, said[1]) == (0, ""), said
    assert rows_of(out) == many_rows
    there = parts_of(out)
    for before in finished:
        assert {name: there[name] for name in before} == before
    assert json.loads((out / "_summary.json").read_text())["scored"] == MANY
    assert not list(out.glob(".*"))


# --- an object store that fails ---


@pytest.fixture
def s3() -> Iterator[FaultyS3]:
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    with faulty_s3() as serving:
        yield serving


def upload(s3: FaultyS3, inputs: Path, prefix: str) -> None:
    for file in sorted(inputs.rglob("*.png")):
        if file.is_file():
            client_of(s3).upload_file(str(file), "bucket", f"{prefix}/{file.relative_to(inputs).as_posix()}")


def parts_in(s3: FaultyS3) -> list[str]:
    """The finished partitions."""
    found = client_of(s3).list_objects_v2(Bucket="bucket", Prefix="out/").get("Contents", [])
    return sorted(o["Key"] for o in found if re.fullmatch(r"out/part-\d+\.parquet", o["Key"]))


def rows_in(s3: FaultyS3) -> list[dict]:
    read = client_of(s3).get_object
    tables = [pq.read_table(BytesIO(read(Bucket="bucket", Key=k)["Body"].read())) for k in parts_in(s3)]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.slow
def test_a_store_that_stays_down_stops_the_run_and_a_repeat_goes_on_though_it_fails_at_times(
    two_nodes: Any, s3: FaultyS3, model: Path, inputs: Path, plain: list[dict]
):
    folders = ("s3://bucket/in", "s3://bucket/more")
    for folder in folders:
        upload(s3, inputs, Path(folder).name)
    arguments = ("--model", model, *folders, "--out", "s3://bucket/out", "--allow", "channels")
    arguments = (*arguments, "--cluster", two_nodes.address, "--partition", "16")
    s3.down_after = 40  # reads of images of the first folder
    driver = command(*arguments, AWS_ENDPOINT_URL=s3.address)
    said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 2, said
    assert len(said[1].splitlines()) == 1
    assert "its store keeps failing" in said[1]
    assert "when it works again, repeat the command to continue" in said[1]
    s3.down_after = None
    before = parts_in(s3)
    assert len(before) < 6

    s3.faults.clear()
    s3.written.clear()
    s3.rate = 0.15
    driver = command(*arguments, AWS_ENDPOINT_URL=s3.address)
    said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 1, said
    s3.rate = 0.0
    assert sum(s3.faults.values()) >= 10
    assert len(s3.faults) >= 3, s3.faults
    assert not s3.written & {f"/bucket/{key}" for key in before}
    rows = rows_in(s3)
    expected = [row for row in plain if Path(row["path"]).is_file()]
    paths = [row["path"].replace(str(inputs), folder) for folder in folders for row in expected]
    assert [row["path"] for row in rows] == paths
    assert sum(row["error"] is not None for row in rows) == 4  # those that are no images
    check_equal_but_for_batches(rows, expected * 2)


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
