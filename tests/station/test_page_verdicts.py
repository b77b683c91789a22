"""Verdicts on the page: of the part that was seen, by whoever gave them, taken back; late answers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import station_browser
from cameras import wait_for
from station_browser import (
    GOOD,
    HOLE,
    RELEASE,
    Open,
    Running,
    expect,
    hold,
    judgeable,
    running,
    sent,
    shown,
    upload,
)

from blemish.station.security import Tokens

here, tab = station_browser.here, station_browser.tab

FREEZE = """
const real = performance.now.bind(performance);
performance.now = () => window.frozen ?? real();
"""
"""A clock of the page that can be stopped: what comes on screen then has been there for no time."""


def said(here: Running) -> dict[str | None, list[tuple[str, str]]]:
    """What was said of each part that anything was said of: (verdict, by), those that stand."""
    store, found = here.station.store, {}
    for inspection in store.find():
        verdicts = [v for v in store.verdicts([inspection.id])[inspection.id] if v.withdrawn is None]
        if verdicts:
            found[inspection.part or inspection.path] = [(v.verdict, v.by) for v in verdicts]
    return found


def queue_of(here: Running, tab: Open, number: int) -> Any:
    here.reject(number)
    page = tab(f"{here.address}/#queue")
    page.get_by_text(f"{number} left to judge").wait_for()
    judgeable(page)
    return page


@pytest.mark.parametrize("how", ["key", "button"])
def test_a_held_key_gives_one_verdict(here: Running, tab: Open, how: str):
    page = queue_of(here, tab, 3)
    key = "g" if how == "key" else "Enter"
    if how == "button":
        page.locator("#queue-stage .judge.good").focus()
    for _ in range(3):
        page.keyboard.down(key)  # from the second time on it says that it repeats
        page.get_by_text("2 left to judge").wait_for()
        judgeable(page)
    page.keyboard.up(key)
    sent(page)
    assert said(here) == {"R-2": [("good", "")]}


def test_a_part_that_has_just_come_takes_no_key(here: Running, tab: Open):
    here.inspect(HOLE, "first.png")
    page = tab(here.address, script=FREEZE)
    judgeable(page)
    page.evaluate("() => { window.frozen = performance.now(); }")
    here.inspect(GOOD, "second.png")
    page.locator("#inspect-stage .name", has_text="second.png").wait_for()
    shown(page)
    page.keyboard.press("d")
    toast = page.locator(".toast", has_text="second.png was not judged: it has been on screen for less than")
    toast.wait_for()
    page.locator("#inspect-stage .judge.defect").click(force=True)  # nor does it take a click
    page.evaluate("() => { delete window.frozen; }")
    page.locator(".toast button", has_text="Back to first.png").click()
    page.locator("#inspect-stage .name", has_text="first.png").wait_for()
    judgeable(page)
    page.keyboard.press("d")
    page.locator(".toast", has_text="first.png: defect").wait_for()
    sent(page)
    assert said(here) == {"first.png": [("defect", "")]}


def test_a_part_whose_picture_is_not_there_yet_takes_no_key(here: Running, tab: Open):
    here.inspect(HOLE, "late.png")
    page = tab(f"{here.address}/#search")
    held: list[Any] = []
    page.route("**/image?side=64", lambda route: held.append(route))
    page.reload()
    page.keyboard.press("1")
    page.locator("#inspect-stage .name", has_text="late.png").wait_for()
    page.keyboard.press("g")
    page.locator(".toast", has_text="late.png was not judged: its picture has not been shown yet").wait_for()
    for route in held:
        route.continue_()
    page.unroute("**/image?side=64")
    judgeable(page)
    page.keyboard.press("g")
    page.locator(".toast", has_text="late.png: good").wait_for()
    sent(page)
    assert said(here) == {"late.png": [("good", "")]}


def test_a_click_judges_the_part_that_was_there_when_it_began(here: Running, tab: Open):
    here.inspect(HOLE, "first.png")
    page = tab(here.address)
    judgeable(page)
    page.locator("#inspect-stage .judge.defect").hover()
    page.mouse.down()
    here.inspect(GOOD, "second.png")
    page.locator("#inspect-stage .name", has_text="second.png").wait_for()
    page.mouse.up()
    page.locator(".toast", has_text="first.png: defect").wait_for()
    sent(page)
    assert said(here) == {"first.png": [("defect", "")]}


def test_verdicts_are_taken_back_by_key_and_in_the_list(here: Running, tab: Open):
    page = queue_of(here, tab, 3)
    for left in (2, 1):
        page.keyboard.press("d")
        page.get_by_text(f"{left} left to judge").wait_for()
        judgeable(page)
    sent(page)
    assert said(here) == {"R-2": [("defect", "")], "R-1": [("defect", "")]}
    page.keyboard.press("z")
    page.locator("#queue-stage .name", has_text="R-1").wait_for()
    page.get_by_text("2 left to judge").wait_for()
    sent(page)
    assert said(here) == {"R-2": [("defect", "")]}
    page.locator("#queue-stage .undo-list").click()
    assert page.locator("#given-list li").count() == 1
    page.locator("#given-list li button").click()
    page.locator("#given-none").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("3 left to judge").wait_for()
    sent(page)
    assert said(here) == {}
    kept = here.station.store
    number = [len(kept.verdicts([row.id])[row.id]) for row in kept.find(decision="rejected")]
    assert number == [1, 1, 0]  # they are kept all the same


def log_in(page: Any, secret: str, name: str) -> None:
    page.locator("#login[open]").wait_for()
    page.fill("#token", secret)
    page.keyboard.press("Enter")
    page.locator("#who", has_text=name).wait_for()


def log_out(page: Any) -> None:
    """Leave, and wait for the page that comes: until then the old one may still send what waits."""
    with page.expect_navigation():
        page.locator("#leave").click()


def ask_nothing_but_who_is_here(page: Any) -> None:
    """Leave the page's regular questions without answer from now on: one to an ended session would say so."""
    held: list[str] = []

    def answer(route: Any) -> None:
        if route.request.url.endswith("/v1/session"):
            route.fallback()
        else:
            held.append(route.request.url)

    page.route("**/v1/*", answer)
    wait_for(lambda: page.wait_for_timeout(20) or any("/v1/inspections?" in url for url in held))


