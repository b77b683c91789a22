"""The view of models in a browser: new thresholds, going back, training, for keys, fingers and viewers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import station_browser
from cameras import wait_for
from conftest import save, tiny_image
from station_browser import (
    GOOD,
    RELEASE,
    Open,
    Running,
    file,
    hold,
    judgeable,
    png,
    pressables,
    running,
    shown,
    upload,
)
from stations import wait_for_training

from blemish.record.identifiers import new_id
from blemish.record.rows import Inspection
from blemish.record.sampling import SamplingPlan
from blemish.record.store import Verdict
from blemish.station.security import Tokens

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

here, tab = station_browser.here, station_browser.tab


def dim(i: int) -> bytes:
    """A good part under another light, by which the model was not calibrated."""
    return png((tiny_image(i) * 0.9).astype(np.uint8))


def choose(page: Any, *images: bytes) -> None:
    page.set_input_files("#good-images", [file(f"{i}.png", image) for i, image in enumerate(images)])


CONTROLS = "#view-models :is(button, input, select, a):visible"


def log_in(page: Any, secret: str) -> None:
    page.locator("#login").get_by_label("Token").fill(secret)
    page.keyboard.press("Enter")
    page.locator("#login[open]").wait_for(state="hidden")


def fact(card: Any, name: str) -> str:
    return (
        card.locator(".model-facts div", has=card.page.get_by_text(name, exact=True))
        .locator("dd")
        .inner_text()
    )


def judge_good(here: Running, inspections: list[Inspection]) -> None:
    for inspection in inspections:
        now = datetime.now(UTC)
        said = Verdict(id=new_id(now), inspection=inspection.id, time=now, verdict="good", note="", by="")
        here.station.store.add_verdict(said)


# --- versions ---


def test_recalibrated_when_all_are_judged_and_back(here: Running, tab: Open):
    for i in range(24):
        here.inspect(dim(400 + i))
    (old,) = here.station.engines
    wait_for(lambda: here.station.following.drifts[old].alarm)  # a moment after the last answer
    rejected = here.station.store.find(decision="rejected")
    judge_good(here, rejected[4:])
    waiting = rejected[:4]
    page = tab(f"{here.address}/#models")
    page.locator("#drift-banner", has_text="has drifted").wait_for()
    card = page.locator(".model")
    assert fact(card, "Calibrated on") == "21 good parts"
    assert fact(card, "Drift").startswith("Alarm")
    card.get_by_label("Newest parts").fill("24")
    page.keyboard.press("Enter")
    card.get_by_text(f"{len(waiting)} of the newest 24 parts were rejected and wait for a verdict").wait_for()
    card.get_by_role("link", name="Open “To judge”").click()
    for left in range(len(waiting), 0, -1):
        page.locator("#queue-left", has_text=re.compile(f"^{left} left")).wait_for()
        judgeable(page)
        page.keyboard.press("d" if left == 1 else "g")
    page.get_by_text("Nothing waits for you").wait_for()
    page.locator("#link-text", has_text="Live").wait_for()

    page.keyboard.press("5")
    assert card.locator(".refusal").inner_text() == ""
    card.get_by_role("button", name="Recalibrate").click()
    page.locator(".toast", has_text="new thresholds from 23 good parts").wait_for()
    page.locator("#drift-banner").wait_for(state="hidden")
    (new,) = here.station.engines
    assert new != old
    card.get_by_text(f"version {new[:8]}").wait_for()
    assert fact(card, "Calibrated on") == "23 good parts"
    earlier = card.locator(".earlier li")
    assert earlier.count() == 1
    said = earlier.inner_text()
    assert old[:8] in said
    assert "calibrated on 21 good parts" in said
    assert "drift: alarm" in said
    assert here.inspect(dim(400)).model == new

    earlier.get_by_role("button", name=f"Use version {old[:8]}").click()
    page.locator(".toast", has_text=f"version {old[:8]} is in use").wait_for()
    page.locator("#drift-banner", has_text="has drifted").wait_for()
    card.locator(".model-facts", has_text="21 good parts").wait_for()  # which comes after the banner
    assert fact(card, "Calibrated on") == "21 good parts"
    assert here.inspect(dim(400)).model == old


def test_a_version_of_before_says_what_it_was_after_a_restart(pca_onnx: Path, tmp_path: Path, tab: Open):
    folder = tmp_path / "station"
    with running(pca_onnx, folder) as first:
        (old,) = first.station.engines
        for i in range(25):
            first.inspect(png(tiny_image(i)))
        judge_good(first, first.station.store.find(decision="rejected"))
        first.station.recalibrate(old, parts=25)
    with running(pca_onnx, folder) as second:
        page = tab(f"{second.address}/#models")
        said = page.locator(".earlier li").inner_text()
        assert "calibrated on 21 good parts" in said
        assert "threshold" in said


# --- training ---


@pytest.mark.usefixtures("forked_processes")
def test_chosen_images_become_a_model_that_inspects(here: Running, tab: Open):
    page = tab(f"{here.address}/#models")
    page.get_by_label("Name").fill("lid, new light")  # a comma is none of what a name may have
    page.get_by_role("button", name="Start training").click()
    assert page.locator("#jobs li").count() == 0
    page.get_by_label("Name").fill("lid (new light)")
    page.get_by_label("Method").select_option("pca")
    assert page.get_by_label("Preset").input_value() == "default"
    choose(page, *[png(tiny_image(i)) for i in range(9)], b"no image")
    assert page.locator("#chosen").inner_text() == "10 images chosen"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Start training").click()
    page.get_by_text("1 image was refused").wait_for()
    assert page.locator("#train-refused li").inner_text().startswith("9.png: ")
    page.get_by_role("button", name="Start training").click()
    page.get_by_text("has 9 images; give 10 good ones or more").wait_for()
    choose(page, *[png(tiny_image(i)) for i in range(9, 14)])
    page.get_by_role("button", name="Start training").click()
    page.locator("#jobs li", has_text="14 images").wait_for()
    assert page.locator("#jobs li").count() == 1
    sync_api.expect(page.get_by_label("Name")).to_have_value("")  # the job is started
    (job,) = here.station.trainings.all()
    made = wait_for_training(here.station.trainings, job.id, "done").model
    page.locator(".job-head", has_text=re.compile("done")).wait_for()
    page.get_by_role("link", name="Show the model").click()
    card = page.locator(".model", has_text="lid (new light)")
    card.wait_for()
    sync_api.expect(card).to_be_focused()
    assert fact(card, "Method") == "pca, default"
    page.keyboard.press("1")
    page.locator("#model").select_option(label="lid (new light)")
    upload(page, ("part.png", png(tiny_image(50))))
    shown(page)
    assert here.station.store.find()[0].model == made


@pytest.mark.usefixtures("forked_processes")
def test_a_folder_is_trained_on_and_a_job_is_cancelled(here: Running, tmp_path: Path, tab: Open):
    for i in range(12):
        save(tmp_path / "data" / "lids" / f"{i}.png", tiny_image(i))
    here.station.trainings.data = tmp_path / "data"
    page = tab(f"{here.address}/#models")
    page.get_by_role("combobox", name="Images", exact=True).select_option("lids")
    assert page.locator("#train-files").is_hidden()
    page.get_by_label("Name").fill("long")
    page.get_by_role("button", name="Start training").click()
    job = page.locator("#jobs li")
    job.get_by_text("folder lids").wait_for()
    job.locator("progress").wait_for()
    job.get_by_role("button", name="Cancel").click()
    assert here.station.trainings.all()[0].state == "running"
    job.get_by_role("button", name="Press again").click()
    job.locator(".job-head", has_text="cancelled").wait_for()
    assert job.get_by_role("button").count() == 0


def test_images_dropped_here_are_for_training(here: Running, tab: Open):
    page = tab(f"{here.address}/#models")
    page.locator("#train-form").wait_for()
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            for (const name of ["a.png", "b.png"]) dataTransfer.items.add(new File(["x"], name));
            for (const kind of ["dragover", "drop"])
                document.querySelector(".brand").dispatchEvent(
                    new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer }));
        }"""
    )
    assert page.locator("#chosen").inner_text() == "2 images chosen"
    assert page.locator("#drop-text").inner_text() == "Drop good images to train on"
    page.get_by_role("button", name="Clear").last.click()
    assert page.locator("#chosen").inner_text() == "or drop them on this page"
    assert not here.station.store.find()


