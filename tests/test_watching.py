"""Watching a folder: each file once, in order of arrival, come what may."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import refused
from conftest import save, tiny_image
from fakes import fake_detector, grey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blemish import images, watching
from blemish.predicting import inspect
from blemish.types import DataError, ModelError, UsageError
from blemish.watching import INTERVAL, PATIENCE, SETTLED, Arrival, Ledger

LEVELS = (51, 102, 153, 204)
"""Calibration: with 4 images the lowest rate is 1 / 5 and the threshold the largest, 204 / 255 = 0.8."""
Script = Iterator[float]


class Crash(BaseException):
    """The power goes."""


class Place:
    """A folder, a model and a clock that stands still while files are scored.

    A script is what the world does: it yields the seconds that pass until its next act, and when it ends the
    watch is stopped. The model's file holds the name of a detector.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.out, self.model = root / "in", root / "out", root / "model.safetensors"
        self.folder.mkdir()
        self.model.write_text("one")
        self.clock = self.until = 0.0
        self.looks, self.over = 0, False
        self.script: Script = iter(())
        self.told: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.at: dict[str, float] = {}
        self.detectors = {
            "one": fake_detector(grey_levels=LEVELS),
            "two": fake_detector(grey_levels=LEVELS, network=lambda x: 1 - x.mean(axis=1)),
        }
        monkeypatch.setattr(watching, "load", self.load)
        monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=self.sleep, monotonic=time.monotonic))

    def load(self, path: Path, **_: object) -> Any:
        if path.read_text() not in self.detectors:
            raise ModelError(f"{path}: is cut off")
        return self.detectors[path.read_text()]

    def now(self) -> float:
        self.looks += 1
        assert self.looks < 5000, "does not sleep"
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        if self.clock >= self.until:
            self.act()

    def act(self) -> None:
        try:
            self.until = self.clock + next(self.script)
        except StopIteration:
            self.over = True

    def hear(self, row: dict[str, Any]) -> None:
        self.told.append(row)
        self.at[row["path"]] = self.clock

    def watch(self, script: Script | None = None, **options: Any) -> int:
        self.script, self.over = script or iter([2 * PATIENCE]), False
        self.act()
        return watching.watch(
            self.model,
            self.folder,
            options.pop("out", self.out),
            stopped=lambda: self.over,
            on_row=self.hear,
            say=self.said.append,
            now=self.now,
            **options,
        )

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.out)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "inspections.jsonl").read_bytes().splitlines()]


def check(out: Path, paths: Iterable[str]) -> None:
    """Each file is recorded once, with its pictures, and the numbers run without a gap."""
    rows = rows_of(out)
    assert sorted(row["path"] for row in rows) == sorted(paths)
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        assert (out / row["map"]).stat().st_size
        assert (out / row["overlay"]).stat().st_size


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


# --- which files, when, in what order ---


def test_files_are_scored_in_order_of_arrival_whatever_their_times(place: Place):
    def arrive(name: str, mtime: int) -> None:
        os.utime(grey(place.folder / name, 100), (mtime, mtime))

    def script() -> Script:
        arrive("b.png", 3000)  # both are there at the first look: by their times
        arrive("sub/deep/z.png", 2000)
        yield INTERVAL
        arrive("c.png", 20)  # the clock was set back
        yield INTERVAL
        arrive("a.png", 10)
        yield 1.0

    assert place.watch(script()) == 4
    assert [row["path"] for row in place.rows()] == ["sub/deep/z.png", "b.png", "c.png", "a.png"]
    assert place.told == place.rows()


