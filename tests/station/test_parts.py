"""A station that decides of parts with two views: it waits for them, decides once, and people judge parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

import parts_at_station
from parts_at_station import Place, at

from blemish.core.errors import UsageError
from blemish.data.part_names import PartNames
from blemish.inference.model_file import load_model_file, save_model_file
from blemish.inference.part_models import ViewModels, read_part_calibration
from blemish.inference.parts import TogetherRule, ViewScore
from blemish.record.rows import StoreError
from blemish.record.sampling import SamplingPlan
from blemish.record.tables import Search
from blemish.station.notifications import Notifications
from blemish.station.parts import PartSettings
from blemish.station.plc import CODES, Plc
from blemish.station.station import Station

NAMES = PartNames(part=r"(\d+)_", view=r"_(\w+)[.]")
goods, run, place = parts_at_station.goods, parts_at_station.run, parts_at_station.place
good, bad = parts_at_station.good, parts_at_station.bad


def test_a_part_is_decided_once_with_its_last_view(
    place: Place, run: Path, good: bytes, bad: bytes, tmp_path: Path
):
    told, state = [], Plc(place.station)
    Notifications(place.station, told.append)
    first = place.send(good, part="17", view="side").json()
    assert (first["view"], first["decision"], first["anomalous"]) == ("side", "unjudged", None)
    assert first["waits_for"] == ["top"]
    assert place.parts() == []
    waiting = place.client.get(f"/v1/inspections/{first['part_id']}")
    assert (waiting.status_code, waiting.json()["state"]) == (202, "waiting")
    last = place.send(bad, part="17", view="top").json()
    assert (last["decision"], last["part_id"], last["waits_for"]) == ("rejected", first["part_id"], [])
    (part,) = place.parts()
    assert (part["id"], part["part"], part["decision"], part["missing"]) == (
        first["part_id"],
        "17",
        "rejected",
        [],
    )
    assert [view["view"] for view in part["views"]] == ["side", "top"]
    assert part["image_sha256"] == last["image_sha256"], "the picture is that of the worst view"
    models = ViewModels(usual=run)
    rule = TogetherRule(read_part_calibration(run / "parts.json", models))
    scores = [ViewScore(view=view["view"], score=view["score"]) for view in part["views"]]
    expected = rule.decide(scores)
    figures = ("score", "p_value", "threshold", "anomalous")
    assert {name: part[name] for name in figures} == {name: getattr(expected, name) for name in figures}
    assert [(row["event"], row["part"]) for row in told] == [("reject", "17")]
    assert [view["view"] for view in told[0]["views"]] == ["side", "top"]
    now = state.state
    assert (now.decision, now.inspected, now.sequence, now.part) == (CODES["rejected"], 1, 1, "17")
    state.close()
    for picture in ("image?side=64", "map", "overlay"):
        assert place.client.get(f"/v1/inspections/{part['id']}/{picture}").status_code == 200
    assert place.client.get(f"/v1/inspections/{last['id']}").json() == last


def test_people_judge_parts_and_figures_are_those_of_parts(place: Place, good: bytes, bad: bytes):
    place.station.store.set_sampling(SamplingPlan(1.0))
    for name, top in (("1", good), ("2", bad)):
        for view, image in (("side", good), ("top", top)):
            said = place.send(image, part=name, view=view).json()
    waiting = place.parts(to_judge=True)
    assert [(row["part"], row["decision"], row["sample"]) for row in waiting] == [
        ("2", "rejected", None),
        ("1", "accepted", 1.0),
    ]
    answer = place.client.post(f"/v1/inspections/{said['id']}/verdict", json={"verdict": "defect"})
    assert answer.json()["id"] == said["part_id"], "a verdict on a view is one on its part"
    assert [row["part"] for row in place.parts(to_judge=True)] == ["1"]
    figures = place.client.get("/v1/quality").json()
    assert (figures["n"], figures["accepted"], figures["rejected"], figures["waiting"]) == (2, 1, 1, 1)
    table = place.client.get("/v1/export.csv").text.splitlines()
    assert len(table) == 1 + 2
    open_view = place.send(good, part="3", view="side").json()
    early = place.client.post(f"/v1/inspections/{open_view['id']}/verdict", json={"verdict": "good"})
    assert (early.status_code, "waits for other views" in early.json()["detail"]) == (409, True)


def test_a_part_that_waits_too_long_is_never_accepted(place: Place, good: bytes, bad: bytes, capfd):
    ids = [place.send(image, part=name, view="side").json() for name, image in (("1", good), ("2", bad))]
    place.wait(9.9)
    assert place.parts() == []
    place.wait(0.2)
    assert [(row["part"], row["decision"], row["missing"]) for row in place.parts()] == [
        ("2", "rejected", ["top"]),
        ("1", "review", ["top"]),
    ]
    assert "part 1: missing: top; review" in capfd.readouterr().err
    assert place.client.get(f"/v1/inspections/{ids[0]['id']}").json()["decision"] == "review"
    late = place.send(good, part="1", view="top").json()
    assert late["part_id"] != ids[0]["part_id"], "what comes after a decision is a new part"


def test_an_image_that_cannot_be_read_is_a_missing_view(place: Place, good: bytes):
    place.send(good, part="1", view="side")
    assert place.send(b"no image", part="1", view="top").status_code == 422
    (part,) = place.parts()
    assert (part["decision"], part["missing"]) == ("review", ["top"])
    assert [view["error"] is None for view in part["views"]] == [True, False]


def test_a_crash_between_views_loses_nothing(run: Path, tiny_model: Path, good: bytes, tmp_path: Path, capfd):
    folder = tmp_path / "station"
    with at(run, folder) as place:
        before = [place.send(good, part=name, view="side").json() for name in ("1", "2")]
    with at(run, folder) as place:
        assert place.parts() == []
        last = place.send(good, part="1", view="top").json()
        assert (last["part_id"], last["decision"]) == (before[0]["part_id"], "accepted")
    with at(tiny_model, folder) as place:  # another model, which has no parts
        found = {row["part"]: row for row in place.parts()}
        assert (found["2"]["decision"], found["2"]["id"]) == ("review", before[1]["part_id"])
        assert "its model is not in use" in found["2"]["error"]
        assert "part 2: not all of its views had come" in capfd.readouterr().err


def test_a_record_that_fails_loses_neither_the_view_nor_the_part(
    place: Place, good: bytes, monkeypatch: pytest.MonkeyPatch
):
    place.send(good, part="1", view="side")

    def fail(_rows: object) -> None:
        raise StoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(place.station.store, "record", fail)
        assert place.send(good, part="1", view="top").status_code == 503
    assert place.parts() == []
    assert place.send(good, part="1", view="top").json()["decision"] == "accepted"


def test_a_key_makes_a_view_one_however_often_it_is_sent(place: Place, good: bytes):
    def sent(view: str, key: str) -> dict:
        headers = {"Idempotency-Key": key}
        query = {"part": "1", "view": view}
        return place.client.post("/v1/inspections", content=good, params=query, headers=headers).json()

    assert sent("side", "a")["id"] == sent("side", "a")["id"]
    assert place.parts() == []
    done = sent("top", "b")
    assert sent("side", "a")["part_id"] == done["part_id"]
    assert sent("side", "a")["decision"] == done["decision"] == "accepted"
    assert len(place.parts()) == 1


def test_the_name_of_a_file_tells_part_and_view(run: Path, good: bytes, tmp_path: Path):
    with at(run, tmp_path / "station", PartSettings(names=NAMES)) as place:
        form = {"image": ("17_side.png", good)}
        assert place.client.post("/v1/inspections", files=form).json()["view"] == "side"
        done = place.client.post(
            "/v1/inspections", files={"image": ("x.png", good)}, data={"part": "17", "view": "top"}
        )
        assert done.json()["decision"] == "accepted"
        for name, why in (
            ("x.png", "no part is told"),
            ("17_left.png", "view 'left' is unknown: parts have side, top"),
        ):
            refused = place.client.post("/v1/inspections", files={"image": (name, good)})
            assert refused.status_code in (400, 422)
            assert why in refused.json()["detail"]


def test_a_model_says_how_it_decides_of_parts(place: Place):
    (model,) = place.client.get("/v1/models").json()
    said = model["parts"]
    assert (said["views"], said["count"], said["rule"], said["carried_by"]) == (
        ["side", "top"],
        2,
        "together",
        19,
    )
    assert (
        place.client.get("/v1/summary", params={"since": "2020-01-01", "until": "2030-01-01"}).status_code
        == 200
    )


def test_views_without_names_are_counted(tiny_model: Path, good: bytes, tmp_path: Path):
    with at(tiny_model, tmp_path / "station", PartSettings(views=("3",)), false_alarm_rate=0.5) as place:
        answers = [place.send(good, part="1").json() for _ in range(4)]
        assert [each["waits_for"] for each in answers] == [["2 of 3"], ["1 of 3"], [], ["2 of 3"]]
        assert len({each["part_id"] for each in answers[:3]}) == 1
        (part,) = place.parts()
        assert (len(part["views"]), part["threshold"]) == (3, None)


def test_a_view_with_a_model_of_its_own(tiny_model: Path, good: bytes, tmp_path: Path):
    found = load_model_file(tiny_model)
    save_model_file(tmp_path / "two.safetensors", replace(found, provenance={"made": "later"}))
    settings = PartSettings(view_models=(f"top={tmp_path / 'two.safetensors'}",), views=("side", "top"))
    with pytest.raises(UsageError, match="are for one --model"):
        Station([tiny_model, tiny_model], tmp_path / "several", device="cpu", parts=settings)
    with at(tiny_model, tmp_path / "station", settings, false_alarm_rate=0.5) as place:
        for view in ("side", "top"):
            last = place.send(good, part="1", view=view).json()
        models = {model["digest"]: model["name"] for model in place.client.get("/v1/models").json()}
        (part,) = place.parts()
        assert [models[view["model"]] for view in part["views"]] == ["tiny", "tiny:top"]
        assert (models[part["model"]], part["decision"]) == ("tiny", last["decision"])
        named = place.send(good, part="2", view="side", model="tiny:top").json()
        assert models[named["model"]] == "tiny", "the view says which model scores it"


def test_a_model_without_parts_answers_as_before(tiny_model: Path, good: bytes, tmp_path: Path):
    with at(tiny_model, tmp_path / "station") as place:
        said = place.send(good, part="17").json()
        assert not {"view", "part_id", "missing", "views", "waits_for"} & said.keys()
        assert "parts" not in place.client.get("/v1/models").json()[0]
        refused = place.send(good, part="17", view="top")
        assert refused.status_code in (400, 422)
        assert "has no parts with several views" in refused.json()["detail"]


def test_the_files_of_views_are_kept_as_long_as_those_of_their_part(place: Place, good: bytes, bad: bytes):
    for view, image in (("side", good), ("top", bad)):
        place.send(image, part="1", view=view)
    store = place.station.store
    assert store.oldest_with_files(wanted=False, limit=9) == []
    assert len(store.oldest_with_files(wanted=True, limit=9)) == 3
    assert len(store.search(Search())) == 1