def test_without_torch_a_line_says_what_is_missing(here: Running, tab: Open):
    page = tab(here.address)
    page.route("**/v1/trainings/choices", lambda route: route.fulfill(json={"methods": {}, "sources": []}))
    page.keyboard.press("5")
    page.get_by_text("Training needs blemish[train]").wait_for()
    assert page.locator("#train-form").is_hidden()


# --- a region ---


def test_a_region_is_drawn_by_pointer_and_keys_and_kept_with_a_new_version(here: Running, tab: Open):
    for _ in range(21):
        here.inspect(GOOD)
    (old,) = here.station.engines
    page = tab(f"{here.address}/#models")
    card = page.locator(".model")
    card.get_by_text("Draw where the image counts").click()
    canvas, save = (
        card.locator(".draw-region canvas"),
        card.get_by_role("button", name="Save as a new version"),
    )
    canvas.wait_for()
    sync_api.expect(save).to_be_disabled()
    box = canvas.bounding_box()
    canvas.click(position={"x": 12, "y": 12})
    canvas.click(position={"x": box["width"] / 4, "y": 12})
    box = canvas.bounding_box()  # as a click may have scrolled
    page.mouse.down()  # the corner is held, and taken to the middle
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 12)
    page.mouse.up()
    for _ in range(25):
        page.keyboard.press("ArrowDown")  # the cross begins in the middle of the image
    page.keyboard.press("Enter")
    card.get_by_text("3 corners", exact=True).wait_for()
    page.keyboard.press("Backspace")
    card.get_by_text("2 corners; three or more are needed").wait_for()
    page.keyboard.press("Enter")
    canvas.click(position={"x": 12, "y": box["height"] - 12})
    card.get_by_text("4 corners", exact=True).wait_for()
    save.click()
    page.locator(".toast", has_text="new thresholds from 21 good parts").wait_for()
    card.locator(".model-facts", has_text="inside a region of interest of 4").wait_for()
    (new,) = here.station.engines
    assert new != old
    region = here.station.engines[new].model.detector.model_file.counting.inner
    assert region is not None
    mask = region.at((64, 64))
    assert mask[2:-4, 4:30].all()
    assert not mask[:, 34:].any()
    (entry,) = here.station.store.acts(limit=1)
    assert entry.what == "recalibration"
    assert "inside a region of interest of" in entry.detail["counts"]
    assert card.locator(".draw-region").get_attribute("open") is None  # the new version begins anew


