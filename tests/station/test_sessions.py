"""Sessions of browsers: they begin with a token, and the station ends them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from blemish.core.errors import DataError
from blemish.station.guard import Guard
from blemish.station.routes import session
from blemish.station.routes.access import RouteRoles
from blemish.station.security import COOKIE, Caller, Tokens
from blemish.station.sessions import MOST_OF_ONE, SESSION_HOURS, Sessions

NOBODY = {"name": None, "role": None}


def client_of(folder: Path) -> TestClient:
    """The routes of a session alone, behind the guard."""
    app = FastAPI()
    app.state.tokens = Tokens(folder)
    app.state.sessions = Sessions(app.state.tokens)
    acts: list[tuple[str, str]] = []
    app.state.station = SimpleNamespace(
        store=SimpleNamespace(note=acts.append), act=lambda *said: said, acts=acts
    )
    app.include_router(session.router)
    roles = RouteRoles([session.router])
    app.add_middleware(Guard, sessions=app.state.sessions, hosts=(), max_bytes=9999, role_for=roles)
    return TestClient(app)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


def begin(tokens: Tokens, sessions: Sessions, name: str = "ann") -> str:
    secret = tokens.add(name, "view")
    token = tokens.of(secret)
    assert token is not None
    return sessions.begin(token)


def name_of(sessions: Sessions, secret: str) -> str | None:
    return sessions.caller(bearer=None, cookie=secret).name


def test_a_cookie_that_was_copied_is_worth_nothing_after_the_log_out(tokens: Tokens, tmp_path: Path):
    secret = tokens.add("ann", "view")
    client = client_of(tmp_path)
    copied = client.post("/v1/session", content=secret).cookies[COOKIE]
    assert copied != secret  # nor does the browser keep the token
    thief = TestClient(client.app, cookies={COOKIE: copied})
    assert client.get("/v1/session").json() == thief.get("/v1/session").json()
    assert thief.get("/v1/session").json()["name"] == "ann"
    assert client.delete("/v1/session").status_code == 204
    assert thief.get("/v1/session").json() == NOBODY
    assert name_of(Sessions(tokens), copied) is None  # nor after a restart
    assert client.app.state.station.acts == [("ann", "log-in"), ("ann", "log-out")]
    as_token = TestClient(client.app, cookies={COOKIE: secret})
    assert as_token.get("/v1/session").json() == NOBODY


def test_a_second_log_in_ends_the_first_one(tokens: Tokens, tmp_path: Path):
    secrets = [tokens.add(name, "view") for name in ("ann", "bob")]
    client = client_of(tmp_path)
    first, second = (client.post("/v1/session", content=each).cookies[COOKIE] for each in secrets)
    sessions = client.app.state.sessions
    assert (name_of(sessions, first), name_of(sessions, second)) == (None, "bob")


def test_sessions_outlive_a_restart_and_only_their_digests_are_kept(tokens: Tokens):
    sessions = Sessions(tokens)
    secret = begin(tokens, sessions)
    assert secret not in sessions.file.read_text()
    assert sessions.file.stat().st_mode & 0o777 == 0o600
    assert Sessions(tokens).caller(bearer=None, cookie=secret) == Caller("ann", "view")
    sessions.file.write_text("[{}]")
    with pytest.raises(DataError, match=r"sessions\.json: is damaged"):
        Sessions(tokens)


def remove(tokens: Tokens, _: pytest.MonkeyPatch) -> None:
    Tokens(tokens.file.parent).remove("ann")


def wait(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.now(UTC) + timedelta(hours=SESSION_HOURS, seconds=1)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return later

    monkeypatch.setattr("blemish.station.sessions.datetime", Clock)


@pytest.mark.parametrize("what", [remove, wait])
def test_a_session_ends_with_its_token_and_with_the_day(
    what: Callable[[Tokens, pytest.MonkeyPatch], None], tokens: Tokens, monkeypatch: pytest.MonkeyPatch
):
    sessions = Sessions(tokens)
    secret = begin(tokens, sessions)
    assert name_of(sessions, secret) == "ann"
    what(tokens, monkeypatch)
    assert name_of(sessions, secret) is None
    begin(tokens, sessions, "bob")
    assert name_of(Sessions(tokens), secret) is None


def test_one_token_has_so_many_sessions_at_a_time(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.station.sessions.write_whole", lambda *_, **__: None)
    sessions = Sessions(tokens)
    first, other = begin(tokens, sessions), begin(tokens, sessions, "bob")
    (ann, _) = tokens.known
    later = [sessions.begin(ann) for _ in range(MOST_OF_ONE)]
    found = [name_of(sessions, secret) for secret in (first, *later)]
    assert found == [None] + ["ann"] * MOST_OF_ONE
    assert name_of(sessions, other) == "bob"


def test_a_session_ends_also_when_the_disk_is_full(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    sessions = Sessions(tokens)
    secret = begin(tokens, sessions)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blemish.station.sessions.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        sessions.end(secret)
    assert name_of(sessions, secret) is None
