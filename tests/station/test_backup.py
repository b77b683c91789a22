"""Backups: made while the station records, checked byte by byte, and made a station of again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from databases import inspection, new_url, verdict

from blemish.core.errors import DataError, UsageError
from blemish.record.archive import Archive
from blemish.record.audit_log import Act
from blemish.record.store import Inspection, Store
from blemish.record.versions import Versions
from blemish.station import backup
from blemish.station.restore import restore
from blemish.station.security import Tokens

__all__ = ["new_url"]  # a fixture


class Place:
    """The folder of a station, its record, and parts with files."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder, self.url = folder, url
        self.store = Store.open(url, folder)
        self.archive = Archive(folder / "archive")

    def part(self, k: int) -> Inspection:
        image, map = (self.archive.put(f"{kind} {k}".encode(), kind) for kind in ("image", "map"))
        made = inspection(k, image=image, map=map, anomalous=True, error=None, part=f"P-{k}", station="east")
        self.store.record([made])
        return made

    def back_up(self, to: Path) -> backup.Backup:
        return backup.back_up(self.folder, to, url=self.url)


@pytest.fixture
def place(new_url: Callable[[], str], tmp_path: Path) -> Place:
    made = Place(tmp_path / "station", None if (url := new_url()).startswith("sqlite") else url)
    for k in range(5):
        made.part(k)
    first = made.store.find()[-1]
    made.store.add_verdict(verdict(first, 0, "defect", note="dünn", by="ann"))
    made.store.note(Act(who="ann", what="verdict", subject=first.id))
    Tokens(made.folder).add("ann", "judge")
    (tmp_path / "lid.onnx").write_bytes(b"a model")
    Versions(made.folder / "models").adopt(tmp_path / "lid.onnx", "lid")
    return made


def everything(store: Store) -> list[object]:
    found = store.find(limit=100)
    return [
        found,
        store.verdicts([each.id for each in found]),
        store.models(),
        store.alarms(),
        store.check_log(),
    ]


def test_a_backup_becomes_the_same_station_again(
    place: Place, tmp_path: Path, new_url: Callable[[], str], capsys: pytest.CaptureFixture[str]
):
    made = place.back_up(tmp_path / "safe")
    assert (made.inspections, made.files, made.damaged) == (5, 10, ())
    assert backup.check(tmp_path / "safe") == made
    url = None if place.url is None else new_url()
    assert restore(tmp_path / "safe", tmp_path / "new", url=url) == made
    again = Place(tmp_path / "new", url)
    assert everything(again.store) == everything(place.store)
    for each in again.store.find():
        assert each.image is not None
        assert again.archive.read(each.image, "image") == place.archive.read(each.image, "image")
    for name in ("tokens.json", "models/versions.json"):
        assert (tmp_path / "new" / name).read_bytes() == (place.folder / name).read_bytes()
    assert (tmp_path / "new" / "station.db").exists() == (url is None)
    later = again.part(7)  # and it goes on: rows and verdicts get numbers of their own
    again.store.add_verdict(verdict(later, 1, "good"))
    with pytest.raises(UsageError, match=r"holds .*restore into an empty folder"):
        restore(tmp_path / "safe", tmp_path / "new", url=url)


def test_a_restore_writes_over_nothing(tmp_path: Path):
    place = Place(tmp_path / "station", None)
    place.part(0)
    Tokens(place.folder).add("ann", "judge")
    safe = tmp_path / "safe"
    place.back_up(safe)
    for name, what in (("tokens.json", "tokens"), ("models", "models"), ("archive", "an archive")):
        used = tmp_path / what / name
        used.mkdir(parents=True)
        with pytest.raises(UsageError, match=f"holds {what}; restore into an empty folder"):
            restore(safe, used.parent)
        assert [file.name for file in used.parent.iterdir()] == [name]
    other = Place(tmp_path / "other", None)
    other.part(1)
    with pytest.raises(UsageError, match="holds a record; give an empty one"):
        restore(safe, tmp_path / "new", url=f"sqlite:///{other.folder / 'station.db'}")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_recorded_meanwhile_is_in_the_next_one(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = Archive.read
    meanwhile = iter([lambda: place.part(50), lambda: _make_room(place)])

    def read_and_go_on(self: Archive, hash: str, kind: str) -> bytes:
        next(meanwhile, lambda: None)()
        return read(self, hash, kind)

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "read", read_and_go_on)
        made = place.back_up(tmp_path / "safe")
    assert made.inspections == 5
    assert made.damaged == ()
    assert made.files == 8  # two were removed to make room while it was made
    backup.check(tmp_path / "safe")
    assert place.back_up(tmp_path / "safe").inspections == 6
    assert backup.check(tmp_path / "safe").files == 10


def _make_room(place: Place) -> None:
    oldest = place.store.find()[-1]
    place.store.forget_files([oldest.id], time=datetime.now(UTC))
    for hash, kind in ((oldest.image, "image"), (oldest.map, "map")):
        assert hash is not None
        place.archive.delete(hash, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["added", "removed", "added and removed"])