LONG_AGO = """() => {
  const waiting = JSON.parse(localStorage.getItem("verdicts"));
  for (const entry of waiting) entry.given -= 3600e3;
  localStorage.setItem("verdicts", JSON.stringify(waiting));
}"""
"""What waits was given an hour ago: its age, told in seconds, may then be minutes on its way."""


def test_what_one_says_offline_is_never_another_s(pca_onnx: Path, tmp_path: Path, tab: Open):
    tokens = Tokens(tmp_path / "station")
    ann, bob = (tokens.add(name, "engineer") for name in ("ann", "bob"))
    with running(pca_onnx, tmp_path / "station") as here:
        here.inspect(HOLE, "hole.png")
        page = tab(here.address)
        log_in(page, ann, "ann")
        judgeable(page)
        page.route("**/verdict", lambda route: route.abort())
        page.keyboard.press("d")
        page.locator("#inspect-stage .said", has_text="being saved").wait_for()
        before = datetime.now(UTC)
        page.evaluate(LONG_AGO)
        log_out(page)
        page.unroute("**/verdict")
        log_in(page, bob, "bob")
        page.locator(".toast", has_text="1 verdict of ann").wait_for()
        judgeable(page)
        page.keyboard.press("g")
        wait_for(lambda: said(here) == {"hole.png": [("good", "bob")]})
        page.wait_for_function("() => JSON.parse(localStorage.getItem('verdicts')).length === 1")  # of ann
        log_out(page)
        log_in(page, ann, "ann")
        wait_for(lambda: said(here) == {"hole.png": [("good", "bob"), ("defect", "ann")]})
        (verdicts,) = here.station.store.verdicts([here.station.store.find()[0].id]).values()
        assert verdicts[1].time < before  # as of its giving, not of its arrival
        sent(page)


def test_another_login_in_another_tab_does_not_sign_what_is_said_here(
    pca_onnx: Path, tmp_path: Path, tab: Open
):
    tokens = Tokens(tmp_path / "station")
    ann, bob = (tokens.add(name, "engineer") for name in ("ann", "bob"))
    with running(pca_onnx, tmp_path / "station") as here:
        here.inspect(HOLE, "hole.png")
        page = tab(here.address)
        log_in(page, ann, "ann")
        judgeable(page)
        ask_nothing_but_who_is_here(page)
        page.evaluate("token => fetch('v1/session', {method: 'POST', body: token})", bob)
        page.keyboard.press("d")
        page.locator("#who", has_text="bob").wait_for()
        page.locator(".toast", has_text="1 verdict of ann").wait_for()
        assert said(here) == {}


