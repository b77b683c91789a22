"""What many stations share: models rolled out from a folder or bucket by digest, and users."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from fastapi.testclient import TestClient

from blemish.cli.main import main
from blemish.core.errors import DataError, UsageError
from blemish.data.hashing import file_digest
from blemish.station import rollout, rollout_places
from blemish.station.app import create
from blemish.station.rollout import Rollout
from blemish.station.rollout_places import Bucket
from blemish.station.security import TOKENS, Tokens
from blemish.station.sessions import FILE as SESSIONS
from blemish.station.station import Station


class Shared:
    """The folder that all stations see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, model: Path) -> str:
        digest = file_digest(model)
        shutil.copyfile(model, self.folder / f"{digest}.onnx")
        return digest

    def want(self, **wanted: str) -> None:
        (self.folder / rollout.FILE).write_text(json.dumps(wanted))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks but the test, and answers may take a minute."""
    monkeypatch.setattr(rollout, "INTERVAL", 3600.0)
    monkeypatch.setattr(rollout_places, "TIMEOUT_S", 60.0)


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "shared")


@pytest.fixture
def station(tiny_onnx: Path, tmp_path: Path) -> Iterator[Station]:
    station = Station([tiny_onnx], tmp_path / "station", device="cpu")
    yield station
    station.close()


def in_use(station: Station) -> str:
    (engine,) = station.engines.values()
    return engine.model.digest


def looked(watching: Rollout) -> Rollout:
    assert watching.looked.wait(60)
    return watching


def test_a_version_is_taken_once_and_goes_back(
    station: Station, shared: Shared, tiny_onnx: Path, pca_onnx: Path
):
    said: list[str] = []
    old, new = shared.put(tiny_onnx), shared.put(pca_onnx)
    name = tiny_onnx.stem
    shared.want(**{name: old, "other": "0" * 64})
    watching = looked(Rollout(station, shared.folder, said.append))
    assert in_use(station) == old
    assert said.pop() == (
        f"{shared.folder / rollout.FILE}: names other, and this station has no such model; if it should "
        f"be one of its own, write {name}"
    )
    assert said == []
    shared.want(**{name: new, "other": "0" * 64})
    watching.look()
    assert in_use(station) == new  # and the name that is no model's is told once
    assert said == [f"model {name}: version {new[:8]} is in use, as {shared.folder / rollout.FILE} says"]
    (entry,) = station.store.acts()
    assert (entry.what, entry.who, entry.subject) == ("use", "", new)
    assert entry.detail == {"by": "rollout", "before": old}
    station.use(old)  # what an engineer does on the station stays
    watching.look()
    assert in_use(station) == old
    shared.want(**{name: old})
    watching.look()
    shared.want(**{name: new})
    watching.look()
    assert in_use(station) == new
    watching.close()
    again = Station([tiny_onnx], station.folder, device="cpu")  # and after a restart
    assert in_use(again) == new
    again.close()


class FakeBucket(SimpleHTTPRequestHandler):
    """Serves a folder, as a bucket that anyone may read; `answers` are given in place of files."""

    answers: ClassVar[dict[str, int | bytes]] = {}
    """Of paths: a status, or what is sent as it is."""
    open: ClassVar[threading.Event] = threading.Event()
    """While it is not set no answer is given."""

    def do_GET(self) -> None:
        self.open.wait(60)
        status = self.answers.get(self.path)
        if status is None:
            super().do_GET()
        elif isinstance(status, bytes):
            self.wfile.write(status)
        else:
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def bucket(shared: Shared) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(FakeBucket, directory=str(shared.folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    FakeBucket.open.set()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    FakeBucket.answers.clear()


def test_a_version_comes_from_a_bucket(
    station: Station, shared: Shared, bucket: str, tiny_onnx: Path, pca_onnx: Path
):
    said: list[str] = []
    name, new = tiny_onnx.stem, shared.put(pca_onnx)
    watching = looked(Rollout(station, f"{bucket}/", said.append))
    assert said.pop() == (
        f"no model was rolled out: {bucket}/rollout.json: is not there; copy it there, and let it be read"
    )
    shared.want(**{name: "0" * 64})
    watching.look()
    assert f"{bucket}: has no file {'0' * 64}.onnx; copy it there, and let it be read" in said.pop()
    shared.want(**{name: new})
    file = shared.folder / f"{new}.onnx"
    file.write_bytes(b"another file")
    watching.look()
    assert f"{bucket}/{new}.onnx: its bytes are not those of its name; copy it again" in said.pop()
    for status, why in ((302, "the bucket answered 302"), (500, "the bucket answered 500")):
        FakeBucket.answers[f"/{new}.onnx"] = status
        watching.look()
        assert why in said.pop()
    FakeBucket.answers.clear()
    shutil.copyfile(pca_onnx, file)
    watching.look()
    assert in_use(station) == new
    assert said == [f"model {name}: version {new[:8]} is in use, as {bucket}/rollout.json says"]
    watching.close()


def test_a_slow_bucket_does_not_hold_up_a_start(
    station: Station, shared: Shared, bucket: str, tiny_onnx: Path, pca_onnx: Path
):
    said: list[str] = []
    name, new, old = tiny_onnx.stem, shared.put(pca_onnx), in_use(station)
    shared.want(**{name: new})
    FakeBucket.open.clear()
    watching = Rollout(station, bucket, said.append)
    assert station.problem() is None  # it is ready, with what it has
    assert in_use(station) == old
    assert not watching.looked.is_set()
    FakeBucket.open.set()
    looked(watching).close()
    assert in_use(station) == new


def test_a_bucket_that_is_away_or_not_safe_is_said(station: Station):
    said: list[str] = []
    looked(Rollout(station, "http://127.0.0.1:1/models", said.append)).close()
    assert "http://127.0.0.1:1/models/rollout.json: the bucket does not answer (" in said.pop()
    for address in (
        *("http://bucket.plant/models", "https://", "https://a/b?key=1"),
        *("https://[bad", "https://host:port/models", "https://host/my models", "https://host/mödels"),
    ):
        with pytest.raises(UsageError, match="must be a folder, or a bucket as https://HOST/PATH"):
            Rollout(station, address, said.append)
    with pytest.raises(UsageError, match="give the bucket's https address, as https://HOST/BUCKET"):
        Rollout(station, "s3://models", said.append)
    with pytest.raises(UsageError, match="a password in an address is seen by all users"):
        Rollout(station, "https://ann:secret@bucket.plant/models", said.append)


def test_whatever_a_bucket_answers_the_station_looks_again(shared: Shared, bucket: str, tmp_path: Path):
    head, said = b"HTTP/1.1 200 OK\r\n", list[str]()
    shared.want()
    fake = cast("Station", SimpleNamespace(folder=tmp_path, names=set))
    watching = looked(Rollout(fake, bucket, said.append))
    for answer, why in (
        (b"no HTTP\r\n\r\n", "does not answer (no HTTP)"),
        (head + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{", "does not answer (IncompleteRead"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", "does not answer (Invalid IPv6 URL)"),
        (head + b"Content-Length: 9\r\n\r\n{", "came in part alone"),
        (head + b"\r\n" + b" " * (2**20 + 1), "is larger than 1048576 bytes"),
        (head + b"\r\n" + b"[" * 2**18, "RecursionError"),
    ):
        FakeBucket.answers[f"/{rollout.FILE}"] = answer
        watching.look()
        watching.look()
        assert why in said.pop()
        assert not said
    FakeBucket.answers.clear()
    watching.look()
    watching.close()
    assert not said


def test_a_file_that_still_comes_when_a_station_ends_is_given_up(shared: Shared, bucket: str):
    shared.want()
    closing = threading.Event()
    closing.set()
    with pytest.raises(DataError, match="did not come in time"):
        Bucket(bucket, closing).read(rollout.FILE)


def test_what_is_no_model_is_said_once_and_changes_nothing(
    station: Station, shared: Shared, tiny_onnx: Path, pca_onnx: Path
):
    said: list[str] = []
    name, before = tiny_onnx.stem, in_use(station)
    watching = looked(Rollout(station, shared.folder, said.append))
    assert "No such file" in said.pop()
    for text, why in (('["x"]', "must be"), ("{", "is no JSON"), (f'{{"{name}": "latest"}}', "must be")):
        (shared.folder / rollout.FILE).write_text(text)
        watching.look()
        watching.look()
        assert why in said.pop()
        assert not said
    new = file_digest(pca_onnx)
    shared.want(**{name: new})
    watching.look()
    assert f"has no file {new}.onnx" in said.pop()
    (shared.folder / f"{new}.onnx").write_bytes(b"another file")
    watching.look()
    assert "its bytes are not those of its name" in said.pop()
    junk = shared.folder / "junk"
    junk.write_bytes(b"no model")
    shared.want(**{name: shared.put(junk)})
    watching.look()
    watching.look()
    assert said.pop().startswith(f"model {name}: was not rolled out: ")
    assert not said
    assert in_use(station) == before
    shutil.copyfile(pca_onnx, shared.folder / f"{new}.onnx")
    shared.want(**{name: new})
    watching.look()
    assert in_use(station) == new
    watching.close()


def test_names_without_a_model_are_told_once_each(shared: Shared, tmp_path: Path):
    said: list[str] = []
    here = cast("Station", SimpleNamespace(folder=tmp_path, names=lambda: {"parts:nut", "parts:bolt"}))
    shared.want(parts="0" * 64)
    watching = looked(Rollout(here, shared.folder, said.append))
    assert said.pop().endswith(
        "names parts, and this station has no such model; if it should be one of its own, write parts:bolt, "
        "parts:nut"
    )
    (shared.folder / rollout.FILE).unlink()  # while it is replaced
    watching.look()
    assert "no model was rolled out" in said.pop()
    shared.want(parts="0" * 64, **{f"m{i:02d}": "0" * 64 for i in range(12)})
    watching.look()
    watching.look()
    (line,) = said
    assert "names m00, m01, m02, m03, m04, m05, m06, m07, m08, m09 and 2 more, and" in line
    watching.close()


def test_a_model_that_fails_does_not_hold_up_others(
    shared: Shared, tiny_onnx: Path, pca_onnx: Path, tmp_path: Path
):
    said: list[str] = []
    other = tmp_path / "zz.onnx"
    shutil.copyfile(tiny_onnx, other)
    with other.open("ab") as file:  # another version of the same: an unknown field, which is skipped
        file.write(b"\xfa\x7f\x01x")
    station = Station([tiny_onnx, other], tmp_path / "station", device="cpu")
    new = shared.put(pca_onnx)
    shared.want(**{tiny_onnx.stem: "0" * 64, "zz": new})
    watching = looked(Rollout(station, shared.folder, said.append))
    watching.look()
    assert station.engine("zz").model.digest == new
    assert len(said) == 2
    assert said[0].startswith(f"model {tiny_onnx.stem}: was not rolled out: ")
    assert said[1].startswith("model zz: version ")
    watching.close()
    station.close()


def test_users_in_common_have_sessions_of_each_station(
    station: Station, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    users = tmp_path / "users"
    refused = ["serve", "--model", "x.onnx", "--users", str(users)]
    assert main(refused) == 2
    assert f"make one with `blemish token NAME --folder {users}`" in capsys.readouterr().err
    secret = Tokens(users).add("ann", "judge")
    client = TestClient(create(station, tokens=Tokens(users)), base_url="http://127.0.0.1")
    assert client.get("/v1/session").json() == {"name": None, "role": None}
    assert client.post("/v1/session", content=secret.encode()).status_code == 204
    assert client.get("/v1/session").json() == {"name": "ann", "role": "judge"}
    assert (station.folder / SESSIONS).exists()
    assert [file.name for file in users.iterdir()] == [TOKENS]
    Tokens(users).remove("ann")
    assert client.get("/v1/session").json() == {"name": None, "role": None}
