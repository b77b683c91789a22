"""The guard alone, before an application that says what it was let through with."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from blemish.core.errors import DataError, UsageError
from blemish.station.guard import Guard
from blemish.station.security import Role, Tokens, check_binding, is_loopback
from blemish.station.sessions import Sessions


async def echo(scope, receive, send) -> None:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = json.dumps([size, scope["caller"].name]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def role_for(scope) -> Role | None:
    """The page is everybody's; what writes is an operator's."""
    if scope["path"] == "/" or scope["path"].startswith("/static/"):
        return None
    return "view" if scope["method"] == "GET" else "engineer"


def call(
    tokens: Tokens,
    *,
    method: str = "GET",
    path: str = "/v1/inspections",
    headers: dict[str, str] | None = None,
    body: Sequence[bytes] = (b"",),
    hosts: Sequence[str] = ("localhost",),
) -> tuple[int, object, dict[str, str]]:
    from fastapi import FastAPI

    app = FastAPI()
    app.mount("/", echo)
    guard = Guard(app, sessions=Sessions(tokens), hosts=hosts, max_bytes=100, role_for=role_for)
    parts, sent = list(body), []

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message) -> None:
        sent.append(message)

    raw = {"host": "localhost:8000"} | (headers or {})
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in raw.items()],
    }
    asyncio.run(guard(scope, receive, send))
    found = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], json.loads(sent[1]["body"]), found


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


def test_without_tokens_everybody_here_may_do_everything(tokens: Tokens):
    assert call(tokens, method="POST", body=[b"12", b"345"])[:2] == (200, [5, None])


def test_with_a_token_its_role_counts(tokens: Tokens):
    operator, viewer = tokens.add("ann", "engineer"), tokens.add("bob", "view")
    assert call(tokens)[0] == 401
    assert call(tokens, headers={"authorization": "Bearer wrong"})[0] == 401
    assert call(tokens, headers={"authorization": f"Bearer {operator}"}, method="POST")[1] == [0, "ann"]
    assert call(tokens, headers={"authorization": f"bearer {viewer}"})[1] == [0, "bob"]
    status, said, _ = call(tokens, headers={"authorization": f"Bearer {viewer}"}, method="POST")
    assert (status, said) == (403, {"detail": "bob has the role view; this needs the role engineer"})
    assert call(tokens, path="/")[0] == 200  # the page itself, which asks for the token
    assert call(tokens, path="/static/station.js")[0] == 200


def test_only_digests_are_kept_and_only_the_owner_reads_them(tokens: Tokens, tmp_path: Path):
    secret = tokens.add("ann", "engineer")
    assert len(secret) >= 43  # 256 bits
    assert secret not in tokens.file.read_text()
    assert tokens.file.stat().st_mode & 0o777 == 0o600
    again = Tokens(tmp_path)
    found = again.of(secret)
    assert found is not None
    assert (found.name, found.role) == ("ann", "engineer")
    again.remove("ann")
    assert Tokens(tmp_path).of(secret) is None


def test_names_are_used_once_and_damage_is_said(tokens: Tokens, tmp_path: Path):
    tokens.add("ann", "view")
    with pytest.raises(UsageError, match="token ann: there is one"):
        tokens.add("ann", "engineer")
    with pytest.raises(UsageError, match="token bob: there is none of that name"):
        tokens.remove("bob")
    tokens.file.write_text("[{}]")
    with pytest.raises(DataError, match="is damaged"):
        Tokens(tmp_path)


def test_a_removed_token_stops_working_at_once(tokens: Tokens, tmp_path: Path):
    ann, bob = (tokens.add(name, "engineer") for name in ("ann", "bob"))
    as_ann, as_bob = ({"authorization": f"Bearer {secret}"} for secret in (ann, bob))
    assert call(tokens, headers=as_ann)[0] == call(tokens, headers=as_bob)[0] == 200
    Tokens(tmp_path).remove("ann")  # as another process does
    assert call(tokens, headers=as_ann)[0] == 401
    assert call(tokens, headers=as_bob)[0] == 200
    carl = {"authorization": f"Bearer {Tokens(tmp_path).add('carl', 'viewer')}"}
    assert call(tokens, headers=carl)[0] == 200
    for name in ("bob", "carl"):
        Tokens(tmp_path).remove(name)
    assert call(tokens, headers=as_bob)[0] == 401  # nor is everybody an operator when the last one goes
    assert call(tokens)[0] == 401
    tokens.file.unlink()
    assert call(tokens)[0] == 401


def test_a_token_that_is_added_counts_at_once(tokens: Tokens, tmp_path: Path):
    assert call(tokens, method="POST")[0] == 200
    Tokens(tmp_path).add("ann", "view")
    assert call(tokens, method="POST")[0] == 401


def test_a_token_expires(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    secret = tokens.add("ann", "engineer", days=2)
    headers = {"authorization": f"Bearer {secret}"}
    now = datetime.now(UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return now

    monkeypatch.setattr("blemish.station.security.datetime", Clock)
    assert call(tokens, headers=headers)[0] == 200
    now += timedelta(days=2, seconds=1)
    assert call(tokens, headers=headers)[0] == 401
    assert call(tokens)[0] == 401
    for days in (0, -1, float("nan"), 1e6):
        with pytest.raises(UsageError, match=r"^--days .*: must lie between 0 and 36500$"):
            tokens.add("bob", "view", days=days)


def test_a_file_that_is_damaged_while_the_station_runs_lets_nobody_in(
    tokens: Tokens, capsys: pytest.CaptureFixture[str]
):
    secret = tokens.add("ann", "engineer")
    tokens.file.write_text("[{")
    for _ in range(3):
        assert call(tokens, headers={"authorization": f"Bearer {secret}"})[0] == 401
    assert capsys.readouterr().err.count("is damaged") == 1  # said once


@pytest.mark.parametrize("sizes", [[101], [60, 41], [1] * 101])
def test_a_body_that_is_too_large_is_cut_off(tokens: Tokens, sizes: list[int]):
    status, said, _ = call(tokens, method="POST", body=[b"x" * n for n in sizes])
    assert (status, said) == (413, {"detail": "more than the 100 bytes that are taken"})
    assert call(tokens, method="POST", body=[b"x" * 50, b"x" * 50])[0] == 200


def test_a_length_that_is_too_large_is_refused_unread(tokens: Tokens):
    status, said, _ = call(tokens, method="POST", headers={"content-length": "101"}, body=())
    assert (status, said) == (413, {"detail": "101 bytes are more than the 100 that are taken"})


class NoWaiting(selectors.DefaultSelector):
    """A clock for an event loop that waits for nothing but time: this passes at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


