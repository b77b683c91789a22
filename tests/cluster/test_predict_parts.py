"""Parts of several views as a cluster decides of them, by workers in this process: as on one machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conftest import save, tiny_image

pytest.importorskip("ray", reason="blemish[cluster] is not installed")

from pyarrow import parquet

from blemish.cluster import predict
from blemish.cluster.predict_parts import PartScoring
from blemish.cluster.predict_worker import Order, Scoring, Worker
from blemish.core.errors import DataError, UsageError
from blemish.data.part_names import PartNames
from blemish.inference.part_models import ViewModels
from blemish.inference.predict_parts import predict_parts_to_folder

NAMES = PartNames(part=r"(\d+)_", view=r"_(\w+)[.]")


@pytest.fixture
def work(pca_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scoring:
    """Four parts of two views, each with a model of its own; one lacks a view, one has a hole in it."""
    for part in range(4):
        for view in ("side", "top"):
            image = tiny_image(10 * part)
            if (part, view) == (1, "top"):
                image[20:40, 20:40] = 0
            if (part, view) != (3, "side"):
                save(tmp_path / "in" / f"{part}_{view}.png", image)
    other = Path(shutil.copy(pca_onnx, tmp_path / "two.onnx"))
    shutil.copy(pca_onnx, tmp_path / "one.onnx")
    models = ViewModels(usual=tmp_path / "one.onnx", own={"top": other})

    def in_this_process(scoring, out, run):
        yield from map(Worker(Order(scoring=scoring, out=out, run=run)), range(run["listed"]["partitions"]))

    monkeypatch.setattr(predict, "_score_partitions", in_this_process)
    return Scoring(
        model=models.usual,
        inputs=(str(tmp_path / "in"),),
        out=str(tmp_path / "out"),
        batch_size=2,
        partition=2,
        device="cpu",
        parts=PartScoring(names=NAMES, models=models),
    )


def test_parts_are_those_of_one_machine_to_the_last_bit(work: Scoring, tmp_path: Path):
    answer = predict.score(work)
    assert work.parts is not None
    images = sorted((tmp_path / "in").iterdir())
    told = [NAMES.of(path) for path in images]
    detectors = work.parts.models.load(partial(work.load, threads=1))
    views = work.parts.make_views(detectors, told)
    predict_parts_to_folder(views, told, [(p, Path(p.name)) for p in images], tmp_path / "one", overlays=None)
    for name in ("parts.jsonl", "parts.csv"):
        assert (tmp_path / "out" / f"_{name}").read_bytes() == (tmp_path / "one" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "out" / "_parts.jsonl").read_text().splitlines()]
    assert [(row["part"], row["decision"], row["missing"]) for row in rows] == [
        ("0", "accepted", []),
        ("1", "rejected", []),
        ("2", "accepted", []),
        ("3", "review", ["side"]),
    ]
    assert len(parquet.read_table(tmp_path / "out")) == 7, "one table, though parts lie beside it"
    said = json.loads((tmp_path / "one" / "summary.json").read_text())["parts"]
    assert answer.parts == said
    assert predict.score(work) == answer, "a repeat says the same"


def test_another_way_to_tell_parts_is_another_run(work: Scoring, tmp_path: Path):
    predict.score(work)
    assert work.parts is not None
    other = replace(work.parts, names=replace(NAMES, part=r"^(\d+)_"))
    with pytest.raises(UsageError, match="was started with another --part-pattern"):
        predict.score(replace(work, parts=other))
    with pytest.raises(UsageError, match="was started with another --part-pattern"):
        predict.score(replace(work, parts=None))
    save(tmp_path / "in" / "odd.png", tiny_image(1))
    with pytest.raises(DataError, match=r"odd.png: --part-pattern .* does not find anything in its name"):
        predict.score(replace(work, out=str(tmp_path / "new")))
