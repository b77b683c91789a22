"""New thresholds of parts with several views, made by a station from the parts that it has decided."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

import parts_at_station
from conftest import tiny_image
from parts_at_station import Place, at
from requests_to_station import png
from several_views import with_parts

from blemish.core.errors import ConflictError
from blemish.inference.model_file import load_model_file, save_model_file
from blemish.inference.part_models import (
    ViewModels,
    digests_of_one,
    read_part_calibration,
    write_part_calibration,
)
from blemish.inference.parts import PartCalibration, TogetherRule, ViewScore
from blemish.station.parts import PartSettings

goods = parts_at_station.goods
N = 5
RATE = {"false_alarm_rate": 0.25}
"""What four or five parts can promise."""


@pytest.fixture(scope="module")
def run(tiny_model: Path, goods: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_parts(tiny_model, goods[:1], tmp_path_factory.mktemp("runs") / "valve", n=4)


@pytest.fixture
def place(run: Path, tmp_path: Path) -> Iterator[Place]:
    with at(run, tmp_path / "station", **RATE) as place:
        yield place


def image(k: int) -> bytes:
    return png((tiny_image(k) * 0.97).astype(np.uint8))


def send_parts(place: Place, n: int = N, *, views: tuple[str, ...] = ("side", "top")) -> list[dict]:
    """Send n good parts, and say of each that it is good; returns them, newest first."""
    for k in range(n):
        for v, view in enumerate(views):
            last = place.send(image(2 * k + v), part=str(k), **({"view": view} if view else {})).json()
        place.client.post(f"/v1/inspections/{last['part_id']}/verdict", json={"verdict": "good"})
    return place.parts()


def recalibrate(place: Place, digest: str, parts: int = 500):
    answer = place.client.post(f"/v1/models/{digest}/recalibration", json={"parts": parts})
    assert answer.status_code in (201, 409, 422), answer.text
    return answer


def in_use(place: Place) -> dict:
    return next(model for model in place.client.get("/v1/models").json() if model["active"])


def part_file(place: Place, digest: str) -> Path:
    return ViewModels(usual=place.station.versions.file(digest)).calibration_file


def test_the_newest_good_parts_decide_from_then_on(place: Place, run: Path, tmp_path: Path):
    old = in_use(place)
    parts = send_parts(place)
    made = recalibrate(place, old["digest"]).json()
    assert (made["parts"]["carried_by"], made["parts"]["rule"], made["parts"]["one_model"]) == (
        N,
        "together",
        True,
    )
    assert (made["calibration_parts"], made["calibration_images"]) == (N, 2 * N)
    kept = json.loads(part_file(place, made["digest"]).read_text())
    of_views = [{view["view"]: view["score"] for view in part["views"]} for part in parts]
    assert kept["parts"] == [part["id"] for part in parts]
    assert kept["scores"] == [[each["side"], each["top"]] for each in of_views]
    rule = TogetherRule(PartCalibration(scores=np.array(kept["scores"]), views=("side", "top")), rate=0.25)
    for view, k in (("side", 40), ("top", 41)):
        place.send(image(k), part="new", view=view)
    (new, *_) = place.parts()
    expected = rule.decide([ViewScore(view=v["view"], score=v["score"]) for v in new["views"]])
    figures = ("score", "p_value", "threshold", "decision")
    assert {name: new[name] for name in figures} == {name: getattr(expected, name) for name in figures}
    assert place.station.following.drifts[made["digest"]] is not None
    back = place.client.post(f"/v1/models/{old['digest']}/use", json={}).json()
    assert (back["digest"], back["parts"]["carried_by"], back["calibration_parts"]) == (old["digest"], 4, 4)
    again = place.client.post(f"/v1/models/{made['digest']}/use", json={}).json()
    assert again["parts"]["carried_by"] == N
    place.station.close()
    with at(run, tmp_path / "station", **RATE) as later:
        assert (in_use(later)["digest"], in_use(later)["parts"]["carried_by"]) == (made["digest"], N)
        earlier = next(m for m in later.client.get("/v1/models").json() if not m["active"])
        assert (earlier["digest"], earlier["calibration_parts"]) == (old["digest"], 4)


def test_parts_that_wait_for_a_verdict_or_are_too_few_are_refused(place: Place):
    digest = in_use(place)["digest"]
    send_parts(place, 3)
    few = recalibrate(place, digest)
    assert (few.status_code, few.json()["detail"]) == (
        409,
        "3 good parts are on record with their maps of all views, and this model was calibrated on 4; "
        "inspect more, or take more parts",
    )
    black = png(np.zeros_like(tiny_image(0)))
    for view in ("side", "top"):
        place.send(black, part="black", view=view)
    waiting = recalibrate(place, digest)
    assert waiting.status_code == 409
    assert waiting.json()["detail"].startswith("1 of the newest 4 parts were rejected and wait for a verdict")
    place.client.post(f"/v1/inspections/{place.parts()[0]['id']}/verdict", json={"verdict": "defect"})
    place.send(image(9), part="alone", view="side")
    place.wait(11)  # a part without its top counts neither as one that waits nor as a good one
    assert recalibrate(place, digest).json()["detail"] == few.json()["detail"]
    assert not list(place.station.versions.folder.glob("*.safetensors"))


def test_of_a_view_that_came_twice_the_newest_image_calibrates(place: Place):
    digest = in_use(place)["digest"]
    send_parts(place, 4)
    for k, view in ((30, "side"), (31, "side"), (32, "top")):
        last = place.send(image(k), part="twice", view=view).json()
    place.client.post(f"/v1/inspections/{last['part_id']}/verdict", json={"verdict": "good"})
    rows = place.station.store.views_of([last["part_id"]])[last["part_id"]]
    made = recalibrate(place, digest).json()
    (newest, *_) = json.loads(part_file(place, made["digest"]).read_text())["scores"]
    assert newest == [rows[1].score, rows[2].score]
    assert rows[0].score != rows[1].score


def test_a_region_of_one_view_is_refused(place: Place):
    region = {"size": [64, 64], "polygons": [[[0, 0], [32, 0], [32, 64]]]}
    digest = in_use(place)["digest"]
    refused = place.client.post(f"/v1/models/{digest}/recalibration", json={"region": region})
    assert refused.status_code == 422
    assert "would count for all views of a part" in refused.json()["detail"]


def test_a_part_that_waits_meanwhile_is_for_review(place: Place):
    digest = in_use(place)["digest"]
    send_parts(place)
    early = place.send(image(50), part="late", view="side").json()
    recalibrate(place, digest)
    assert place.client.get(f"/v1/inspections/{early['id']}").json()["waits_for"] == ["top"]
    done = place.send(image(51), part="late", view="top").json()
    (part, *_) = place.parts()
    assert (done["decision"], part["error"]) == (
        "review",
        "part late: a view was scored by a model that has been replaced since",
    )


def test_views_that_were_not_calibrated_together_are_from_then_on(tiny_model: Path, tmp_path: Path):
    settings, folder = PartSettings(views=("2",)), tmp_path / "station"
    with at(tiny_model, folder, settings, false_alarm_rate=0.5) as place:
        model = in_use(place)
        assert (model["parts"]["rule"], model["calibration_parts"]) == ("apart", None)
        few = recalibrate(place, model["digest"])
        assert (
            "0 good parts are on record with their maps of all views, and its false-alarm rate needs 1"
            in (few.json()["detail"])
        )
        send_parts(place, 3, views=("", ""))
        made = recalibrate(place, model["digest"]).json()
        assert (made["parts"]["rule"], made["parts"]["carried_by"], made["parts"]["count"]) == (
            "together",
            3,
            2,
        )
    with at(tiny_model, folder, settings, false_alarm_rate=0.5) as place:
        assert in_use(place)["parts"]["rule"] == "together"


def test_models_of_several_views_and_rollouts_are_refused(run: Path, tiny_model: Path, tmp_path: Path):
    found = load_model_file(tiny_model)
    save_model_file(tmp_path / "two.safetensors", replace(found, provenance={"made": "later"}))
    settings = PartSettings(view_models=(f"top={tmp_path / 'two.safetensors'}",), views=("side", "top"))
    with at(tiny_model, tmp_path / "several", settings, false_alarm_rate=0.5) as place:
        model = in_use(place)
        refused = recalibrate(place, model["digest"])
        assert (refused.status_code, model["parts"]["one_model"]) == (409, False)
        assert refused.json()["detail"].startswith(
            "model tiny: decides of parts together with models of other"
        )
    with at(run, tmp_path / "station", **RATE) as place:
        with pytest.raises(
            ConflictError, match=r"^model valve: decides of parts with several views, and a roll"
        ):
            place.station.take_version("valve", b"another", suffix=".safetensors")
        assert not list(place.station.versions.folder.glob("*.safetensors"))


def test_a_version_without_a_calibration_of_parts_is_refused_with_the_cure(
    tiny_model: Path, run: Path, tmp_path: Path
):
    """It came by a rollout while each image was a part; now parts of two views are decided."""
    save_model_file(tmp_path / "made", replace(load_model_file(run), provenance={"made": "later"}))
    model = shutil.copytree(tiny_model, tmp_path / "valve")
    with at(model, tmp_path / "station", **RATE) as place:
        first = in_use(place)["digest"]
        place.station.take_version("valve", (tmp_path / "made").read_bytes(), suffix=".safetensors")
        made = in_use(place)["digest"]
        assert place.client.post(f"/v1/models/{first}/use", json={}).status_code == 201
    calibration = ViewModels(usual=model).calibration_file
    shutil.copy(ViewModels(usual=run).calibration_file, calibration)
    with at(model, tmp_path / "station", **RATE) as place:
        refused = place.client.post(f"/v1/models/{made}/use", json={})
        assert (refused.status_code, refused.json()["detail"]) == (
            409,
            f"model {made}: has no calibration of parts with several views, as they are decided here; "
            "recalibrate the version in use, or calibrate this one by `blemish parts --model "
            f"models/{made}.safetensors` in the station's folder",
        )
        assert in_use(place)["digest"] == first
        there = place.station.versions.file(made)
        known = read_part_calibration(calibration, ViewModels(usual=model))
        beside = ViewModels(usual=there).calibration_file
        write_part_calibration(beside, known, digests_of_one(known, there.read_bytes()), parts=[], data="x")
        assert place.client.post(f"/v1/models/{made}/use", json={}).status_code == 201
        place.client.post(f"/v1/models/{first}/use", json={})
        beside.write_text("{}")
        damaged = place.client.post(f"/v1/models/{made}/use", json={})
        assert (damaged.status_code, "is no calibration of parts" in damaged.json()["detail"]) == (503, True)


def test_a_version_that_nobody_needs_goes_with_its_calibration(place: Place):
    digest = in_use(place)["digest"]
    send_parts(place)
    made = recalibrate(place, digest).json()["digest"]
    file = part_file(place, made)
    assert read_part_calibration(file, ViewModels(usual=place.station.versions.file(made))).n == N
    place.client.post(f"/v1/models/{digest}/use", json={})
    assert place.station.versions.remove_unused(lambda _: set(), before=2e9 * 10) == [made]
    assert not file.exists()


def test_images_go_to_the_line_of_their_parts_also_while_a_version_changes(place: Place):
    """The line knows the new version before the engine has it."""
    engine, line = place.station.engine(), place.station.parts.lines[0]
    line.digests = dict.fromkeys(line.digests, "0" * 64)
    assert place.station.taker(engine) is line
