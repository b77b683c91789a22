"""The station's page in a browser: what is seen is what the service says, and what is judged is kept."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import station_browser
from cameras import wait_for
from conftest import tiny_image
from PIL import Image
from processes import free_port
from scipy import ndimage
from station_browser import (
    GOOD,
    HOLE,
    Open,
    Running,
    judgeable,
    png,
    pressables,
    running,
    settled,
    shown,
    tabs,
    upload,
)

from blemish.images.resize import resize
from blemish.inference import postprocess
from blemish.inference.calibration import _largest_rank, calibrate
from blemish.station.render import read_map
from blemish.station.security import Tokens

here, one_station, tab = station_browser.here, station_browser.one_station, station_browser.tab


def pixels(canvas: Any) -> np.ndarray:
    """What is on a canvas, (H, W, 4), after it has been drawn."""
    canvas.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))), np.float64)


def slide(page: Any, name: str, value: int) -> None:
    page.locator(f".stage:visible input[id^={name}]").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')) }", value
    )


# --- what is seen ---


def test_the_heat_is_the_map_of_the_service(here: Running, tab: Open):
    page = tab(here.address)
    upload(page, ("hole.png", HOLE))
    canvas = shown(page)
    page.locator(".stage:visible .facts").wait_for()
    slide(page, "opacity", 0)
    plain = pixels(canvas)
    slide(page, "opacity", 100)
    heated = pixels(canvas)

    inspection = here.station.store.find()[0]
    answer = page.request.get(f"{here.address}/v1/inspections/{inspection.id}/map")
    size = int(answer.headers["x-map-height"]), int(answer.headers["x-map-width"])
    coarse = np.frombuffer(answer.body(), "<f4").reshape(size)
    heat = resize(coarse[None], (64, 64))[0]
    low, high = here.station.map_style(inspection.model).display_range
    t = np.clip((heat - low) / (high - low), 0, 1)[..., None]
    colour = 255 * np.clip(1.5 - np.abs(4 * t - np.array([3, 2, 1])), 0, 1)
    level = here.station.map_style(inspection.model).pixel_threshold
    assert level is not None
    height, width = plain.shape[:2]
    scale = min(width, height) / 64
    rows, columns = np.mgrid[height // 2 - int(30 * scale) : height // 2 + int(30 * scale) : 9, :width]
    columns = columns[:, int(width / 2 - 30 * scale) : int(width / 2 + 30 * scale) : 9]
    rows = rows[:, : columns.shape[1]]
    at = (rows + 0.5 - height / 2) / scale + 31.5, (columns + 0.5 - width / 2) / scale + 31.5

    def between(values: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(values, at, order=1)

    alpha = between(t[..., 0])[..., None]
    over = np.stack([between((t * colour)[..., c]) for c in range(3)], axis=-1)
    expected = (1 - alpha) * plain[rows, columns, :3] + over
    near = (ndimage.minimum_filter(heat, 3) <= level) & (ndimage.maximum_filter(heat, 3) >= level)
    free = ndimage.map_coordinates(near.astype(float), at, order=1) == 0  # of the contour
    assert free.sum() > 1000
    assert alpha[free].max() > 0.9
    off = np.abs(heated[rows, columns, :3] - expected)[free]
    assert off.max() <= 10  # Chromium places samples to 1/16 of a pixel without a GPU: 255 / 32, and rounding
    assert off.mean() < 1
    assert np.abs(heated - plain).max() > 50


def test_the_rate_redraws_at_once_and_asks_nobody(here: Running, tab: Open):
    page = tab(here.address, script="window.setInterval = () => 0;")  # it does not look at what is new
    upload(page, ("hole.png", HOLE))
    canvas = shown(page)
    page.locator(".stage:visible .scorebar").wait_for()
    page.wait_for_function("() => document.querySelector('#strip img')?.naturalWidth")
    before = pixels(canvas)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    slide(page, "rate", 1000)
    after = pixels(canvas)
    assert not np.array_equal(before, after)
    assert not asked
    calibration = here.station.engine().model.detector.model_file.calibration
    assert calibration is not None
    limit = float(page.locator(".stage:visible .facts dd").nth(1).inner_text().replace("−", "-"))
    assert limit == pytest.approx(calibration.threshold(0.5), rel=1e-3)
    assert "(50 %)" in page.locator(".stage:visible output[for^=rate]").inner_text()
    found = page.locator(".stage:visible .regions li").count()
    inspection = here.station.store.find()[0]
    assert inspection.map
    coarse = read_map(here.station.archive.read(inspection.map, "map"))
    whole = postprocess.to_original_size(coarse, (64, 64))
    assert found == min(50, len(postprocess.regions(whole, calibration.pixel_threshold(0.5))))
    page.get_by_role("button", name="Back to").click()
    np.testing.assert_array_equal(pixels(canvas), before)


@pytest.fixture(scope="module")
def any_page(one_station: Running, browser: Any) -> Iterator[Any]:
    """A tab for tests that ask the page's scripts, and look at nothing."""
    with tabs(browser) as open_:
        yield open_(one_station.address)


