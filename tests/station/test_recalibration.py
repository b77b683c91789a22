"""Recalibrations of several models, one after another and at once: each goes on with its own version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from conftest import tiny_image
from requests_to_station import png

from blemish.core.errors import ConflictError, DataError
from blemish.images.roi import roi_of
from blemish.methods.baselines.pca import PcaConfig
from blemish.record.identifiers import new_id, time_of, utc_now
from blemish.record.labels import Labelling, Labels
from blemish.record.store import Verdict
from blemish.record.tables import Search
from blemish.station.engine_jobs import Upload
from blemish.station.station import Station
from blemish.training import fit

PARTS = 20


@pytest.fixture(scope="module")
def pca_model(tiny_category: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pca"
    config = PcaConfig(image_size=32, components=3, calibration_fraction=0.4)
    fit.fit(tiny_category, method="pca", config=config, out=run, device="cpu")
    return run


@pytest.fixture
def station(tiny_model: Path, pca_model: Path, tmp_path: Path) -> Iterator[Station]:
    """Two models, each with twenty parts on record that a person called good."""
    station = Station([tiny_model, pca_model], tmp_path / "station", device="cpu")
    for engine in station.engines.values():
        for i in range(PARTS):
            data = png((tiny_image(i) * 0.97).astype(np.uint8))
            row = engine.submit(Upload(data=data, source="api", name=f"{i}.png")).result(60)
            said = Verdict(id=new_id(row.time), inspection=row.id, time=row.time, verdict="good")
            station.store.add_verdict(said)
    yield station
    station.close()


def method(station: Station, digest: str) -> str:
    return station.engines[digest].model.detector.model_file.method


def linger(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a recalibration that has a new model pause before it is among the versions."""
    add = station.versions.add

    def late(*made, **of) -> str:
        time.sleep(0.3)
        return add(*made, **of)

    monkeypatch.setattr(station.versions, "add", late)


@pytest.mark.heavy
def test_two_models_at_once_keep_their_own_versions(station: Station, monkeypatch: pytest.MonkeyPatch):
    linger(station, monkeypatch)
    old = list(station.engines)
    methods = [method(station, digest) for digest in old]
    with ThreadPoolExecutor(2) as pool:
        new = list(pool.map(lambda digest: station.recalibrate(digest, parts=PARTS), old))
    assert set(station.engines) == set(new)
    assert [method(station, digest) for digest in new] == methods == ["metal", "pca"]
    for before, after in zip(old, new, strict=True):
        assert station.versions.origin(after) == before
        assert station.versions.active(before) == after
        about = station.engines[after].model.detector.model_file.provenance["recalibrated"]
        assert about["from"] == before
    assert not [f for f in station.versions.folder.iterdir() if f.stem not in (*new, "versions")]


@pytest.mark.heavy
def test_a_station_takes_its_own_parts_where_many_share_a_record(station: Station):
    station.labelling = Labelling(Labels(station="west"))
    with pytest.raises(DataError, match=r"^0 good parts are on record"):
        station.recalibrate(next(iter(station.engines)), parts=PARTS)


@pytest.mark.heavy
def test_scores_of_parts_with_several_views_calibrate_no_images(station: Station):
    digest, engine = next(iter(station.engines.items()))
    (newest,) = station.store.search(Search(model=digest), limit=1)
    of_views = [
        replace(newest, id=station.make_id(newest.time), key=None, score=99.0, decided="accepted", missing=())
        for _ in range(PARTS)
    ]
    station.store.record([replace(each, time=time_of(each.id)) for each in of_views])
    with pytest.raises(DataError, match=r"^0 good parts are on record"):
        station.recalibrate(digest, parts=PARTS)
    version = station.recalibrate(digest, parts=2 * PARTS)
    calibration = station.engines[version].model.detector.model_file.calibration
    assert calibration is not None
    assert calibration.n == PARTS
    assert calibration.scores.max() < 99
    assert station.engines[version] is engine


