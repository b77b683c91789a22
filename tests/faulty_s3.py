"""An S3 on the loopback (moto) that fails at a seeded rate: internal errors, refusals, answers that hang."""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

HANGS = 4.0
"""Seconds of an answer that hangs; readers give up after three, which a busy machine does not take."""
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    # the client's own tries are switched off: ours have to do
    "FSSPEC_S3": '{"config_kwargs": {"read_timeout": 3, "retries": {"max_attempts": 0}}}',
}
"""The environment of whoever asks it, without its address."""


class FaultyS3:
    """A WSGI application around moto's; `rate` is the share of requests that fail, `faults` counts them.

    `written` are the paths that somebody asked to write, whether or not that failed.
    """

    def __init__(self, application: Any) -> None:
        self.application, self.rate, self.address = application, 0.0, ""
        self.down_after: int | None = None
        self.faults: Counter[str] = Counter()
        self.written: set[str] = set()
        self._random, self._lock = random.Random(7), threading.Lock()

    def _fault(self, path: str) -> str | None:
        with self._lock:
            if self.down_after is not None and "/in/" in path:
                self.down_after -= 1
            down = self.down_after is not None and self.down_after < 0
            if not down and self._random.random() >= self.rate:
                return None
            kind = "500 Internal Server Error"
            if not down:
                kind = self._random.choice([kind, "503 Service Unavailable", "hangs", "cut"])
            self.faults[kind] += 1
            return kind

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # whoever sent it gave up; moto would keep what came
            start_response("400 Bad Request", [])
            return []
        environ["wsgi.input"] = io.BytesIO(body)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            self.written.add(environ["PATH_INFO"])
        fault = self._fault(environ["PATH_INFO"])
        if fault is None:
            return self.application(environ, start_response)
        if fault == "hangs":
            time.sleep(HANGS)
            return self.application(environ, start_response)
        if fault == "cut":  # the answer ends before the length it announced
            answer = b"".join(self.application(environ, start_response))
            return [answer[:-1] if environ["REQUEST_METHOD"] == "GET" else answer]
        start_response(fault, [("Content-Type", "application/xml")])
        return [b"<Error><Code>InternalError</Code><Message>injected</Message></Error>"]


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """Serve one, with an empty bucket named `bucket`."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    s3 = FaultyS3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, s3, threaded=True)
    s3.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        client_of(s3).create_bucket(Bucket="bucket")
        yield s3
    finally:
        server.shutdown()
        thread.join()


def client_of(s3: FaultyS3) -> Any:
    """A plain client, for the test itself."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3.address,
        region_name=SETTINGS["AWS_DEFAULT_REGION"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
