"""The record of the station: what is written is read, found and counted, in SQLite and in PostgreSQL."""

from __future__ import annotations

import ast
import csv
import dataclasses
import io
import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import databases
import numpy as np
import pytest
import sqlalchemy as sa
from databases import BEGIN, MODELS, inspection, verdict
from warm import Warm

from blemish.core.errors import DataError, UsageError
from blemish.core.types import Region
from blemish.record import conversion, database, tables
from blemish.record.identifiers import first_id, from_milliseconds, new_id, time_of
from blemish.record.store import Alarm, Inspection, ModelRecord, Store, StoreError

PACKAGE = Path(database.__file__).parents[1]


new_url, store = databases.new_url, databases.store


# --- identifiers ---


def test_an_identifier_is_its_time_and_sorts_by_it():
    # the time's 48 bits are the first 10 digits, of 5 bits each: 32 ms are 10; then the ULID's own example
    assert new_id(from_milliseconds(32)).startswith("0000000010")
    assert new_id(from_milliseconds(1469918176385)).startswith("01ARYZ6S41")
    draw = random.Random(0)
    times = [BEGIN + timedelta(milliseconds=draw.randrange(10**12)) for _ in range(300)]
    ids = [new_id(time) for time in times]
    assert [time_of(id) for id in ids] == times
    assert sorted(ids) == [id for _, id in sorted(zip(times, ids, strict=True))]
    for time, id in zip(times, ids, strict=True):
        assert first_id(time) <= id < first_id(time + timedelta(microseconds=1))


def test_identifiers_of_one_millisecond_sort_as_they_were_made_and_never_repeat():
    made = [new_id(BEGIN) for _ in range(1000)]
    assert made == sorted(set(made))
    assert all(re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", id) for id in made)


def test_what_is_no_identifier_or_no_time_is_refused():
    for text in (
        "",
        "0" * 25,
        "O" * 26,
        "8" + "0" * 25,
        "7" + "Z" * 25,
        "0" * 25 + "é",
        "0" * 25 + "a",
        "0" * 27,
    ):
        with pytest.raises(DataError, match="is not an identifier"):
            time_of(text)
    with pytest.raises(DataError, match="has no time zone; give UTC"):
        new_id(datetime(2026, 1, 1))


# --- written and read ---


def test_what_is_recorded_is_read(store: Store):
    given = [inspection(k) for k in range(200)]
    store.record(given)
    store.record([])
    assert [store.get(i.id) for i in given] == given
    assert store.get(new_id(BEGIN)) is None
    assert {i.decision for i in given} == {"accepted", "rejected", "unjudged", "failed"}


def test_times_are_utc_whatever_zone_they_were_given_in(store: Store):
    time = datetime(2026, 7, 1, 12, 0, 0, 123456, timezone(timedelta(hours=5, minutes=30)))
    store.record([inspection(0, time=time)])
    assert store.find()[0].time == datetime(2026, 7, 1, 6, 30, 0, 123000, UTC)
    assert store.find()[0].time.tzinfo is UTC


def test_an_inspection_is_recorded_once_and_as_it_was_first(store: Store):
    first = inspection(0, part="first")
    store.record([first, inspection(1)])
    store.record([dataclasses.replace(first, part="again"), inspection(2)])
    assert len(store.find()) == 3
    assert store.get(first.id) == first


def test_inspections_are_recorded_all_or_none(store: Store):
    rows = [inspection(0), inspection(1, model=None)]
    with pytest.raises(StoreError, match=r"(?i)null.*; check the database and its disk$") as caught:
        store.record(rows)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="its identifier is not of 2026-01-01 00:00:05"):
        store.record([inspection(0), inspection(5, id=new_id(BEGIN), time=BEGIN + timedelta(seconds=5))])
    assert store.find() == []


