"""The one writer of files: whole or not at all, also when several write, and on disk where promised."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blemish.core.files import make_folder, temporary_for, write_whole


def test_a_file_is_written_whole(tmp_path: Path):
    file = tmp_path / "a.json"
    write_whole(file, "löss\n")
    assert file.read_bytes() == "löss\n".encode()
    write_whole(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    write_whole(file, os.fsdecode(b"\xff.png"))  # a name that is no UTF-8
    assert file.read_text() == "\\udcff.png"
    assert list(tmp_path.iterdir()) == [file]


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path):
    file = tmp_path / "a.json"
    write_whole(file, "old")
    with pytest.raises(ZeroDivisionError), temporary_for(file) as part:
        part.write_text("ne")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_of_the_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "a.json"
    write_whole(file, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "new", durable=True)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_each_call_has_a_temporary_file_of_its_own(tmp_path: Path):
    file, all_there = tmp_path / "a.json", threading.Barrier(8)

    def write(n: int) -> Path:
        with temporary_for(file) as part:
            part.write_text(str(n) * 1000)
            all_there.wait(60)
            assert part.read_text() == str(n) * 1000
        return part

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(write, range(8)))
    assert len(set(parts)) == 8
    assert {part.parent for part in parts} == {tmp_path}  # a rename does not leave the file system
    assert file.read_text() in {str(n) * 1000 for n in range(8)}
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_durable_is_forced_to_disk_around_the_rename(tmp_path: Path, synced: list[Path]):
    file = tmp_path / "a.json"
    write_whole(file, "new", durable=True)
    part, *rest = synced
    assert (part.parent, part.suffix) == (tmp_path, ".tmp")
    assert rest == [file, tmp_path]
    synced.clear()
    write_whole(file, "newer")
    assert synced == [file]


def test_a_mode_holds_from_the_first_byte_on(tmp_path: Path):
    file = tmp_path / "secret"
    with temporary_for(file, mode=0o600) as part:
        assert part.stat().st_mode & 0o777 == 0o600
        part.write_text("a")
    assert file.stat().st_mode & 0o777 == 0o600
    write_whole(file, "b", mode=0o600)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("b", 0o600)


def test_new_folders_are_forced_to_disk(tmp_path: Path, synced: list[Path]):
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert set(synced) == {tmp_path, tmp_path / "a"}
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert synced == []
