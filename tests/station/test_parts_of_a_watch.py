"""Parts of several views that a watch puts into a station's record: it shows them as its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

import parts_at_station
from parts_at_station import Place, at

from blemish.data.part_names import PartNames
from blemish.inference.part_models import ViewModels
from blemish.record.ledger_sync import sync_to_database
from blemish.station.notifications import Notifications
from blemish.watch.folder import watch
from blemish.watch.ledger import LEDGER_NAME
from blemish.watch.parts import PartSettings
from blemish.watch.settings import WatchSettings

NAMES = PartNames(part=r"(\d+)_", view=r"_(\w+)[.]")
goods, run, place = parts_at_station.goods, parts_at_station.run, parts_at_station.place
good, bad = parts_at_station.good, parts_at_station.bad


def watched(
    model: Path, images: dict[str, bytes], place: Place, until: Callable[[Path], bool], wait_s: float = 1e6
) -> None:
    """Run a watch into the station's record until it has done what is wanted, and let the station look."""
    folder, out = place.station.folder.with_name("camera"), place.station.folder
    folder.mkdir(exist_ok=True)
    for name, data in images.items():
        (folder / name).write_bytes(data)
    parts = PartSettings(names=NAMES, models=ViewModels(usual=model), wait_s=wait_s)
    options = WatchSettings(model=model, folder=folder, out=out, device="cpu", parts=parts)
    with sync_to_database("sqlite", out / LEDGER_NAME, print) as sync:
        watch(options, should_stop=lambda: until(out), on_row=lambda _: None, sync=sync)
    place.station.following.follow()


def rows(out: Path, name: str) -> list[dict]:
    file = out / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def decided(n: int) -> Callable[[Path], bool]:
    return lambda out: len(rows(out, "parts.jsonl")) >= n


def recorded(n: int) -> Callable[[Path], bool]:
    return lambda out: len(rows(out, LEDGER_NAME)) >= n


@pytest.mark.heavy
def test_parts_of_a_watch_are_shown_as_the_station_s_own(place: Place, run: Path, good: bytes, bad: bytes):
    told: list[dict] = []
    Notifications(place.station, told.append)
    images = {"1_side.png": good, "1_top.png": good, "2_side.png": good, "2_top.png": bad}
    watched(run, images, place, decided(2))
    for part, top in (("3", good), ("4", bad)):
        for view, image in (("side", good), ("top", top)):
            place.send(image, part=part, view=view)
    found = {row["part"]: row for row in place.parts()}
    for watch_s, own in (("1", "3"), ("2", "4")):
        for name in ("decision", "anomalous", "missing", "p_value", "model", "error", "width", "station"):
            assert found[watch_s][name] == found[own][name], name
        for name in ("score", "threshold"):  # whose last digits depend on the batch
            assert found[watch_s][name] == pytest.approx(found[own][name], rel=1e-4)
        assert found[watch_s].keys() == found[own].keys()
        views, others = found[watch_s]["views"], found[own]["views"]
        assert [each["view"] for each in views] == [each["view"] for each in others] == ["side", "top"]
        assert [each["image_sha256"] for each in views] == [each["image_sha256"] for each in others]
        for picture in ("image?side=64", "map", "overlay"):
            for shown in (found[watch_s], *views):
                assert place.client.get(f"/v1/inspections/{shown['id']}/{picture}").status_code == 200
    assert (found["2"]["source"], found["2"]["decision"], found["2"]["missing"]) == ("watch", "rejected", [])
    assert [(row["event"], row["part"]) for row in told] == [("reject", "2"), ("reject", "4")]
    assert place.station.following.drifts[found["1"]["model"]].seen == 4, "drift counts parts of both"
    judged = place.client.post(
        f"/v1/inspections/{found['2']['views'][0]['id']}/verdict", json={"verdict": "defect"}
    )
    assert judged.json()["id"] == found["2"]["id"]
    figures = place.client.get("/v1/quality").json()
    assert (figures["n"], figures["accepted"], figures["rejected"]) == (4, 2, 2)


@pytest.mark.heavy
def test_a_missing_view_is_told(place: Place, run: Path, good: bytes):
    watched(run, {"1_side.png": good}, place, decided(1), wait_s=0.01)
    (part,) = place.parts()
    assert (part["part"], part["decision"], part["missing"]) == ("1", "review", ["top"])
    assert [view["view"] for view in part["views"]] == ["side"]


@pytest.mark.heavy
def test_a_part_that_waits_at_a_watch_is_told_and_left_to_it(
    place: Place, run: Path, tiny_model: Path, good: bytes, tmp_path: Path
):
    watched(run, {"1_side.png": good}, place, recorded(1))
    (view,) = rows(place.station.folder, LEDGER_NAME)
    assert place.parts() == []
    for id in (view["id"], view["part_id"]):
        answer = place.client.get(f"/v1/inspections/{id}")
        if id == view["part_id"]:
            assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
        else:
            assert (answer.json()["decision"], answer.json()["waits_for"]) == ("unjudged", ["top"])
    folder = place.station.folder
    with at(run, folder) as again:
        assert again.parts() == [], "a start leaves it to the watch"
        assert again.send(good, part="1", view="top").json()["part_id"] != view["part_id"]
        watched(run, {"1_top.png": good}, again, decided(1))
        answer = again.client.get(f"/v1/inspections/{view['part_id']}").json()
        assert (answer["decision"], answer["missing"]) == ("accepted", [])
        said = again.client.get(f"/v1/inspections/{view['id']}").json()
        assert (said["decision"], said["waits_for"]) == ("accepted", [])


def test_a_station_that_knows_no_views_shows_parts_of_a_watch(
    run: Path, tiny_model: Path, good: bytes, tmp_path: Path
):
    with at(tiny_model, tmp_path / "station") as place:
        watched(run, {"1_side.png": good, "2_side.png": good, "2_top.png": good}, place, decided(1))
        (part,) = place.parts()
        assert (part["part"], len(part["views"])) == ("2", 2)
        views = {row["path"]: row["id"] for row in rows(place.station.folder, LEDGER_NAME)}
        said = place.client.get(f"/v1/inspections/{views['1_side.png']}").json()
        assert (said["decision"], said["waits_for"]) == ("unjudged", ["what its watch waits for"])