def test_a_row_says_what_was_inspected_with_which_model(place: Place):
    file = grey(place.folder / "sub" / "a.png", 255)
    assert place.watch() == 1
    (row,) = place.rows()
    assert (row["score"], row["threshold"], row["anomalous"]) == (1.0, pytest.approx(0.8), True)
    assert (row["size"], row["mtime_ns"]) == (file.stat().st_size, file.stat().st_mtime_ns)
    assert row["model"] == hashlib.sha256(b"one").hexdigest()
    assert row["time"].endswith("+00:00")
    assert (row["map"], row["overlay"]) == ("maps/sub/a.png.tiff", "overlays/sub/a.png.png")
    check(place.out, ["sub/a.png"])


def test_a_file_that_is_still_being_written_is_scored_once_and_whole(place: Place):
    file = place.folder / "a.png"
    data = save(place.folder.parent / "a.png", tiny_image(0)).read_bytes()

    def script() -> Script:
        file.touch()
        yield 2.0  # empty: waits
        for part in (1, 2, 3):  # long enough to be tried, and found to be cut off
            file.write_bytes(data[: part * len(data) // 4])
            yield PATIENCE - 1
        for byte in range(len(data) - 9, len(data) + 1):  # never still for long enough to be tried
            file.write_bytes(data[:byte])
            yield SETTLED - INTERVAL
        assert place.told == []
        yield 1.0

    assert place.watch(script()) == 1
    (row,) = place.rows()
    assert (row["error"], row["size"]) == (None, len(data))


def test_what_cannot_be_read_is_failed_when_patience_ends_and_holds_up_nothing(place: Place):
    bad = [f"{i}.png" for i in range(2 * watching.PORTION + 1)]

    def script() -> Script:
        for name in bad:
            (place.folder / name).write_text("I am no picture")
        yield 0.5
        grey(place.folder / "late.png", 10)
        yield 2 * PATIENCE

    assert place.watch(script(), move_to=place.out.parent / "moved") == len(bad) + 1
    assert place.at["late.png"] == pytest.approx(0.5 + SETTLED, abs=2.5 * INTERVAL)
    for name in bad:
        assert place.at[name] == pytest.approx(SETTLED + PATIENCE, abs=2.5 * INTERVAL)
        assert place.at[name] >= SETTLED + PATIENCE - 1e-9
    assert {row["path"] for row in place.rows() if row["error"]} == {*bad}
    assert {p.name for p in (place.out.parent / "moved" / "failed").iterdir()} == {*bad}
    assert place.looks < 3 * 2 * PATIENCE / INTERVAL * 2 + 2 * len(bad) / INTERVAL  # tried at each look only


def test_a_file_written_anew_is_a_new_row_and_one_that_stays_is_not(place: Place):
    def script() -> Script:
        grey(place.folder / "a.png", 51)
        yield 1.0
        grey(place.folder / "a.png", 102, side=40)
        yield 1.0
        (place.folder / "a.png").unlink()
        yield 1.0

    assert place.watch(script()) == 2
    assert [row["score"] for row in place.rows()] == pytest.approx([0.2, 0.4])
    grey(place.folder / "b.png", 153)
    assert place.watch() == 1
    assert place.watch() == 0  # a later start knows them
    check(place.out, ["a.png", "a.png", "b.png"])


def test_out_and_move_to_inside_the_folder_are_not_looked_at(place: Place):
    out, moved = place.folder / "out", place.folder / "sorted"
    for name, level in (("good.png", 100), ("bad.png", 255), ("x/bad.png", 254)):
        grey(place.folder / name, level)
    (place.folder / "no.png").write_text("I am no picture")
    assert place.watch(out=out, move_to=moved) == 4
    assert place.watch(out=out, move_to=moved) == 0
    found = sorted(str(p.relative_to(moved)) for p in moved.rglob("*.png"))
    assert found == ["accepted/good.png", "failed/no.png", "rejected/bad.png", "rejected/x/bad.png"]
    assert images.list_images(place.folder / "x") == []


@pytest.mark.parametrize("option", ["out", "move_to"])
@pytest.mark.parametrize("above", [False, True])
def test_a_folder_inside_what_is_not_looked_at_is_refused(place: Place, option: str, above: bool):
    path = place.folder.parent if above else place.folder
    with pytest.raises(UsageError, match=f"^--{option.replace('_', '-')} {path}: holds the watched folder"):
        place.watch(**{option: path})


def test_a_moved_file_overwrites_none_and_one_written_anew_meanwhile_is_not_moved(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    moved, data = place.folder.parent / "moved", []
    for level in (10, 20, 30):
        data.append(grey(place.folder / "a.png", level).read_bytes())
        assert place.watch(move_to=moved) == 1
    names = ("a.png", "a~2.png", "a~3.png")
    assert [(moved / "accepted" / name).read_bytes() for name in names] == data
    append = Ledger.append

    def overtaken(self: Ledger, arrival: Arrival, row: dict[str, Any]) -> None:
        append(self, arrival, row)
        if self.sequence == 4:
            grey(place.folder / "a.png", 50, side=48)

    monkeypatch.setattr(Ledger, "append", overtaken)
    grey(place.folder / "a.png", 40)
    assert place.watch(move_to=moved) == 2
    assert [row["score"] for row in place.rows()] == pytest.approx(
        [level / 255 for level in (10, 20, 30, 40, 50)]
    )


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
    assert images.list_images(place.folder) == []


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
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def command(place: Place, *more: str | Path) -> list[str | Path]:
    return ["watch", "--model", place.model, "--folder", place.folder, "--out", place.out, *more]


LIVES = """
import os, random, signal, sys, time
from blemish import cli, fitting  # once: torch takes seconds

ledger, files, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
def count():
    return open(ledger, "rb").read().count(b"\\n") if os.path.exists(ledger) else 0

for life in range(11):
    before, pid, began = count(), os.fork(), time.monotonic()
    if not pid:
        os._exit(cli.main(arguments))
    while time.monotonic() - began < 20 and (count() < files if life == 10 else count() == before < files):
        time.sleep(0.005)
    time.sleep(random.Random(life).uniform(0, 0.05) if life < 10 else 0)
    os.kill(pid, signal.SIGTERM if life == 10 else signal.SIGKILL)
    print("ended", os.waitpid(pid, 0)[1], "before", before, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills what it forks")
def test_killed_ten_times_while_files_keep_arriving(tiny_model: Path, tmp_path: Path):
    folder, out, moved = tmp_path / "in", tmp_path / "out", tmp_path / "moved"
    folder.mkdir()
    names = [f"{i:02d}.png" for i in range(40)]
    data = [save(tmp_path / "made" / name, tiny_image(i)).read_bytes() for i, name in enumerate(names)]
    ended = threading.Event()

    def write() -> None:
        for name, content in zip(names, data, strict=True):
            with (folder / name).open("wb") as file:
                file.write(content[:2000])
                file.flush()
                ended.wait(0.02)
                file.write(content[2000:])
            ended.wait(0.18)

    writer = threading.Thread(target=write)
    writer.start()
    arguments = ("watch", "--model", tiny_model, "--folder", folder, "--out", out, "--move-to", moved)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            LIVES,
            out / "inspections.jsonl",
            str(len(names)),
            *arguments,
            "--device",
            "cpu",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    ended.set()
    writer.join()
    assert done.returncode == 0, done.stderr
    lives = [line.split() for line in done.stdout.splitlines() if line.startswith("ended")]
    assert [int(life[1]) for life in lives] == [signal.SIGKILL] * 10 + [0]  # SIGTERM: exit code 0
    assert len({life[3] for life in lives}) > 5  # and most of them had recorded something
    assert f"recorded: {out / 'inspections.jsonl'}" in done.stdout.splitlines()[-2]
    check(out, names)
    assert sorted(p.name for p in moved.rglob("*.png")) == names
    assert [row["size"] for row in sorted(rows_of(out), key=lambda row: row["path"])] == [*map(len, data)]
