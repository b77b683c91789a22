"""The audit log: only added to, and a change of it is found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from datetime import timedelta
from pathlib import Path

import databases
import pytest
import sqlalchemy as sa
from databases import BEGIN, inspection, verdict

from blemish.cli.commands.verify import verify
from blemish.core.errors import DataError, UsageError
from blemish.record.identifiers import new_id
from blemish.record.sampling import SamplingPlan
from blemish.record.store import Act, Alarm, Store

new_url, store = databases.new_url, databases.store
ANN = Act(who="Ann", what="use", subject="a" * 64, detail={"note": "né\udcff\0 'x'"}, station="east")


def execute(store: Store, text: str) -> None:
    """Do what the log lets nobody do."""
    with store._engine.begin() as connection:
        if store._engine.dialect.name == "postgresql":
            connection.execute(sa.text("ALTER TABLE audit_log DISABLE TRIGGER USER"))
        else:
            for what in ("UPDATE", "DELETE"):
                connection.execute(sa.text(f"DROP TRIGGER IF EXISTS audit_log_no_{what}"))
        connection.execute(sa.text(text))


def test_who_did_what_is_kept_in_order(store: Store):
    assert store.acts() == []
    assert store.check_log() == (0, "0" * 64)
    for k in range(3):
        store.note(dataclasses.replace(ANN, what=f"act {k}"))
    found = store.acts()
    assert [(entry.number, entry.what) for entry in found] == [(3, "act 2"), (2, "act 1"), (1, "act 0")]
    assert (found[0].who, found[0].subject, found[0].station) == (ANN.who, ANN.subject, ANN.station)
    assert found[0].detail == ANN.detail
    assert store.acts(before=2) == found[2:]
    assert store.acts(what="act 1", limit=1) == found[1:2]
    assert store.check_log() == (3, found[0].hash)


def test_anybody_can_compute_the_hashes_again(store: Store):
    store.note(ANN)
    store.note(dataclasses.replace(ANN, who=""))
    before = "0" * 64
    with store._engine.connect() as connection:
        for *said, found in connection.execute(sa.text("SELECT * FROM audit_log ORDER BY number")):
            text = json.dumps(said, separators=(",", ":"))
            before = hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
            assert before == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE audit_log SET who = 'Bob' WHERE number = 2", "entry 2 does not fit its hash"),
        ("UPDATE audit_log SET time = time - 1 WHERE number = 3", "entry 3 does not fit its hash"),
        ("DELETE FROM audit_log WHERE number = 1", "entry 1 is missing"),
        ("UPDATE audit_log SET number = 9 WHERE number = 3", "entry 3 is missing"),
        ("DELETE FROM audit_log WHERE number = 3", "ends at entry 2, and 3 were there"),
    ],
)
def test_a_change_is_found_and_refused_by_the_database(store: Store, change: str, said: str):
    for _ in range(3):
        store.note(ANN)
    head = store.check_log()
    with pytest.raises(sa.exc.DBAPIError, match="only added to"), store._engine.begin() as connection:
        connection.execute(sa.text(change))
    assert store.check_log(head) == head
    execute(store, change)
    with pytest.raises(DataError, match=said):
        store.check_log(head)


def test_a_log_that_was_written_anew_is_found_by_the_hash_that_was_written_down(store: Store):
    store.note(ANN)
    head = store.check_log()
    execute(store, "DELETE FROM audit_log")
    for who in ("Bob", "Ann"):
        store.note(dataclasses.replace(ANN, who=who))
    assert store.check_log()[0] == 2
    with pytest.raises(DataError, match="entry 1 has another hash than was written down"):
        store.check_log(head)


def test_what_is_not_done_is_not_in_the_log(store: Store):
    one = inspection(0)
    store.record([one])
    act = dataclasses.replace(ANN, what="verdict")
    with pytest.raises(UsageError):
        store.add_verdict(verdict(one, 1, "defect", reason="unknown"), act=act)
    with pytest.raises(DataError):
        store.withdraw_verdict(one.id, "k", time=BEGIN, by="Ann", act=act)
    with pytest.raises(DataError):
        store.acknowledge_alarm("x", time=BEGIN, by="Ann", note="", act=act)
    assert store.acts() == []
    alarm = Alarm(id=new_id(BEGIN), model="a" * 64, time=BEGIN, kind="drift", value=1.0, message="")
    store.add_alarm(alarm)
    said = verdict(one, 1, "defect", key="k")
    for _ in range(2):  # what is sent again is done once
        store.add_verdict(said, act=act)
        store.add_verdict(dataclasses.replace(said, id=new_id(BEGIN)), act=act)
    for _ in range(2):
        store.withdraw_verdict(one.id, said.id, time=BEGIN, by="Ann", act=act)
        store.acknowledge_alarm(alarm.id, time=BEGIN + timedelta(1), by="Ann", note="", act=act)
    store.set_sampling(SamplingPlan(0.1), act=act)
    store.set_reasons(["dent"], act=act)
    assert store.check_log()[0] == 5


def test_many_writers_make_one_chain(new_url, tmp_path: Path):
    url = new_url()
    stores = [Store.open(url, tmp_path) for _ in range(2)]

    def write(store: Store) -> None:
        for _ in range(5):
            store.note(ANN)

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].check_log()[0] == 10
    for store in stores:
        store.close()


def test_the_command_checks_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UsageError, match=r"holds no record; name the folder of a station$"):
        verify(["--folder", str(tmp_path / "nothing")])
    store = Store.open(None, tmp_path)
    for _ in range(2):
        store.note(ANN)
    assert verify(["--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out.strip()
    assert said.startswith("audit log: 2 entries, none was changed; ")
    head = said.split()[-1]
    assert head == f"2:{store.acts()[0].hash}"
    store.note(ANN)
    assert verify(["--folder", str(tmp_path), "--head", head]) == 0
    execute(store, "DELETE FROM audit_log WHERE number > 1")
    assert verify(["--folder", str(tmp_path)]) == 0
    assert verify(["--folder", str(tmp_path), "--head", head]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("audit log: ")
    with pytest.raises(UsageError, match=r"^--head 2: must be NUMBER:HASH"):
        verify(["--folder", str(tmp_path), "--head", "2"])
    store.close()
