"""A small client of the inspection station: it sends images over HTTP and acts on the answers.

    python examples/http_client.py

The program trains a small model and starts `blemish serve` with it, so that there is something to talk to.
In a factory the station runs already: then only `send`, `judge` and `listed` are needed, and they use
nothing but Python's standard library.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen
from uuid import uuid4

import blemish
from blemish.data.synthetic import generate
from blemish.methods.baselines.pca import PcaConfig


def ask(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """Get a URL, or post data to it, and return its JSON; while the station is full (503), wait."""
    # On another address than this machine's own, add the header "Authorization": "Bearer <token>".
    request = Request(url, data=data, headers=headers or {})
    while True:
        try:
            with urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code != 503:
                raise SystemExit(f"{url}: {error.code} {error.read().decode()}") from error
            time.sleep(float(error.headers.get("Retry-After", 1)))


def send(station: str, image: Path, part: str) -> Any:
    """Inspect an image file; its row is on disk when the answer comes, once however often it was sent."""
    url = f"{station}/v1/inspections?part={quote(part)}&name={quote(image.name)}"
    headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": uuid4().hex}
    answer = ask(url, image.read_bytes(), headers)
    while answer.get("state") == "waiting":  # it takes longer than the station lets a request wait
        time.sleep(1)
        answer = ask(f"{station}/v1/inspections/{answer['id']}")
    return answer


def judge(station: str, inspection: str, verdict: str, note: str) -> Any:
    """Add a person's verdict, "good" or "defect", to an inspection."""
    body = json.dumps({"verdict": verdict, "note": note}).encode()
    headers = {"Content-Type": "application/json"}
    return ask(f"{station}/v1/inspections/{inspection}/verdict", body, headers)


def listed(station: str, decision: str) -> Any:
    """Return the newest inspections with this decision: accepted, rejected or failed."""
    return ask(f"{station}/v1/inspections?decision={decision}")["items"]


@contextmanager
def station_with(model: Path, folder: Path) -> Iterator[str]:
    """Start a station on a free port of this machine, and return its address when it answers."""
    command = [sys.executable, "-m", "blemish.cli", "serve", "--model", model, "--folder", folder]
    options = ["--port", "0", "--false-alarm-rate", "0.1"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        address = next(word for word in first_line.split() if word.startswith("http://")).rstrip("/")
        ask(f"{address}/readyz")
        yield address
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Train, start a station, send it parts, give a verdict, and read the record."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        data = generate(root / "disc", n_train=60, n_good=3, n_defect=3, size=128)
        print("1. Training a small model")
        config = PcaConfig(components=15, image_score="max", calibration_fraction=0.25)
        blemish.fit(data, method="pca", config=config, out=root / "run", device="cpu")

        print("2. Starting a station")
        with station_with(root / "run", root / "station") as station:
            print(f"   {station}")
            print("3. Sending six parts")
            images = sorted((data / "test").glob("good/*.png")) + sorted(
                (data / "test").glob("missing/*.png")
            )
            for number, image in enumerate(images):
                answer = send(station, image, part=f"disc-{number}")
                print(f"   {answer['part']}: {answer['decision']}, p-value {answer['p_value']:.3f}")

            rejected = listed(station, "rejected")
            print(f"4. The record lists {len(rejected)} rejected parts; a person looks at the newest")
            if rejected:
                told = judge(station, rejected[0]["id"], "defect", "a piece is missing")
                print(f"   {told['part']}: verdict {told['verdicts'][-1]['verdict']}")


if __name__ == "__main__":
    main()
