"""Ten thousand hostile requests to the station: no answer may be a 5xx, and none may be missing.

    python benchmarks/station_fuzz.py [--requests 10000] [--seed 0]

Starts `blemish serve` on the loopback, with a small model that is trained here, and sends one request after
the other, each drawn from `--seed`: values that no route expects, where the description says what it takes;
JSON of any shape; whole and damaged images, as bodies and in forms; paths, methods, headers and lengths that
are no HTTP. What the station has said to be identifiers is used again, so that routes are reached that need
one. It ends after --minutes at the latest, with what was sent until then.

Counts a 5xx, a request that is HTTP and gets no answer in time, a traceback in the log, and a station that is
not ready afterwards or does not end in order. The exit code is 1 where there is one of these. Writes
station_fuzz.json. Damaged uploads by the thousand, against the memory of the process, are in
`tests/station/test_fuzz.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from steady import trained, write_images

PATIENCE = 120.0
"""Seconds without an answer after which a request counts as unanswered."""
MOST_SHOWN = 20
TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1e999",
        "NaN",
        "null",
        "true",
        "[]",
        "{}",
        "x" * 300,
        "é",
        "划痕",
        "\u202e",
        "\ud800",
    ),
    *(
        "\x00",
        "a\nb",
        "'; DROP TABLE inspections; --",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "%s%n",
    ),
    *("2026-03-01", "9999-12-31T23:59:59", "0001-01-01T00:00:00+14:00", "-9" * 20, "18446744073709551616"),
    *(
        "rejected",
        "accepted",
        "good",
        "defect",
        "none",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "0" * 64,
        "f" * 64,
        "pca",
    ),
)
NUMBERS = (0, 1, -1, 2, 0.5, 50, 2**31, 2**63, -(2**63) - 1, 10**40, 1e308, float("nan"), float("inf"))
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "X-Y", "")
TYPES = (
    "application/json",
    "application/octet-stream",
    "text/plain",
    "multipart/form-data; boundary=edge",
    "x",
    "",
)
DIGESTS = re.compile('"(?:id|model|digest|key)":"([^"]{8,64})"')


@dataclass(frozen=True)
class Request:
    """Bytes to send. `described`: it is HTTP, so that there must be an answer."""

    content: bytes
    described: bool = True


@dataclass
class Found:
    """What came of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)

    def note(self, number: int, request: Request, status: int | None) -> None:
        """Count an answer; a 5xx, and a missing one where there must be one, are kept."""
        self.statuses[str(status)] += 1
        if (status or 0) >= 500 or (status is None and request.described):
            self.wrong.append({"number": number, "status": status, "request": repr(request.content[:300])})


