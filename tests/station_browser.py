"""The station's page in a browser, for the tests of its views: a server on the loopback, tabs, images."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import tiny_defect, tiny_image
from PIL import Image

pytest.importorskip("fastapi", reason="the station's packages are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

import uvicorn
from playwright.sync_api import expect

from blemish.record.identifiers import new_id
from blemish.record.labels import Labelling
from blemish.station.app import create
from blemish.station.engine_jobs import Upload
from blemish.station.parts import PartSettings
from blemish.station.security import Tokens
from blemish.station.station import Station

WAIT = 60_000
"""Milliseconds after which something that is waited for is missing; it says nothing of speed."""
expect.set_options(timeout=WAIT)

LASTING = """
const after = setTimeout;
window.setTimeout = (act, ms, ...more) => (ms >= 5000 ? 0 : after(act, ms, ...more));
"""
"""What the page takes away after seconds (a toast, "Press again") stays, as a busy machine looks late."""


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def file(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": data}


HOLE = png(tiny_defect("hole", 0)[0])
GOOD = png(tiny_image(200))


class Running:
    """A station behind uvicorn on a loopback port, in a thread."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        port: int = 0,
        labelling: Labelling | None = None,
        parts: PartSettings | None = None,
        **options: Any,
    ) -> None:
        self.station = Station([model], folder, labelling=labelling, parts=parts)
        self.listening = socket.create_server(("127.0.0.1", port))
        self.port = self.listening.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        app = create(self.station, tokens=Tokens(folder), **options)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listening.close()

    def inspect(self, data: bytes, name: str = "part.png"):
        """Score an image as the service does."""
        return self.station.engine().submit(Upload(data=data, source="api", name=name)).result(60)

    def reject(self, number: int) -> None:
        """Record rejected parts R-0, R-1, …, all with the picture of a good one."""
        scored = self.inspect(GOOD)
        for i in range(number):
            now = datetime.now(UTC)
            named = replace(scored, id=new_id(now), time=now, part=f"R-{i}", anomalous=True)
            self.station.store.record([named])


@contextmanager
def running(model: Path, folder: Path, port: int = 0, **options: Any) -> Iterator[Running]:
    here = Running(model, folder, port, **options)
    try:
        yield here
    finally:
        here.stop()


@pytest.fixture
def here(pca_onnx: Path, tmp_path: Path) -> Iterator[Running]:
    with running(pca_onnx, tmp_path / "station") as here:
        yield here


@pytest.fixture(scope="module")
def one_station(pca_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A station for all tests of a file that add nothing to the record which another one would see."""
    with running(pca_onnx, tmp_path_factory.mktemp("one") / "station") as here:
        yield here


Open = Callable[..., Any]


@contextmanager
def tabs(browser: Any) -> Iterator[Open]:
    """What opens pages, perhaps with a script before theirs; none may ask another host or have an error."""
    contexts, asked, errors = [], set(), []

    def open_(
        address: str,
        *,
        width: int = 1280,
        height: int = 800,
        touch: bool = False,
        script: str = "",
        **more: Any,
    ) -> Any:
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, has_touch=touch, reduced_motion="reduce", **more)
        context.set_default_timeout(WAIT)
        context.add_init_script(LASTING + script)
        contexts.append((context, urlsplit(address).netloc))
        page = context.new_page()
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        # who is here and the models are known, or asked for: before, the page takes no images
        page.locator("#model option, #login[open], #types .type").first.wait_for(state="attached")
        return page

    yield open_
    for context, _ in contexts:
        context.close()
    assert asked - {""} <= {host for _, host in contexts}  # "": pictures made in the page itself
    unexpected = [e for e in errors if not e.startswith("Failed to load resource")]  # of refusals, on purpose
    assert not unexpected


@pytest.fixture
def tab(browser: Any) -> Iterator[Open]:
    """What opens the page for one test, each time in a profile of its own."""
    with tabs(browser) as open_:
        yield open_


def hold(part: str) -> str:
    """A script: answers from addresses with this in them wait in `held` until they are let go."""
    return f"""
const real = fetch;
window.held = [];
window.fetch = async (path, options) => {{
  const response = await real(path, options);
  if (!String(path).includes("{part}")) return response;
  const content = await response.blob();
  await new Promise((go) => held.push(go));
  return new Response(content);
}};
"""


RELEASE = """async () => {
  held[0]();
  for (let frame = 0; frame < 9; frame++) await new Promise((drawn) => requestAnimationFrame(drawn));
}"""
"""Let the first answer that is held go, and give the page time to show it."""


def upload(page: Any, *files: tuple[str, bytes]) -> None:
    page.set_input_files("#files", [file(*f) for f in files])


def shown(page: Any) -> Any:
    """Wait until a part's image is on the canvas of the view that is seen."""
    page.locator(".stage:visible .decision h2").wait_for()
    page.locator(".stage:visible .viewer-message:not(:empty)").wait_for(state="detached")
    # it is drawn in the next frame
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(drawn))")
    return page.locator(".stage:visible canvas")


def settled(page: Any, view: str) -> None:
    """Wait until a view shows what it asks for when it is opened."""
    page.locator(f"#view-{view}").wait_for()
    if view in ("inspect", "queue"):
        shown(page)
        page.locator(".stage:visible .facts").wait_for()
    waits = {
        "large": ["#large-said .rejected"],
        "trends": ["#chart-rejects rect"],
        "search": ["#search-rows li"],
        "models": [".model", "#train-form select[name=preset] option"],
    }
    for awaited in waits.get(view, []):
        page.locator(awaited).first.wait_for(state="attached")


def pressables(page: Any) -> list[tuple[str, float, float, float]]:
    """What can be pressed now, all at one moment: its HTML, height, left and right edge in px."""
    found = page.locator("button:visible, .button:visible, select:visible, input:visible")
    box = "const b = e.getBoundingClientRect(); return [e.outerHTML, b.height, b.left, b.right]"
    return found.evaluate_all(f"all => all.map((e) => {{ {box} }})")


def sent(page: Any) -> None:
    """Wait until no verdict waits to be sent."""
    page.wait_for_function("() => JSON.parse(localStorage.getItem('verdicts') ?? '[]').length === 0")


def judgeable(page: Any) -> None:
    """Wait until the part that is seen has been on screen for long enough to take a verdict."""
    shown(page)
    page.locator(".stage:visible .verdict:not(.early)").wait_for()
