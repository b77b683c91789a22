"""A station behind a client in the same process, and what is sent to it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from blemish.station.app import create
from blemish.station.security import Tokens
from blemish.station.station import Station


@contextmanager
def served(model: Path, folder: Path, **options) -> Iterator[TestClient]:
    limits = {k: options.pop(k) for k in ("max_bytes", "time_limit") if k in options}
    station = Station([model], folder, device="cpu", **options)
    with TestClient(create(station, tokens=Tokens(folder), **limits)) as client:
        yield client


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def send(client: TestClient, data: bytes, **query: str):
    return client.post("/v1/inspections", content=data, params=query)