def test_the_arithmetic_is_that_of_the_library(any_page: Any):

    def ask(code: str, value: Any) -> Any:
        return any_page.evaluate(
            f"async given => {{ const m = await import('/static/heatmap.js'); {code} }}", value
        )

    rng = np.random.default_rng(0)
    cases = [(n, k / 100) for n in (1, 5, 19, 28, 99, 199) for k in range(1, 100)]
    cases += [(n, k / (n + 1)) for n in (6, 21, 48, 92) for k in range(1, n + 1)]
    assert ask("return given.map(([n, r]) => m.allowed(n, r))", cases) == [
        _largest_rank(*case) for case in cases
    ]
    scores = np.sort(rng.normal(size=28))
    known = calibrate(scores, scores)
    rates = [0.05, 0.29, 0.5]
    got = ask("return given.rates.map(r => m.threshold(given.s, r))", {"s": scores.tolist(), "rates": rates})
    assert got == [known.threshold(rate) for rate in rates]

    for shape, size in (((8, 8), (64, 48)), ((40, 30), (17, 64)), ((5, 7), (5, 7))):
        small = rng.normal(size=shape).astype(np.float32)
        given = {"v": small.ravel().tolist(), "w": shape[1], "h": shape[0], "size": size}
        made = "const map = m.resized({values: Float32Array.from(given.v), width: given.w, height: given.h}, "
        large = ask(f"{made} given.size[1], given.size[0]); return Array.from(map.values)", given)
        expected = resize(small[None], size)[0]
        assert np.reshape(large, size) == pytest.approx(expected, abs=1e-5)
        ours = ask(
            f"{made} given.w, given.h); return m.regions(map, 0.3)",
            {**given, "v": expected.ravel().tolist(), "w": size[1], "h": size[0]},
        )
        theirs = [vars(region) for region in postprocess.regions(expected, 0.3)]
        assert [{k: v for k, v in r.items() if k != "peak"} for r in ours] == [
            {k: v for k, v in r.items() if k != "peak"} for r in theirs
        ]


def test_the_contour_runs_where_the_map_has_the_level(any_page: Any):
    # f = x has the level 3 on the line x = 3.5, as value i lies at i + 0.5; it closes along the right edge
    code = """async () => { const m = await import('/static/heatmap.js');
        const values = Float32Array.from({length: 48}, (_, i) => i % 8);
        return m.contour({values, width: 8, height: 6}, 3) }"""
    points = np.reshape(any_page.evaluate(code), (-1, 2))
    inside = (points[:, 0] < 7) & (points[:, 1] > 0.5) & (points[:, 1] < 5.5)
    assert points[inside, 0] == pytest.approx(3.5)
    assert points.max(0).tolist() == [8, 6]
    ends, counts = np.unique(points.round(6), axis=0, return_counts=True)
    assert set(counts) == {2}, ends[counts != 2]  # every end is shared by two segments: the line closes


