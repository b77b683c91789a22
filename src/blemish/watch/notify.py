"""Notifying other machines of a rejected part, or another event: a command, a webhook, an MQTT topic.

Each hook has a thread and a queue of its own, so that one that hangs or fails holds up neither the inspection
nor the others. Webhook and MQTT try again until they get through; what does not fit the queue is dropped,
the oldest first, and said so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from blemish.core.errors import UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUEUE_SIZE = 1000
"""Rows that wait for one hook at most."""
TIMEOUT_S = 10.0
"""Seconds that a command or a connection may take."""
SHORTEST_SECRET = 16
"""Bytes of the secret of a webhook."""
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
"""Seconds between two tries: doubled from the first to the longest."""
CLOSE_TIMEOUT_S = 5.0
"""Seconds that each hook has to deliver its waiting rows when the watch ends."""


@dataclass(frozen=True, kw_only=True)
class Receivers:
    """Who is to be told; None: not this one."""

    on_reject: str | None = None
    """A command, of rejects alone."""
    on_review: str | None = None
    """A command, of parts that a person is to look at."""
    on_event: str | None = None
    """A command, of every event."""
    webhook: str | None = None
    webhook_secret: Path | None = None
    """A file with the secret by which requests are signed."""
    mqtt: str | None = None

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        ways = (self.on_reject, self.on_review, self.on_event, self.webhook, self.mqtt)
        return any(each is not None for each in ways)

    @contextmanager
    def telling(self, say: Callable[[str], None]) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Give what tells a row to all of them; at the end, say what they missed. Raises UsageError."""
        if self.webhook_secret is not None and self.webhook is None:
            raise UsageError("--webhook-secret: is for a webhook; add --webhook, or leave it out")
        secret = None if self.webhook_secret is None else read_secret(self.webhook_secret)
        makers: dict[str, tuple[str | None, Callable[[str], Callable[[dict[str, Any]], None]]]] = {
            "on-reject": (self.on_reject, command),
            "on-review": (self.on_review, partial(command, option="--on-review")),
            "on-event": (self.on_event, partial(command, option="--on-event")),
            "webhook": (self.webhook, webhook if secret is None else partial(webhook, secret=secret)),
            "mqtt": (self.mqtt, mqtt),
        }
        senders = {name: make(given) for name, (given, make) in makers.items() if given is not None}
        only, again = {"on-reject": "reject", "on-review": "review"}, ("webhook", "mqtt")
        hooks = [
            Hook(name, send, say, retry=name in again, only=only.get(name)) for name, send in senders.items()
        ]

        def tell(row: dict[str, Any]) -> None:
            for hook in hooks:
                hook.enqueue(row)

        try:
            yield tell
        finally:
            for hook in hooks:
                if hook.close(CLOSE_TIMEOUT_S):
                    say(f"{hook.name}: {hook.waiting_said()} were not delivered")


class Hook:
    """A thread that hands rows to `send`, in order, and tries again while it fails."""

    def __init__(
        self,
        name: str,
        send: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
        *,
        retry: bool = True,
        only: str | None = None,
    ) -> None:
        """Start the thread. `only`: the one `event` whose rows are taken; a row without one is a reject."""
        self.only = only
        self.name, self.send, self.say, self.retry = name, send, say, retry
        self.waiting: deque[dict[str, Any]] = deque()
        self.changed, self.ending = threading.Condition(), False
        self.failing = False
        self.thread = threading.Thread(target=self._run, name=f"hook {name}", daemon=True)
        self.thread.start()

    def enqueue(self, row: dict[str, Any]) -> None:
        """Queue a row; never waits."""
        if self.only is not None and _event_of(row) != self.only:
            return
        with self.changed:
            if len(self.waiting) >= QUEUE_SIZE:
                lost = self.waiting.popleft()
                which = lost.get("path") or lost.get("part") or lost.get("id")
                self.say(f"{self.name}: too many {_kind_of(lost)} wait, {which} is dropped")
            self.waiting.append(row)
            self.changed.notify()

    def close(self, seconds: float) -> int:
        """Give what waits some seconds, then stop. Returns the number of rows that were not delivered."""
        with self.changed:
            self.ending = True
            self.changed.notify()
        self.thread.join(seconds)
        return len(self.waiting)

    def waiting_said(self) -> str:
        """Return how many rows of each kind wait, in words."""
        with self.changed:
            kinds = Counter(map(_kind_of, self.waiting))
        return " and ".join(f"{n} {kind}" for kind, n in kinds.items())

    def _run(self) -> None:
        wait = FIRST_RETRY_S
        while True:
            with self.changed:
                while not self.waiting:
                    if self.ending:
                        return
                    self.changed.wait()
                row = self.waiting[0]
            if self._try(row):
                wait = FIRST_RETRY_S
                with self.changed:
                    if self.waiting and self.waiting[0] is row:  # not dropped meanwhile
                        self.waiting.popleft()
            else:
                with self.changed:  # a new row does not cut the wait short, the end of the watch does
                    ending = self.ending
                    self.changed.wait_for(lambda was=ending: self.ending != was, wait)
                wait = min(2 * wait, LONGEST_RETRY_S)

    def _try(self, row: dict[str, Any]) -> bool:
        try:
            self.send(row)
        except Exception as error:  # whatever a hook does, the inspection goes on
            if not self.failing or not self.retry:
                line = one_line(error)
                self.say(
                    f"{self.name}: {line or type(error).__name__}" + ("; trying again" if self.retry else "")
                )
            self.failing = True
            return not self.retry
        if self.failing and self.retry:
            self.say(f"{self.name}: works again")
        self.failing = False
        return True