class Writer:
    """Draws requests: `operations` are the station's own description, `known` what it has said before."""

    def __init__(self, seed: int, description: dict[str, Any], images: list[bytes]) -> None:
        self.chance, self.images, self.known = random.Random(seed), images, list[str]()
        self.operations = [
            (method.upper(), path, operation)
            for path, methods in description["paths"].items()
            for method, operation in methods.items()
        ]

    def next(self) -> Request:
        """Draw a request."""
        kind = self.chance.random()
        if kind < 0.6:
            return self._described()
        if kind < 0.8:
            return self._upload()
        return self._strange()

    def text(self) -> str:
        """Draw a value: one that the station knows, a hostile one, or letters at random."""
        kind = self.chance.random()
        if kind < 0.4 and self.known:
            return self.chance.choice(self.known)
        if kind < 0.8:
            return self.chance.choice(TEXTS)
        return "".join(self.chance.choices(string.printable, k=self.chance.choice((1, 3, 30))))

    def json(self, depth: int = 0) -> Any:
        """Draw a JSON value of any shape."""
        kind = self.chance.randrange(4 if depth > 2 else 6)
        if kind < 2:
            return self.text()
        if kind == 2:
            return self.chance.choice(NUMBERS)
        if kind == 3:
            return self.chance.choice((None, True, False))
        if kind == 4:
            return [self.json(depth + 1) for _ in range(self.chance.randrange(4))]
        return {self.text(): self.json(depth + 1) for _ in range(self.chance.randrange(4))}

    def _described(self) -> Request:
        """Draw one of a route that there is, with what it takes, and values that it may not."""
        method, path, operation = self.chance.choice(self.operations)
        path = re.sub(r"\{[^}]*\}", lambda _: quoted(self.text()), path)
        named = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
        asked = [(name, self.text()) for name in named if self.chance.random() < 0.3]
        if asked:
            path += "?" + urlencode(asked, errors="surrogatepass")
        headers = {"Idempotency-Key": self.text()} if self.chance.random() < 0.1 else {}
        if "requestBody" not in operation:
            return request_of(method, path, headers, b"")
        body = json.dumps(self._body(operation)).encode()
        if self.chance.random() < 0.1:
            body = damaged(body, self.chance)
        return request_of(method, path, {"Content-Type": "application/json", **headers}, body)

    def _body(self, operation: dict[str, Any]) -> Any:
        """Draw a body: an object with some of the names that the description has, or anything."""
        names = re.findall(r'"(\w+)": \{', json.dumps(operation["requestBody"]))
        usual = (
            "verdict",
            "note",
            "reason",
            "key",
            "by",
            "age_seconds",
            "share",
            "seed",
            "reasons",
            "name",
            "method",
        )
        chosen = self.chance.sample([*names, *usual], self.chance.randrange(1, 6))
        return {name: self.json(1) for name in chosen} if self.chance.random() < 0.8 else self.json()

    def _upload(self) -> Request:
        """Draw an image, whole, damaged or none, as a body or in a form."""
        image, kind = self.chance.choice(self.images), "application/octet-stream"
        if self.chance.random() < 0.7:
            image = damaged(image, self.chance)
        if self.chance.random() < 0.4:
            kind, edge = (
                "multipart/form-data; boundary=edge",
                b"--edge\r\nContent-Disposition: form-data; name=",
            )
            named = quoted(self.text()).encode()
            image = b"".join(
                (
                    edge,
                    b'"image"; filename="',
                    named,
                    b'"\r\n\r\n',
                    image,
                    b"\r\n",
                    edge,
                    b'"part"\r\n\r\n',
                    named,
                )
            )
            image += b"\r\n--edge--\r\n"
            if self.chance.random() < 0.4:
                image = damaged(image, self.chance)
        path = "/v1/inspections?" + urlencode({"part": self.text()}, errors="surrogatepass")
        return request_of("POST", path, {"Content-Type": kind}, image)

    def _strange(self) -> Request:
        """Draw one that need not be HTTP: methods, paths, headers, lengths."""
        method, path = self.chance.choice(METHODS), "/" + self.text()
        headers = {
            self.chance.choice(
                ("Range", "Accept", "Cookie", "Origin", "Expect", "If-None-Match")
            ): self.text()
        }
        headers["Content-Type"] = self.chance.choice(TYPES)
        kind = self.chance.randrange(6)
        if kind == 0:  # a path that is HTTP and leads nowhere, or to where it should not
            way = "/".join(
                self.chance.choices(("v1", "static", "..", ".", "%2e%2e", "", "%00", "docs", "models"), k=4)
            )
            return request_of("GET", f"/{way}", headers, b"")
        body = self.text().encode("utf-8", "surrogatepass")
        whole = request_of(method, path, headers, body).content
        if kind == 1:
            whole = damaged(whole, self.chance)
        elif kind == 2:
            whole = whole.replace(
                b"Content-Length: ", b"Content-Length: " + self.chance.choice((b"-", b"9", b"x", b"+"))
            )
        elif kind == 3:
            whole = (
                whole.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX: ") + b"FFFFFFFFF\r\n"
            )
        elif kind == 4:
            whole = whole.replace(
                b"HTTP/1.1", self.chance.choice((b"HTTP/0.9", b"HTTP/9.9", b"HTTP/1.0", b"", b"x"))
            )
        return Request(whole, described=False)


def quoted(text: str) -> str:
    """Quote a text for a path."""
    return quote(text, safe="", errors="surrogatepass")