def test_what_the_index_of_a_backup_names_is_in_it(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "lid.onnx").write_bytes(b"a model")
    versions = Versions(tmp_path / "station" / "models")
    first = versions.adopt(tmp_path / "lid.onnx", "lid")
    spare = versions.add(b"spare", suffix=".onnx", of=first, parts="{}")
    changes = {
        "added": lambda: versions.use(versions.add(b"new", suffix=".onnx", of=first)),
        "removed": lambda: versions.remove_unused(lambda _: set(), before=2e10),
    }
    meanwhile = iter([changes[each] for each in what.split(" and ")])
    copy = backup._copy

    def go_on_and_copy(source: Path, target: Path) -> None:
        next(meanwhile, lambda: None)()
        copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_copy", go_on_and_copy)
        backup.copy_small(tmp_path / "station", tmp_path / "safe")
    kept = Versions(tmp_path / "safe" / "models")
    assert kept.file(kept.active(first)).exists()
    named = json.loads((tmp_path / "safe" / "models" / "versions.json").read_text())["files"]
    assert (spare in named) == (what == "added")
    assert all((tmp_path / "safe" / "models" / file).exists() for file in named.values())
    backup.copy_small(tmp_path / "station", tmp_path / "safe")
    assert Versions(tmp_path / "safe" / "models").active(first) == versions.active(first)


def test_a_version_that_is_named_and_lost_ends_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lid.onnx").write_bytes(b"a model")
    versions = Versions(tmp_path / "station" / "models")
    lost = versions.file(versions.adopt(tmp_path / "lid.onnx", "lid"))
    copy = backup._copy
    monkeypatch.setattr(backup, "_copy", lambda *paths: (lost.unlink(missing_ok=True), copy(*paths)))
    with pytest.raises(FileNotFoundError):
        backup.copy_small(tmp_path / "station", tmp_path / "safe")
    assert not (tmp_path / "safe" / "models" / "versions.json").exists()


def test_what_is_wrong_is_found(tmp_path: Path):
    place = Place(tmp_path / "station", None)
    parts = [place.part(k) for k in range(3)]
    image = place.archive.path(parts[0].image or "", "image")
    image.write_bytes(b"other bytes")
    made = place.back_up(tmp_path / "safe")
    assert made.damaged == (f"image {parts[0].image}",)
    assert backup.check(tmp_path / "safe") == made  # it holds what the station had
    copied = Archive(tmp_path / "safe" / "archive").path(parts[1].image or "", "image")
    copied.write_bytes(b"other bytes")
    with pytest.raises(DataError, match="no longer those that were recorded"):
        backup.check(tmp_path / "safe")
    with pytest.raises(DataError):
        restore(tmp_path / "safe", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    copied.unlink()
    with pytest.raises(DataError, match="is missing"):
        backup.check(tmp_path / "safe")
    (tmp_path / "safe" / "station.db").write_bytes(b"SQLite format 3\0" + bytes(2000))
    with pytest.raises(DataError, match="is damaged"):
        backup.check(tmp_path / "safe")
    (tmp_path / "safe" / "backup.json").unlink()
    with pytest.raises(UsageError, match="is no finished backup"):
        backup.check(tmp_path / "safe")


def test_where_many_share_a_record_the_files_are_those_of_one(tmp_path: Path):
    place = Place(tmp_path / "station", None)
    place.part(0)
    place.store.record([inspection(1, image="a" * 64, station="west"), inspection(2, image="b" * 64)])
    safe = tmp_path / "safe"
    made = backup.back_up(place.folder, safe, station="east")
    assert (made.inspections, made.files, made.damaged) == (3, 2, ())
    assert backup.check(safe) == made
    assert len(place.back_up(safe).damaged) >= 2


def test_no_record_is_made_or_changed_by_a_backup(tmp_path: Path):
    with pytest.raises(UsageError, match="holds no record"):
        backup.back_up(tmp_path / "nowhere", tmp_path / "safe")
    assert not (tmp_path / "nowhere").exists()
    place = Place(tmp_path / "station", None)
    place.store.close()
    with sqlite3.connect(place.folder / "station.db") as opened:
        opened.execute("UPDATE blemish_version SET version_num = '0001'")
    with pytest.raises(UsageError, match="is of an older blemish"):
        place.back_up(tmp_path / "safe")
    assert not (tmp_path / "safe").exists()


@pytest.mark.heavy
def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from blemish.cli.main import main

    place = Place(tmp_path / "station", None)
    damaged = place.part(0)
    folder, safe = ["--folder", str(place.folder)], str(tmp_path / "safe")
    assert main(["backup", *folder, "--to", safe]) == 0
    assert "1 inspections, 2 files" in capsys.readouterr().out
    assert main(["backup", "--to", safe, "--check"]) == 0
    assert main(["restore", "--backup", safe, "--folder", str(tmp_path / "new")]) == 0
    place.archive.path(damaged.map or "", "map").unlink()
    assert main(["backup", *folder, "--to", safe]) == 1
    said = capsys.readouterr().out
    assert f"map {damaged.map}: the station does not have it any more" in said
    assert "the backup keeps the copy of an earlier one" in said
    about = json.loads((tmp_path / "safe" / "backup.json").read_text())
    assert (about["files"], about["damaged"], about["kept"]) == (2, [], [f"map {damaged.map}"])
    assert main(["restore", "--backup", safe, "--folder", str(tmp_path / "old")]) == 1
    kept = Archive(tmp_path / "old" / "archive").read(damaged.map or "", "map")
    assert kept == Archive(tmp_path / "safe" / "archive").read(damaged.map or "", "map")
    Archive(tmp_path / "safe" / "archive").path(damaged.map or "", "map").write_bytes(b"other bytes")
    assert main(["backup", *folder, "--to", safe]) == 1  # and a copy that is damaged too is none
    assert f"map {damaged.map}: the station does not have it any more" in capsys.readouterr().out
    assert json.loads((tmp_path / "safe" / "backup.json").read_text())["damaged"] == [f"map {damaged.map}"]
    assert main(["backup", *folder, "--to", str(place.folder)]) == 2
