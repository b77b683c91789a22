"""Watching a folder: each file is recorded once, whatever happens."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import refused
from conftest import save, tiny_image
from fakes import grey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warm import Warm, blemish
from watched import Crash, Place, check, command, rows_of

from blemish.core.errors import DataError
from blemish.core.files import write_whole
from blemish.images import folders
from blemish.inference.predict_folder import inspect
from blemish.watch import folder as watching
from blemish.watch.ledger import Arrival, Ledger


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


# --- once, whatever happens ---


@pytest.mark.parametrize("step", ["score", "before", "middle", "after", "told"])
def test_a_crash_at_any_step_leaves_each_file_recorded_once(
    step: str, place: Place, monkeypatch: pytest.MonkeyPatch
):
    names = [f"{i}.png" for i in range(7)]
    for i, name in enumerate(names):
        grey(place.folder / name, 40 * i)
    append, hear, lives = Ledger.append, place.hear, 0

    def second(self: Ledger) -> bool:  # in each life one file gets through
        return self.sequence - before == 1

    def crash(self: Ledger, arrival: Arrival, row: dict[str, Any]) -> None:
        if second(self) and step == "before":
            raise Crash
        if second(self) and step == "middle":
            self._file.write(json.dumps(row).encode()[: 10 * lives])
            self._file.flush()
            raise Crash
        append(self, arrival, row)
        if self.sequence - before == 2 and step == "after":
            raise Crash

    def scored(*given: Any) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(inspect(*given)):
            if number == 1 and step == "score":
                raise Crash
            yield row

    def told(row: dict[str, Any]) -> None:
        if step == "told" and row["sequence"] - before == 2:
            raise Crash
        hear(row)

    monkeypatch.setattr(Ledger, "append", crash)
    monkeypatch.setattr(watching, "inspect", scored)
    monkeypatch.setattr(place, "hear", told)
    before, moved = 0, place.folder.parent / "moved"
    while True:
        try:
            place.watch(move_to=moved)
            break
        except Crash:
            lives += 1
            before = (place.out / "inspections.jsonl").read_bytes().count(b"\n")
    assert lives >= 3
    check(place.out, names)
    assert sorted(p.name for p in moved.rglob("*.png")) == names
    assert folders.list_images(place.folder) == []


@pytest.fixture(scope="module")
def ledger_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("ledger") / "x"
    ledger = Ledger(file)
    for i in range(1, 4):
        ledger.append(*entry(i))
    ledger.close()
    return file.read_bytes()


def entry(i: int) -> tuple[Arrival, dict[str, Any]]:
    return Arrival(f"ä\udcff{i}", i, -i), {"sequence": i, "path": f"ä\udcff{i}", "size": i, "mtime_ns": -i}


@given(cut=st.integers(0, 400))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_a_ledger_that_was_cut_off_anywhere_is_mended(cut: int, ledger_bytes: bytes, tmp_path: Path):
    file, left = tmp_path / "x", ledger_bytes[:cut]
    file.write_bytes(left)
    whole = left.count(b"\n")
    ledger = Ledger(file)
    assert (ledger.sequence, ledger.seen) == (whole, {entry(i)[0] for i in range(1, whole + 1)})
    for i in range(whole + 1, 4):
        ledger.append(*entry(i))
    ledger.close()
    assert file.read_bytes() == ledger_bytes


@pytest.mark.parametrize(
    "foreign", [b"hello\n", b"[1]\n", b"{}\n", b"\xff\xfe\n", b"3\n", b'{"path": [], "size": 1}\n']
)
def test_a_ledger_with_something_else_in_it_is_refused_and_left_alone(
    foreign: bytes, place: Place, ledger_bytes: bytes, capsys: pytest.CaptureFixture[str]
):
    file = place.out / "inspections.jsonl"
    place.out.mkdir()
    file.write_bytes(ledger_bytes + foreign)
    with pytest.raises(DataError):
        Ledger(file)
    line = refused(capsys, *command(place))
    assert line == f"blemish watch: {file}: line 4 is not a row of a ledger; give another --out"
    assert file.read_bytes() == ledger_bytes + foreign


def live_again_and_again(ledger: Path, files: int, held: tuple[Path, Path], *arguments: str | Path) -> int:
    """Run `blemish ARGUMENTS` eleven times: it is killed ten times, and asked to end when all is recorded.

    How many are recorded when a life begins is written into the file `begun` beside the folder.
    """
    begun = held[1].parent.with_name("begun")

    def count() -> int:
        return ledger.read_bytes().count(b"\n") if ledger.exists() else 0

    lives = []
    for life in range(11):
        if life == 10:
            held[0].rename(held[1])  # so that the last life has something to do before it is asked to end
        before, began = count(), time.monotonic()
        write_whole(begun, str(files if life == 10 else before))
        pid = os.fork()
        if not pid:
            os._exit(blemish(*arguments))
        while time.monotonic() - began < 120 and (
            count() < files if life == 10 else count() == before < files - 1
        ):
            time.sleep(0.005)
        time.sleep(random.Random(life).uniform(0, 0.05) if life < 10 else 0)
        os.kill(pid, signal.SIGTERM if life == 10 else signal.SIGKILL)
        lives.append((os.waitpid(pid, 0)[1], before))
    print("\n" + json.dumps(lives))
    return 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills what it forks")
def test_killed_ten_times_while_files_keep_arriving(tiny_model: Path, tmp_path: Path):
    folder, out, moved = tmp_path / "in", tmp_path / "out", tmp_path / "moved"
    folder.mkdir()
    names = [f"{i:02d}.png" for i in range(40)]
    data = [save(tmp_path / "made" / name, tiny_image(i)).read_bytes() for i, name in enumerate(names)]
    ended, ledger, begun = threading.Event(), out / "inspections.jsonl", tmp_path / "begun"

    def begun_with() -> int:
        return int(begun.read_text()) if begun.exists() else 0

    def write() -> None:
        for number, (name, content) in enumerate(zip(names[:-1], data, strict=False)):
            while number - begun_with() > 3 and not ended.wait(0.02):  # a few for each life
                pass
            with (folder / name).open("wb") as file:
                file.write(content[:2000])
                file.flush()
                ended.wait(0.02)
                file.write(content[2000:])

    held = (tmp_path / "made" / names[-1], folder / names[-1])
    writer = threading.Thread(target=write)
    writer.start()
    options = ("--model", tiny_model, "--folder", folder, "--out", out, "--move-to", moved, "--device", "cpu")
    said = {"out": tmp_path / "said.out", "err": tmp_path / "said.err"}
    process = Warm(live_again_and_again, ledger, len(names), held, "watch", *options, **said)
    stdout, stderr = process.communicate()
    ended.set()
    writer.join()
    assert process.returncode == 0, stderr
    *_, last, _, lives = stdout.splitlines()
    assert [status for status, _ in json.loads(lives)] == [signal.SIGKILL] * 10 + [0]  # SIGTERM: exit code 0
    assert len({before for _, before in json.loads(lives)}) > 5  # most of the lives recorded something
    assert last.endswith(f"recorded: {ledger}")
    check(out, names)
    assert sorted(p.name for p in moved.rglob("*.png")) == names
    assert [row["size"] for row in sorted(rows_of(out), key=lambda row: row["path"])] == [*map(len, data)]
