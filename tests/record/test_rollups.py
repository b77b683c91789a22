"""Roll-ups: trends of them are those of the rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import databases
import pytest
import sqlalchemy as sa
from databases import BEGIN, MODELS, inspection

from blemish.core.errors import UsageError
from blemish.record import tables
from blemish.record.store import Store

new_url, store = databases.new_url, databases.store


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.record.rollups.ROWS", 7)


def rolled_up(store: Store) -> int:
    with store._engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(tables.rollups)).scalar_one()


def summaries(store: Store) -> list[object]:
    spans = [(-5, 60, 1), (0, 30, 6), (3.0005, 17.2, 5), (20, 21, 3), (100, 200, 2)]
    return [
        store.summary(
            since=BEGIN + timedelta(seconds=a), until=BEGIN + timedelta(seconds=b), buckets=k, model=model
        )
        for a, b, k in spans
        for model in (None, *MODELS, "c" * 64)
    ]


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00+00:00"),
        ("9999-12-31T22:00:00-14:00", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_a_span_out_of_the_calendar_is_refused(since: str, until: str, store: Store):
    with pytest.raises(UsageError, match="is out of range in UTC; give times of this century"):
        store.summary(
            since=datetime.fromisoformat(since), until=datetime.fromisoformat(until), buckets=3, model=None
        )


def test_trends_of_roll_ups_are_those_of_the_rows(store: Store):
    order = [*range(10), 40, *range(10, 20), *range(25, 40), *range(20, 25)]  # a clock that went back
    parts = [inspection(k) for k in order]
    store.record(parts)
    store.record([*parts[:3], inspection(50)])  # what is there already takes a number, and no row
    before = summaries(store)
    assert any(bucket.n for found in before for bucket in found)  # type: ignore[attr-defined]
    for k in range(1, 1 + (len(order) + 1) // 7):
        assert store.roll_up()
        assert rolled_up(store) == k
        assert summaries(store) == before
    assert not store.roll_up()
    store.record([inspection(k, seed=1) for k in range(7)])
    after = summaries(store)
    assert after != before
    while store.roll_up():
        assert summaries(store) == after


def test_a_roll_up_is_made_once_by_whoever_makes_it(new_url: Callable[[], str], tmp_path: Path):
    url = new_url()
    stores = [Store.open(url, tmp_path) for _ in range(2)]
    stores[0].record([inspection(k) for k in range(7)])
    stores[0]._rolled_up_to = stores[1]._rolled_up_to = lambda: 0  # type: ignore[method-assign]
    assert [store.roll_up() for store in stores] == [True, True]
    assert rolled_up(stores[0]) == 1
    for store in stores:
        store.close()
