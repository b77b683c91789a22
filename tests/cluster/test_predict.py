"""Scoring on a real cluster of two nodes: the rows of `blemish predict`, each once, whatever dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture(scope="module")
def two_nodes(environment: None) -> Iterator[Any]:
    """Two nodes of one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
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
    """51 files in two folders: good parts, one with a hole, one damaged, one missing behind a link."""
    folder = tmp_path_factory.mktemp("inputs") / "in"
    for i in range(48):
        picture = tiny_image(100 + i)
        if i == 20:
            picture[20:40, 20:40] = 0
        save(folder / ("odd" if i % 2 else "even") / f"{i:03d}.png", picture)
    (folder / "even" / "010-damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    (folder / "odd" / "text.png").write_text("no image")
    (folder / "odd" / "gone.png").symlink_to("/nowhere/gone.png")
    return folder


@pytest.fixture(scope="module")
def plain(
    environment: None, model: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    """The rows of `blemish predict` in one process."""
    return plain_rows(model, inputs, tmp_path_factory.mktemp("plain") / "out")


def plain_rows(model: Path, inputs: Path, out: Path) -> list[dict]:
    code = command("--model", model, inputs, "--out", out).wait(PATIENCE)
    assert code in (0, 1)
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
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and "MapWorker" in "".join(p.cmdline())]


# --- the rows ---


def test_rows_are_those_of_predict_to_the_last_bit(
    two_nodes: Any, model: Path, inputs: Path, plain: list[dict], tmp_path: Path, capsys: Any
):
    out = tmp_path / "out"
    options = ("--cluster", two_nodes.address, "--partition", "16")
    assert run("predict", "--model", model, inputs, "--out", out, *options) == 1
    assert rows_of(out) == plain
    assert [row["error"] is None for row in plain].count(False) == 3
    assert any(row["anomalous"] and row["regions"] for row in plain)
    shown = capsys.readouterr()
    assert shown.out.startswith("48 scored, ")
    assert f"3 failed: {out}/part-*.parquet" in shown.out
    told = [f"failed: {row['error']}" for row in plain if row["error"]]
    assert sorted(shown.err.splitlines()) == sorted(told)  # as partitions end, in any order
    assert sorted(parts_of(out)) == [f"part-{i:06d}.parquet" for i in range(4)]
    assert not list(out.glob(".*"))
    summary = json.loads((out / "_summary.json").read_text())
    assert (summary["scored"], summary["failed"], summary["partitions"]) == (48, 3, 4)


def test_a_repeat_does_nothing_and_another_run_into_the_same_folder_is_refused(
    two_nodes: Any, model: Path, inputs: Path, tmp_path: Path, capsys: Any, tiny_onnx: Path
):
    out = tmp_path / "out"
    base = ("predict", "--out", out, "--cluster", two_nodes.address, "--partition", "32")
    assert run(*base, "--model", model, inputs) == 1
    before, told = parts_of(out), capsys.readouterr()
    assert run(*base, "--model", model, inputs) == 1
    assert capsys.readouterr() == told
    for other, what in (
        (("--model", tiny_onnx, inputs), "model"),
        (("--model", model, inputs / "odd"), "inputs"),
        (("--model", model, inputs, "--false-alarm-rate", "0.2"), "--false-alarm-rate"),
        (("--model", model, inputs, "--batch-size", "8"), "--batch-size"),
    ):
        line = refused(capsys, *base, *other)
        assert f"{out}: was started with another {what}; choose another --out" in line
    (out / "_run.json").unlink()  # rows of nobody knows what
    assert "already holds predictions; choose another --out" in refused(
        capsys, *base, "--model", model, inputs
    )
    assert parts_of(out) == before


def test_images_in_parquet_files_have_the_same_rows(
    two_nodes: Any, model: Path, inputs: Path, plain: list[dict], tmp_path: Path
):
    import pyarrow as pa

    paths = [row["path"] for row in plain if Path(row["path"]).is_file()]
    columns = {"path": paths, "image": [Path(path).read_bytes() for path in paths]}
    table = pa.table(columns | {"more": [0] * len(paths)})
    pq.write_table(table.slice(0, 21), tmp_path / "a.parquet", row_group_size=5)
    pq.write_table(table.slice(21), tmp_path / "b.parquet", row_group_size=100)
    out, options = tmp_path / "out", ("--cluster", two_nodes.address, "--partition", "16")
    assert run("predict", "--model", model, tmp_path / "*.parquet", "--out", out, *options) == 1
    expected = [row for row in plain if row["path"] in paths]
    assert [row["path"] for row in rows_of(out)] == paths
    check_equal_but_for_batches(rows_of(out), expected)


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


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 files, of eight pictures that take their time."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(8):
        save(folder / "pictures" / f"{i}.png", tiny_image(i).repeat(8, 0).repeat(8, 1))
    for i in range(800):
        (folder / "in").mkdir(exist_ok=True)
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
def test_a_worker_that_is_killed_costs_no_row_and_doubles_none(
    two_nodes: Any, model: Path, many: Path, many_rows: list[dict], tmp_path: Path
):
    out = tmp_path / "out"
    driver = command(
        *("--model", model, many, "--out", out, "--cluster", two_nodes.address, "--partition", "48")
    )
    wait_for(lambda: len(parts_of(out)) >= 3 and workers())
    victim = workers()[0]
    victim.kill()
    before = parts_of(out)
    assert len(before) < 17, "it was over before anything could be killed"
    said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    assert said[1] == ""
    assert rows_of(out) == many_rows
    assert {name: parts_of(out)[name] for name in before} == before
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_where_it_was(
    two_nodes: Any, model: Path, many: Path, many_rows: list[dict], tmp_path: Path
):
    out = tmp_path / "out"
    arguments = ("--model", model, many, "--out", out, "--cluster", two_nodes.address, "--partition", "48")
    driver = command(*arguments)
    wait_for(lambda: len(parts_of(out)) >= 3)
    driver.kill()
    driver.communicate()
    wait_for(lambda: not workers())
    before = parts_of(out)
    assert 3 <= len(before) < 17, "it was over before it could be killed"
    assert not (out / "_summary.json").exists()
    again = command(*arguments)
    said = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert rows_of(out) == many_rows
    assert {name: parts_of(out)[name] for name in before} == before
    assert json.loads((out / "_summary.json").read_text())["scored"] == 800


@pytest.mark.slow
def test_ctrl_c_stops_and_keeps_what_is_finished(two_nodes: Any, model: Path, many: Path, tmp_path: Path):
    out = tmp_path / "out"
    driver = command(
        *("--model", model, many, "--out", out, "--cluster", two_nodes.address, "--partition", "48")
    )
    wait_for(lambda: parts_of(out))
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=PATIENCE)
    assert (driver.returncode, said[1]) == (130, "blemish predict: stopped\n")
    assert 1 <= len(parts_of(out)) < 17
    wait_for(lambda: not workers())


