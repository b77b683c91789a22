"""Scoring on a cluster, for the tests of it: its nodes, what is scored, and what one process says of it."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import save, tiny_image
from faulty_s3 import SETTINGS
from warm import OF_A_CLUSTER, Warm, also, blemish

PATIENCE = 300
"""Seconds after which a test gives up waiting; it says nothing of speed."""


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """One thread each, for sums equal to the last bit; keys of the S3 reach the nodes, not its address."""
    also(OF_A_CLUSTER)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **SETTINGS}.items():
            patch.setenv(name, value)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # or they wait for all other tests
        patch.setenv("no_proxy", "*")
        yield


@contextmanager
def nodes(number: int) -> Iterator[Any]:
    """So many nodes of one core each, without what gathers logs and asks for more: no test looks at it."""
    from ray.cluster_utils import Cluster

    less = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **less})
    try:
        for _ in range(number - 1):
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
    code = command(out.parent, "--model", model, inputs, "--out", out, *options).wait(PATIENCE)
    assert code in (0, 1)
    return read_rows(out)


def read_rows(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("map", "overlay")} for row in rows]


def command(said: Path, *arguments: str | Path, **environment: str) -> Warm:
    """Start `blemish predict ARGUMENTS`; what it writes is kept in files below `said`."""
    kept = Path(tempfile.mkdtemp(prefix="said-", dir=said))
    files = {"out": kept / "out.txt", "err": kept / "err.txt"}
    return Warm(blemish, "predict", *arguments, **files, env=os.environ | environment)


def check_equal_but_for_batches(rows: list[dict], expected: list[dict]) -> None:
    """Compare rows whose batches differ, by a file that is missing: sums may differ in their last bits."""
    for row, other in zip(rows, expected, strict=True):
        if other["error"] is None:
            assert row["score"] == pytest.approx(other["score"], rel=1e-6)
        for name in ("p_value", "threshold", "anomalous"):
            assert row[name] == other[name]
        assert [r["area_px"] for r in row["regions"]] == [r["area_px"] for r in other["regions"]]
        assert (row["error"] is None) == (other["error"] is None)


# --- its workers ---

SCORING, IDLE = "ray::score_partition", "ray::IDLE"
"""How the workers of Ray are called."""


def workers(*doing: str) -> list[Any]:
    """The workers of the cluster that this process started, and that score, or wait for work."""
    import psutil

    return [p for p in psutil.Process().children(recursive=True) if is_alive(p, *doing)]


def is_alive(process: Any, *doing: str) -> bool:
    """Whether this is a worker that has not ended."""
    import psutil

    try:
        said = process.cmdline()
        return process.status() != psutil.STATUS_ZOMBIE and said[0].startswith(doing or (SCORING, IDLE))
    except (psutil.Error, IndexError):
        return False


def held_predict(held: Path, *arguments: str | Path) -> int:
    """Run `blemish predict ARGUMENTS`; workers wait in the midst of partitions from number `held` on."""
    from blemish.cluster import predict

    given = predict.score_partition

    @functools.wraps(given)  # this goes to the workers as it is: they have no module of tests
    def score_partition(order: Any, number: int) -> Any:
        from blemish.cluster import predict_worker

        def row_of(*of: Any) -> dict[str, Any]:
            while number >= int(held.read_text() or 0):
                time.sleep(0.02)
            return make_row(*of)

        make_row, predict_worker.row_of = predict_worker.row_of, row_of
        try:
            return given(order, number)
        finally:
            predict_worker.row_of = make_row

    predict.score_partition = score_partition
    return blemish("predict", *arguments)