def test_text_that_no_database_takes_is_spelled_out(store: Store):
    store.record([inspection(0, part="\0", path="a\udcff\U0001f600.png", error=None)])
    (found,) = store.find(part="\0")
    assert (found.part, found.path) == ("\\x00", "a\\udcff\U0001f600.png")


def test_numbers_keep_every_bit(store: Store):
    for k, value in enumerate((5e-324, 1 / 3, 1.7976931348623157e308, float("inf"), -float("inf"))):
        store.record([inspection(k, score=value, seconds=value, error=None)])
        found = store.find(limit=1)[0]
        assert found.score is not None
        assert (found.score.hex(), found.seconds.hex()) == (value.hex(), value.hex())


def test_all_verdicts_are_kept_and_the_last_counts(store: Store):
    one, two = inspection(0), inspection(1)
    store.record([one, two])
    given = [
        verdict(one, 9, "good", note="ok\0"),
        verdict(one, 3, "defect", by="Zoë"),
        verdict(two, 4, "good"),
    ]
    for each in (*given, given[0], given[0]):  # given again: once, and not the last because of it
        store.add_verdict(each)
    kept = dataclasses.replace(given[0], note="ok\\x00")
    missing = new_id(BEGIN)
    wanted = {two.id: [given[2]], one.id: [kept, given[1]], missing: []}
    assert store.verdicts([two.id, one.id, missing]) == wanted
    assert [i.id for i in store.find(verdict="defect")] == [one.id]
    assert [i.id for i in store.find(verdict="good")] == [two.id]


def test_a_verdict_of_what_was_not_inspected_is_refused(store: Store):
    missing = inspection(0)
    with pytest.raises(DataError, match=f"^inspection {missing.id}: there is none; "):
        store.add_verdict(verdict(missing, 0, "good"))
    assert store.verdicts([missing.id]) == {missing.id: []}


