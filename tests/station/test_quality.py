"""Quality: the sampling plan, reasons of defects, figures, the shift report, search by a fragment."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html import escape
from pathlib import Path

import pytest
from inspected import BEGIN, part

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from blemish.cli.main import main
from blemish.core.errors import UsageError
from blemish.record.identifiers import new_id
from blemish.record.labels import Labelling, Labels, Shifts
from blemish.record.rows import Inspection, Verdict
from blemish.record.sampling import SamplingPlan, lot
from blemish.record.store import Store
from blemish.record.tables import Search
from blemish.station.report_html import report_html
from blemish.station.shift_report import shift_report


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(None, tmp_path)
    yield store
    store.close()


def say(store: Store, inspection: Inspection, verdict, **given) -> None:
    now = datetime.now(UTC)
    said = Verdict(id=new_id(now), inspection=inspection.id, time=now, verdict=verdict, by="Ann", **given)
    store.add_verdict(said)


def test_a_share_of_accepted_parts_is_drawn_by_lots_that_anyone_can_draw_again(store: Store):
    store.set_sampling(SamplingPlan(0.2, seed=7))
    made = [part(k, rejected=k % 4 == 0) for k in range(400)]
    store.record(made)
    drawn = store.search(Search(to_judge=True), limit=999)
    sampled = {each.id for each in drawn if each.sample is not None}
    assert sampled == {each.id for each in made if not each.anomalous and lot(7, each.id) < 0.2}
    assert 20 < len(sampled) < 120
    assert len(drawn) == len(sampled) + 100
    assert {each.sample for each in drawn} == {None, 0.2}
    store.set_sampling(SamplingPlan(0.0))
    store.record([part(k) for k in range(400, 500)])
    assert len(store.search(Search(to_judge=True), limit=999)) == len(drawn)
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        SamplingPlan(2.0)


def test_escapes_are_estimated_from_drawn_parts_alone(store: Store):
    store.set_sampling(SamplingPlan(1.0))
    drawn = [part(k) for k in range(20)]
    store.record(drawn)
    store.set_sampling(SamplingPlan(0.0))
    others = [part(k, rejected=k % 2 == 0) for k in range(20, 30)]
    store.record(others)
    store.set_reasons(["scratch", "dent"])
    for each in drawn[:10]:
        say(store, each, "good")
    say(store, drawn[10], "defect", reason="dent", note="left of the bore")
    say(store, others[1], "defect", reason="scratch")  # accepted, but nobody drew it
    say(store, others[0], "good")
    say(store, others[2], "defect", reason="scratch")
    found = store.quality(Search(since=BEGIN))
    assert (found.n, found.accepted, found.rejected, found.sampled, found.waiting) == (30, 25, 5, 20, 9 + 3)
    assert (found.escapes.found, found.escapes.n) == (1, 11)
    assert (found.escapes.low, found.escapes.high) == pytest.approx((0.0022990, 0.4127800), abs=1e-6)
    assert (found.false_rejects.found, found.false_rejects.n) == (1, 2)
    assert found.reasons == (("scratch", 2), ("dent", 1))
    store.set_reasons(["burr"])  # old verdicts keep theirs, and a late one is still taken
    say(store, others[4], "defect", reason="dent")
    assert store.reasons() == ["burr"]
    assert dict(store.quality(Search()).reasons) == {"scratch": 2, "dent": 2}
    with pytest.raises(UsageError, match="is not in the list"):
        say(store, others[6], "defect", reason="rust")


def test_escapes_of_two_plans_are_weighted_by_their_shares(store: Store):
    for days, share, n in ((0, 1.0, 20), (1, 0.1, 200)):
        store.set_sampling(SamplingPlan(share, seed=3))
        store.record([part(86_400 * days + k) for k in range(n)])
    drawn = store.search(Search(to_judge=True), limit=999)
    tenths = [each for each in drawn if each.sample == 0.1]
    for each in drawn:
        say(store, each, "defect" if each in tenths[:3] else "good")
    found = store.quality(Search(since=BEGIN)).escapes
    assert (found.found, found.n) == (3, 20 + len(tenths))
    assert found.share == pytest.approx(30 / (20 + 10 * len(tenths)))
    of_one = store.quality(Search(since=BEGIN + timedelta(days=1))).escapes
    assert of_one.share == 3 / len(tenths)


def test_fragments_and_labels_find_parts(store: Store):
    labels = ({"line": "L1", "shift": "early", "product": "flange"}, {"line": "L2", "station": "east"})
    made = [part(k, path=f"cam/IMG_{k}%.png", **labels[k % 2]) for k in range(12)]
    store.record(made)
    say(store, made[5], "good", note="Öl on the rim")

    def numbers(**given) -> list[int]:
        return [made.index(replace(each)) for each in store.search(Search(**given))]

    assert numbers(text="img_3%") == [3]
    assert numbers(text="p-1") == [11, 10, 1]
    assert numbers(text="on the RIM") == [5]
    assert numbers(text="_") == list(range(11, -1, -1))  # a letter, not any letter
    assert numbers(line="L2", text="P-1") == [11, 1]
    assert numbers(shift="early", product="flange") == [10, 8, 6, 4, 2, 0]
    assert numbers(station="east", part="P-3") == [3]


def test_a_report_and_a_table_say_who_judged_what_and_why(store: Store):
    store.set_reasons(["<scratch>"])
    made = [part(k, rejected=k == 0) for k in range(3)]
    store.record(made)
    say(store, made[0], "good", note="first thought")
    say(store, made[0], "defect", reason="<scratch>", note="3 mm & deep")
    page = report_html(shift_report(store, Search(since=BEGIN), now=BEGIN + timedelta(hours=8), by="Bob"))
    for text in ("&lt;scratch&gt;", "3 mm &amp; deep", "P-0", "Ann", "by Bob", "2026-03-01 00:00", "3 parts"):
        assert text in page, text
    assert "<scratch>" not in page
    from blemish.record.table_export import csv_pieces

    row = next(csv.DictReader(io.StringIO("".join(csv_pieces(store.judged(Search()))))))
    assert (row["verdict"], row["reason"], row["note"], row["by"]) == (
        *("defect", "<scratch>", "3 mm & deep", "Ann"),
    )
    assert datetime.fromisoformat(row["judged"]).year >= 2026
    with pytest.raises(UsageError, match="needs a beginning"):
        shift_report(store, Search(), now=BEGIN, by=None)


def test_shifts_last_until_the_next_one_begins(monkeypatch: pytest.MonkeyPatch):
    shifts = Shifts(["early=06:00", "late=14:00", "night=22:00"])
    local = datetime(2026, 3, 1).astimezone()
    hours = {5: "night", 6: "early", 13: "early", 14: "late", 23: "night"}
    assert {hour: shifts.of(local.replace(hour=hour)) for hour in hours} == hours
    assert Shifts().of(BEGIN) is None
    for bad in ("early", "=06:00", "early=25:00"):
        with pytest.raises(UsageError, match="must be NAME=HH:MM"):
            Shifts([bad])
    usual = Labelling(Labels(line="L2", product="flange", station="east"), ["all day=00:00"])
    given = usual.of(BEGIN, Labels(line="L1", station="of somebody else"))
    assert given == Labels(line="L1", product="flange", shift="all day", station="east")


def pdf_text(content: bytes) -> str:
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed")
    return " ".join(
        " ".join(page.extract_text().split()) for page in pypdf.PdfReader(io.BytesIO(content)).pages
    )


@pytest.mark.heavy
def test_a_report_as_pdf_says_what_the_page_says(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("fpdf", reason="blemish[pdf] is not installed")
    from blemish.station import report_pdf

    store.set_reasons(["Kratzer", "вмятина"])
    made = [part(k, rejected=True) for k in range(4)]
    store.record(made)
    for each, reason in zip(made, ("Kratzer", "Kratzer", "вмятина", "Kratzer"), strict=True):
        say(store, each, "defect", reason=reason, note="3 mm & <deep>")
    now = BEGIN + timedelta(hours=8)
    said = shift_report(store, Search(since=BEGIN), now=now, by="Bob")
    text = pdf_text(report_pdf.report_pdf(said, now=now))
    page = report_html(said)
    for section in said.sections:
        assert section.title in text
        for row in section.rows:
            words = [cell for cell in row if isinstance(cell, str)]
            assert all(cell.replace(" ", "") in text.replace(" ", "") for cell in words), row
            assert all(escape(cell) in page for cell in words)
    assert "█" * 15 in text
    assert "█" * 16 not in text
    folder = tmp_path / "cli"
    assert main(["report", "--folder", str(tmp_path), "--since", "2026-03-01", "--out", f"{folder}.pdf"]) == 0
    assert "4 parts" in pdf_text((tmp_path / "cli.pdf").read_bytes())
    monkeypatch.setattr(report_pdf, "_fonts_here", list)
    strange = replace(said, made="划")
    with pytest.raises(
        UsageError, match=r"^report: 划 \(U\+5212\) is in no font of this machine; install one"
    ):
        report_pdf.report_pdf(strange, now=now)


def test_notes_as_long_as_may_be_are_whole_on_the_report_as_pdf(store: Store):
    pytest.importorskip("fpdf", reason="blemish[pdf] is not installed")
    from blemish.station.report_pdf import report_pdf

    made = [part(k, rejected=True) for k in range(3)]
    store.record(made)
    for each, note in zip(made, ("¶" * 2000, "§§§§ " * 400, "¥\n" * 996 + "{nb}"), strict=True):
        say(store, each, "defect", note=note)
    now = BEGIN + timedelta(hours=8)
    text = pdf_text(report_pdf(shift_report(store, Search(since=BEGIN), now=now, by="Bob"), now=now))
    assert [text.count(letter) for letter in "¶§¥"] == [2000, 1600, 996]
    assert "{nb}" in text  # which stands for the number of pages elsewhere
    assert re.search(r"Seen by: (\d) / \1$", text)


def test_a_report_of_times_of_another_zone_says_them_in_utc(store: Store):
    store.record([part(0)])
    here = timezone(timedelta(hours=1))
    wanted = Search(since=BEGIN.astimezone(here), until=(BEGIN + timedelta(hours=8)).astimezone(here))
    said = shift_report(store, wanted, now=BEGIN + timedelta(days=1), by=None)
    assert said.time == "2026-03-01 00:00 to 2026-03-01 08:00"
    assert said.sections[0].title == "1 parts"
    with pytest.raises(UsageError, match="is out of range in UTC"):
        shift_report(store, Search(since=datetime(1, 1, 1, tzinfo=here)), now=BEGIN, by=None)


def test_a_report_by_command_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for arguments, why in (
        (["--since", "yesterday"], "--since yesterday: must be a time such as 2026-03-01T06:00"),
        (["--since", "2026-03-01"], "holds no record; name the folder of a station"),
    ):
        assert main(["report", "--folder", str(tmp_path), *arguments]) == 2
        assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