def _event_of(row: dict[str, Any]) -> str:
    """Return what a row tells; one that does not say so is a reject."""
    return row.get("event", "reject")


def _kind_of(row: dict[str, Any]) -> str:
    """Return the word for several rows as this one: rejects, reviews or alarms."""
    return f"{_event_of(row)}s"


def command(line: str, option: str = "--on-reject") -> Callable[[dict[str, Any]], None]:
    """Run a command with the row as JSON on its standard input. Raises UsageError for an empty one."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{option} {line}: {error}; close the quotation") from error
    if not words:
        raise UsageError(f"{option}: is empty; give a command")

    def send(row: dict[str, Any]) -> None:
        done = subprocess.run(
            words, input=json.dumps(row).encode(), capture_output=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode:
            output = done.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"ended with {done.returncode} {output}")

    return send


def signature(secret: bytes, time: str, body: bytes) -> str:
    """Return the HMAC-SHA256 of `TIME.BODY` in hexadecimal, by which a receiver knows the sender."""
    return hmac.new(secret, time.encode() + b"." + body, hashlib.sha256).hexdigest()


def read_secret(file: Path) -> bytes:
    """Read the secret of a webhook. Raises UsageError for a file without one."""
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"--webhook-secret {file}: cannot be read ({error.strerror})") from error
    if len(secret) < SHORTEST_SECRET:
        raise UsageError(f"--webhook-secret {file}: is too short; give {SHORTEST_SECRET} characters or more")
    return secret


def webhook(url: str, secret: bytes | None = None) -> Callable[[dict[str, Any]], None]:
    """POST the row as JSON; any answer below 300 is a delivery.

    With a secret the request is signed: X-Blemish-Time, in seconds since 1970, and X-Blemish-Signature,
    "sha256=" and the `signature`. Raises UsageError for what is no URL.
    """
    if not _is_url_of(url, "http", "https"):
        raise UsageError(f"--webhook {url}: must be an http:// or https:// address")
    opener = urllib.request.build_opener(NoRedirect)

    def send(row: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "blemish"}
        body = json.dumps(row).encode()
        if secret is not None:
            now = str(int(time.time()))
            headers |= {
                "X-Blemish-Time": now,
                "X-Blemish-Signature": f"sha256={signature(secret, now, body)}",
            }
        request = urllib.request.Request(url, body, headers, method="POST")
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"answered {error.code}") from error

    return send


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: followed, the POST would become a GET without the row."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        """Follow nothing."""


def _is_url_of(url: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        return False


def mqtt(url: str) -> Callable[[dict[str, Any]], None]:
    """Publish the row as JSON, at least once (QoS 1), to mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC.

    Raises UsageError for another form, and without the package of `blemish[mqtt]`.
    """
    if not _is_url_of(url, "mqtt", "mqtts") or not urlsplit(url).path.lstrip("/"):
        raise UsageError(f"--mqtt {url}: must be mqtt://HOST/TOPIC, or mqtts:// with TLS")
    try:
        from paho.mqtt import publish
    except ImportError as error:
        raise UsageError("--mqtt: paho-mqtt is missing; pip install 'blemish[mqtt]'") from error
    parts = urlsplit(url)
    secret = None
    if parts.username:
        secret = {"username": unquote(parts.username), "password": unquote(parts.password or "")}
    port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)

    def send(row: dict[str, Any]) -> None:
        publish.single(
            parts.path.lstrip("/"),
            json.dumps(row),
            qos=1,
            hostname=str(parts.hostname),
            port=port,
            auth=secret,  # type: ignore[arg-type]
            tls={} if parts.scheme == "mqtts" else None,  # type: ignore[arg-type]
        )

    return send