# --- images in ---


COUNT = """
const sends = fetch;
window.flying = window.most = 0;
window.fetch = async (path, options) => {
  const post = options?.method === "POST";
  most = Math.max(most, (flying += post));
  try { return await sends(path, options); } finally { flying -= post; }
};
"""
"""How many images are on their way at once, at most, as the page itself sees it."""


def test_images_go_four_at_a_time_and_a_refusal_is_its_line(here: Running, tab: Open):
    page = tab(here.address, script=COUNT)
    page.fill("#part", "A-17")
    bad = [("broken.png", HOLE[:200]), ("notes.png", b"hello")]
    upload(page, *[(f"{i}.png", png(tiny_image(300 + i))) for i in range(8)], *bad)
    page.get_by_text("2 images refused").wait_for()
    assert 1 < page.evaluate("most") <= 4
    lines = page.locator("#tray li").all_inner_texts()
    assert [line.split(":")[0].split()[0] for line in sorted(lines)] == ["broken.png", "notes.png"]
    assert not any("\n" in line for line in lines)
    found = here.station.store.find(decision=None)
    assert {i.source for i in found} == {"page"}
    assert {i.part for i in found} == {"A-17"}
    assert sum(i.error is None for i in found) == 8
    assert page.input_value("#part") == ""
    page.get_by_role("button", name="Clear").first.click()
    assert page.locator("#tray").is_hidden()


def test_an_image_that_takes_long_is_sent_once(pca_onnx: Path, tmp_path: Path, tab: Open):
    with running(pca_onnx, tmp_path / "station", time_limit=0.0) as here:
        page = tab(here.address)
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.method) if request.method == "POST" else None)
        upload(page, ("hole.png", HOLE), ("broken.png", HOLE[:200]))
        page.locator("#tray li", has_text="broken.png").wait_for()
        page.get_by_text("1 image refused").wait_for()
        page.locator("#strip li").nth(1).wait_for()
        assert len(sent) == 2
        assert len(here.station.store.find()) == 2


def test_an_answer_that_is_lost_on_its_way_is_the_same_row(here: Running, tab: Open):
    page = tab(here.address)
    lost: list[int] = []

    def lose_first(route: Any) -> None:
        if not lost and route.request.method == "POST":
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/inspections", lose_first)
    upload(page, ("hole.png", HOLE))
    shown(page)
    page.locator("#tray").wait_for(state="hidden")
    assert lost == [201]
    assert len(here.station.store.find()) == 1


# --- verdicts ---


