"""A station behind a client in the same process, and what is sent to it."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
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


@contextmanager
def listening(app: Any, **options: Any) -> Iterator[int]:
    """Answer on a port of this machine, in a thread; `options` are those of uvicorn."""
    options = {"log_level": "warning", "lifespan": "off", "proxy_headers": False} | options
    server = uvicorn.Server(uvicorn.Config(app, **options))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            yield taken.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def send(client: TestClient, data: bytes, **query: str):
    return client.post("/v1/inspections", content=data, params=query)
