"""A station as a process of its own, and senders that remember what it acknowledged."""

from __future__ import annotations

import http.client
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from warm import Warm, blemish

if TYPE_CHECKING:
    from blemish.station.training_jobs import Training, Trainings


class Served:
    """A running `blemish serve`: its process and its address."""

    def __init__(self, model: Path, folder: Path, *options: str) -> None:
        said = Path(tempfile.mkdtemp(dir=folder.parent, prefix="said-"))
        given = ("--model", model, "--folder", folder, "--port", "0", *options)
        self.process = Warm(blemish, "serve", *given, out=said / "out", err=said / "err")
        while not (line := (said / "out").read_text() if (said / "out").exists() else "").endswith("\n"):
            assert self.process.poll() is None, f"the station did not start: {self.process.communicate()}"
            time.sleep(0.005)
        self.address = urlsplit(line.split()[2]).netloc
        self.killed = False
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        while self.process.poll() is None:
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise AssertionError("the station ended before it was ready")

    def get(self, path: str) -> tuple[int, bytes]:
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str):
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def kill(self) -> None:
        self.killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(300)


@contextmanager
def serving(model: Path, folder: Path, *options: str) -> Iterator[Served]:
    served = Served(model, folder, *options)
    try:
        yield served
    finally:
        served.kill()


class Senders:
    """Threads that send images, each with a key, until the station is gone; `acknowledged` is what it said.

    `unanswered` are the images whose answer never came, by their keys.
    """

    def __init__(self, served: Served, images: Sequence[bytes], number: int) -> None:
        self.served, self.images = served, images
        self.acknowledged: list[dict] = []
        self.unanswered: dict[str, bytes] = {}
        self.refused = 0
        self.threads = [threading.Thread(target=self._send, args=(i,)) for i in range(number)]
        for thread in self.threads:
            thread.start()

    def _send(self, turn: int) -> None:
        connection = http.client.HTTPConnection(self.served.address, timeout=60)
        while True:
            key, image = secrets.token_hex(16), self.images[turn % len(self.images)]
            self.unanswered[key] = image
            try:
                connection.request("POST", "/v1/inspections", image, {"Idempotency-Key": key})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()  # opened again by the next request
                if self.served.killed or self.served.process.poll() is not None:
                    return
                continue  # it said nothing for seconds on a busy machine, and was hung up on
            del self.unanswered[key]
            if answer.status == 201:
                self.acknowledged.append(json.loads(body))
            else:
                assert answer.status == 503, body
                self.refused += 1
            turn += len(self.threads)

    def join(self) -> None:
        for thread in self.threads:
            thread.join()


def wait_for_training(trainings: Trainings, id: str, *states: str) -> Training:
    """Wait until a training is in one of these states, however long a busy machine takes.

    It ends by itself: a job that cannot get there any more, or a dead thread, is an error at once.
    """
    while (job := trainings.get(id)).state not in states:
        assert job.state in ("waiting", "running"), job
        assert trainings._thread.is_alive()
        time.sleep(0.05)
    return job
