"""Who is here, on the page: late answers to another login, and a log-out that the station does not hear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import station_browser
from station_browser import GOOD, Open, expect, running, shown
from waiting import wait_for

from blemish.station.security import Tokens

tab = station_browser.tab


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "station"


def log_in(page: Any, secret: str, name: str) -> None:
    page.locator("#login[open]").wait_for()
    page.fill("#token", secret)
    page.keyboard.press("Enter")
    page.locator("#who", has_text=name).wait_for()


def test_a_late_refusal_of_a_session_that_was_replaced_asks_for_no_token(
    pca_onnx: Path, folder: Path, tab: Open
):
    tokens = Tokens(folder)
    ann, bob = (tokens.add(name, "engineer") for name in ("ann", "bob"))
    with running(pca_onnx, folder) as here:
        here.inspect(GOOD, "good.png")
        page = tab(here.address)
        log_in(page, ann, "ann")
        shown(page)
        held: list[Any] = []
        # the first answer from now on is one to ann, and on its way
        page.route("**/v1/alarms", lambda route: route.fallback() if held else held.append(route))
        wait_for(lambda: page.wait_for_timeout(20) or held)
        page.evaluate("token => fetch('v1/session', {method: 'POST', body: token})", bob)
        held[0].fulfill(status=401, json={"detail": "a token is required"})
        page.locator("#who", has_text="bob").wait_for()
        expect(page.locator("#login")).to_be_hidden()


def test_a_log_in_in_another_tab_is_taken_where_a_token_is_asked_for(pca_onnx: Path, folder: Path, tab: Open):
    ann = Tokens(folder).add("ann", "engineer")
    with running(pca_onnx, folder) as here:
        here.inspect(GOOD, "good.png")
        page = tab(here.address)
        page.locator("#login[open]").wait_for()
        other = page.context.new_page()
        other.goto(here.address)
        log_in(other, ann, "ann")
        page.bring_to_front()
        page.locator("#who", has_text="ann").wait_for()
        expect(page.locator("#login")).to_be_hidden()
        shown(page)


def test_a_log_out_while_the_station_is_away_is_said_to_be_none_and_made_when_it_is_back(
    pca_onnx: Path, folder: Path, tab: Open
):
    ann = Tokens(folder).add("ann", "engineer")
    with running(pca_onnx, folder) as first:
        port = first.port
        first.inspect(GOOD, "good.png")
        page = tab(first.address)
        log_in(page, ann, "ann")
        shown(page)
    page.locator("#leave").click()
    page.get_by_role("heading", name="You are not logged out yet").wait_for()
    page.get_by_text("could not end your login: the station does not answer").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#leaving").is_visible()
    assert page.locator("#main").is_hidden()
    assert page.locator("#who").inner_text() == ""
    (cookie,) = page.context.cookies()
    with running(pca_onnx, folder, port) as second:
        page.locator("#login[open]").wait_for()
        assert page.locator("#leaving").is_hidden()
        assert page.context.cookies() == []
        page.context.add_cookies([cookie])  # as somebody has kept it
        page.reload()
        page.locator("#login[open]").wait_for()
        acts = [act.what for act in second.station.store.acts() if act.who == "ann"]
        assert acts[:2] == ["log-out", "log-in"]


def test_a_log_out_that_the_station_did_not_hear_is_made_by_the_next_tab(
    pca_onnx: Path, folder: Path, tab: Open
):
    ann = Tokens(folder).add("ann", "engineer")
    with running(pca_onnx, folder) as here:
        page = tab(here.address)
        log_in(page, ann, "ann")
        page.context.route("**/v1/session", lambda route: route.abort())
        page.locator("#leave").click()
        page.locator("#leaving[open]").wait_for()
        page.context.unroute("**/v1/session")
        other = page.context.new_page()
        page.close()
        other.goto(here.address)
        other.locator("#login[open]").wait_for()
        assert page.context.cookies() == []
