"""Parts that a person is to look at: on record, in the queue, in figures and reports, and for a PLC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from inspected import BEGIN, part

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from blemish.core.errors import DataError
from blemish.record.identifiers import new_id
from blemish.record.ledger_sync import inspection_of
from blemish.record.rows import Inspection, Verdict
from blemish.record.store import Store
from blemish.record.tables import Search
from blemish.station.engine_jobs import Model
from blemish.station.notifications import _event_of
from blemish.station.plc import CODES
from blemish.station.recalibration import recalibrated
from blemish.station.report_html import report_html
from blemish.station.shift_report import shift_report


def reviewed(k: int, **given: Any) -> Inspection:
    return part(k, score=0.55, review_threshold=0.52, **given)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(None, tmp_path)
    yield store
    store.close()


def test_they_are_recorded_searched_and_wait_for_a_verdict(store: Store):
    made = [part(0), reviewed(1), part(2, rejected=True)]
    store.record(made)
    assert [each.decision for each in made] == ["accepted", "review", "rejected"]
    assert [store.get(each.id) for each in made] == made
    assert store.search(Search(decision="review")) == [made[1]]
    assert store.search(Search(to_judge=True)) == [made[2], made[1]]
    now = datetime.now(UTC)
    store.add_verdict(Verdict(id=new_id(now), inspection=made[1].id, time=now, verdict="good", by="Ann"))
    assert store.search(Search(to_judge=True)) == [made[2]]
    figures = store.quality(Search())
    assert (figures.accepted, figures.review, figures.rejected, figures.waiting) == (1, 1, 1, 1)
    assert store.summary(since=BEGIN, until=now, buckets=1)[0].review == 1
    assert [row.decision for row in store.recorded(after=0)] == ["accepted", "review", "rejected"]
    assert [_event_of(row) for row in store.recorded(after=0)] == [None, "review", "reject"]
    assert [anomalous for _, _, anomalous, _ in store.scores("0" * 64)] == [False, False, True]


def test_the_report_of_a_shift_has_them_where_there_are_any(store: Store):
    def page() -> str:
        return report_html(shift_report(store, Search(since=BEGIN), now=BEGIN + timedelta(hours=8), by=None))

    store.record([part(0)])
    assert "for review" not in page()
    store.record([reviewed(1)])
    assert "<td>for review</td><td>1</td>" in page()


def test_a_recalibration_wants_them_judged(store: Store):
    store.record([part(0), reviewed(1), part(2, rejected=True)])
    with pytest.raises(DataError, match="2 of the newest 3 parts were rejected or sent to review and wait"):
        recalibrated(Model(digest="0" * 64, detector=None), store, None)  # type: ignore[arg-type]


def test_a_plc_does_not_let_them_pass():
    assert CODES["review"] not in (0, CODES["accepted"])


def test_a_row_of_an_earlier_ledger_is_taken():
    row = {"id": new_id(BEGIN), "time": BEGIN.isoformat(), "model": "0" * 64, "seconds": 0.1, "error": None}
    row |= {
        "path": "a.png",
        "score": 0.5,
        "p_value": 0.5,
        "threshold": 0.6,
        "anomalous": False,
        "regions": [],
    }
    found = inspection_of(row)
    assert (found.decision, found.review_threshold) == ("accepted", None)
    assert replace(found, review_threshold=0.4).decision == "review"