def test_the_queue_by_keyboard_alone(here: Running, tab: Open):
    here.reject(3)
    page = tab(here.address)
    page.keyboard.press("2")
    page.get_by_text("3 left to judge").wait_for()
    shown(page)
    assert page.locator("#queue-stage .name").inner_text() == "R-2"
    page.keyboard.press("n")
    page.keyboard.type("chip at the rim")
    page.keyboard.press("Escape")
    judgeable(page)
    page.keyboard.press("d")
    page.get_by_text("2 left to judge").wait_for()
    assert page.locator("#queue-stage .name").inner_text() == "R-1"
    page.keyboard.press("u")  # no, it was good
    page.locator("#queue-stage .name", has_text="R-2").wait_for()
    judgeable(page)
    page.keyboard.press("g")
    page.locator("#queue-stage .name", has_text="R-1").wait_for()
    judgeable(page)
    page.keyboard.press("d")
    page.locator("#queue-stage .name", has_text="R-0").wait_for()
    judgeable(page)
    page.keyboard.press("d")
    page.get_by_text("Nothing waits for you").wait_for()
    page.locator("#link-text", has_text="Live").wait_for()
    said = {}
    for inspection in here.station.store.find(decision="rejected"):
        verdicts = here.station.store.verdicts([inspection.id])[inspection.id]
        said[inspection.part] = [(v.verdict, v.note) for v in verdicts]
    assert said == {
        "R-2": [("defect", "chip at the rim"), ("good", "")],
        "R-1": [("defect", "")],
        "R-0": [("defect", "")],
    }
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_nothing_is_lost_while_the_station_is_away(pca_onnx: Path, tmp_path: Path, tab: Open):
    folder, port = tmp_path / "station", free_port()
    with running(pca_onnx, folder, port) as first:
        page = tab(first.address)
        upload(page, ("hole.png", HOLE))
        judgeable(page)
        page.keyboard.press("d")
        page.locator("#inspect-stage .said", has_text=re.compile("Defect, .*[0-9]")).wait_for()
    page.locator("#away-banner").wait_for()
    page.keyboard.press("g")
    page.locator("#link-text", has_text="Offline").wait_for()
    page.get_by_text("to be sent: 1 image or verdict").wait_for()
    upload(page, ("good.png", GOOD))
    page.get_by_text("to be sent: 2 images and verdicts").wait_for()
    with running(pca_onnx, folder, port) as second:
        page.locator("#away-banner").wait_for(state="hidden")
        page.locator("#strip li").nth(1).wait_for()
        (stored,) = [i for i in second.station.store.find() if i.path == "hole.png"]
        wait_for(lambda: len(second.station.store.verdicts([stored.id])[stored.id]) == 2)
        given = second.station.store.verdicts([stored.id])[stored.id]
        assert [v.verdict for v in given] == ["defect", "good"]
        page.locator("#tray").wait_for(state="hidden")  # before, the browser would ask whether to leave
        page.goto(f"{second.address}/#inspect/{stored.id}")
        page.reload()
        page.locator("#inspect-stage .said", has_text="The last verdict counts").wait_for()


def test_a_viewer_looks_and_does_not_judge(pca_onnx: Path, tmp_path: Path, tab: Open):
    tokens = Tokens(tmp_path / "station")
    tokens.add("anna", "engineer")
    secret = tokens.add("guest", "view")
    with running(pca_onnx, tmp_path / "station") as here:
        here.reject(1)
        page = tab(here.address)
        page.locator("#login").wait_for()
        page.fill("#token", "a guess")
        page.keyboard.press("Enter")
        page.get_by_text("There is no such token").wait_for()
        page.fill("#token", secret)
        page.keyboard.press("Enter")
        page.get_by_text("guest (view)").wait_for()
        shown(page)
        assert page.locator("#choose").is_hidden()
        assert page.locator("#inspect-stage .judge.defect").is_disabled()
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.method))
        page.keyboard.press("d")
        upload(page, ("hole.png", HOLE))
        page.wait_for_timeout(300)
        assert set(sent) <= {"GET"}
        page.get_by_role("button", name="Log out").click()
        page.locator("#login").wait_for()


# --- time and record ---


def test_drift_is_told_and_explained(here: Running, tab: Open):
    for i in range(60):
        here.inspect(png((tiny_image(400 + i) * 0.9).astype(np.uint8)))
    page = tab(here.address)
    page.locator("#drift-banner", has_text="check camera, light and material").wait_for()
    page.get_by_role("link", name="Trends").last.click()
    page.locator(".evidence.alarm").wait_for()
    assert page.locator("#alarms li").count() == 1
    page.get_by_text("in the last hour").wait_for()
    assert page.locator("#trend-facts b").first.inner_text() == "60"
    assert page.locator("#chart-rejects rect").count() >= 1
    assert page.locator("#chart-scores path").count() >= 2
    assert page.locator("#chart-latency path").count() == 2
    page.get_by_text("The figures as a table").click()
    rows = page.locator("#trend-table tr").all_inner_texts()
    assert sum(int(row.split("\t")[1]) for row in rows) == 60


