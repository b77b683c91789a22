"""Parts of two views on the page: their images wait for one another, and a person judges the part."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import station_browser
from several_views import with_parts
from station_browser import GOOD, HOLE, Open, Running, judgeable, running, sent, shown, upload

from blemish.record.identifiers import new_id
from blemish.record.store import Verdict
from blemish.station.engine_jobs import Upload
from blemish.station.parts import PartSettings

tab = station_browser.tab


@contextmanager
def running_parts(model: Path, folder: Path, **options) -> Iterator[Running]:
    """A station where no part waits too long on a busy machine: its clock for that stands still."""
    with running(model, folder, **options) as here:
        (line,) = here.station.parts.lines
        line.now = lambda: 0.0
        yield here


def test_a_part_is_shown_with_its_views_and_judged_as_one(pca_onnx: Path, tmp_path: Path, tab: Open):
    (tmp_path / "good.png").write_bytes(GOOD)
    model = with_parts(pca_onnx, [tmp_path / "good.png"], tmp_path / "valve.onnx")
    with running_parts(model, tmp_path / "station") as here:
        page = tab(here.address)
        page.locator("#view option").nth(2).wait_for(state="attached")
        page.fill("#part", "17")
        page.select_option("#view", "side")
        upload(page, ("a.png", GOOD))
        page.get_by_text("Part 17 waits for: top").first.wait_for()
        assert page.locator("#strip .tile").count() == 0
        assert (page.input_value("#part"), page.input_value("#view")) == ("17", "top"), (
            "the next one is asked for"
        )
        upload(page, ("b.png", HOLE))
        shown(page)
        assert page.locator("#inspect-stage .decision h2").inner_text() == "Rejected"
        tiles = page.locator("#inspect-stage .view-tile")
        assert [text.split("\n")[0] for text in tiles.all_inner_texts()] == ["side", "top"]
        page.locator("#inspect-stage .view-tile[aria-pressed=true]", has_text="most unusual").wait_for()
        tiles.first.click()
        page.locator("#inspect-stage .view-tile[aria-pressed=true]", has_text="side").wait_for()
        assert page.input_value("#part") == "", "the next images are of another part"
        page.goto(f"{here.address}/#large")
        page.locator("#large-said .mark.rejected").wait_for()
        page.locator("#large-picture .view-tile", has_text="top").wait_for()
        page.goto(f"{here.address}/#queue")
        shown(page)
        judgeable(page)
        page.keyboard.press("d")
        page.locator("#queue-done h2").wait_for()
        sent(page)
        (part,) = here.station.store.find()
        assert (part.part, part.decision, part.missing) == ("17", "rejected", ())
        assert [said.verdict for said in here.station.store.verdicts([part.id])[part.id]] == ["defect"]


def test_a_part_that_has_waited_too_long_is_shown_when_it_is_decided(
    pca_onnx: Path, tmp_path: Path, tab: Open
):
    (tmp_path / "good.png").write_bytes(GOOD)
    model = with_parts(pca_onnx, [tmp_path / "good.png"], tmp_path / "valve.onnx")
    with running_parts(model, tmp_path / "station") as here:
        (line,) = here.station.parts.lines
        for part, view, image in (("1", "side", HOLE), ("2", "side", GOOD), ("2", "top", GOOD)):
            line.begin(Upload(data=image, source="api", part=part, view=view)).answer.result(60)
        page = tab(here.address)
        page.locator("#inspect-stage .decision.accepted").wait_for()
        large = tab(f"{here.address}/#large")
        large.locator("#large-said .mark.accepted").wait_for()
        line.now = lambda: 100.0
        page.locator("#inspect-stage .decision.rejected").wait_for()
        large.locator("#large-said .mark.rejected").wait_for()
        assert large.locator("#large-strip .mark").first.get_attribute("aria-label") == "2: Accepted"


def test_new_thresholds_of_parts_are_made_on_the_page(pca_onnx: Path, tmp_path: Path, tab: Open):
    (tmp_path / "good.png").write_bytes(GOOD)
    model = with_parts(pca_onnx, [tmp_path / "good.png"], tmp_path / "valve.onnx", n=2)
    with running_parts(model, tmp_path / "station") as here:
        engine = here.station.engine()
        line = here.station.taker(engine)
        for part in "123":
            for view in ("side", "top"):
                row = line.begin(Upload(data=GOOD, source="api", part=part, view=view)).answer.result(60)
            said = Verdict(id=new_id(row.time), inspection=row.part_id, time=row.time, verdict="good")
            here.station.store.add_verdict(said)
        page = tab(f"{here.address}/#models")
        card = page.locator(".model")
        card.get_by_text("2 good parts", exact=True).wait_for()
        assert card.get_by_text("New thresholds are made by the commands").is_hidden()
        card.get_by_role("button", name="Recalibrate on good production").click()
        page.get_by_text("valve: new thresholds from 3 good parts").wait_for()
        card.get_by_text("3 good parts", exact=True).wait_for()
        assert "calibrated on 2 good parts" in card.locator(".earlier li").inner_text()
        page.get_by_text("For parts with several views, or for several products, train with").wait_for()


def test_thresholds_of_views_with_models_of_their_own_are_made_by_commands(
    pca_onnx: Path, tmp_path: Path, tab: Open
):
    other = tmp_path / "other.onnx"
    shutil.copy(pca_onnx, other)
    settings = PartSettings(view_models=(f"top={other}",), views=("side", "top"))
    with running_parts(pca_onnx, tmp_path / "station", parts=settings) as here:
        card = tab(f"{here.address}/#models").locator(".model").first
        card.get_by_text("New thresholds are made by the commands").wait_for()
        assert [each.inner_text() for each in card.locator("code").all()] == [
            "blemish recalibrate",
            "blemish parts",
        ]
        assert card.get_by_label("Newest parts").is_hidden()