def test_the_last_of_verdicts_given_at_once_is_the_one_that_is_found(store: Store):
    one = inspection(0)
    store.record([one])
    given = [verdict(one, k, random.Random(k).choice(["good", "defect"])) for k in range(40)]
    threads = [
        threading.Thread(target=lambda part=part: [store.add_verdict(v) for v in part])
        for part in (given[:20], given[20:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = store.verdicts([one.id])[one.id]
    assert sorted(v.id for v in kept) == sorted(v.id for v in given)
    assert store.find(verdict=kept[-1].verdict) == [one]


def test_models_and_alarms_are_kept_once(store: Store):
    models = [
        ModelRecord(
            digest=digest,
            name="flange",
            method="metal",
            preset="default",
            dataset="mvtec/bottle",
            first_used=BEGIN - timedelta(hours=k),
            description={"size": [32, 32], "tiling": None, "é": 1.5},
        )
        for k, digest in enumerate(MODELS)
    ]
    for model in (*models, dataclasses.replace(models[0], first_used=BEGIN + timedelta(1), name="other")):
        store.add_model(model)
    assert store.models() == models[::-1]
    alarms = [
        Alarm(id=new_id(BEGIN), model=MODELS[k % 2], time=BEGIN, kind="drift", value=10.0**k, message=f"{k}")
        for k in range(3)
    ]
    for alarm in (*alarms, alarms[0]):
        store.add_alarm(alarm)
    assert store.alarms() == alarms
    assert store.alarms(MODELS[0]) == [alarms[0], alarms[2]]


@pytest.mark.heavy
def test_many_threads_write_and_read_at_once(store: Store):
    given = [inspection(k) for k in range(160)]
    failed: list[BaseException] = []

    def work(part: list[Inspection]) -> None:
        try:
            for each in part:
                store.record([each])
                assert store.get(each.id) == each
                store.find(model=each.model)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(given[k::8],)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(store.find(limit=1000)) == 160


def test_connections_that_the_server_ended_are_made_again(store: Store):
    if store._engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server")
    store.record([inspection(0)])
    other = sa.create_engine(store._engine.url)
    with other.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
    other.dispose()
    store.record([inspection(1)])
    assert len(store.find()) == 2
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


# --- found ---


def matches(given: Inspection, last: str | None, **f: object) -> bool:
    return (
        (f["since"] is None or given.time >= f["since"])  # type: ignore[operator]
        and (f["until"] is None or given.time < f["until"])  # type: ignore[operator]
        and (f["model"] is None or given.model == f["model"])
        and (f["decision"] is None or given.decision == f["decision"])
        and (f["part"] is None or given.part == f["part"])
        and (f["verdict"] is None or (last or "none") == f["verdict"])
    )


@pytest.mark.heavy
def test_find_is_a_filter_of_all_rows(store: Store):
    given = [inspection(k) for k in range(300)]
    store.record(given)
    draw, last = random.Random(1), {}
    for k, each in enumerate(draw.sample(given, 200)):
        last[each.id] = draw.choice(["good", "defect"])
        store.add_verdict(verdict(each, k, last[each.id]))
    newest = sorted(given, key=lambda i: i.id, reverse=True)

    def when() -> datetime | None:
        exact = draw.choice(given).time  # the ends matter
        return draw.choice([None, exact, exact + timedelta(microseconds=1), exact - timedelta(seconds=9)])

    sizes = set()
    for _ in range(150):
        filters = {
            "since": when(),
            "until": when(),
            "model": draw.choice([None, *MODELS, "c" * 64]),
            "decision": draw.choice([None, "accepted", "rejected", "unjudged", "failed"]),
            "part": draw.choice([None, "left", "rïght 'x'", "' OR 1=1 --"]),
            "verdict": draw.choice([None, "good", "defect", "none"]),
        }
        if draw.random() < 0.5:
            filters |= dict.fromkeys(draw.sample(sorted(filters), 4))
        before, limit = draw.choice([None, draw.choice(given).id]), draw.choice([1, 10, 1000])
        wanted = [
            i for i in newest if matches(i, last.get(i.id), **filters) and (not before or i.id < before)
        ]
        assert store.find(**filters, before=before, limit=limit) == wanted[:limit]
        sizes.add(len(wanted))
    assert len(sizes) > 20


def test_paging_gives_every_row_once_while_new_ones_arrive(store: Store):
    given = [inspection(k // 3, time=BEGIN + timedelta(seconds=k // 3)) for k in range(100)]
    store.record(given)
    seen, before, k = [], None, 1000
    while page := store.find(limit=7, before=before):
        seen += page
        before = page[-1].id
        store.record([inspection(k), inspection(k + 1)])
        k += 2
    assert seen == sorted(given, key=lambda i: i.id, reverse=True)


def test_listing_reads_an_index_and_sorts_nothing(new_url: Callable[[], str], tmp_path: Path):
    url = new_url()
    if not url.startswith("sqlite"):
        pytest.skip("plans of SQLite; PostgreSQL chooses by what a table holds")
    store = Store.open(url, tmp_path)
    store.record([inspection(k) for k in range(100)])
    lines: list[str] = []

    def explain(connection: sa.Connection, statement: str, parameters: object) -> None:
        if statement.startswith("SELECT"):
            plan = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
            lines.extend(row[3] for row in plan.fetchall())

    @sa.event.listens_for(store._engine, "before_cursor_execute")
    def _(
        connection: sa.Connection, _cursor: object, statement: str, parameters: object, *_more: object
    ) -> None:
        explain(connection, statement, parameters)

    at = new_id(BEGIN + timedelta(seconds=50))
    for filters, index in (
        ({"model": MODELS[0]}, "ix_inspections_model_id (model=?"),
        ({"decision": "rejected"}, "ix_inspections_decision_id (decision=?"),
        ({"part": "left"}, "ix_inspections_part_id (part=?"),
        ({"verdict": "none"}, "ix_inspections_verdict_id (verdict=?"),
        ({"verdict": "defect"}, "ix_inspections_verdict_id (verdict=?"),
        ({"since": BEGIN, "until": BEGIN + timedelta(1)}, "sqlite_autoindex_inspections_1 (id>? AND id<?"),
    ):
        for before in (None, at):
            lines.clear()
            store.find(**filters, before=before, limit=50)  # type: ignore[arg-type]
            assert len(lines) == 1
            assert lines[0].startswith(f"SEARCH inspections USING INDEX {index}"), lines
            assert before is None or "id<?" in lines[0]
    for column in ("product", "line", "station"):
        lines.clear()
        store.search(tables.Search(**{column: "L2"}), limit=12)  # type: ignore[arg-type]
        assert lines == [f"SEARCH inspections USING INDEX ix_inspections_{column}_id ({column}=?)"]
    lines.clear()
    list(store.scores(MODELS[0], at))
    store.files_in_use([f"{k:064x}" for k in range(20)])
    store.oldest_with_files(wanted=False, limit=10)
    store.oldest_with_files(wanted=True, after=at, limit=10)
    store.newest_id("east")
    store.verdicts([at])
    assert lines
    assert not [line for line in lines if "SCAN" in line and "ix_inspections_files" not in line], lines
    store.close()


def test_scores_come_oldest_first_with_the_last_verdict(store: Store):
    given = [inspection(k) for k in range(1500)]  # more than are fetched at a time
    store.record(given)
    of_model = [i for i in given if i.model == MODELS[0] and i.score is not None]
    store.add_verdict(verdict(of_model[3], 0, "good"))
    store.add_verdict(verdict(of_model[3], 1, "defect"))
    wanted = [(i.id, i.score, i.anomalous, None) for i in of_model]
    wanted[3] = (*wanted[3][:3], "defect")  # type: ignore[assignment]
    assert list(store.scores(MODELS[0])) == wanted
    assert list(store.scores(MODELS[0], of_model[3].id)) == wanted[4:]
    for _ in zip(store.scores(MODELS[0]), range(2), strict=False):
        store.record([inspection(9999)])  # a reader that is in the middle holds up no writer


def test_a_summary_counts_what_plain_python_counts(store: Store):
    given = [inspection(k) for k in range(300)]
    store.record(given)
    since, until = BEGIN + timedelta(seconds=20.5), BEGIN + timedelta(seconds=400)
    for model in (None, MODELS[1]):
        buckets = store.summary(since=since, until=until, buckets=7, model=model)
        edges = [since + (until - since) * k / 7 for k in range(8)]
        assert len(buckets) == 7
        for bucket, begin, end in zip(buckets, edges, edges[1:], strict=False):
            assert abs(bucket.time - begin) < timedelta(milliseconds=1)
            inside = [i for i in given if begin <= i.time < end and model in (None, i.model)]
            assert bucket.n == len(inside)
            assert bucket.rejected == sum(i.decision == "rejected" for i in inside)
            assert bucket.failed == sum(i.decision == "failed" for i in inside)
            scores = [i.score for i in inside if i.score is not None]
            if inside:
                assert bucket.median_seconds == np.median([i.seconds for i in inside])
                assert bucket.p99_seconds == np.quantile([i.seconds for i in inside], 0.99)
                assert bucket.score_quantiles == tuple(np.quantile(scores, (0.05, 0.25, 0.5, 0.75, 0.95)))
    empty = store.summary(since=until, until=until + timedelta(1), buckets=2)
    assert [(b.n, b.median_seconds, b.p99_seconds, b.score_quantiles) for b in empty] == [
        (0, None, None, None)
    ] * 2
    for begin, end, n in ((BEGIN, BEGIN, 1), (until, since, 1), (BEGIN, until, 0)):
        with pytest.raises(UsageError, match="give one or more, and a later end"):
            store.summary(since=begin, until=end, buckets=n)


# --- exported ---


SAID = ("model_name", "reason", "note", "by", "judged")


def read_regions(text: str) -> list[Region]:
    return [Region(**region) for region in json.loads(text)]


def test_csv_gives_every_value_back(store: Store, tmp_path: Path):
    given = [inspection(k, path='a "b",\n=c.png' if k % 2 else None) for k in range(50)]
    store.record(given)
    store.add_verdict(verdict(given[7], 0, "defect"))
    assert store.export(tmp_path / "new" / "x.csv") == 50
    with (tmp_path / "new" / "x.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    readers = dict.fromkeys(("score", "p_value", "threshold", "seconds"), float)
    readers |= {"width": int, "height": int, "anomalous": {"True": True, "False": False}.get}  # type: ignore[dict-item]
    readers |= {"sample": float}
    readers |= {"time": datetime.fromisoformat, "regions": read_regions}  # type: ignore[dict-item]
    for row, wanted in zip(rows, given, strict=True):
        assert (row.pop("decision"), row.pop("verdict")) == (
            wanted.decision,
            "defect" if wanted == given[7] else "",
        )
        values = {k: None if v == "" else readers.get(k, str)(v) for k, v in row.items() if k not in SAID}
        assert Inspection(**values) == wanted


def test_an_export_takes_the_filters_of_find(store: Store, tmp_path: Path):
    given = [inspection(k) for k in range(60)]
    store.record(given)
    filters = {"model": MODELS[0], "decision": "accepted", "since": given[5].time}
    wanted = tables.Search(**filters)  # type: ignore[arg-type]
    assert store.export(tmp_path / "x.csv", wanted) == len(store.find(**filters, limit=99)) > 0  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".db"] == ["x.csv"]


def test_parquet_gives_every_value_back(store: Store, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    given = [inspection(k) for k in range(1100)]
    store.record(given)
    store.add_verdict(verdict(given[7], 0, "defect"))
    assert store.export(tmp_path / "x.parquet") == 1100
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    for row, wanted in zip(rows, given, strict=True):
        assert (row.pop("decision"), row.pop("verdict")) == (
            wanted.decision,
            "defect" if wanted == given[7] else None,
        )
        values = {k: v for k, v in row.items() if k not in SAID}
        assert Inspection(**values | {"regions": read_regions(row["regions"])}) == wanted


def test_an_export_of_another_kind_or_without_pyarrow_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UsageError, match=r"x\.txt: must end in \.csv or \.parquet$"):
        store.export(tmp_path / "x.txt")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pyarrow is missing; pip install pyarrow, or write \.csv$"):
        store.export(tmp_path / "x.parquet")
    assert not list(tmp_path.glob("*.parquet"))
    assert not list(tmp_path.glob(".*"))


# --- versions ---


def test_the_migrations_make_the_tables_that_are_used(new_url: Callable[[], str], tmp_path: Path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = Store.open(new_url(), tmp_path)
    with store._engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": database.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, tables.metadata) == []
    store.close()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_version_that_is_in_use_makes_the_same_tables_for_ever(dialect: str):
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    from blemish.record.migrations.versions import v0001

    statements = io.StringIO()
    context = MigrationContext.configure(
        dialect_name=dialect, opts={"as_sql": True, "output_buffer": statements}
    )
    with Operations.context(context):
        v0001.upgrade()
    lines = [line.rstrip() for line in statements.getvalue().strip().splitlines()]
    assert lines == (Path(__file__).parent / f"schema_v0001_{dialect}.sql").read_text().splitlines()


def test_a_database_of_the_first_version_opens_with_its_rows(new_url: Callable[[], str], tmp_path: Path):
    url, row = new_url(), inspection(0)
    engine = database._engine(database._parse_url(url))
    with database.begin_write(engine) as connection:
        database._upgrade(connection, "0001")
        columns = {k: v for k, v in conversion.row_of(row).items() if v is not None}
        names = ", ".join(columns)
        values = ", ".join(f":{name}" for name in columns)
        connection.execute(sa.text(f"INSERT INTO inspections ({names}) VALUES ({values})"), columns)
    engine.dispose()
    for _ in range(2):
        store = Store.open(url, tmp_path)
        assert store.find() == [row]
        store.close()


def test_what_is_newer_or_of_another_program_is_refused_in_one_line(
    new_url: Callable[[], str], tmp_path: Path
):
    url = new_url()
    store = Store.open(url, tmp_path)
    with store._engine.begin() as connection:
        connection.execute(sa.text("UPDATE blemish_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(
        UsageError, match=r": was written by a newer blemish \(version 9999\); upgrade blemish$"
    ):
        Store.open(url, tmp_path)
    other = new_url()
    engine = database._engine(database._parse_url(other))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE invoices (id INTEGER)"))
    with pytest.raises(
        UsageError, match=r": holds another program's tables \(invoices\); give an empty database$"
    ):
        Store.open(other, tmp_path)
    assert sa.inspect(engine).get_table_names() == ["invoices"]
    engine.dispose()


@pytest.mark.slow
def test_two_that_open_an_empty_database_at_once(new_url: Callable[[], str], tmp_path: Path):
    url = new_url()
    opened = [Warm(open_and_close, url, tmp_path, out=tmp_path / f"{number}") for number in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in opened] == [("", 0)] * 3


def open_and_close(url: str, folder: Path) -> int:
    Store.open(url, folder).close()
    return 0


@pytest.mark.parametrize(
    "url",
    [
        "x",
        "",
        "mysql://me:secret@there/db",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://me:secret@there:x/db",
    ],
)
def test_what_is_no_url_of_a_database_is_refused_in_one_line(url: str, tmp_path: Path):
    with pytest.raises(UsageError, match=r"must be sqlite:///FILE or postgresql://USER@HOST/NAME$") as caught:
        Store.open(url, tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/x.db", "postgresql://me:secret@127.0.0.1:9/db"])
def test_a_database_that_cannot_be_reached_is_refused_in_one_line(url: str, tmp_path: Path):
    with pytest.raises(UsageError, match=r": cannot be opened \(.+\); check the database's URL$") as caught:
        Store.open(url, tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "station.db").write_text("I am no database, however long this text may be. " * 100)
    with pytest.raises(UsageError, match=r"station\.db: cannot be opened \(file is not a database\)"):
        Store.open(None, tmp_path)


def test_without_the_driver_of_postgresql_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install 'blemish\[postgres\]'$"):
        Store.open("postgresql://me@127.0.0.1:9/db", tmp_path)


def test_sqlite_forces_every_transaction_to_disk(tmp_path: Path):
    store = Store.open(None, tmp_path / "made" / "station")
    with store._engine.connect() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked]
    assert found == ["wal", 2, 1, 30_000]  # 2: FULL
    assert (tmp_path / "made" / "station" / "station.db").exists()
    store.close()


def test_a_full_disk_is_one_line_and_what_was_recorded_stays(small_disk: Path):
    store = Store.open(None, small_disk)
    kept = []
    with pytest.raises(StoreError, match=r": .*(full|I/O).*; check the database and its disk$"):
        for k in range(10_000):
            kept.append(inspection(k))
            store.record([kept[-1]])
    assert len(kept) > 2
    assert store.find(limit=1)[0] == kept[-2]
    store.close()


# --- torch ---


def sources() -> list[Path]:
    return [file for room in ("record", "station") for file in sorted((PACKAGE / room).rglob("*.py"))]


def modules() -> list[str]:
    files = [file for file in sources() if "migrations" not in file.parts]
    parts = [file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files]
    return sorted(".".join(p).removesuffix(".__init__") for p in parts)


def test_nothing_of_the_station_imports_torch():
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("torch", "accelerate")], file


@pytest.mark.heavy
def test_nothing_of_the_station_loads_torch_by_way_of_others():
    code = f"import sys, {', '.join(modules())}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"blemish.record.store", "blemish.station.app"} <= set(loaded)
    assert not {"torch", "accelerate", "matplotlib"} & set(loaded)
