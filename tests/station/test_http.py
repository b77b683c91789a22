"""What HTTP leaves to a client: the case of names and values, quotes and parameters, and HEAD for GET."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import tiny_image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from fastapi.testclient import TestClient
from requests_to_station import png, send, served

from blemish.station.app import ROUTERS
from blemish.station.security import COOKIE, Tokens


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with served(tiny_model, tmp_path_factory.mktemp("station")) as client:
        yield client


PART = png(tiny_image(0))


def form(boundary: str, disposition: str = "Content-Disposition: form-data; name=") -> bytes:
    image = f'{disposition}"image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'.encode() + PART
    part = f'{disposition}"part"\r\n\r\nP-1'.encode()
    line = f"--{boundary}".encode()
    return line + b"\r\n" + image + b"\r\n" + line + b"\r\n" + part + b"\r\n" + line + b"--\r\n"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=AaB03x",
        "Multipart/Form-Data; boundary=AaB03x",
        "MULTIPART/FORM-DATA; BOUNDARY=AaB03x",
        'multipart/form-data; boundary="AaB03x"',
        "multipart/form-data; charset=utf-8; boundary=AaB03x",
        'multipart/form-data;charset="UTF-8";boundary="AaB03x"',
        "  multipart/form-data ; boundary=AaB03x  ",
        "multipart/form-data ;boundary=AaB03x; Charset=ISO-8859-1",
    ],
)
def test_a_form_is_a_form_however_its_type_is_written(content_type: str, client: TestClient):
    for name in ("Content-Type", "content-type", "CONTENT-TYPE"):
        answer = client.post("/v1/inspections", content=form("AaB03x"), headers={name: content_type})
        assert answer.status_code == 201, answer.text
        assert (answer.json()["part"], answer.json()["path"]) == ("P-1", "a.png")


def test_headers_of_a_part_have_no_case_either_and_quotes_may_hold_much(client: TestClient):
    kind = 'multipart/form-data; boundary="a b:c/d=?+"'
    body = form("a b:c/d=?+", "CONTENT-DISPOSITION: Form-Data; name=")
    answer = client.post("/v1/inspections", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json().get("part")) == (201, "P-1")


@pytest.mark.parametrize(
    "kind", ["image/png", "Image/PNG; q=1", "application/x-www-form-urlencoded", "x", ""]
)
def test_an_image_as_the_body_is_one_whatever_it_is_called(kind: str, client: TestClient):
    answer = client.post("/v1/inspections", content=PART, headers={"Content-Type": kind})
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("multipart/mixed; boundary=AaB03x", "content type multipart/mixed: send multipart/form-data, or"),
        ("Multipart/Related; boundary=AaB03x", "content type multipart/related: send"),
        ("multipart/form-data", "oundary"),
    ],
)
def test_another_kind_of_form_is_refused_by_its_name(kind: str, why: str, client: TestClient):
    answer = client.post("/v1/inspections", content=form("AaB03x"), headers={"Content-Type": kind})
    assert answer.status_code in (400, 422), answer.text
    assert why in answer.json()["detail"]


@pytest.mark.parametrize("charset", ["undefined", "punycode"])
def test_a_charset_that_reads_nothing_is_refused(charset: str, client: TestClient):
    kind = f"multipart/form-data; boundary=AaB03x; charset={charset}"
    body = form("AaB03x").replace(b"P-1", b"P.-\xff.1")
    answer = client.post("/v1/inspections", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "the form's charset does not fit its texts; send UTF-8",
    )


@pytest.mark.parametrize("model", [b"+2AA-", b"a\nb", b"x" * 201])
def test_the_model_that_a_form_names_is_a_short_text(model: bytes, client: TestClient):
    kind = "multipart/form-data; boundary=AaB03x; charset=utf-7"
    body = form("AaB03x").replace(b'"part"', b'"model"').replace(b"P-1", model)
    answer = client.post("/v1/inspections", content=body, headers={"Content-Type": kind})
    said = "`model`: give 1 to 200 printable characters"
    assert (answer.status_code, answer.json()["detail"]) == (422, said)


def get_paths(client: TestClient) -> list[str]:
    """Every path that GET answers, with something that is there for each parameter."""
    said = send(client, PART).json()
    client.app.state.station.following.follow()  # type: ignore[attr-defined]  # so that it changes no answer
    digest = said["model"]
    known = {"{id}": said["id"], "{digest}": digest, "{path:path}": "station.css"}
    paths = []
    for router in ROUTERS:
        for route in router.routes:
            if "GET" in (getattr(route, "methods", None) or ()):
                path = route.path  # pyright: ignore[reportAttributeAccessIssue]
                for name, value in known.items():
                    path = path.replace(name, value)
                paths.append(path)
    assert {"/", "/healthz", "/readyz", "/metrics", "/v1/export.csv", f"/v1/inspections/{said['id']}"} < {
        *paths
    }
    return [*paths, "/v1/summary?since=2026-01-01T00:00:00&until=2026-01-02T00:00:00", "/v1/nothing"]


@pytest.mark.heavy
def test_head_is_answered_wherever_get_is_and_has_no_body(client: TestClient):
    for path in get_paths(client):
        get, head = client.get(path), client.request("HEAD", path)
        assert head.status_code == get.status_code, path
        assert head.content == b""
        if path not in ("/metrics", "/v1/export.csv"):  # which differ from one moment to the next
            assert head.headers.get("content-length") == get.headers.get("content-length"), path
        assert head.headers.get("content-type") == get.headers.get("content-type"), path
        assert head.headers.get("x-content-type-options") == "nosniff"


def test_what_only_takes_other_methods_says_which(client: TestClient):
    assert client.request("HEAD", "/v1/trainings/" + "0" * 26 + "/start").status_code == 405
    for path in ("/healthz", "/v1/models", "/"):
        answer = client.delete(path)
        assert answer.status_code == 405
        assert {"GET", "HEAD"} <= {method.strip() for method in answer.headers["allow"].split(",")}


def test_head_needs_the_role_of_get(tiny_model: Path, tmp_path: Path):
    secret = Tokens(tmp_path).add("line", "view")
    with served(tiny_model, tmp_path) as client:
        session = client.post("/v1/session", content=secret.encode()).cookies[COOKIE]
        client.cookies.clear()
        for path in ("/v1/inspections", "/v1/models", "/metrics", "/v1/trainings"):
            assert client.request("HEAD", path).status_code == 401
            for way in (f"Bearer {secret}", f"bearer {secret}", f"BEARER   {secret} "):
                assert client.request("HEAD", path, headers={"authorization": way}).status_code == 200
            for cookie in (f"{COOKIE}={session}", f'a=b; {COOKIE}="{session}"'):
                assert client.request("HEAD", path, headers={"cookie": cookie}).status_code == 200
        assert client.request("HEAD", "/healthz").status_code == 200


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://testserver", "testserver", True),
        ("HTTP://TestServer:80", "testserver", True),
        ("https://testserver", "testserver:443", True),
        ("https://testserver:443", "TESTSERVER", True),
        ("http://testserver:8000", "testserver", False),
        ("http://testserver:443", "testserver", False),
        ("https://elsewhere", "testserver", False),
        ("testserver", "testserver", False),
        ("null", "testserver", False),
    ],
)
def test_an_origin_is_compared_as_urls_are(origin: str, host: str, allowed: bool, client: TestClient):
    headers = {"Origin": origin, "Host": host}
    assert client.post("/v1/inspections", content=PART, headers=headers).status_code == (
        201 if allowed else 403
    )
