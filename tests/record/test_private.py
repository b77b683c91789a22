"""Who may read the record: its owner, and nobody who only has an account on the machine."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the station's packages are not installed")

from blemish.cli.main import main
from blemish.core.errors import UsageError
from blemish.core.files import make_private_folder
from blemish.record.database import SQLITE_NAME, refuse_password
from blemish.record.store import Store
from blemish.station.security import Tokens

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_record_is_its_owners_alone(tmp_path: Path):
    folder = tmp_path / "a" / "station"
    store = Store.open(None, folder)
    assert mode(folder) == 0o700
    assert {mode(each) for each in folder.iterdir()} == {0o600}  # the database and its log
    store.close()
    Tokens(tmp_path / "b").add("ann", "view")
    assert mode(tmp_path / "b") == 0o700


def test_a_record_from_before_is_closed_to_others_and_not_to_its_group(tmp_path: Path):
    Store.open(None, tmp_path).close()
    tmp_path.chmod(0o755)
    (tmp_path / SQLITE_NAME).chmod(0o664)
    Store.open(None, tmp_path).close()
    assert (mode(tmp_path), mode(tmp_path / SQLITE_NAME)) == (0o750, 0o660)


def test_a_folder_of_others_stays_as_it_is(tmp_path: Path):
    tmp_path.chmod(0o777)
    make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o777
    tmp_path.chmod(0o1777)
    make_private_folder(tmp_path, ours=True)
    assert mode(tmp_path) == 0o1777
    elsewhere = tmp_path / "line.db"
    Store.open(f"sqlite:///{elsewhere}", tmp_path).close()
    assert mode(elsewhere) == 0o600


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@there/db", "postgresql://me@there/db?password=secret"]
)
def test_a_password_is_not_taken_where_all_see_it(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(UsageError, match=r"^--database: a password on the command line is seen"):
        refuse_password(url)
    model = ["--model", str(tmp_path / "none.onnx")]
    for command in (
        ["serve", *model, "--folder", str(tmp_path / "station"), "--database", url],
        ["watch", *model, "--folder", str(tmp_path), "--out", str(tmp_path / "out"), "--database", url],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "put it into the file ~/.pgpass" in said
        assert "secret" not in said
    assert not (tmp_path / "station").exists()


@pytest.mark.parametrize("url", [None, "sqlite", "here", "sqlite:///x.db", "postgresql://me@there/db"])
def test_urls_without_one_are_taken(url: str | None):
    refuse_password(url)
