"""A station behind a proxy: the examples of nginx and Caddy are read, and what they send is sent."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import tiny_image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from fastapi.testclient import TestClient
from processes import free_port
from requests_to_station import listening, png
from waiting import wait_for

from blemish.core.errors import UsageError
from blemish.station.app import create
from blemish.station.proxy import place_of
from blemish.station.security import COOKIE, Tokens, check_binding
from blemish.station.station import Station

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "proxy"
NAME = "station.plant.example"
PLACE = place_of("127.0.0.1", names=[NAME], trusted=["127.0.0.1"], root_path="/station")
PROXY = ("127.0.0.1", 50000)
PART = png(tiny_image(0))


@pytest.fixture(scope="module")
def station(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    station = Station([tiny_model], tmp_path_factory.mktemp("station"), device="cpu")
    yield station
    station.close()


@pytest.fixture(scope="module")
def secret(station: Station) -> str:
    return Tokens(station.folder).add("ann", "engineer")


def client_of(station: Station, place=PLACE, client: tuple[str, int] = PROXY) -> TestClient:
    app = create(station, tokens=Tokens(station.folder), place=place)
    return TestClient(app, base_url="http://127.0.0.1:8000", client=client, follow_redirects=False)


def sent_by_nginx(scheme: str, host: str, client: str) -> dict[str, str]:
    """The headers that the example of nginx adds."""
    values = {
        "$http_host": host,
        "$host": host.partition(":")[0],
        "$scheme": scheme,
        "$proxy_add_x_forwarded_for": client,
        '""': "",
    }
    config = (EXAMPLES / "nginx.conf").read_text()
    location = re.search(r"location /station/ \{(.*?)\n    \}", config, re.DOTALL)
    assert location
    assert "proxy_pass http://127.0.0.1:8000;" in location[1]  # no path: the request's goes on as it is
    found = re.findall(r"proxy_set_header (\S+) (\S+);", location[1])
    return {name: values[value] for name, value in found if values[value]}


def sent_by_caddy(scheme: str, host: str, client: str) -> dict[str, str]:
    """The headers that Caddy adds by itself; its example must not take the path away."""
    config = (EXAMPLES / "Caddyfile").read_text()
    assert re.search(r"handle /station/\* \{\s+reverse_proxy 127\.0\.0\.1:8000\s+\}", config)
    return {"Host": host, "X-Forwarded-Proto": scheme, "X-Forwarded-For": client, "X-Forwarded-Host": host}


@pytest.mark.parametrize("sends", [sent_by_nginx, sent_by_caddy])
@pytest.mark.heavy
def test_the_examples_work(sends, station: Station, secret: str):
    client, seen = client_of(station), sends("https", NAME, "10.1.2.3")
    assert client.get("/station", headers=seen).headers["location"] == "/station/"
    assert "<script" in client.get("/station/", headers=seen).text
    assert client.get("/station/static/station.js", headers=seen).status_code == 200
    as_page = seen | {"Origin": f"https://{NAME}"}
    answer = client.post("/station/v1/session", content=secret, headers=as_page)
    assert answer.status_code == 204, answer.text
    cookie = answer.headers["set-cookie"]
    assert "; Secure" in cookie
    assert "; Path=/station/" in cookie
    assert "; HttpOnly" in cookie
    as_page |= {"Cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}
    answer = client.post("/station/v1/inspections", content=PART, headers=as_page)
    assert answer.status_code == 201, answer.text
    assert client.get(f"/station{answer.json()['image']}", headers=as_page).content == PART
    foreign = as_page | {"Origin": "https://elsewhere.example"}
    assert client.post("/station/v1/inspections", content=PART, headers=foreign).status_code == 403
    described = client.get("/station/openapi.json", headers=as_page).json()
    assert described["servers"] == [{"url": "/station"}]
    moved = client.get("/station/v1/models/", headers=as_page).headers["location"]
    assert moved.endswith("/station/v1/models")
    assert client.delete("/station/v1/session", headers=as_page).headers["set-cookie"].count("Path=/station/")


def test_nginx_as_it_comes_and_a_proxy_that_takes_the_path_away(station: Station, secret: str):
    client = client_of(station)
    plain = {"Host": "127.0.0.1:8000", "Origin": f"https://{NAME}"}  # no header is set
    answer = client.post("/v1/session", content=secret, headers=plain)
    assert answer.status_code == 204, answer.text
    assert "; Path=/station/" in answer.headers["set-cookie"]
    assert "Secure" not in answer.headers["set-cookie"]


def test_a_stranger_is_not_believed_that_it_came_by_https(station: Station, secret: str):
    client = client_of(station, client=("10.9.9.9", 50000))
    seen = sent_by_caddy("https", NAME, "127.0.0.1")
    answer = client.post("/v1/session", content=secret, headers=seen)
    assert answer.status_code == 204
    assert "Secure" not in answer.headers["set-cookie"]


def test_the_names_it_answers_to(station: Station):
    client = client_of(station)
    for host in (NAME, f"{NAME}:8443", NAME.upper(), "127.0.0.1:8000", "localhost"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
    assert client.get("/healthz", headers={"Host": "elsewhere.example"}).status_code == 400
    other = place_of("127.0.0.2", names=[], trusted=[], root_path="")
    client = client_of(station, other)
    assert client.get("/healthz", headers={"Host": "127.0.0.2:8000"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "elsewhere.example"}).status_code == 400
    assert place_of("0.0.0.0", names=[], trusted=[], root_path="").hosts == ()
    assert "[::1]" in place_of("::1", names=[], trusted=[], root_path="/").hosts


def test_the_page_asks_below_its_path():
    web = Path(__file__).resolve().parents[2] / "src" / "blemish" / "station" / "web"
    for page in web.glob("*.html"):
        assert not re.search(r'(?:href|src)="/', page.read_text()), page
    for script in web.glob("*.js"):
        direct = re.findall(r"\bfetch\((?!urlOf\()|src: `\$\{inspection|href = [`\"]/", script.read_text())
        assert not direct, script


def test_options_that_are_wrong_are_refused(tmp_path: Path):
    for options, said in (
        ({"names": [f"https://{NAME}"]}, "--name https://"),
        ({"trusted": ["proxy.plant"]}, "--trusted-proxy proxy.plant: must be the address"),
        ({"root_path": "station"}, "--root-path station: must be a path"),
        ({"root_path": "/a/../b"}, "--root-path"),
    ):
        with pytest.raises(UsageError, match=f"^{said}"):
            place_of("127.0.0.1", **({"names": [], "trusted": [], "root_path": ""} | options))
    with pytest.raises(UsageError, match=f"^--name {NAME}: other machines reach it, so a token"):
        check_binding("127.0.0.1", Tokens(tmp_path), proxies=[f"--name {NAME}"])


# --- with nginx itself ------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.server
def test_nginx_itself(station: Station, secret: str, tmp_path: Path):
    port = free_port()
    app = create(station, tokens=Tokens(station.folder), place=PLACE)
    with listening(app) as behind:
        config = (EXAMPLES / "nginx.conf").read_text().replace(":8000;", f":{behind};")
        config = config.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")  # without a certificate
        config = re.sub(r"ssl_certificate.*", "", config).replace("$scheme", "https")
        paths = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole = f"pid {tmp_path}/pid; daemon off; events {{}} http {{ access_log off; {paths}\n"
        (tmp_path / "nginx.conf").write_text(f"{whole}{config}}}\n")
        command = ["nginx", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as nginx:
            try:
                wait_for(lambda: nginx.poll() is not None or (tmp_path / "pid").exists())

                def ask(method: str, path: str, body: bytes | None = None, **headers: str):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    connection.request(method, path, body, {"Host": NAME, **headers})
                    answer = connection.getresponse()
                    return answer.status, answer.read(), answer.headers

                assert ask("GET", "/station")[0] == 307
                assert ask("GET", "/station/")[0] == 200
                status, said, headers = ask(
                    "POST", "/station/v1/session", secret.encode(), Origin=f"https://{NAME}"
                )
                assert status == 204, said
                assert "; Secure" in headers["set-cookie"]
                cookie = {"Cookie": headers["set-cookie"].partition(";")[0], "Origin": f"https://{NAME}"}
                assert ask("POST", "/station/v1/inspections", PART, **cookie)[0] == 201
            finally:
                nginx.terminate()
