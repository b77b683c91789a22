"""A start goes on from the state of drift that was kept, and is where it would be without one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import databases
import numpy as np
import pytest
from databases import MODELS, inspection

from blemish.record.rows import StoreError
from blemish.record.store import Store
from blemish.station.drift import Drift
from blemish.station.following import Following

new_url, store = databases.new_url, databases.store


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.station.following.STATE_ROWS", 10)


CALIBRATION = np.random.default_rng(1).normal(size=60)
MODEL = MODELS[0]


def following(store: Store, scores: np.ndarray = CALIBRATION) -> Following:
    found = Following(store, lambda time: f"{time.timestamp():026.0f}")
    found.watch(MODEL, scores)
    return found


def state_of(found: Following) -> dict[str, object]:
    return found.drifts[MODEL].state() | {"peak_time": found.peak_times.get(MODEL)}


def record(store: Store, first: int, n: int) -> None:
    store.record([inspection(k, model=MODEL, anomalous=False, error=None) for k in range(first, first + n)])


def test_a_start_goes_on_from_the_state_that_was_kept(store: Store, monkeypatch: pytest.MonkeyPatch):
    record(store, 0, 5)
    first = following(store)
    for k in range(5, 41, 9):
        record(store, k, 9)
        first.follow()
    record(store, 41, 3)
    first.follow()
    number, _ = store.drift_state(MODEL) or (0, None)
    assert 30 < number < 44
    updated: list[float] = []
    update = Drift.update
    monkeypatch.setattr(Drift, "update", lambda self, score: updated.append(score) or update(self, score))
    second = following(store)
    assert len(updated) <= 44 + 6 - number
    assert state_of(second) == state_of(first)
    second.note_states()
    updated.clear()
    assert state_of(following(store)) == state_of(first)
    assert updated == []


def test_a_state_of_another_test_is_not_gone_on_from(store: Store):
    record(store, 0, 30)
    first = following(store)
    first.note_states()
    other = following(store, CALIBRATION + 1)
    fresh = Drift(CALIBRATION + 1)
    for row in store.recorded(after=0):
        if row.score is not None:
            fresh.update(row.score)
    assert other.drifts[MODEL].state() == fresh.state()


def test_two_stations_keep_states_at_once(store: Store):
    many = {f"{k:064d}": {"evidence": k} for k in range(20)}
    backwards = dict(reversed(many.items()))
    with ThreadPoolExecutor(2) as pool:
        other = Store(store._engine)  # which has a lock of its own, as another process
        done = [pool.submit(s.note_drift_states, 7, m) for s, m in ((store, many), (other, backwards))]
        for each in done:
            each.result(60)
    store.note_drift_states(8, {"0" * 64: {"evidence": 1}})
    assert store.drift_state("0" * 64) == (8, {"evidence": 1})
    assert store.drift_state(f"{19:064d}") == (7, {"evidence": 19})


def test_a_state_that_cannot_be_kept_stops_nothing(store: Store, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "note_drift_states", refuse)
    record(store, 0, 30)
    found = following(store)
    heard: list[int] = []
    found.listeners.append(lambda rows: heard.extend(row.number for row in rows))
    record(store, 30, 12)
    found.follow()
    assert len(heard) == 12
    found.note_states()


def test_a_start_behind_another_station_s_state_catches_up(store: Store):
    record(store, 0, 12)
    late = Following(store, lambda time: f"{time.timestamp():026.0f}")
    record(store, 12, 12)
    first = following(store)
    first.note_states()
    late.watch(MODEL, CALIBRATION)
    assert late.drifts[MODEL].state() == first.drifts[MODEL].state()


def test_where_a_change_began_is_found_and_kept(store: Store):
    ids = []
    for k in range(60):
        score = None if k % 7 == 3 else 100.0 + k
        part = inspection(k, model=MODEL, score=score, anomalous=False, error=None)
        ids.append((part.id, score))
        store.record([part])
    found = following(store)
    drift = found.drifts[MODEL]
    assert drift.alarm
    assert drift.since is not None
    assert found.since(MODEL) == [id for id, score in ids if score is not None][drift.since - 1]
    found.note_states()
    again = following(store)
    assert again._since == {MODEL: found.since(MODEL)}
