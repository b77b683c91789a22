"""What is written of a result, wherever: the very bytes, names, orders and types that readers rely on."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from blemish.core.errors import ImageError
from blemish.core.types import Prediction, Region
from blemish.inference.predict_folder import COLUMNS, row_of
from blemish.record.ledger_sync import inspection_of

REGION = Region(x0=1, y0=2, x1=3, y1=4, area_px=4, peak=0.75)
RESULT = Prediction(
    path="a.png",
    score=0.5,
    p_value=0.25,
    threshold=0.375,
    anomalous=True,
    anomaly_map=np.zeros((4, 4), np.float32),
    regions=[REGION],
    review_threshold=0.25,
)
LEDGER_ROW = {
    "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "time": "2026-01-02T03:04:05.678+00:00",
    "model": "0" * 64,
    "seconds": 1.5,
    "archived": {"image": "1" * 64, "map": "2" * 64, "width": 8, "height": 4},
} | row_of("a.png", RESULT)


ADD_A_FIELD = """
import importlib.util, sys
import blemish.core
spec = importlib.util.find_spec("blemish.core.types")
source = spec.loader.get_source(spec.name)
last = "    regions: list[Region] = field(default_factory=list)\\n"
assert source.count(last) == 1
blemish.core.types = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
exec(source.replace(last, last + "    glare: float | None = None\\n"), vars(blemish.core.types))
"""
SAY_WHO_HAS_IT = """
import json
from blemish.core.errors import ImageError
from blemish.cluster.predict_worker import schema
from blemish.inference.predict_folder import COLUMNS, row_of
from blemish.record import table_export, tables
from blemish.station.schemas import InspectionAnswer
print(json.dumps({
    "row": list(row_of("a.png", ImageError("no image"))),
    "csv": list(COLUMNS),
    "parquet": schema().names,
    "table": [column.name for column in tables.inspections.columns],
    "export": list(table_export.COLUMNS),
    "answer": list(InspectionAnswer.model_fields),
}))
"""


@pytest.mark.slow
def test_a_new_field_of_a_result_follows_into_every_row_table_and_answer(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    exec(SAY_WHO_HAS_IT, {})
    before = json.loads(capsys.readouterr().out)
    with_field = [sys.executable, "-c", ADD_A_FIELD + SAY_WHO_HAS_IT]
    after = json.loads(subprocess.run(with_field, capture_output=True, text=True, check=True).stdout)
    for place, given in after.items():
        assert [name for name in given if name != "glare"] == before[place], place
        assert given.count("glare") == 1, place


def test_a_row_of_predictions_jsonl():
    assert json.dumps(row_of("in/a.png", RESULT)) == (
        '{"path": "in/a.png", "score": 0.5, "p_value": 0.25, "threshold": 0.375, "anomalous": true, '
        '"regions": [{"x0": 1, "y0": 2, "x1": 3, "y1": 4, "area_px": 4, "peak": 0.75}], '
        '"review_threshold": 0.25, "map": null, "overlay": null, "error": null, "decision": "rejected"}'
    )
    assert json.dumps(row_of("in/b.png", ImageError("in/b.png: is no image"))) == (
        '{"path": "in/b.png", "score": null, "p_value": null, "threshold": null, "anomalous": null, '
        '"regions": [], "review_threshold": null, "map": null, "overlay": null, '
        '"error": "in/b.png: is no image", "decision": "failed"}'
    )


def test_the_columns_of_predictions_csv():
    assert ",".join(COLUMNS) == (
        "path,score,p_value,threshold,anomalous,n_regions,review_threshold,map,overlay,error,decision"
    )


def test_the_schema_of_the_parquet_files_of_a_cluster():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from blemish.cluster.predict_worker import schema

    assert schema().to_string() == (
        "path: string\nscore: double\np_value: double\nthreshold: double\nanomalous: bool\n"
        "regions: list<item: struct<x0: int64, y0: int64, x1: int64, y1: int64, area_px: int64, "
        "peak: double>>\n"
        "  child 0, item: struct<x0: int64, y0: int64, x1: int64, y1: int64, area_px: int64, peak: double>\n"
        + "".join(
            f"      child {i}, {name}: {kind}\n"
            for i, (name, kind) in enumerate(
                [*((n, "int64") for n in ("x0", "y0", "x1", "y1", "area_px")), ("peak", "double")]
            )
        )
        + "review_threshold: double\nerror: string\ndecision: string"
    )


def test_the_table_of_inspections():
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateTable

    from blemish.record import conversion, tables

    made = str(CreateTable(tables.inspections).compile(dialect=sqlite.dialect()))
    assert " ".join(made.split()) == (
        "CREATE TABLE inspections ( id VARCHAR(26) NOT NULL, time BIGINT NOT NULL, source TEXT NOT NULL, "
        "part TEXT, path TEXT, model VARCHAR(64) NOT NULL, image VARCHAR(64), map VARCHAR(64), "
        "width INTEGER, height INTEGER, score DOUBLE, p_value DOUBLE, threshold DOUBLE, "
        "review_threshold DOUBLE, "
        "decision TEXT NOT NULL, regions TEXT NOT NULL, error TEXT, seconds DOUBLE NOT NULL, verdict TEXT, "
        'files_removed BIGINT, number BIGINT, "key" TEXT, product TEXT, line TEXT, shift TEXT, station TEXT, '
        'sample DOUBLE, counts INTEGER, "view" TEXT, part_id VARCHAR(26), missing TEXT, PRIMARY KEY (id) )'
    )
    row = conversion.row_of(inspection_of(LEDGER_ROW))
    assert (row["score"], row["p_value"], row["threshold"], row["decision"]) == (0.5, 0.25, 0.375, "rejected")
    assert row["regions"] == json.dumps(LEDGER_ROW["regions"])


def test_exported_inspections(tmp_path: Path):
    from blemish.record import conversion, table_export

    said = {"verdict": "defect", "reason": "dent", "note": "deep", "by": "Ann"}
    judged = conversion.Judged(
        inspection=inspection_of(LEDGER_ROW),
        model_name="flange",
        judged=datetime(2026, 1, 3, tzinfo=UTC),
        **said,  # type: ignore[arg-type]
    )
    table_export.write(tmp_path / "x.csv", [judged])
    region = '[{"x0": 1, "y0": 2, "x1": 3, "y1": 4, "area_px": 4, "peak": 0.75}]'
    cells = ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "2026-01-02T03:04:05.678+00:00", "watch", "", "a.png", "0" * 64]
    cells += ["1" * 64, "2" * 64, "8", "4", "0.5", "0.25", "0.375", "True", region, "0.25", "", "1.5", ""]
    text = io.StringIO()
    cells += ["rejected", "defect", "flange", "dent", "deep", "Ann", "2026-01-03T00:00:00.000+00:00"]
    csv.writer(text, lineterminator="\n").writerow([*cells, *[""] * 5])
    assert (tmp_path / "x.csv").read_text() == (
        "id,time,source,part,path,model,image,map,width,height,score,p_value,threshold,anomalous,regions,"
        "review_threshold,error,seconds,files_removed,decision,verdict,model_name,reason,note,by,judged,"
        f"product,line,shift,station,sample\n{text.getvalue()}"
    )
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table_export.write(tmp_path / "x.parquet", [judged])
    found = pq.read_schema(tmp_path / "x.parquet")
    assert [f"{name} {kind}" for name, kind in zip(found.names, found.types, strict=True)] == [
        *("id string", "time timestamp[ms, tz=UTC]", "source string", "part string", "path string"),
        *("model string", "image string", "map string", "width int32", "height int32", "score double"),
        *("p_value double", "threshold double", "anomalous bool", "regions string"),
        *("review_threshold double", "error string"),
        *("seconds double", "files_removed timestamp[ms, tz=UTC]", "decision string", "verdict string"),
        *("model_name string", "reason string", "note string", "by string"),
        *("judged timestamp[ms, tz=UTC]", "product string", "line string", "shift string"),
        *("station string", "sample double"),
    ]


def test_the_answer_of_the_service():
    from blemish.record.rows import Verdict
    from blemish.station.answers import answer_of
    from blemish.station.schemas import InspectionAnswer

    said = Verdict(
        id="01ARZ3NDEKTSV4RRFFQ69G5FAW",
        inspection=str(LEDGER_ROW["id"]),
        time=datetime(2026, 1, 2, tzinfo=UTC),
        verdict="good",
    )
    here = "/v1/inspections/01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert answer_of(inspection_of(LEDGER_ROW), [said]).model_dump_json() == (
        '{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","time":"2026-01-02T03:04:05.678000Z","source":"watch",'
        f'"part":null,"product":null,"line":null,"shift":null,"station":null,"path":"a.png",'
        f'"model":"{"0" * 64}","image_sha256":"{"1" * 64}","width":8,"height":4,'
        '"score":0.5,"p_value":0.25,"threshold":0.375,"anomalous":true,"review_threshold":0.25,"decision":"rejected",'
        '"sample":null,"regions":[{"x0":1,"y0":2,"x1":3,"y1":4,"area_px":4,"peak":0.75}],'
        f'"image":"{here}/image","map":"{here}/map","overlay":"{here}/overlay","error":null,"seconds":1.5,'
        '"verdicts":[{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAW","time":"2026-01-02T00:00:00Z","verdict":"good",'
        '"note":"","by":"","key":null,"reason":null}],"withdrawn":[]}'
    )
    schema = InspectionAnswer.model_json_schema()
    assert schema["required"] == list(schema["properties"])
    number, text, yes_no = "number", "string", "boolean"
    optional = {"part": text, "path": text, "score": number, "p_value": number, "threshold": number}
    optional |= {
        "review_threshold": number,
        "anomalous": yes_no,
        "error": text,
        "image": text,
        "map": text,
        "overlay": text,
    }
    for name, kind in optional.items():
        assert schema["properties"][name]["anyOf"] == [{"type": kind}, {"type": "null"}], name
    assert schema["properties"]["regions"]["items"] == {"$ref": "#/$defs/RegionAnswer"}
    region = schema["$defs"]["RegionAnswer"]
    assert {k: v["type"] for k, v in region["properties"].items()} == dict.fromkeys(
        ("x0", "y0", "x1", "y1", "area_px"), "integer"
    ) | {"peak": "number"}
    assert region["required"] == list(region["properties"])
