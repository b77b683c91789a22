"""The folder of scores as one table: written by a worker in this process, read by other libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import save, tiny_image

pytest.importorskip("ray", reason="blemish[cluster] is not installed")

from pyarrow import parquet

from blemish.cluster import predict
from blemish.cluster.predict_worker import Order, Scoring, Worker
from blemish.core.errors import UsageError
from blemish.inference.predict_folder import PredictionCounts


@pytest.fixture(scope="module")
def scored(pca_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images in partitions of two, one damaged, one with a hole; as `predict --cluster` leaves it."""
    folder = tmp_path_factory.mktemp("scored")
    for i in range(5):
        image = tiny_image(100 + i)
        if i == 1:
            image[20:40, 20:40] = 0
        save(folder / "in" / f"{i}.png", image)
    (folder / "in" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    work = Scoring(
        model=pca_onnx,
        inputs=(str(folder / "in"),),
        out=str(folder / "out"),
        batch_size=2,
        partition=2,
        device="cpu",
    )
    out = predict._output_folder(work.out)
    run = predict._start_run(work, out, lambda _: None)
    worker = Worker(Order(scoring=work, out=out, run=run))
    for number in range(3):
        assert isinstance(worker(number), PredictionCounts)
    out.write(predict.SUMMARY_NAME, b"{}")
    return folder / "out"


PATHS = ["0.png", "1.png", "2.png", "3.png", "4.png"]


def test_pyarrow_reads_all_rows_in_one_call(scored: Path):
    for table in (parquet.ParquetDataset(scored).read(), parquet.read_table(scored)):
        assert [Path(path).name for path in table["path"].to_pylist()] == PATHS
        assert table["anomalous"].to_pylist() == [False, True, None, False, False]


def test_pandas_reads_all_rows_in_one_call(scored: Path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.read_parquet(scored)
    assert [Path(path).name for path in table["path"]] == PATHS
    assert table["score"].notna().tolist() == [True, True, False, True, True]
    assert len(table["regions"][1]) > 0


def test_duckdb_reads_all_rows_in_one_call(scored: Path):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    for pattern in (f"{scored}/*.parquet", f"{scored}/**/*.parquet"):
        rows = duckdb.sql(
            f"SELECT path, anomalous, len(regions) > 0 FROM '{pattern}' ORDER BY path"
        ).fetchall()
        assert [Path(row[0]).name for row in rows] == PATHS
        assert [row[1] for row in rows] == [False, True, None, False, False]
        assert rows[1][2]


def test_what_is_no_part_is_hidden_from_readers_of_data_sets(scored: Path):
    files = {path.relative_to(scored) for path in scored.rglob("*") if path.is_file()}
    shown = {str(f) for f in files if not any(part.startswith(("_", ".")) for part in f.parts)}
    assert shown == {f"part-{i:06d}.parquet" for i in range(3)}
    assert {str(f) for f in files if f.suffix == ".parquet"} == shown
    assert {f.parts[0] for f in files} - shown == {"_run.json", "_summary.json", "_inputs", "_model"}


@pytest.mark.parametrize(
    ("name", "why"),
    [("run.json", "holds a run of another kind"), ("part-000000.parquet", "already holds predictions")],
)
def test_a_folder_of_an_earlier_layout_is_left_alone(name: str, why: str, pca_onnx: Path, tmp_path: Path):
    save(tmp_path / "in" / "0.png", tiny_image(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    work = Scoring(model=pca_onnx, inputs=(str(tmp_path / "in"),), out=str(tmp_path / "out"), device="cpu")
    with pytest.raises(UsageError, match=f"{why}; choose another --out"):
        predict._start_run(work, predict._output_folder(work.out), lambda _: None)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
