"""Log-in by accounts of the plant, at a small provider that runs in the test."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")
pytest.importorskip("authlib", reason="blemish[oidc] is not installed")

import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import ECKey

from blemish.core.errors import BlemishError, UsageError
from blemish.station import log_ins, oidc
from blemish.station.errors import handle_error
from blemish.station.guard import Guard
from blemish.station.oidc import Provider
from blemish.station.routes import account, session
from blemish.station.routes.access import RouteRoles
from blemish.station.security import COOKIE, Forbidden, Tokens, Unauthorized, check_binding
from blemish.station.sessions import Sessions

CLIENT, SECRET = "blemish", "a secret"
ANN = {"sub": "17", "preferred_username": "ann", "groups": ["staff", "inspectors"]}
KEY, OTHER_KEY = (ECKey.generate_key("P-256", {"kid": "1"}) for _ in range(2))


class Plant:
    """A provider: who logs in gets a code, which is exchanged once, with its verifier and the secret."""

    def __init__(self) -> None:
        plant = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(plant.about if "well-known" in self.path else plant.keys)

            def do_POST(self) -> None:
                said = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                self._answer(plant.exchange(said, self.headers["authorization"]))

            def _answer(self, content: dict[str, Any]) -> None:
                self.send_response(400 if "error" in content else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.about = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }
        self.keys = {"keys": [KEY.as_dict(private=False)]}
        self.codes: dict[str, dict[str, str]] = {}
        self.changes: dict[str, Any] = {}  # of what is said of whoever logs in
        self.person, self.key = ANN, KEY

    def log_in(self, address: str) -> str:
        """Log in at the address to which a browser was sent; returns the one to which it is sent back."""
        place = urlsplit(address)
        asked = {name: values[0] for name, values in parse_qs(place.query).items()}
        assert f"{place.scheme}://{place.netloc}{place.path}" == self.about["authorization_endpoint"]
        assert (asked["client_id"], asked["response_type"]) == (CLIENT, "code")
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?code={code}&state={asked['state']}"

    def exchange(self, said: dict[str, list[str]], authorization: str) -> dict[str, Any]:
        asked = self.codes.pop(said["code"][0], None)
        digest = hashlib.sha256(said["code_verifier"][0].encode()).digest()
        fits = asked is not None and (
            authorization == "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            and base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
            and said["redirect_uri"][0] == asked["redirect_uri"]
        )
        if not fits:
            return {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 600, "nonce": asked["nonce"]}
        token = jwt.encode({"alg": "ES256", "kid": "1"}, claims | self.person | self.changes, self.key)
        return {"access_token": "x", "token_type": "Bearer", "id_token": token}


@pytest.fixture(scope="module")
def server() -> Iterator[Plant]:
    plant = Plant()
    yield plant
    plant.server.shutdown()
    plant.server.server_close()


@pytest.fixture
def plant(server: Plant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    monkeypatch.setattr(oidc, "TIMEOUT_S", 60.0)  # on a busy machine
    yield server
    server.changes, server.person, server.key = {}, ANN, KEY


def provider_of(plant: Plant, secret: str = SECRET) -> Provider:
    return Provider(
        plant.issuer, client=CLIENT, secret=secret, roles=["inspectors=judge", "a=b=engineer", "staff=view"]
    )


def client_of(folder: Path, provider: Provider | None) -> TestClient:
    """The routes of sessions alone, behind the guard."""
    app, acts = FastAPI(), []
    app.state.provider, app.state.tokens = provider, Tokens(folder)
    app.state.sessions = Sessions(app.state.tokens, accounts=provider is not None)
    app.state.station = SimpleNamespace(
        store=SimpleNamespace(note=acts.append), act=lambda *said, detail=None: (*said, detail), acts=acts
    )
    routers = [session.router, account.router]
    for router in routers:
        app.include_router(router)
    for kind in (Unauthorized, Forbidden, BlemishError):
        app.add_exception_handler(kind, handle_error)
    app.add_middleware(
        Guard, sessions=app.state.sessions, hosts=(), max_bytes=9999, role_for=RouteRoles(routers)
    )
    return TestClient(app, follow_redirects=False)


def log_in(client: TestClient, plant: Plant):
    sent = client.get("/v1/session/account")
    assert sent.status_code == 303
    assert "SameSite=lax" in sent.headers["set-cookie"]
    back = urlsplit(plant.log_in(sent.headers["location"]))
    return client.get(f"{back.path}?{back.query}")


def test_an_account_of_the_plant_logs_in_and_out(plant: Plant, tmp_path: Path):
    client = client_of(tmp_path, provider_of(plant))
    assert client.get("/v1/session/ways").json() == {"accounts": True}
    assert client.get("/v1/session").json() == {"name": None, "role": None}  # not everybody, without tokens
    answer = log_in(client, plant)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith(COOKIE))
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get("/v1/session").json() == {"name": "ann", "role": "judge"}  # the highest of its groups
    kept = client.cookies[COOKIE]
    tokens = client.app.state.tokens
    assert Sessions(tokens, accounts=True).caller(bearer=None, cookie=kept).name == "ann"
    tokens.add("bob", "view")  # accounts and tokens are side by side
    assert Sessions(tokens).caller(bearer=None, cookie=kept).name is None  # where accounts log in no more
    assert client.delete("/v1/session").status_code == 204
    assert client.app.state.sessions.caller(bearer=None, cookie=kept).name is None
    assert client.app.state.station.acts == [
        ("ann", "log-in", {"by": plant.issuer}),
        ("ann", "log-out", None),
    ]


def test_a_provider_whose_clock_is_ahead_is_believed(plant: Plant, tmp_path: Path):
    begins = int(time.time()) + oidc.LEEWAY_S // 2
    plant.changes = {"iat": begins, "nbf": begins}
    client = client_of(tmp_path, provider_of(plant))
    assert log_in(client, plant).status_code == 303
    assert client.get("/v1/session").json()["name"] == "ann"


def test_a_log_in_ends_in_the_browser_in_which_it_began_and_once(plant: Plant, tmp_path: Path):
    client = client_of(tmp_path, provider_of(plant))
    sent = client.get("/v1/session/account")
    back = urlsplit(plant.log_in(sent.headers["location"]))
    path = f"{back.path}?{back.query}"
    assert TestClient(client.app, follow_redirects=False).get(path).status_code == 401  # a foreign browser
    for state in ("", "?state=", "?state=x&code=code-0"):
        assert client.get(f"/v1/session/account/answer{state}").status_code == 401
    assert client.get(path).status_code == 303
    client.cookies["blemish_log_in"] = parse_qs(back.query)["state"][0]
    assert client.get(path).status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "another"},
        {"aud": "another"},
        {"iss": "https://another.example"},
        {"exp": 1000},
        {"iat": 2**33},
        {"nbf": 2**33},
        {"nonce": None},
        {"sub": None},
    ],
)
def test_what_is_not_of_this_log_in_is_refused(plant: Plant, changes: dict[str, Any], tmp_path: Path):
    plant.changes = changes
    client = client_of(tmp_path, provider_of(plant))
    assert log_in(client, plant).status_code == 401
    assert client.get("/v1/session").json() == {"name": None, "role": None}


def test_another_key_another_secret_and_another_name_are_refused(plant: Plant, tmp_path: Path):
    plant.key = OTHER_KEY
    assert log_in(client_of(tmp_path, provider_of(plant)), plant).status_code == 401
    plant.key = KEY
    assert log_in(client_of(tmp_path, provider_of(plant, "a guess")), plant).status_code == 401
    named = Provider(f"{plant.issuer}/", client=CLIENT, secret=SECRET, roles=["staff=view"])
    assert client_of(tmp_path, named).get("/v1/session/account").status_code == 401


def test_who_is_in_no_group_with_a_role_is_refused(plant: Plant, tmp_path: Path):
    for groups in ([], ["others", ["staff"]], "inspectors"):
        plant.person = ANN | {"groups": groups}
        answer = log_in(client_of(tmp_path, provider_of(plant)), plant)
        assert answer.status_code == 403
        assert answer.json()["detail"] == "ann: is in no group that has a role at this station"


def test_many_log_ins_of_one_address_leave_those_of_others(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_ins, "MOST_OF_ONE", 3)
    monkeypatch.setattr(log_ins, "MOST_BEGUN", 5)
    provider = provider_of(plant)

    def begin(address: str) -> str:
        return provider.begin("http://here/", address)[1]

    ann = begin("10.0.0.1")
    flood = [begin("2001:db8::1"), *(begin(f"2001:db8::{n}") for n in range(5))]  # one network of 64 bits
    assert list(provider.log_ins._begun) == [ann, *flood[-3:]]
    bob = begin("10.0.0.2")
    carl = begin("10.0.0.3")  # all five places are taken: one of the flood goes
    assert list(provider.log_ins._begun) == [ann, *flood[-2:], bob, carl]
    assert provider.log_ins.take(ann).redirect == "http://here/"
    monkeypatch.setattr(log_ins, "LOG_IN_S", -1)
    with pytest.raises(Unauthorized, match="took too long"):
        provider.finish(begin("10.0.0.1"), "code")


def test_a_log_in_is_begun_without_a_question_to_the_provider(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    provider, asked = provider_of(plant), []
    get = requests.get
    monkeypatch.setattr(requests, "get", lambda *given, **more: asked.append(given) or get(*given, **more))
    for _ in range(3):
        provider.begin("http://here/", "10.0.0.1")
    assert len(asked) == 1
    pending = provider.log_ins
    with pending.turn("10.0.0.1"), pending.turn("10.0.0.1"):
        with pytest.raises(Unauthorized, match="many log in at once"), pending.turn("10.0.0.1"):
            pass
        with pending.turn("10.0.0.2"):  # whom the two of the other address do not hold up
            provider.begin("http://here/", "10.0.0.1")
    assert not pending._asking


def test_a_browser_whose_log_in_fails_sees_a_page_that_says_why(plant: Plant, tmp_path: Path):
    plant.person = ANN | {"preferred_username": "<ann>", "groups": []}
    client = client_of(tmp_path, provider_of(plant))
    client.headers["accept"] = "text/html,*/*;q=0.8"
    answer = log_in(client, plant)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert "&lt;ann&gt;: is in no group that has a role at this station" in answer.text
    assert '<a href="/v1/session/account">Log in again</a>' in answer.text
    answer = client.get("/v1/session/account/answer?state=x&code=y")
    assert answer.status_code == 401
    assert "this log-in was not begun in this browser; log in again" in answer.text
    begun = parse_qs(urlsplit(client.get("/v1/session/account").headers["location"]).query)["state"][0]
    answer = client.get(f"/v1/session/account/answer?state={begun}&error=access_denied")
    assert "the provider of the log-in did not say who you are" in answer.text


def test_a_provider_that_says_half_of_itself_is_refused(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    for lacking in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        about = {key: value for key, value in plant.about.items() if key != lacking}
        with monkeypatch.context() as patch:
            patch.setattr(plant, "about", about)
            with pytest.raises(Unauthorized, match=f"the provider does not say its {lacking}"):
                provider_of(plant).begin("http://here/", "10.0.0.1")
    monkeypatch.setattr(plant, "keys", ["no keys"])
    provider = provider_of(plant)
    back = urlsplit(plant.log_in(provider.begin("http://here/", "10.0.0.1")[0]))
    said = {name: values[0] for name, values in parse_qs(back.query).items()}
    with pytest.raises(Unauthorized, match="the provider's answer is not accepted"):
        provider.finish(said["state"], said["code"])


def test_a_station_without_accounts_says_so(tmp_path: Path):
    client = client_of(tmp_path, None)
    assert client.get("/v1/session/ways").json() == {"accounts": False}
    assert client.get("/v1/session/account").status_code == 404


def test_what_cannot_be_is_refused_at_the_start(tmp_path: Path):
    def provider(issuer: str, *roles: str) -> Provider:
        return Provider(issuer, client=CLIENT, secret=None, roles=roles)

    for issuer in ("http://login.example", "ftp://127.0.0.1", "login.example"):
        with pytest.raises(UsageError, match=r"^--oidc .*: must be the https:// address of the provider$"):
            provider(issuer, "a=view")
    for role in ("a", "a=king", "=view"):
        with pytest.raises(UsageError, match=rf"^--oidc-roles {role}: must be GROUP=ROLE"):
            provider("https://login.example", role)
    with pytest.raises(UsageError, match=r"^--oidc-roles: say which group"):
        provider("https://login.example")
    check_binding("0.0.0.0", Tokens(tmp_path), accounts=True)
    down = provider("http://127.0.0.1:1", "a=view")
    with pytest.raises(Unauthorized, match="does not answer"):
        down.begin("http://here/", "127.0.0.1")