def guarded(
    bodies: Sequence[Sequence[bytes | None]], *, paths: Sequence[str] = (), **limits: Any
) -> list[int]:
    """Send several bodies at a time, a part of each in turn (None: nothing more comes); the statuses."""
    from fastapi import FastAPI

    app = FastAPI()
    app.mount("/", echo)
    sessions = Sessions(Tokens(Path("nowhere")))
    guard = Guard(app, sessions=sessions, hosts=(), max_bytes=100, role_for=role_for, **limits)
    statuses = [0] * len(bodies)

    async def request(n: int) -> None:
        parts = list(bodies[n])

        async def receive():
            await asyncio.sleep(0.01)
            part = parts.pop(0)
            if part is None:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message) -> None:
            statuses[n] = message.get("status", statuses[n])

        path = paths[n] if paths else "/x"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": b"/x", "query_string": b""}
        await guard(scope | {"headers": []}, receive, send)

    async def together() -> None:
        await asyncio.gather(*map(request, range(len(bodies))))

    clock = NoWaiting()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=lambda: loop) as runner:
        patch.setattr("blemish.station.guard.time", SimpleNamespace(monotonic=loop.time))
        runner.run(together())
    assert guard.held == 0
    return statuses


def test_all_bodies_together_are_bounded():
    whole = [b"x" * 20] * 4
    assert guarded([whole] * 5, max_held=400) == [200] * 5
    statuses = guarded([whole] * 5, max_held=240)
    assert set(statuses) == {200, 503}
    assert guarded([[b"x" * 90]], max_held=50) == [200]  # one is taken, however large


def test_a_sender_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.station.guard.BODY_TIMEOUT_S", 1.0)
    assert guarded([[b"x" * 20, None, b""], [b"x"]]) == [408, 200]


def test_unfinished_bodies_of_strangers_do_not_stop_uploads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.station.guard.STRANGER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("blemish.station.guard.STRANGERS_BYTES", 250)
    bodies = [[b"x" * 90, None, b""]] * 10 + [[b"x" * 20] * 4]
    statuses = guarded(bodies, paths=["/"] * 10 + ["/x"], max_held=100)
    assert statuses[-1] == 200  # the upload
    assert set(statuses[:-1]) == {408, 503}
    monkeypatch.setattr("blemish.station.guard.STRANGER_BYTES", 50)
    assert guarded([[b"x" * 30] * 2] * 2, paths=["/", "/x"]) == [413, 200]


def test_a_body_that_comes_drop_by_drop_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.station.guard.BODY_TIMEOUT_S", 0.2)
    monkeypatch.setattr("blemish.station.guard.LEAST_RATE", 2**14)
    assert guarded([[b"x"] * 90, [b"x"] * 3]) == [408, 200]


def test_foreign_names_and_foreign_sites_are_refused(tokens: Tokens):
    status, said, _ = call(tokens, headers={"host": "evil.example"})
    assert (status, said) == (400, {"detail": "this station is not called 'evil.example'"})
    assert call(tokens, headers={"host": "evil.example"}, hosts=())[0] == 200
    foreign = {"origin": "http://evil.example"}
    assert call(tokens, method="POST", headers=foreign)[0] == 403
    assert call(tokens, method="GET", headers=foreign)[0] == 200
    assert call(tokens, method="POST", headers={"origin": "http://localhost:8000"})[0] == 200


def test_every_answer_carries_the_headers(tokens: Tokens):
    tokens.add("ann", "view")
    for status, path in ((401, "/v1/inspections"), (200, "/")):
        found = call(tokens, path=path)
        assert found[0] == status
        assert "frame-ancestors 'none'" in found[2]["content-security-policy"]
        assert found[2]["x-content-type-options"] == "nosniff"
    assert call(tokens)[2]["cache-control"] == "no-store"


def test_other_machines_need_a_token(tokens: Tokens):
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "station.local")))
    check_binding("127.0.0.1", tokens)
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0: other machines reach it"):
        check_binding("0.0.0.0", tokens)
    tokens.add("ann", "view")
    check_binding("0.0.0.0", tokens)


def test_the_command_makes_tokens_that_expire(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from blemish.cli.commands.token import token

    folder = ["--folder", str(tmp_path)]
    assert token(["ann", "--days", "30", *folder]) == token(["bob", *folder]) == 0
    ann, bob = Tokens(tmp_path).known
    assert bob.expires is None
    assert datetime.fromisoformat(str(ann.expires)) - datetime.fromisoformat(ann.created) == timedelta(
        days=30
    )
    capsys.readouterr()
    assert token(["ann", "--remove", *folder]) == 0
    assert capsys.readouterr().out == "ann: removed; it works no more, also on a running station\n"
