"""The large view, for those who stand two metres away, and what the heat map does at keys."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import station_browser
from station_browser import GOOD, HOLE, Open, Running, expect, png, running, shown

from blemish.record.identifiers import new_id
from blemish.record.labels import Labelling, Labels
from blemish.station.engine_jobs import Upload

here, one_station, tab = station_browser.here, station_browser.one_station, station_browser.tab

BOX = "e => { const b = e.getBoundingClientRect(); return [b.width, b.height] }"


def said(page: Any, word: str, mark: str) -> None:
    """Wait until it says a word beside its mark: after seconds without an answer it says that it is old."""
    page.locator(f"#large-said:has(.mark.{mark}) strong", has_text=word).wait_for()


def test_the_newest_decision_fills_more_than_a_third(one_station: Running, tab: Open):
    one_station.inspect(GOOD, "good.png")
    page = tab(f"{one_station.address}/#large", width=1920, height=1080)
    said(page, "Accepted", "accepted")
    assert page.locator(".top").is_hidden()
    wide, high = page.locator("#large-decision").evaluate(BOX)
    assert wide * high > 1920 * 1080 / 3
    letters = page.locator("#large-said strong").evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
    assert letters >= 100
    one_station.inspect(HOLE, "hole.png")
    said(page, "Rejected", "rejected")
    expect(page.locator("#large-said span")).to_have_text("hole.png")
    assert page.locator("#large-strip .mark").first.get_attribute("aria-label") == "good.png: Accepted"
    page.set_viewport_size({"width": 390, "height": 844})
    wide, high = page.locator("#large-decision").evaluate(BOX)
    assert wide * high > 390 * 844 / 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("Escape")
    page.locator("#view-inspect").wait_for()
    page.keyboard.press("l")
    page.locator("#view-large").wait_for()
    assert page.evaluate("location.hash") == "#large"


def test_what_is_old_is_not_shown_as_the_newest(one_station: Running, tab: Open):
    one_station.inspect(GOOD)
    page = tab(f"{one_station.address}/#large")
    page.locator("#large-said .mark.accepted").wait_for()
    page.route("**/v1/inspections?**", lambda route: None)  # an answer that never comes
    said(page, "No connection", "failed")
    page.unroute("**/v1/inspections?**")


def test_a_station_shows_its_own_parts_where_many_share_a_record(pca_onnx: Path, tmp_path: Path, tab: Open):
    east = Labelling(Labels(station="east"))
    with running(pca_onnx, tmp_path / "station", labelling=east) as here:
        for name, image in (("east", GOOD), ("west", HOLE)):
            upload = Upload(data=image, source="api", part=f"of {name}", labels=Labels(station=name))
            here.station.engine().submit(upload).result(60)
        page = tab(f"{here.address}/#large")
        page.locator("#large-said span", has_text="of east").wait_for()
        assert page.locator("#large-age").inner_text().startswith("east · ")
        page.keyboard.press("Escape")
        page.locator("#inspect-stage .name", has_text="of east").wait_for()
        assert page.locator(".brand").inner_text() == "blemish · east"
        assert page.locator("#strip li").count() == 1


def record_of_line(here: Running, line: str, parts: int) -> None:
    """Record rejected parts of a line, all with the picture of a good one."""
    upload = Upload(data=GOOD, source="api", part=f"{line}-0", labels=Labels(line=line))
    scored = here.station.engine().submit(upload).result(60)
    for i in range(1, parts):
        now = datetime.now(UTC)
        later = replace(scored, id=new_id(now), time=now, part=f"{line}-{i}", anomalous=True)
        here.station.store.record([later])


def test_the_newest_part_of_a_line_is_found_however_many_others_have_come_since(here: Running, tab: Open):
    record_of_line(here, "L 2", 3)
    record_of_line(here, "L1", 45)
    page = tab(f"{here.address}/#large?line=L+2")
    expect(page.locator("#large-said span")).to_have_text("L 2-2")
    assert page.locator("#large-age").inner_text().startswith("L 2 · ")
    assert page.locator("#large-strip li").count() == 2
    page.keyboard.press("Escape")
    page.locator("#inspect-stage .name", has_text="L 2-2").wait_for()
    expect(page.locator("#strip li")).to_have_count(3)
    expect(page.locator("#only")).to_have_text("Only L 2")
    record_of_line(here, "L 2", 1)
    page.locator("#inspect-stage .name", has_text="L 2-0").wait_for()
    page.locator("#only").click()
    expect(page.locator("#strip li")).to_have_count(40)
    expect(page.locator("#only")).to_be_hidden()
    page.goto(f"{here.address}/#inspect?line=none")
    page.locator("#welcome").wait_for()
    page.goto(f"{here.address}/#inspect?")
    page.locator("#inspect-stage .name", has_text="L 2-0").wait_for()
    page.locator("#inspect-stage details.record summary").click()
    page.get_by_role("link", name="L 2").click()
    expect(page.locator("#strip li")).to_have_count(4)


def opacity(page: Any) -> str:
    return page.locator(".stage:visible output[for^=opacity]").inner_text()


def test_the_heat_follows_keys_and_leaves_a_part_that_is_odd_all_over_in_sight(
    one_station: Running, tab: Open
):
    one_station.inspect(HOLE)
    page = tab(one_station.address)
    shown(page)
    assert opacity(page) == "60 %"
    for key, now in (("j", "50 %"), ("k", "60 %"), ("k", "70 %"), ("h", "0 %"), ("h", "70 %")):
        page.keyboard.press(key)
        assert opacity(page) == now
    rng = np.random.default_rng(0)
    one_station.inspect(png(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), "noise.png")
    page.locator(".stage:visible .name", has_text="noise.png").wait_for()
    page.locator(".stage:visible .whole-odd", has_text="The whole image is odd").wait_for()
    assert opacity(page) == "0 %"
    page.keyboard.press("h")
    assert opacity(page) == "70 %"
    page.keyboard.press("ArrowRight")
    page.locator(".stage:visible .name", has_text="part.png").wait_for()
    assert opacity(page) == "70 %"


def test_few_good_images_are_said_to_be_few(one_station: Running, tab: Open):
    one_station.inspect(HOLE)
    page = tab(one_station.address)
    shown(page)
    words = page.locator(".stage:visible .odds", has_text="Higher than all 21 good parts").inner_text()
    assert "21 good parts are few: every reject shows p = 0.045" in words
