"""How the page looks and can be used: accessibility by axe-core, letters, focus, forced colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import station_browser
from station_browser import HOLE, Open, Running, settled, tabs

one_station, tab = station_browser.one_station, station_browser.tab

VIEWS = ("inspect", "large", "queue", "trends", "search", "models")


@pytest.fixture(scope="module")
def full(one_station: Running) -> Running:
    """A station with something in each view."""
    one_station.reject(3)
    one_station.inspect(HOLE)
    one_station.station.trainings.create(name="lid", method="pca", preset="default", source=None)
    return one_station


@pytest.fixture(scope="module")
def page(full: Running, browser: Any) -> Iterator[Any]:
    """A tab for the tests that only look: to load the page costs more than to look at it."""
    with tabs(browser) as open_:
        yield open_(full.address)


def go(page: Any, view: str) -> None:
    page.evaluate("view => { location.hash = view }", view)
    settled(page, view)
    if view == "models":
        page.locator("#jobs li").first.wait_for()


def findings(page: Any, *rules: str) -> list[str]:
    options: dict[str, Any] = {"resultTypes": ["violations"]}  # of what is well, nothing is asked
    options |= {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = page.evaluate("options => axe.run(document, options).then(r => r.violations)", options)
    return [f"{v['id']}: {node['html'][:200]}" for v in found for node in v["nodes"]]


def test_axe_finds_nothing(full: Running, page: Any, tab: Open):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    page.evaluate(axe.AXE_SCRIPT)
    for dialog in ("help", "given", "acknowledge", "login", "leaving"):
        page.evaluate("id => document.getElementById(id).showModal()", dialog)
        assert not findings(page), dialog
        page.evaluate("id => document.getElementById(id).close()", dialog)
    for view in VIEWS:
        go(page, view)
        assert not findings(page), view
        page.evaluate("() => { document.documentElement.dataset.theme = 'dark' }")
        assert not findings(page, "color-contrast"), view
        page.evaluate("() => { delete document.documentElement.dataset.theme }")
    described = tab(f"{full.address}/docs")
    described.evaluate(axe.AXE_SCRIPT)
    assert not findings(described)


def test_each_view_has_one_heading_of_the_first_rank(page: Any):
    for view in VIEWS:
        go(page, view)
        headings = [h for h in page.locator("h1").all() if h.is_visible()]
        assert [h.get_attribute("id") for h in headings] == [f"title-{view}"]
        assert page.title().startswith(headings[0].text_content())


FRAMES = "() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
"""Two frames, in the first of which the page hears of a new size and draws for it."""


@pytest.mark.parametrize("width", [390, 1440, 1920])
def test_axes_have_letters_of_12_px_or_more(page: Any, width: int):
    before = page.viewport_size
    go(page, "trends")
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate(FRAMES)
    sizes = page.locator(".chart text").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a)"
    )
    page.set_viewport_size(before)
    assert len(sizes) > 9
    assert min(sizes) >= 12


OUTSIDE = """() => [...document.querySelectorAll("button, .button, .tabs a, h2, dt, dd, label, p")]
  .filter((e) => e.checkVisibility() && !e.closest(".strip, .wide"))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1
    || (e.matches("button, .button") && e.scrollWidth > e.clientWidth + 1))
  .map((e) => e.outerHTML)"""


@pytest.mark.parametrize(("language", "widths"), [("es", (390, 1024)), ("de", (1024,))])
def test_long_words_have_room(full: Running, tab: Open, language: str, widths: tuple[int, ...]):
    page = tab(full.address, locale=language)
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate(FRAMES)
        for view in VIEWS:
            go(page, view)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert not page.evaluate(OUTSIDE), view


FOCUS = """() => {
  const all = [...document.querySelectorAll("a, button, input:not([type=file]), select, summary, canvas")];
  const seen = all.filter((e) => e.checkVisibility() && !e.disabled);
  return seen.filter((e) => {
    e.focus({ focusVisible: true });
    const { outlineStyle, outlineWidth } = getComputedStyle(e);
    return document.activeElement !== e || outlineStyle === "none" || parseFloat(outlineWidth) < 2;
  }).map((e) => e.outerHTML);
}"""


def test_what_has_the_focus_has_a_ring(page: Any):
    for view in VIEWS:
        go(page, view)
        assert not page.evaluate(FOCUS), view


def test_forced_colours_keep_what_is_told_by_colour(full: Running, tab: Open):
    page = tab(full.address, forced_colors="active")
    go(page, "inspect")
    style = "(e, name) => getComputedStyle(e)[name]"
    canvas = page.locator("body").evaluate(style, "backgroundColor")
    for mark in page.locator(".decision .mark .body").all():
        assert mark.evaluate(style, "fill") != canvas
    pressed, other = page.locator("#follow"), page.locator("#choose")
    assert pressed.evaluate(style, "outlineStyle") == "solid"
    assert other.evaluate(style, "outlineStyle") == "none"
    here, there = page.locator("#tab-inspect"), page.locator("#tab-trends")
    assert here.evaluate(style, "borderBottomColor") != there.evaluate(style, "borderBottomColor")
    go(page, "trends")
    assert page.locator("#chart-rejects rect").first.evaluate(style, "fill") != canvas