def request_of(method: str, path: str, headers: dict[str, str], body: bytes) -> Request:
    """Put a request together. A value of a header is cut to what HTTP allows in one."""
    lines = [f"{method} {path} HTTP/1.1".encode("utf-8", "surrogatepass"), b"Host: localhost"]
    for name, value in headers.items():
        spelled = re.sub(rb"[\x00-\x1f\x7f]", b"", value.encode("utf-8", "surrogatepass"))
        lines.append(name.encode() + b": " + spelled)
    lines.append(b"Content-Length: %d" % len(body))
    return Request(b"\r\n".join(lines) + b"\r\n\r\n" + body)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes, or cut off the end."""
    if chance.random() < 0.3:
        return data[: chance.randrange(len(data) + 1)]
    changed = bytearray(data)
    for _ in range(chance.choice((1, 4, 32)) if data else 0):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def ask(port: int, request: Request) -> tuple[int | None, bytes]:
    """Send a request; returns the status, None: no answer, and the beginning of the answer's body.

    Each has a connection of its own. What need not be HTTP ends as if its sender had nothing more to say.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(request.content)
            if not request.described:
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection, head_only=request.content.startswith(b"HEAD "))
    except OSError:  # it hung up, or was silent for too long
        return None, b""


def read_answer(connection: socket.socket, *, head_only: bool) -> tuple[int | None, bytes]:
    """Read an answer; of its body 64 KiB at most."""
    content = b""
    while b"\r\n\r\n" not in content:
        piece = connection.recv(2**16)
        if not piece:
            return None, content
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    wanted = 0 if head_only else min(2**16, int(length[1])) if length else 0
    while len(body) < wanted:
        piece = connection.recv(2**16)
        if not piece:
            break
        body += piece
    return int(head.split(b" ", 2)[1]), body


def fuzzed(port: int, writer: Writer, requests: int, seconds: float) -> Found:
    """Send requests, one after the other, and learn from what is answered."""
    found, began = Found(), time.monotonic()
    for number in range(requests):
        if time.monotonic() - began > seconds:
            break
        request = writer.next()
        status, body = ask(port, request)
        found.note(number, request, status)
        for text in DIGESTS.findall(body.decode("utf-8", "replace"))[:3]:
            if text not in writer.known:
                writer.known.append(text)
        del writer.known[:-50]
    return found


def measured(root: Path, *, requests: int, seed: int, seconds: float) -> dict[str, Any]:
    """Start a station, send it the requests, and look at what is left of it."""
    originals = write_images(root / "originals")
    model, log = trained(root, originals), root / "log"
    command = ["serve", "--model", str(model), "--folder", str(root / "station"), "--port", "0"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "blemish.cli", *command], stdout=subprocess.PIPE, stderr=said, text=True
        )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().split()[2].rsplit(":", 1)[1])
        _, described = whole(port, "/openapi.json")
        images = [file.read_bytes() for file in originals[:10]]
        found = fuzzed(port, Writer(seed, json.loads(described), images), requests, seconds)
        ready, _ = ask(port, request_of("GET", "/readyz", {}, b""))
        process.terminate()
        code = process.wait(60)
    finally:
        process.kill()
    return {
        "requests": found.statuses.total(),
        "statuses": dict(sorted(found.statuses.items())),
        "wrong": len(found.wrong),
        "shown": found.wrong[:MOST_SHOWN],
        "ready_afterwards": ready == 200,
        "exit_code": code,
        "tracebacks": log.read_text(errors="replace").count("Traceback"),
        "log": log.read_text(errors="replace").splitlines()[-3 * MOST_SHOWN :],
    }


def whole(port: int, path: str) -> tuple[int, bytes]:
    """Get an answer however long it is."""
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        return answer.status, answer.read()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30, help="after which it ends")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        results = measured(
            Path(root), requests=options.requests, seed=options.seed, seconds=60 * options.minutes
        )
    results = {"seed": options.seed, **results}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "station_fuzz.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    good = results["ready_afterwards"] and not (
        results["exit_code"] or results["wrong"] or results["tracebacks"]
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