@pytest.mark.heavy
def test_of_two_new_versions_at_once_the_later_one_is_refused(
    station: Station, monkeypatch: pytest.MonkeyPatch
):
    """It was made of a version that is not in use any more: what came meanwhile would be undone."""
    linger(station, monkeypatch)
    (old, other) = station.engines
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(station.recalibrate, old, parts=parts) for parts in (PARTS, PARTS - 1)]
    (refused,) = [each for each in asked if each.exception() is not None]
    with pytest.raises(ConflictError, match="is not in use here; name the version that is"):
        refused.result()
    ((new, parts),) = [
        (each.result(), parts)
        for each, parts in zip(asked, (PARTS, PARTS - 1), strict=True)
        if each is not refused
    ]
    assert station.versions.siblings(old) == {old, new}
    assert set(station.engines) == {new, other}
    assert station.engines[new].model.detector.model_file.calibration.n == parts


@pytest.mark.heavy
def test_parts_beyond_those_whose_files_made_room_calibrate_nothing(station: Station):
    """Files of accepted parts go first: of older ones, those would be left that were rejected by mistake."""
    digest = next(iter(station.engines))
    newest = station.store.search(Search(model=digest), limit=PARTS)
    station.store.forget_files([newest[15].id], time=utc_now())
    new = station.recalibrate(digest, parts=PARTS)
    assert station.engines[new].model.detector.model_file.calibration.n == 15


@pytest.mark.heavy
def test_a_part_whose_map_is_elsewhere_is_left_out(station: Station):
    digest = next(iter(station.engines))
    newest, *_ = station.store.search(Search(model=digest), limit=1)
    assert newest.map
    station.archive.path(newest.map, "map").unlink()
    new = station.recalibrate(digest, parts=PARTS)
    assert station.engines[new].model.detector.model_file.calibration.n == PARTS - 1


@pytest.mark.heavy
def test_a_version_is_on_disk_before_it_is_named(station: Station, synced: list[Path]):
    folder = station.versions.folder
    new = station.recalibrate(next(iter(station.engines)), parts=PARTS)
    steps = [path.name if path.suffix != ".tmp" else "part" for path in synced]
    model, versions = ["part", f"{new}.safetensors", "models"], ["part", "versions.json", "models"]
    assert steps == ["station", *model, *versions, *versions]  # the folder, the file, its name, its use
    assert folder.name == "models"


@pytest.mark.heavy
def test_a_version_that_cannot_be_noted_is_not_used(station: Station, monkeypatch: pytest.MonkeyPatch):
    old = list(station.engines)
    new = station.recalibrate(old[0], parts=PARTS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blemish.record.versions.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        station.use(old[0])
    assert set(station.engines) == {new, old[1]}
    assert station.versions.active(old[0]) == new


@pytest.mark.heavy
def test_a_region_is_kept_with_a_new_version_and_the_parts_are_scored_anew(station: Station):
    old = list(station.engines)[1]
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 32:] = True
    new = station.recalibrate(old, parts=PARTS, region=roi_of(mask))
    detector = station.engines[new].model.detector
    model_file = detector.model_file
    assert model_file.counting.inner == roi_of(mask)
    assert model_file.calibration is not None
    images = [(tiny_image(i) * 0.97).astype(np.uint8) for i in range(PARTS)]
    wanted = [detector.predict(image).score for image in images]
    np.testing.assert_allclose(model_file.calibration.scores, sorted(wanted), rtol=1e-5)
    assert station.versions.active(old) == new
    station.use(old)
    assert station.engines[old].model.detector.model_file.counting.inner is None


@pytest.mark.heavy
def test_a_part_whose_files_a_watch_did_not_get_is_left_out(station: Station):
    digest = next(iter(station.engines))
    (newest,) = station.store.search(Search(model=digest), limit=1)
    later = newest.time + timedelta(seconds=1)
    lost = replace(newest, id=new_id(later), time=later, image=None, map=None, source="watch", key=None)
    station.store.record([lost])
    said = Verdict(id=new_id(lost.time), inspection=lost.id, time=lost.time, verdict="good")
    station.store.add_verdict(said)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 32:] = True
    with pytest.raises(DataError, match=r"^0 good parts are on record with their images"):
        station.recalibrate(digest, parts=1, region=roi_of(mask))
    new = station.recalibrate(digest, parts=PARTS + 1)
    assert station.engines[new].model.detector.model_file.provenance["recalibrated"]["parts"] == PARTS