def test_a_picture_that_comes_late_takes_no_corner_away(here: Running, tab: Open):
    here.inspect(GOOD)
    page = tab(f"{here.address}/#models", script=hold("side=1024"))
    card = page.locator(".model")
    for number in (1, 1, 2):  # opened, closed, opened again
        card.get_by_text("Draw where the image counts").click()
        page.wait_for_function("number => held.length === number", arg=number)
    page.evaluate("held[1]()")
    card.locator(".draw-region canvas").click(position={"x": 12, "y": 12})
    card.get_by_text("1 corner;").wait_for()
    page.evaluate(RELEASE)
    assert card.get_by_text("1 corner;").is_visible()


# --- who, and how ---


def test_a_viewer_sees_models_and_changes_none(pca_onnx: Path, tmp_path: Path, tab: Open):
    secret = Tokens(tmp_path / "station").add("guest", "view")
    with running(pca_onnx, tmp_path / "station") as here:
        here.station.trainings.create(name="lid", method="pca", preset="default", source=None)
        page = tab(f"{here.address}/#models")
        page.fill("#token", secret)
        page.keyboard.press("Enter")
        page.locator(".job", has_text="not started").wait_for()
        assert fact(page.locator(".model"), "Calibrated on") == "21 good parts"
        assert (
            page.locator("#view-models").locator("button:visible, input:visible, select:visible").count() == 0
        )


