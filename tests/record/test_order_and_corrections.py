"""What is recorded keeps its order whatever the clock does, and what was said in error can be taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import databases
import pytest
import sqlalchemy as sa
from databases import BEGIN, MODELS, inspection, verdict

from blemish.core.errors import DataError
from blemish.record import conversion, database, tables
from blemish.record.identifiers import new_id
from blemish.record.rows import standing
from blemish.record.sampling import SamplingPlan
from blemish.record.store import Alarm, Store, StoreError

new_url, store = databases.new_url, databases.store
LATER = BEGIN + timedelta(days=2)


def test_a_withdrawn_verdict_is_kept_and_counts_no_more(store: Store):
    one = inspection(0)
    store.record([one])
    first, second = verdict(one, 1, "defect", key="k-1"), verdict(one, 2, "good", key="k-2")
    for each in (first, second):
        store.add_verdict(each)
    store.withdraw_verdict(one.id, second.id, time=LATER, by="Ann")
    assert store.find(verdict="defect") == [one]
    store.withdraw_verdict(one.id, "k-1", time=LATER, by="Ann")
    store.withdraw_verdict(one.id, "k-1", time=LATER + timedelta(1), by="Bob")  # it was Ann's
    assert store.find(verdict="none") == [one]
    kept = store.verdicts([one.id])[one.id]
    back = {"withdrawn": LATER, "withdrawn_by": "Ann"}
    assert kept == [dataclasses.replace(each, **back) for each in (first, second)]
    assert standing(kept) == []
    with pytest.raises(DataError, match=r"^verdict k-3: inspection .* has none of that name$"):
        store.withdraw_verdict(one.id, "k-3", time=LATER, by="Ann")


def test_a_verdict_sent_twice_with_its_key_is_one(store: Store):
    one = inspection(0)
    store.record([one])
    first = verdict(one, 1, "defect", key="k-1")
    for k in range(3):
        store.add_verdict(dataclasses.replace(first, id=new_id(LATER + timedelta(seconds=k))))
    assert len(store.verdicts([one.id])[one.id]) == 1


def test_a_verdict_that_arrives_late_does_not_replace_what_others_have_said_since(store: Store):
    one, hour = inspection(0), timedelta(hours=1)
    store.record([one])
    ann = [verdict(one, k, "defect", by="Ann") for k in (0, 5)]  # given while the station was away
    late = [dataclasses.replace(v, id=new_id(v.time + 2 * hour)) for v in ann]
    bob = verdict(one, 3600, "good", by="Bob")
    for each in (bob, *late):
        store.add_verdict(each)
    assert store.verdicts([one.id])[one.id] == [*late, bob]
    assert store.find(verdict="good") == [one]
    store.withdraw_verdict(one.id, bob.id, time=LATER, by="Bob")
    assert store.find(verdict="defect") == [one]
    own = dataclasses.replace(verdict(one, 2, "good", by="Ann"), id=new_id(BEGIN + 3 * timedelta(days=1)))
    store.add_verdict(own)  # what one person says counts in the order in which it came
    assert store.find(verdict="good") == [one]


def test_an_alarm_is_acknowledged_once_and_keeps_its_peak(store: Store):
    alarm = Alarm(id=new_id(BEGIN), model=MODELS[0], time=BEGIN, kind="drift", value=2.0, message="drift")
    store.add_alarm(alarm)
    for peak in (5.0, 3.0):
        store.note_peak(MODELS[0], peak=peak, time=BEGIN + timedelta(seconds=peak))
    store.acknowledge_alarm(alarm.id, time=LATER, by="Ann", note="new lamp\0")
    store.acknowledge_alarm(alarm.id, time=LATER + timedelta(1), by="Bob", note="")
    seen = {"acknowledged": LATER, "acknowledged_by": "Ann", "note": "new lamp\\x00"}
    peak = {"peak": 5.0, "peak_time": BEGIN + timedelta(seconds=5)}
    assert store.alarms() == [dataclasses.replace(alarm, **seen, **peak)]
    missing = new_id(LATER)
    with pytest.raises(DataError, match=f"^alarm {missing}: there is none$"):
        store.acknowledge_alarm(missing, time=LATER, by="", note="")


def test_a_key_is_one_row_s(store: Store):
    one = inspection(0, key="k-1")
    store.record([one])
    assert store.with_key("k-1") == one
    assert store.with_key("k-2") is None
    with pytest.raises(StoreError, match="key"):
        store.record([inspection(1), inspection(2, key="k-1")])
    assert store.find() == [one]


def test_rows_are_followed_in_the_order_in_which_they_were_recorded(store: Store, tmp_path: Path):
    other = Store(store._engine)  # as of another process
    made = [inspection(k, model=MODELS[k % 2]) for k in range(6)]
    for writer, k in ((store, 4), (other, 2), (store, 5), (other, 0), (store, 3), (other, 1)):
        writer.record([made[k], made[4]])  # one that is there already is no news
    assert [row.id for row in store.recorded(after=0)] == [made[k].id for k in (4, 2, 5, 0, 3, 1)]
    numbers = [row.number for row in store.recorded(after=0)]
    assert (sorted(set(numbers)), numbers[-1]) == (numbers, store.last_number())
    some = store.recorded(after=numbers[0], until=numbers[4], model=MODELS[0])
    assert [row.id for row in some] == [made[2].id, made[0].id]
    assert [row.id for row in store.recorded(after=numbers[0], limit=2)] == [made[2].id, made[5].id]
    assert store.newest_id() == made[5].id


def test_what_was_recorded_here_last_is_followed_as_the_record_has_it_without_being_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    other = Store(store._engine)  # as of another process
    store.set_sampling(SamplingPlan(1.0))
    late = inspection(1, id=new_id(BEGIN + timedelta(hours=1)), part="a\0", station="\udcff")
    part = inspection(0, decided="review", missing=("top",), error=None)
    view = inspection(2, part_id=part.id, view="side")
    store.record([view, late, part])
    expected = list(other.recorded(after=0))
    assert [row.id for row in expected] == [late.id, part.id]
    with monkeypatch.context() as patch:
        patch.setattr(store, "_fetch_all", pytest.fail)
        assert list(store.recorded(after=0, limit=9)) == expected
        assert list(store.recorded(after=0, limit=1)) == expected[:1]
    assert list(store.recorded(after=2, limit=9)) == []
    other.record([inspection(4)])
    store.record([inspection(5)])  # what another one has recorded before it is not left out
    assert list(store.recorded(after=2, limit=9)) == list(other.recorded(after=2))
    for again in (5, 7):
        store.record([inspection(again), inspection(6)])  # one that is there has no other number now
        assert list(store.recorded(after=4, limit=9)) == list(other.recorded(after=4))


def test_times_that_lag_behind_identifiers_are_found_by_their_times(store: Store):
    late = [inspection(k, id=new_id(BEGIN + timedelta(hours=1))) for k in range(3)]
    on_time = inspection(3600)
    store.record([on_time, *late])
    hour = {"since": BEGIN, "until": BEGIN + timedelta(minutes=1)}
    other = Store(store._engine)
    for each in (store, other):
        assert [row.id for row in each.find(**hour)] == sorted((row.id for row in late), reverse=True)
        assert each.find(since=BEGIN + timedelta(minutes=1)) == [on_time]
        counts = [span.n for span in each.summary(since=BEGIN, until=BEGIN + timedelta(hours=2), buckets=4)]
        assert counts == [3, 0, 1, 0]
        last_hour = datetime(9999, 12, 31, 23, 30, tzinfo=UTC)
        assert len(each.find(until=last_hour)) == 4
        assert each.find(since=last_hour) == each.find(until=datetime(1, 1, 1, tzinfo=UTC)) == []
        for zone in (timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))):
            since, until = (time.replace(tzinfo=zone) for time in (datetime.min, datetime.max))
            assert len(each.find(since=since, until=until)) == 4


def test_rows_of_the_first_version_are_numbered_by_their_identifiers(
    new_url: Callable[[], str], tmp_path: Path
):
    url, made = new_url(), [inspection(k, error=None) for k in (2, 0, 1)]
    engine = database._engine(database._parse_url(url))
    with database.begin_write(engine) as connection:
        database._upgrade(connection, "0001")
        for row in made:
            columns = {k: v for k, v in conversion.row_of(row).items() if v is not None}
            values = ", ".join(f":{name}" for name in columns)
            insert = sa.text(f"INSERT INTO inspections ({', '.join(columns)}) VALUES ({values})")
            connection.execute(insert, columns)
    engine.dispose()
    store = Store.open(url, tmp_path)
    assert [row.id for row in store.recorded(after=0)] == [made[1].id, made[2].id, made[0].id]
    store.record([inspection(9)])
    assert store.last_number() == 4
    store.close()


def test_plans_that_are_set_at_once_leave_one_and_two_of_before_stop_no_record(
    new_url: Callable[[], str], tmp_path: Path
):
    url = new_url()
    stores = [Store.open(url, tmp_path) for _ in range(3)]
    try:
        with ThreadPoolExecutor(len(stores)) as pool:
            list(pool.map(lambda k: stores[k % 3].set_sampling(SamplingPlan((k % 4) / 4)), range(24)))
        with stores[0]._engine.begin() as connection:
            assert len(connection.execute(sa.select(tables.sampling)).all()) == 1
            connection.execute(sa.delete(tables.sampling))
            for share, seed in ((1.0, 7), (0.5, 8)):
                connection.execute(sa.insert(tables.sampling).values(share=share, seed=seed))
        stores[1].record([inspection(1)])
        assert stores[1].sampling() == SamplingPlan(0.5, 8)
        assert stores[1].last_number() == 1
    finally:
        for each in stores:
            each.close()


def test_views_are_counted_judged_and_searched_with_their_part_alone(store: Store):
    part = inspection(
        0, part="17", decided="rejected", anomalous=True, missing=("top",), error=None, score=2.0
    )
    good = {"anomalous": False, "error": None}
    views = [
        inspection(k, part="17", view=view, part_id=part.id, path=f"{view}.png", source="api", **good)
        for k, view in ((1, "side"), (2, None))
    ]
    open_view = inspection(3, part="18", view="side", part_id=new_id(BEGIN), station="east", source="page")
    of_watch = inspection(5, part="20", view="side", part_id=new_id(BEGIN), source="watch", **good)
    other = inspection(4, part="19", anomalous=False, error=None, score=1.0)
    store.set_sampling(SamplingPlan(1.0))
    store.record([*views, open_view, of_watch])
    assert store.last_number() == 0
    assert store.undecided_views() == {part.id: views, open_view.part_id: [open_view]}
    store.record([part, other])
    assert store.undecided_views() == {open_view.part_id: [open_view]}
    drawn = dataclasses.replace(other, sample=1.0)
    assert store.search(tables.Search()) == [drawn, part]
    assert store.search(tables.Search(to_judge=True)) == [drawn, part]
    assert store.search(tables.Search(text="SIDE.p")) == [part]
    assert [row.id for row in store.recorded(after=0)] == [part.id, other.id]
    assert store.quality(tables.Search()).n == 2
    assert sorted(store.views_of([part.id])[part.id], key=lambda row: row.id) == views
    assert [row.id for row in store.oldest_with_files(wanted=True, limit=9)][:3] == [
        part.id,
        *(row.id for row in views),
    ]
    assert store.scored_id(part.model, 1, missing='["top"]') == part.id
    assert store.existing_ids([views[0].id]) == {views[0].id}
