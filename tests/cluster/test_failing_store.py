"""Scoring on a cluster out of an object store that fails: at times, or for good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import scored_on_cluster
from faulty_s3 import FaultyS3, client_of, faulty_s3
from scored_on_cluster import PATIENCE, check_equal_but_for_batches, command, nodes

pytest.importorskip("ray", reason="ray is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

environment, model, inputs = scored_on_cluster.environment, scored_on_cluster.model, scored_on_cluster.inputs
plain_out, plain = scored_on_cluster.plain_out, scored_on_cluster.plain


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[Any]:
    """One node of one core: it waits for its store most of the time."""
    with nodes(1) as cluster:
        yield cluster


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
@pytest.mark.waits
def test_a_store_that_stays_down_stops_the_run_and_a_repeat_goes_on_though_it_fails_at_times(
    cluster: Any, s3: FaultyS3, model: Path, inputs: Path, plain: list[dict], tmp_path: Path
):
    folders = ("s3://bucket/in", "s3://bucket/more")
    for folder in folders:
        upload(s3, inputs, Path(folder).name)
    arguments = ("--model", model, *folders, "--out", "s3://bucket/out", "--allow", "channels")
    arguments = (*arguments, "--cluster", cluster.address, "--partition", "16")
    s3.down_after = 40  # reads of images of the first folder
    driver = command(tmp_path, *arguments, AWS_ENDPOINT_URL=s3.address)
    said = driver.communicate(timeout=4 * PATIENCE)
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
    driver = command(tmp_path, *arguments, AWS_ENDPOINT_URL=s3.address)
    said = driver.communicate(timeout=4 * PATIENCE)
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