def test_a_verdict_is_sent_again_where_a_busy_station_did_not_say_who_is_here(here: Running, tab: Open):
    page = queue_of(here, tab, 1)
    refusal = {"status": 409, "json": {"detail": "another login"}}
    busy = {"status": 503, "headers": {"Retry-After": "0"}, "json": {"detail": "the station is busy"}}
    page.route("**/verdict", lambda route: route.fulfill(**refusal), times=1)
    page.route("**/v1/session", lambda route: route.fulfill(**busy), times=1)
    page.keyboard.press("g")
    sent(page)
    assert list(said(here).values()) == [[("good", "")]]


def test_a_reason_goes_with_a_defect_and_into_the_report(here: Running, tab: Open):
    here.station.store.set_reasons(["scratch", "dent"])
    page = queue_of(here, tab, 2)
    page.locator("#queue-stage select[aria-label='Reason of a defect']").select_option("dent")
    page.locator("#queue-stage .judge.defect").click()
    page.get_by_text("1 left to judge").wait_for()
    sent(page)
    (found,) = here.station.store.verdicts([here.station.store.find(part="R-1")[0].id]).values()
    assert [verdict.reason for verdict in found] == ["dent"]
    page.goto(f"{here.address}/#search")
    page.locator("#search-rows li").first.wait_for()
    with page.expect_popup() as opened:
        page.click("#report")
    opened.value.get_by_role("cell", name="R-1").wait_for()
    dents = opened.value.get_by_role("cell", name="dent")
    expect(dents).to_have_count(2)  # in the Pareto, and of the part


# --- answers that come late ---


def test_a_part_that_arrives_at_a_click_does_not_undo_it(here: Running, tab: Open):
    here.inspect(GOOD)
    page = tab(here.address, script=hold("v1/inspections?"))
    page.wait_for_function("() => held.length")
    page.evaluate("() => { location.hash = '#trends'; held.forEach((go) => go()); }")
    page.locator("#view-trends").wait_for()
    page.get_by_text("in the last hour").wait_for()
    assert page.evaluate("location.hash") == "#trends"


def test_a_part_waits_for_the_models_and_reasons_it_is_shown_with(here: Running, tab: Open):
    here.station.store.set_reasons(["scratch", "dent"])
    here.reject(1)
    page = tab(f"{here.address}/#queue")
    held, asked = list[Any](), list[str]()
    page.route("**/v1/models", lambda route: held.append(route))
    with page.expect_request("**/v1/models"):
        page.reload()
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    page.evaluate("async () => { dispatchEvent(new Event('hashchange')); await fetch('healthz'); }")
    assert "/healthz" in asked  # which was asked after all that the view could have asked
    assert not [path for path in asked if path.startswith("/v1/inspections")]
    for route in held:
        route.continue_()
    page.unroute("**/v1/models")
    judgeable(page)
    page.locator("#queue-stage select[aria-label='Reason of a defect']").select_option("dent")
    low = here.station.map_style(here.station.store.find()[0].model).display_range[0]
    said = page.locator("#queue-stage .scale span").first.inner_text().replace("−", "-")
    assert float(said) == pytest.approx(low, rel=0.01)


def test_an_answer_of_before_does_not_take_a_new_part_away(here: Running, tab: Open):
    here.inspect(GOOD, "old.png")
    page = tab(here.address, script=hold("v1/inspections?"))
    page.wait_for_function("() => held.length")
    upload(page, ("new.png", HOLE))
    page.locator("#inspect-stage .name", has_text="new.png").wait_for()
    page.evaluate(RELEASE)
    assert page.locator("#inspect-stage .name").inner_text() == "new.png"


def test_the_figures_are_those_of_the_span_that_was_chosen_last(here: Running, tab: Open):
    here.inspect(HOLE)
    page = tab(here.address, script=hold("buckets=60"))
    page.keyboard.press("3")
    page.wait_for_function("() => held.length")
    page.locator("#spans button[value=day]").click()
    page.get_by_text("in the last day").wait_for()
    day = page.locator("#trend-table").inner_html()
    page.evaluate(RELEASE)
    assert page.locator("#trend-table").inner_html() == day