def test_everything_is_reached_by_keys(here: Running, tab: Open):
    here.station.trainings.create(name="lid", method="pca", preset="default", source=None)
    page = tab(here.address)
    page.keyboard.press("5")
    page.locator("#train-form").wait_for()
    page.locator(".job").wait_for()
    page.locator(".model").wait_for()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML"))
    for control in page.locator(CONTROLS).all():
        assert control.evaluate("e => e.outerHTML") in reached
        assert control.evaluate("e => Boolean(e.textContent || e.labels?.length)")
    field = page.get_by_label("Newest parts")
    field.fill("123")
    here.inspect(GOOD)
    with page.expect_response("**/v1/trainings"):  # what is looked at anew keeps what is being written
        page.evaluate("dispatchEvent(new Event('hashchange'))")
    page.wait_for_timeout(100)
    assert field.input_value() == "123"
    assert field.evaluate("e => e === document.activeElement")


def test_a_phone_scrolls_down_only(here: Running, tab: Open):
    here.reject(3)
    for name in ("lid", "a-name-without-a-place-to-break-" * 2):
        here.station.trainings.create(name=name, method="pca", preset="default", source=None)
    page = tab(f"{here.address}/#models", width=390, height=844, touch=True)
    page.locator(".job").nth(1).wait_for()
    page.get_by_role("button", name="Recalibrate").tap()
    page.get_by_role("link", name="Open “To judge”").wait_for()
    page.locator("#train-form").wait_for()
    choose(page, *[png(tiny_image(i)) for i in range(2)])
    across, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert across <= room
    for control, height, left, right in pressables(page):
        assert height >= 44, control
        assert left >= 0, control
        assert right <= 390, control


# --- who is asked to judge what ---


def test_the_sampling_plan_and_the_reasons_are_set_on_the_page(pca_onnx: Path, tmp_path: Path, tab: Open):
    folder = tmp_path / "station"
    secrets = {role: Tokens(folder).add(role, role) for role in ("judge", "engineer")}
    with running(pca_onnx, folder) as here:
        page = tab(f"{here.address}/#models")
        log_in(page, secrets["engineer"])
        share = page.get_by_label("Share of accepted parts, %")
        share.fill("2.5")
        page.locator("#sampling-form").get_by_role("button", name="Save").click()
        page.locator(".toast", has_text="2.5 % of the accepted parts are drawn from now on").wait_for()
        plan = here.station.store.sampling()
        assert (plan.share, plan.seed) == (0.025, 0)
        here.station.store.set_sampling(SamplingPlan(0.025, seed=7))  # somebody else, since
        share.fill("5")
        page.locator("#sampling-form").get_by_role("button", name="Save").click()
        page.locator(".toast", has_text="5.0 % of the accepted parts are drawn from now on").wait_for()
        reasons = page.get_by_label("Kinds of defects, one a line")
        reasons.fill("scratch\nscratch")
        save = page.locator("#reasons-form").get_by_role("button", name="Save")
        save.click()
        page.locator("#reasons-form .error-line", has_text="each once").wait_for()
        reasons.fill("scratch\n\n dent ")
        save.click()
        page.locator(".toast", has_text="2 kinds of defects are offered").wait_for()
        sync_api.expect(reasons).to_have_value("scratch\ndent")
        plan = here.station.store.sampling()
        assert (plan.share, plan.seed) == (0.05, 7)
        assert here.station.store.reasons() == ["scratch", "dent"]
        acts = {(act.what, act.who) for act in here.station.store.acts()}
        assert acts >= {("sampling", "engineer"), ("reasons", "engineer")}
        other = tab(f"{here.address}/#models")  # a judge sees the models, and none of it
        log_in(other, secrets["judge"])
        other.locator(".model").wait_for()
        assert other.get_by_text("Share of accepted parts").is_hidden()
