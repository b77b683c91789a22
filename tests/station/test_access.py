"""Who may call a route stands at the route, and the service holds to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from fastapi import APIRouter
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from requests_to_station import served
from starlette.routing import Mount, Route

from blemish.core.errors import DataError
from blemish.station.app import ROUTERS
from blemish.station.routes.access import RouteRoles, stated_role
from blemish.station.security import ROLES, Caller, Forbidden, Tokens, check_role

PUBLIC = {
    ("GET", "/"),
    ("GET", "/static/{path:path}"),
    ("HEAD", "/static/{path:path}"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v1/session"),
    ("GET", "/v1/session/ways"),
    ("GET", "/v1/session/account"),
    ("GET", "/v1/session/account/answer"),
    ("POST", "/v1/session"),
    ("DELETE", "/v1/session"),
}
"""What a stranger may call: the page itself, its log-in, and whether the service is alive."""
ROLE_OF = {
    ("POST", "/v1/inspections"): "inspect",
    ("POST", "/v1/inspections/{id}/verdict"): "judge",
    ("POST", "/v1/inspections/{id}/withdrawal"): "judge",
    ("POST", "/v1/alarms/{id}/acknowledgement"): "judge",
    ("GET", "/v1/audit-log"): "engineer",
}
"""The roles of these; all else that changes something is an engineer's, and whoever has a role may read."""


def routes() -> Iterator[tuple[str, APIRoute]]:
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            for method in sorted(route.methods):
                yield method, route


def address(route: APIRoute) -> str:
    some = {"{id}": "0" * 26, "{digest}": "a" * 64, "{path:path}": "station.js"}
    path = route.path
    for name, value in some.items():
        path = path.replace(name, value)
    assert "{" not in path
    return path


@pytest.fixture(scope="module")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("station")
    tokens = Tokens(folder)
    secrets = {role: tokens.add(role, role) for role in ROLES}
    with served(tiny_model, folder) as client:
        client.secrets = secrets
        yield client


def status(client: TestClient, method: str, path: str, role: str | None = None, **body: object) -> int:
    headers = {"Authorization": f"Bearer {client.secrets[role]}"} if role else {}
    return client.request(method, path, headers=headers, **body).status_code


def test_every_route_says_who_may_call_it():
    stated = {(method, route.path): stated_role(route) for method, route in routes()}
    assert len(stated) > 30
    assert {each for each, role in stated.items() if role is None} == PUBLIC
    for (method, path), role in stated.items():
        if role is not None:
            usual = "view" if method == "GET" else "engineer"
            assert role == ROLE_OF.get((method, path), usual), (method, path)


def test_the_application_has_no_route_beside_these(guarded: TestClient):
    assert not [each for each in guarded.app.routes if isinstance(each, Mount) or type(each) is Route]
    described = {
        (method.upper(), path)
        for path, methods in guarded.app.openapi()["paths"].items()
        for method in methods
    }
    assert described <= {(method, route.path) for method, route in routes()}


def test_every_route_refuses_others(guarded: TestClient):
    for method, route in routes():
        path, role = address(route), stated_role(route)
        nobody = status(guarded, method, path)
        if role is None:
            assert path.startswith("/v1/session") or nobody == 200, path
            continue
        assert nobody == 401, (method, path)
        below = ROLES.index(role)
        for other in ROLES[:below]:
            assert status(guarded, method, path, other, json={}) == 403, (method, path, other)
        assert status(guarded, method, path, role, json={}) not in (401, 403), (method, path)


def test_each_role_may_what_those_before_it_may():
    for place, role in enumerate(ROLES):
        for needed in ROLES[: place + 1]:
            check_role(Caller("ann", role), needed)
        for needed in ROLES[place + 1 :]:
            with pytest.raises(Forbidden, match=f"^ann has the role {role}; this needs the role {needed}$"):
                check_role(Caller("ann", role), needed)


def test_tokens_of_the_two_roles_of_before_are_read(tmp_path: Path):
    tokens = Tokens(tmp_path)
    secrets = [tokens.add(name, "view") for name in ("ann", "bob")]
    text = tokens.file.read_text()
    for former, role in (("view", "view"), ("operator", "engineer")):
        tokens.file.write_text(text.replace('"view"', f'"{former}"'))
        found = Tokens(tmp_path).of(secrets[1])
        assert found is not None
        assert found.role == role
    tokens.file.write_text(text.replace('"view"', '"king"'))
    with pytest.raises(DataError, match=r"king: no role"):
        Tokens(tmp_path)


def test_a_stranger_s_body_is_not_looked_at(guarded: TestClient):
    broken = {"content": b"{", "headers": {"content-type": "application/json"}}
    assert guarded.post("/v1/trainings", **broken).status_code == 401
    as_viewer = {**broken["headers"], "authorization": f"Bearer {guarded.secrets['view']}"}
    assert guarded.post("/v1/trainings", content=b"{", headers=as_viewer).status_code == 403


def test_what_no_route_has_is_hidden_from_strangers(guarded: TestClient):
    for method, path, found in (
        ("GET", "/v1/nothing", 404),
        ("POST", "/wp-login.php", 404),
        ("GET", "/v1/models/", 307),
        ("DELETE", "/v1/models", 405),
    ):
        assert guarded.request(method, path, follow_redirects=False).status_code == 401, path
        headers = {"Authorization": f"Bearer {guarded.secrets['view']}"}
        answer = guarded.request(method, path, headers=headers, follow_redirects=False)
        assert answer.status_code == found, path


def test_a_route_that_does_not_say_is_refused_at_the_start():
    router = APIRouter()

    @router.get("/open")
    def silent() -> None: ...

    with pytest.raises(LookupError, match=r"/open: its signature does not say who may call it"):
        RouteRoles([router])


def test_tokens_that_cannot_be_read_are_a_503(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They may lie on a share that is away for a moment."""

    def away(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with served(tiny_model, tmp_path / "station") as client:
        with monkeypatch.context() as patch:
            patch.setattr("blemish.station.sessions.Sessions.caller", away)
            refused = client.get("/v1/models")
        assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (503, "the disk refuses")
        assert client.get("/v1/models").status_code == 200
