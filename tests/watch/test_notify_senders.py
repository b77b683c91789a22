"""What hooks send, to whom: a command, a webhook, an MQTT topic."""

from __future__ import annotations

import json
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hooked import SOON, row, rows, tell_all
from waiting import wait_for

from blemish.core.errors import UsageError
from blemish.watch import notify
from blemish.watch.notify import Hook

pytestmark = pytest.mark.usefixtures("quick_hooks")


# --- a command ---


def shell(script: str) -> str:
    return f"sh -c {shlex.quote(script)}"


def test_a_command_gets_the_row_on_its_standard_input(tmp_path: Path):
    hook = Hook(
        "on-reject", notify.command(shell(f"cat >> '{tmp_path}/a b'; echo >> '{tmp_path}/a b'")), pytest.fail
    )
    tell_all(hook, rows(3))
    assert hook.close(SOON) == 0
    assert [json.loads(line) for line in (tmp_path / "a b").read_text().splitlines()] == rows(3)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (shell("echo bad valve >&2; exit 3"), "on-reject: ended with 3 bad valve"),
        (shell("exit 4"), "on-reject: ended with 4"),
        ("/nowhere/at/all", "on-reject: [Errno 2] No such file or directory: '/nowhere/at/all'"),
    ],
)
def test_a_command_that_fails_is_run_once_for_each_row_and_said_each_time(line: str, said: str):
    heard: list[str] = []
    hook = Hook("on-reject", notify.command(line), heard.append, retry=False)
    tell_all(hook, rows(2))
    assert hook.close(SOON) == 0
    assert heard == [said] * 2


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.1)
    heard: list[str] = []
    hook = Hook("on-reject", notify.command(shell("sleep 100; true")), heard.append, retry=False)
    tell_all(hook, rows(2))
    assert hook.close(SOON) == 0
    assert len(heard) == 2
    assert all("timed out after 0.1 seconds" in line for line in heard)


# --- a webhook ---


class Server(HTTPServer):
    """Answers what it is told to, then 200, and keeps what came."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.came = list(answers), []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/reject"


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        self.server.came.append((answer, self.path, self.headers["Content-Type"], body))
        self.send_response(answer)
        self.send_header("Content-Length", "0")
        if 300 <= answer < 400:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.came.append((200, self.path, None, None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []
    yield lambda *answers: made.append(Server(*answers)) or made[-1]
    for one in made:
        one.shutdown()
        one.server_close()


def test_a_webhook_is_tried_until_it_is_answered_in_order_each_row_once(server: Callable[..., Server]):
    at, said = server(500, 404, 302, 301, 201, 503), []
    hook = Hook("webhook", notify.webhook(at.url), said.append)
    tell_all(hook, rows(4))
    assert hook.close(SOON) == 0
    kind = "application/json"
    assert at.came == [
        *((code, "/reject", kind, row(1)) for code in (500, 404, 302, 301, 201)),  # no redirect is followed
        *((code, "/reject", kind, row(2)) for code in (503, 200)),
        *((200, "/reject", kind, row(i)) for i in (3, 4)),
    ]
    again = "webhook: works again"
    assert said == [
        "webhook: answered 500; trying again",
        again,
        "webhook: answered 503; trying again",
        again,
    ]


def test_an_address_that_cannot_be_reached_is_said_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        said: list[str] = []
        hook = Hook("webhook", notify.webhook(f"http://127.0.0.1:{taken.getsockname()[1]}/"), said.append)
        tell_all(hook, rows(3))
        wait_for(lambda: said)
        assert hook.close(0) == 3
    assert len(said) == 1
    assert "refused" in said[0]
    assert said[0].endswith("; trying again")


# --- MQTT ---


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    calls: list[tuple[Any, dict[str, Any]]] = []
    paho, package, publish = ModuleType("paho"), ModuleType("paho.mqtt"), ModuleType("paho.mqtt.publish")
    publish.single = lambda topic, payload, **options: calls.append(((topic, payload), options))  # type: ignore[attr-defined]
    package.publish, paho.mqtt = publish, package  # type: ignore[attr-defined]
    for module in (paho, package, publish):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.mark.parametrize(
    ("url", "topic", "host", "port", "auth", "tls"),
    [
        ("mqtt://broker/line1/reject", "line1/reject", "broker", 1883, None, None),
        ("mqtt://10.0.0.7:1999/r", "r", "10.0.0.7", 1999, None, None),
        ("mqtts://me:p%40ss@broker/r", "r", "broker", 8883, {"username": "me", "password": "p@ss"}, {}),
    ],
)
def test_mqtt_publishes_the_row_at_least_once(url, topic, host, port, auth, tls, published):
    hook = Hook("mqtt", notify.mqtt(url), pytest.fail)
    tell_all(hook, rows(2))
    assert hook.close(SOON) == 0
    assert [(called[0], json.loads(called[1])) for called, _ in published] == [
        (topic, row(1)),
        (topic, row(2)),
    ]
    for _, options in published:
        assert options == {"qos": 1, "hostname": host, "port": port, "auth": auth, "tls": tls}


def test_mqtt_fits_the_real_package():
    """Its options are those that paho knows; nobody listens, and it says so."""
    pytest.importorskip("paho.mqtt.publish")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            notify.mqtt(f"mqtt://u:p@127.0.0.1:{taken.getsockname()[1]}/t")(row(1))


def test_mqtt_without_its_package_names_the_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(UsageError, match=r"^--mqtt: paho-mqtt is missing; pip install 'blemish\[mqtt\]'$"):
        notify.mqtt("mqtt://broker/t")


# --- mistakes ---

WRONG = [
    (notify.command, "", "--on-reject: is empty; give a command"),
    (notify.command, "  ", "--on-reject: is empty; give a command"),
    (notify.command, "echo 'x", "--on-reject echo 'x: No closing quotation; close the quotation"),
    *((notify.webhook, url, f"--webhook {url}: must be an http:// or https:// address")
      for url in ("plc.local", "ftp://plc/x", "http://", "http://[::1", "http://plc:99999/x")),
    *((notify.mqtt, url, f"--mqtt {url}: must be mqtt://HOST/TOPIC, or mqtts:// with TLS")
      for url in ("broker/t", "http://broker/t", "mqtt://broker", "mqtt://broker/", "mqtt:///t", "mqtt://b:x/t")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "given", "line"), WRONG)
def test_what_cannot_be_a_hook_is_refused_in_one_line(make: Callable[[str], Any], given: str, line: str):
    with pytest.raises(UsageError) as refusal:
        make(given)
    assert str(refusal.value) == line