def test_an_alarm_says_how_far_it_went_and_is_acknowledged_for_good(
    pca_onnx: Path, tmp_path: Path, tab: Open
):
    folder = tmp_path / "station"
    with running(pca_onnx, folder) as here:
        for i in range(60):
            here.inspect(png((tiny_image(400 + i) * 0.9).astype(np.uint8)))
        page = tab(f"{here.address}/#trends")
        page.locator("#drift-banner", has_text="has drifted").wait_for()
        peak = page.locator("#alarms li", has_text=re.compile("Highest evidence (more than )?[0-9,.]+, "))
        peak.wait_for()
        page.locator(".evidence.alarm", has_text="The highest evidence was").wait_for()
        page.get_by_role("button", name="Acknowledge").first.click()
        page.get_by_label("Who you are").fill("Ann Lee")
        page.get_by_label("What was found").fill("lamp changed")
        page.keyboard.press("Enter")
        page.locator(
            "#alarms li", has_text=re.compile("Acknowledged by Ann Lee, .*: lamp changed")
        ).wait_for()
        page.locator("#drift-banner").wait_for(state="hidden")
        (shown_peak,) = [alarm.peak for alarm in here.station.following.alarms()]
    with running(pca_onnx, folder) as again:
        page = tab(f"{again.address}/#trends")
        page.locator("#alarms li", has_text="lamp changed").wait_for()
        assert page.locator("#drift-banner").is_hidden()
        (alarm,) = again.station.following.alarms()
        assert (alarm.acknowledged_by, alarm.note, alarm.peak) == ("Ann Lee", "lamp changed", shown_peak)


def test_search_filters_pages_and_exports(here: Running, tab: Open):
    here.reject(60)
    page = tab(f"{here.address}/#search")
    page.locator("#search-rows li").nth(49).wait_for()
    page.click("#search-more")
    page.locator("#search-state", has_text=re.compile("^61 parts$")).wait_for()
    page.fill("#search-part", "R-7")
    page.keyboard.press("Enter")
    page.locator("#search-state", has_text=re.compile("^1 part$")).wait_for()
    with page.expect_download() as download:
        page.click("#export")
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == 2
    assert ",R-7," in lines[1]
    page.click("#search-rows a")
    page.locator("#inspect-stage .name", has_text="R-7").wait_for()
    assert page.locator("#follow").get_attribute("aria-pressed") == "false"


# --- every screen ---


@pytest.mark.parametrize("width", [390, 1024, 1920])
def test_nothing_sticks_out_and_fingers_hit(here: Running, tab: Open, width: int):
    here.reject(30)
    page = tab(here.address, width=width, height=844, touch=width == 390)
    for view in ("inspect", "queue", "trends", "search", "models"):
        page.locator(f"#tab-{view}").click()
        settled(page, view)
        across, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert across <= room, view
        assert not [html for html, height, *_ in pressables(page) if height < 44], view


def test_the_picture_zooms_by_keys_and_pans(here: Running, tab: Open):
    here.inspect(HOLE)
    page = tab(here.address)
    canvas = shown(page)
    page.locator(".stage:visible .facts").wait_for()  # the contour is drawn when the calibration has come
    whole = pixels(canvas)
    page.keyboard.press("+")
    page.keyboard.press("+")
    closer = pixels(canvas)
    assert not np.array_equal(whole, closer)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert not np.array_equal(closer, pixels(canvas))
    page.keyboard.press("0")
    np.testing.assert_array_equal(whole, pixels(canvas))
    page.keyboard.press("h")
    assert page.locator("output[for^=opacity]").first.inner_text() == "0 %"


def test_the_interface_is_described_here(here: Running, tab: Open):
    page = tab(f"{here.address}/docs")
    page.locator("#types .type").first.wait_for()
    described = page.request.get(f"{here.address}/openapi.json").json()
    routes = sum(len(methods) for methods in described["paths"].values())
    assert page.locator(".route").count() == routes
    for link in page.locator("a[href^='#type-']").all()[:30]:
        assert page.locator(link.get_attribute("href")).count() == 1
