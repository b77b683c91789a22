"""Connections that say nothing, or too slowly, are in nobody's way."""

from __future__ import annotations

import asyncio
import http.client
import logging
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from requests_to_station import listening
from waiting import wait_for

from blemish.station.connections import REPEAT_S, Room, Sparing, connection_limit, spare_log_lines

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "


class App:
    """Answers at once; a request for /wait when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go = 0, False

    async def __call__(self, scope, receive, send) -> None:
        self.asked += 1
        while scope["path"] == "/wait" and not self.go:
            await asyncio.sleep(0.005)
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def server(
    limit: int = 8, header_timeout_s: float = 600.0, **options: Any
) -> Iterator[tuple[App, Room, int]]:
    app, room = App(), Room(limit, header_timeout_s=header_timeout_s, **options)
    with listening(app, http=room.make) as port:
        try:
            yield app, room, port
        finally:
            app.go = True


def opened(port: int, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(said)
    return connection


def status(port: int, path: str = "/healthz") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def waiting_for_its_answer(app: App, port: int) -> socket.socket:
    """A connection that waits for /wait; again, where the machine let the time for its header go by."""
    before = app.asked
    while True:
        connection = opened(port, b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        readable = partial(select.select, [connection], [], [], 0)
        wait_for(lambda readable=readable: app.asked > before or readable()[0])
        if app.asked > before:
            return connection
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    """Whether a connection ends without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def told(connection: socket.socket) -> bytes:
    """Return the status of the answer that a connection ends with."""
    answer = b""
    with suppress(ConnectionResetError):  # who is slow to read it
        while part := connection.recv(4096):
            answer += part
    return answer.split(b" ", 2)[1]


@pytest.mark.parametrize("request_line", [b"HEAD / HTTP/1.1", b"POST / HTTP/1.1"])
def test_a_body_that_is_no_http_leaves_no_traceback(request_line: bytes, caplog: pytest.LogCaptureFixture):
    broken = request_line + b"\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    log = logging.getLogger("uvicorn.error")
    with server() as (_, room, port):
        log.addHandler(caplog.handler)  # the server has set up its loggers by now
        with opened(port, broken) as one:
            while one.recv(4096):
                pass
        assert status(port) == 200
        wait_for(lambda: not room.open)
    log.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.exc_info]


def test_many_half_open_headers_stop_nobody():
    with server(limit=4) as (_, room, port):
        held = [opened(port, HALF) for _ in range(20)]
        assert status(port) == 200
        assert len(room.open) <= 4
        assert told(held[0]) == b"503"  # the one that waited longest has made room
        for each in held:
            each.close()
        wait_for(lambda: not room.open)
        assert not room.waiting


@pytest.mark.heavy
def test_headers_have_a_deadline_also_on_a_connection_that_was_kept():
    asked = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
    with server() as (app, room, port):
        kept, half = opened(port, asked), opened(port, asked + HALF)
        wait_for(lambda: app.asked == 2)
        room.header_timeout_s = 0.1
        assert told(opened(port)) == b"408"
        assert told(opened(port, HALF)) == b"408"
        app.go = True
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):  # head and body may come apart
            part = kept.recv(1000)
            assert part
            answer += part
        assert is_closed(kept)  # as HTTP has it
        assert half.recv(12) == b"HTTP/1.1 200"
        assert b"HTTP/1.1 408" in half.makefile("rb").read()
        wait_for(lambda: not (room.open or room.leaving))


def test_of_a_burst_everybody_is_answered():
    """60 at once for a room of 40, each with a body that no buffer holds and that nobody has read yet."""
    head = b"POST /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    body = bytes(500_000)
    statuses: list[bytes] = []

    async def one(port: int, app: App) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head % len(body))
        writer.write(body)
        statuses.append((await asyncio.wait_for(reader.readline(), 60)).split(b" ")[1])
        app.go = len(statuses) >= 20  # all others are in the room
        writer.close()

    async def all_of_them(port: int, app: App) -> None:
        await asyncio.gather(*(one(port, app) for _ in range(60)))

    with server(limit=40) as (app, _, port):
        asyncio.run(all_of_them(port, app))
    assert sorted(statuses) == [b"200"] * 40 + [b"503"] * 20


def test_what_is_answered_has_its_time_and_the_one_too_many_is_told():
    turned_away: list[int] = []
    with server(limit=2, header_timeout_s=0.05, on_full=lambda: turned_away.append(1)) as (app, room, port):
        busy = [waiting_for_its_answer(app, port) for _ in range(2)]
        assert status(port) == 503
        assert turned_away == [1]
        app.go = True
        for each in busy:
            assert each.recv(1000).startswith(b"HTTP/1.1 200")
        wait_for(lambda: not room.open)
        room.header_timeout_s = 600.0
        assert status(port) == 200


def test_a_line_is_logged_once_in_a_while(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    sparing = Sparing(clock=lambda: now)

    def logged(text: str) -> str | None:
        record = logging.LogRecord("asyncio", logging.ERROR, "", 0, text, None, None)
        return record.getMessage() if sparing.filter(record) else None

    assert [logged("no room") for _ in range(1000)] == ["no room", *[None] * 999]
    assert logged("another") == "another"
    now = REPEAT_S
    assert logged("no room") == "no room (999 more such lines were left out)"
    for name in ("asyncio", "uvicorn.error"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    spare_log_lines()
    spare_log_lines()
    for name in ("asyncio", "uvicorn.error"):
        assert sum(isinstance(each, Sparing) for each in logging.getLogger(name).filters) == 1


@pytest.mark.parametrize(
    ("limits", "room", "asked"),
    [((256, 256), 160, None), ((256, 4096), 1000, (1096, 4096)), ((20_000, 20_000), 1000, None)],
)
def test_connections_leave_files_for_the_record(limits, room: int, asked, monkeypatch: pytest.MonkeyPatch):
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: given.append(new))
    assert connection_limit() == room
    assert given == ([asked] if asked else [])
