"""The service under fire: requests made from its own description, and damaged uploads by the thousand.

BLEMISH_FUZZ is the number of damaged uploads, 1,500 unless set; 10,000 take some minutes.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import statistics
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_image
from encoded import pillow, png, png16, png_chunk, tiff, tiff_header
from PIL import Image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stations import Served, serving

from blemish.record.store import Store
from blemish.station.app import create
from blemish.station.security import Tokens
from blemish.station.station import Station

CASES = int(os.environ.get("BLEMISH_FUZZ", "1500"))
EXAMPLES = max(10, CASES // 100)
"""Requests of each route, beside those at the limits of what is described."""
SENDERS, PATIENCE = 8, 60.0
"""Connections at a time, and the seconds that a request may take."""
IDLE = 4.0
"""Seconds: for less than this the station keeps a connection that says nothing."""
OWN = ("the body is empty", "the form has no file", "`part`: give", "`part` and `model`")
"""How the service's own refusals begin; all others are the detector's, and rows."""
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


@dataclass(frozen=True)
class Upload:
    """A body, and its content type."""

    body: bytes
    kind: str = "application/octet-stream"


def originals() -> list[bytes]:
    rgb = tiny_image(0)
    grey, deep = rgb[..., 0], rgb[..., 0].astype(np.uint16) * 257
    palette = Image.fromarray(rgb).quantize(32)
    return [
        pillow(rgb, "PNG"),
        pillow(grey, "PNG"),
        pillow(np.dstack([rgb, grey]), "PNG"),
        pillow(palette, "PNG"),
        png16(deep),
        pillow(rgb, "JPEG"),
        pillow(rgb, "JPEG", progressive=True, quality=95),
        tiff(rgb),
        tiff(rgb, compression="zlib", predictor=True),
        tiff(rgb, compression="lzw", tile=(32, 32)),
        tiff(rgb, compression="jpeg"),
        tiff(grey.astype(np.float32)),
        tiff(rgb, byteorder=">", bigtiff=True),
        pillow(rgb, "BMP"),
        pillow(palette, "BMP"),
        pillow(rgb, "WEBP"),
        pillow(rgb, "WEBP", lossless=True, exact=True),
    ]


# --- damage ---


def flipped(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(1, len(data))]


def with_extreme(data: bytes, chance: random.Random) -> bytes:
    """Put an extreme number where a length or a size may stand."""
    damaged, form = bytearray(data), chance.choice(("<H", ">H", "<I", ">I"))
    at = chance.randrange(min(len(data), 256) - 4)
    struct.pack_into(form, damaged, at, chance.choice(EXTREMES) & (0xFFFF if "H" in form else 0xFFFFFFFF))
    return bytes(damaged)


def blanked(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    length = chance.randrange(1, 200)
    return data[:at] + bytes([chance.choice((0, 255))]) * length + data[at + length :]


def doubled(data: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.choices(range(len(data)), k=2))
    return data[:last] + data[first:]


def recounted(data: bytes, chance: random.Random) -> bytes:
    """Change a number in a chunk of a PNG and make its checksum right again."""
    if not data.startswith(b"\x89PNG"):
        return flipped(data, chance)
    at, found = 8, []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = chance.randrange(len(found))
    kind, body = found[which]
    found[which] = kind, flipped(body, chance) if body else b"\0\0\0\0"
    return data[:8] + b"".join(png_chunk(*chunk) for chunk in found)


DAMAGES = (flipped, flipped, cut_off, with_extreme, with_extreme, blanked, doubled, recounted)


def bombs() -> list[bytes]:
    """Files whose headers or streams promise far more than they hold, and files that are two things."""
    rgb, huge, zeros = tiny_image(0), 2**31 - 1, zlib.compress(bytes(2**27), 9)
    grey = [(258, 8), (262, 1), (277, 1)]
    deflated = [(256, 64), (257, 64), *grey, (259, 8), (273, 8), (278, 64), (279, len(zeros))]
    jpeg = pillow(rgb, "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    webp = pillow(rgb, "WEBP", exif=b"Exif\0\0II*\0")
    bmp = bytearray(pillow(rgb, "BMP"))
    struct.pack_into("<ii", bmp, 18, 60000, -60000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.html", "<script>alert(1)</script>")
    raw_64 = bytes(64 * (1 + 3 * 64))
    return [
        png(huge, huge, 8, 2, b""),
        png(50000, 50000, 8, 2, b"\0" * 1000),
        png(1400, 1400, 16, 6, b"\0" * 1000),
        png(64, 64, 8, 2, bytes(2**27)),
        png(64, 64, 8, 2, raw_64, png_chunk(b"zTXt", b"a\0\0" + zeros)),
        png(64, 64, 8, 2, raw_64, png_chunk(b"iCCP", b"a\0\0" + zeros)),
        png(64, 64, 16, 0, bytes(64 * 129), png_chunk(b"iCCP", b"a\0\0" + zeros)),
        png(64, 64, 16, 0, bytes(2**27)),
        png(1, 2_000_000, 8, 0, bytes(4_000_000)),
        jpeg[:size] + b"\xff\xff\xff\xff" + jpeg[size + 4 :],
        tiff_header([(256, 2**32 - 1), (257, 2**32 - 1), *grey, (273, 8), (279, 10)]),
        tiff_header([(256, 64), (257, 64), (258, 8), (262, 1), (277, 65535), (273, 8), (279, 10)]),
        tiff_header([(256, 1000), (257, 1000), *grey, (273, 8), (278, 1), (279, 2**32 - 1)]),
        tiff_header([(256, 64), (257, 64), *grey, (322, 2**31), (323, 2**31), (324, 8), (325, 9)]),
        tiff_header(sorted(deflated), zeros),
        bytes(bmp),
        webp[:24] + b"\xff" * 6 + webp[30:],
        pillow(rgb, "PNG") + packed.getvalue(),
        jpeg + b"<html><script>alert(1)</script></html>",
        jpeg[:2] + b"\xff\xfe\0\x20<script>alert(document)</script>" + jpeg[2:],
        packed.getvalue(),
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<HHHIII", 1, 256, 4, 1, 64, 8),  # a loop of directories
        b"",
        *(magic[:n] for magic in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM") for n in (1, 2, 4)),
        b"RIFF\xff\xff\xff\xffWEBPVP8X",
    ]


def form(image: bytes, chance: random.Random) -> Upload:
    """A form with an image in it, whole or damaged."""
    edge, name = (
        "edge",
        chance.choice(("a.png", "", "../" * 50 + "x", "\u202e\ud83d\ude00.png", 'a"b', "x" * 5000)),
    )
    head = f'Content-Disposition: form-data; name="image"; filename="{name}"'.encode("utf-8", "surrogatepass")
    part = b'--edge\r\nContent-Disposition: form-data; name="part"\r\n\r\n' + chance.randbytes(6) + b"\r\n"
    body = part + b"--edge\r\n" + head + b"\r\n\r\n" + image + b"\r\n--edge--\r\n"
    damage = chance.randrange(8)
    if damage == 0:
        body = cut_off(body, chance)
    elif damage == 1:
        body = flipped(body, chance)
    elif damage == 2:
        edge = chance.choice(("", "other", "e" * 300, "edge\xff"))
    elif damage == 3:
        body = body.replace(b'name="image"', chance.choice((b"", b'name="part"', b"name*=utf-8''image")))
    elif damage == 4:
        body = part * chance.choice((5, 2000)) + body
    elif damage == 5:
        body = body.replace(b"\r\n", b"\n")
    return Upload(body, f"multipart/form-data; boundary={edge}")


def corpus(number: int, seed: int = 0) -> Iterator[Upload]:
    chance, whole = random.Random(seed), originals()
    yield from (Upload(bomb) for bomb in bombs())
    for _ in range(number - len(bombs())):
        data = chance.choice(whole)
        if chance.random() < 0.1:
            data = data[: chance.randrange(len(data))] + chance.choice(whole)  # a splice
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            data = chance.choice(DAMAGES)(data, chance) if len(data) > 8 else data
        yield form(data, chance) if chance.random() < 0.15 else Upload(data)


# --- the station under it ---


@dataclass(frozen=True)
class Answer:
    status: int
    detail: str


mine = threading.local()


def connect(served: Served) -> None:
    """Give a thread a connection, which is opened again when the station closes it."""
    mine.connection = http.client.HTTPConnection(served.address, timeout=PATIENCE)
    mine.answered = time.monotonic()


def send(upload: Upload) -> Answer:
    headers = {"Content-Type": upload.kind.encode("latin-1")}
    try:
        mine.connection.request("POST", "/v1/inspections", upload.body, headers)
        answer = mine.connection.getresponse()
    except (http.client.HTTPException, OSError):
        if time.monotonic() - mine.answered < IDLE:
            raise
        mine.connection.close()  # the machine was busy, and the station hung up on who said nothing
        mine.connection.request("POST", "/v1/inspections", upload.body, headers)
        answer = mine.connection.getresponse()
    said = json.loads(answer.read())
    mine.answered = time.monotonic()
    return Answer(answer.status, str(said.get("detail", "")))


def resident(served: Served) -> float:
    """Resident memory of the station, in MB."""
    lines = Path(f"/proc/{served.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


@pytest.mark.server
@pytest.mark.slow
def test_damaged_uploads_do_no_harm(tiny_onnx: Path, tmp_path: Path):
    uploads = list(corpus(CASES))
    answers: list[Answer] = []
    memory: list[float] = []
    with serving(tiny_onnx, tmp_path, "--max-megapixels", "2", "--max-megabytes", "2") as served:
        with ThreadPoolExecutor(SENDERS, initializer=connect, initargs=(served,)) as pool:
            for answer in pool.map(send, uploads):
                answers.append(answer)
                memory.append(resident(served))
        assert served.json("/readyz") == {"status": "ready"}
        assert served.stop() == 0
    statuses = {answer.status for answer in answers}
    broken_forms = {a.status for a, u in zip(answers, uploads, strict=True) if "multipart" in u.kind}
    assert statuses <= {201, 400, 413, 422, 503}
    assert 400 not in {a.status for a, u in zip(answers, uploads, strict=True) if "multipart" not in u.kind}
    assert {201, 422} <= statuses and {201, 422} <= broken_forms
    assert all(answer.detail.isprintable() and len(answer.detail) < 1000 for answer in answers)
    store = Store.open(None, tmp_path)
    rows = sum(span.n for span in store.summary(**whole_time(), buckets=1))
    store.close()
    scored = sum(a.status == 201 or (a.status == 422 and not a.detail.startswith(OWN)) for a in answers)
    assert rows == scored
    portion = min(len(memory) // 3, 1000)
    first, last = statistics.median(memory[:portion]), statistics.median(memory[-portion:])
    print(f"{len(answers)} uploads, {scored} rows; MB each 500: {[round(mb) for mb in memory[::500]]}")
    assert last < first + 40


def whole_time() -> dict:
    from datetime import UTC, datetime

    return {"since": datetime(2000, 1, 1, tzinfo=UTC), "until": datetime(2100, 1, 1, tzinfo=UTC)}


# --- requests made from the service's own description ---


@pytest.mark.slow
def test_answers_are_as_described(tiny_onnx: Path, tmp_path: Path):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    station = Station([tiny_onnx], tmp_path, device="cpu", max_pixels=10**6)
    with TestClient(create(station, tokens=Tokens(tmp_path))) as client:
        image = pillow(tiny_image(0), "PNG")
        known = [client.post("/v1/inspections", content=image).json()["id"] for _ in range(2)]
        schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) > 10
        for operation in operations:
            ask(operation.as_strategy(), known, client)
        assert client.get("/readyz").json() == {"status": "ready"}


def ask(requests: st.SearchStrategy, known: list[str], client: TestClient) -> None:
    """Send requests that are as described, about things that are there and things that are not."""
    from schemathesis.specs.openapi import checks

    described = [checks.status_code_conformance, checks.content_type_conformance]
    described += [checks.response_schema_conformance]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=requests, id=st.none() | st.sampled_from(known))
    def send_it(case: Any, id: str | None) -> None:
        if id is not None and "id" in case.path_parameters:
            case.path_parameters["id"] = id
        answer = case.call(session=client)
        assert answer.status_code < 500 or answer.status_code == 503, case.as_curl_command()
        case.validate_response(answer, checks=described)

    send_it()