@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_row(
    two_nodes: Any, model: Path, many: Path, many_rows: list[dict], tmp_path: Path
):
    out = tmp_path / "out"
    third = two_nodes.add_node(num_cpus=1)
    try:
        driver = command(
            *("--model", model, many, "--out", out, "--cluster", two_nodes.address, "--partition", "48")
        )
        wait_for(lambda: len(parts_of(out)) >= 3 and len(workers()) == 3)
    finally:
        two_nodes.remove_node(third, allow_graceful=False)
    assert len(parts_of(out)) < 17, "it was over before the node was lost"
    said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    assert rows_of(out) == many_rows


# --- an object store that fails ---


@pytest.fixture
def s3() -> Iterator[FaultyS3]:
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    with faulty_s3() as serving:
        yield serving


def upload(s3: FaultyS3, inputs: Path) -> None:
    for file in sorted(inputs.rglob("*.png")):
        if file.is_file():
            client_of(s3).upload_file(str(file), "bucket", f"in/{file.relative_to(inputs).as_posix()}")


def rows_in(s3: FaultyS3, prefix: str) -> list[dict]:
    import io

    client = client_of(s3)
    names = [o["Key"] for o in client.list_objects_v2(Bucket="bucket", Prefix=prefix)["Contents"]]
    parts = [
        name for name in sorted(names) if re.search(r"/part-\d+\.parquet$", name) and "inputs" not in name
    ]
    tables = [
        pq.read_table(io.BytesIO(client.get_object(Bucket="bucket", Key=p)["Body"].read())) for p in parts
    ]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.slow
def test_a_store_that_fails_at_times_loses_nothing_and_doubles_nothing(
    two_nodes: Any, s3: FaultyS3, model: Path, inputs: Path, plain: list[dict]
):
    upload(s3, inputs)
    s3.rate = 0.15
    driver = command(
        *("--model", model, "s3://bucket/in", "--out", "s3://bucket/out"),
        *("--cluster", two_nodes.address, "--partition", "16"),
        AWS_ENDPOINT_URL=s3.address,
    )
    said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 1, said
    s3.rate = 0.0
    assert sum(s3.faults.values()) >= 10
    assert len(s3.faults) >= 3, s3.faults
    rows = rows_in(s3, "out/")
    expected = [row for row in plain if Path(row["path"]).is_file()]
    assert [row["path"] for row in rows] == [
        row["path"].replace(str(inputs), "s3://bucket/in") for row in expected
    ]
    check_equal_but_for_batches(rows, expected)


@pytest.mark.slow
def test_a_store_that_stays_down_stops_the_run_and_a_repeat_goes_on(
    two_nodes: Any, s3: FaultyS3, model: Path, inputs: Path, tmp_path: Path
):
    upload(s3, inputs)
    out = tmp_path / "out"
    arguments = ("--model", model, "s3://bucket/in", "--out", out, "--cluster", two_nodes.address)
    arguments = (*arguments, "--partition", "16", "--allow", "channels")
    s3.down_after = 40  # reads of images
    driver = command(*arguments, AWS_ENDPOINT_URL=s3.address)
    said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 2, said
    assert len(said[1].splitlines()) == 1
    assert "its store keeps failing" in said[1]
    assert "when it works again, repeat the command to continue" in said[1]
    before = parts_of(out)
    assert len(before) < 4
    s3.down_after = None
    again = command(*arguments, AWS_ENDPOINT_URL=s3.address)
    said = again.communicate(timeout=PATIENCE)
    assert again.returncode == 1, said
    assert {name: parts_of(out)[name] for name in before} == before
    rows = rows_of(out)
    assert len(rows) == len({row["path"] for row in rows}) == 50
    assert sum(row["error"] is not None for row in rows) == 2  # those that are no images


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
