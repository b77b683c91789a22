"""Make the README's pictures from a finished demo: a part beside its heat map, and the station's page.

    make demo
    python docs/make_pictures.py [--demo demo] [--out docs/pictures]

Both show generated parts and what the demo's model says of them. The second needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import blemish
from blemish.data.synthetic import DEFECTS
from blemish.images import draw

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SIDE = 360
"""Pixels of a side of each half of the first picture."""
GAP = 16
PAGE = {"width": 1120, "height": 660}
"""Pixels of the second picture."""
VIVID = 50
"""Difference between a pixel's largest and smallest channel from which it is a colour, not a grey."""


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="the folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="where to write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run, data = args.demo / "run", args.demo / "data"
    detector = blemish.load(run, device="cpu")
    chosen = [clearest(detector, data, defect) for defect in DEFECTS]
    write(args.out / "result.png", side_by_side(detector, chosen[0]))
    good = sorted((data / "test" / "good").glob("*.png"))[:7]
    order = [*good[:3], chosen[1], *good[3:5], chosen[2], *good[5:], chosen[0]]
    with station_with(run) as address:
        for number, part in enumerate(order, start=1041):
            send(address, part, f"D-{number}")
        write(args.out / "station.png", screenshot(address))


def clearest(detector: blemish.Detector, data: Path, defect: str) -> Path:
    """Choose of the parts with this defect the one with the highest score, which must be rejected."""
    paths = sorted((data / "test" / defect).glob("*.png"))
    answers = [detector.predict(path) for path in paths]
    highest = max(answers, key=lambda answer: answer.score)
    if not highest.anomalous:
        raise SystemExit(f"{data}: the demo's model rejects no part with a {defect}; run the demo again")
    return paths[answers.index(highest)]


def side_by_side(detector: blemish.Detector, path: Path) -> Image.Image:
    """Draw a part, and the same part with its heat map and the outlines of its regions."""
    part = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    heat = Image.fromarray(detector.predict(path).anomaly_map)
    low, high = detector.model_file.display_range
    drawn = draw.overlay(
        np.asarray(part),
        np.asarray(heat.resize((SIDE, SIDE), Image.Resampling.BILINEAR)),
        low=low,
        high=high,
        contour_level=detector.pixel_threshold,
    )
    both = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    both.paste(part, (0, 0))
    both.paste(Image.open(io.BytesIO(drawn)), (SIDE + GAP, 0))
    return both


@contextmanager
def station_with(run: Path) -> Iterator[str]:
    """Start a station on a free port with an empty record, and return its address."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "blemish.cli", "serve", "--model", run, "--folder", folder]
        process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            yield next(word for word in said if word.startswith("http://")).rstrip("/")
        finally:
            process.terminate()
            process.wait()


def send(address: str, path: Path, part: str) -> None:
    """Have a part inspected."""
    url = f"{address}/v1/inspections?part={quote(part)}&name={quote(path.name)}"
    urlopen(Request(url, data=path.read_bytes(), method="POST"), timeout=60).close()


def screenshot(address: str) -> Image.Image:
    """Take a picture of the page, which shows the newest part, when its heat map is drawn."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=PAGE, reduced_motion="reduce", color_scheme="light")
        page.goto(address)
        page.locator(".stage:visible .decision h2").wait_for()
        page.locator(".stage:visible .viewer-message:not(:empty)").wait_for(state="detached")
        page.wait_for_load_state("networkidle")
        taken = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


def write(path: Path, picture: Image.Image) -> None:
    """Write a PNG of 256 colours: a third of the size, and it looks the same."""
    pixels = np.asarray(picture).reshape(-1, 3)
    vivid = pixels[np.ptp(pixels.astype(int), axis=1) > VIVID]
    # A palette goes by how often a colour is there. Heat is rare among grey steel, so it is counted more.
    repeats = max(1, len(pixels) // (4 * len(vivid) + 1))
    sample = np.concatenate([pixels, np.tile(vivid, (repeats, 1))])
    palette = Image.fromarray(sample[np.newaxis]).quantize(256)
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
