"""Standard streams that break: what inspects goes on, and what is a filter ends as one."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
from commands import run
from fakes import fake_detector, grey
from watched import LEVELS, Place, Script, check, command

from blemish.cli import streams
from blemish.cli.streams import Lines, printable
from blemish.inference import load

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="streams of Linux")


def nobody_reads() -> TextIO:
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")  # noqa: PTH123


def full_disk() -> TextIO:
    return Path("/dev/full").open("w")


def closed() -> TextIO:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


def ascii_only() -> TextIO:
    read, write = os.pipe()
    threading.Thread(target=lambda: os.read(read, 10**6) and os.close(read), daemon=True).start()
    return open(write, "w", encoding="ascii", errors="strict")  # noqa: PTH123


BROKEN = {"nobody reads": nobody_reads, "a full disk": full_disk, "closed": closed, "ascii": ascii_only}
each_broken = pytest.mark.parametrize("broken", BROKEN)


@pytest.fixture
def break_stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    made: list[TextIO] = []

    def breaks(name: str, how: str) -> None:
        made.append(BROKEN[how]())
        monkeypatch.setattr(sys, name, made[-1])

    yield breaks
    monkeypatch.undo()
    for stream in made:
        streams._silence(stream)
        stream.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, monkeypatch)
    made.stop_by_signal = True
    for i in range(4):
        grey(made.folder / f"ä{i}.png", 60 * i)
    return made


# --- what inspects ---


@each_broken
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_watch_inspects_on(
    name: str,
    broken: str,
    place: Place,
    break_stream: Callable[[str, str], None],
    capsys: pytest.CaptureFixture,
):
    break_stream(name, broken)
    assert run(*command(place)) == 0
    check(place.out, [f"ä{i}.png" for i in range(4)])
    said = capsys.readouterr()
    assert "--out" not in said.err
    if name == "stdout" and broken in ("nobody reads", "a full disk"):
        lost = [line for line in said.err.splitlines() if "standard output" in line]
        assert len(lost) == 1  # said once
        assert lost[0].endswith("; it goes on without")


def test_watch_does_not_wait_for_a_reader_that_has_stopped_to_read(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(streams, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(streams, "MAX_WAITING_LINES", 2)
    read, write = os.pipe()
    size = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write, bytes(size))  # as when somebody has pressed Ctrl-S
    with open(write, "w") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(*command(place)) == 0
        check(place.out, [f"ä{i}.png" for i in range(4)])
        os.close(read)  # lets the thread go, which waits in the kernel
        for thread in threading.enumerate():
            if thread.name == "lines":
                thread.join(60)
        monkeypatch.undo()


def test_what_nobody_read_in_time_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(streams, "MAX_WAITING_LINES", 3)
    holds, goes = threading.Event(), threading.Event()
    write = streams.write_line

    def slow(stream: TextIO, text: str) -> None:
        holds.set()
        goes.wait(60)
        write(stream, text)

    monkeypatch.setattr(streams, "write_line", slow)
    with Lines("blemish watch") as lines:
        lines.out("first")
        assert holds.wait(60)
        for i in range(10):
            lines.out(str(i))
        goes.set()
    said = capsys.readouterr()
    assert said.out.splitlines() == ["first", "7", "8", "9"]
    assert said.err == "blemish watch: 7 lines were not printed, nobody read them in time\n"


def test_a_hook_that_fails_while_nobody_reads_is_tried_again(
    place: Place, break_stream: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, quick_hooks: None
):
    from waiting import wait_for

    from blemish.watch import notify

    tried: list[str] = []

    def fails_first(row: dict) -> None:
        tried.append(row["path"])
        if len(tried) == 1:
            raise OSError("unreachable")

    def script() -> Script:
        yield 100.0
        wait_for(lambda: len(tried) == 2)

    place.detectors["one"] = fake_detector(
        grey_levels=LEVELS, network=lambda x: x.mean(axis=1) + np.float32(1)
    )
    for i in range(1, 4):
        (place.folder / f"ä{i}.png").unlink()
    place.script = script()
    monkeypatch.setattr(notify, "webhook", lambda _: fails_first)
    for name in ("stdout", "stderr"):
        break_stream(name, "nobody reads")
    assert run(*command(place, "--webhook", "http://plc/")) == 0
    assert tried == ["ä0.png"] * 2


# --- what is a filter ---


@pytest.fixture
def predicting(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    monkeypatch.setattr(load, "load", lambda *_, **__: fake_detector(grey_levels=LEVELS))
    (place.folder / "no.png").write_text("no image")
    return ["predict", "--model", place.model, place.folder, "--out", place.out]


@pytest.mark.parametrize(
    ("broken", "code"), [("nobody reads", 141), ("a full disk", 2), ("closed", 1), ("ascii", 1)]
)
def test_predict_ends_as_a_filter_with_all_it_has_written(
    broken: str,
    code: int,
    place: Place,
    predicting: list[str | Path],
    break_stream: Callable[[str, str], None],
    capsys: pytest.CaptureFixture,
):
    break_stream("stdout", broken)
    assert run(*predicting) == code
    assert len((place.out / "predictions.jsonl").read_text().splitlines()) == 5
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("failed: ")
    full = ["blemish predict: standard output: No space left on device; send it elsewhere"]
    assert said[1:] == (full if broken == "a full disk" else [])


@each_broken
def test_predict_is_not_stopped_by_what_it_complains_of(
    broken: str,
    place: Place,
    predicting: list[str | Path],
    break_stream: Callable[[str, str], None],
    capsys: pytest.CaptureFixture,
):
    break_stream("stderr", broken)
    assert run(*predicting) == 1
    assert capsys.readouterr().out.startswith("4 scored, ")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["predict", "--help"], ["nonsense"]])
def test_help_and_refusals_too(words: list[str], break_stream: Callable[[str, str], None]):
    break_stream("stdout", "nobody reads")
    break_stream("stderr", "nobody reads")
    assert run(*words) == (2 if words == ["nonsense"] else 141)


def test_an_error_of_the_disk_is_still_told_from_one_of_the_output(
    place: Place, predicting: list[str | Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/x/maps/a.tiff")

    from blemish.cli.commands import predict

    monkeypatch.setattr(predict, "parse", full)
    assert run(*predicting) == 2
    assert capsys.readouterr().err == (
        "blemish predict: /x/maps/a.tiff: No space left on device; free some space, or choose another --out\n"
    )


SCRIPT = """
import os, sys
from blemish.cli.main import main
code = main(["nonsense"])
file = open(sys.argv[1], "w")
os.write(1, b"into nothing")
os.write(2, b"into nothing")
assert file.fileno() > 2, file.fileno()
os._exit(code)
"""


@pytest.mark.parametrize("streams", [(1,), (2,), (0, 1, 2)])
def test_a_file_never_takes_the_place_of_a_closed_stream(streams: tuple[int, ...], tmp_path: Path):
    shut = " ".join(f"{number}>&-" for number in streams)
    line = f'exec {shut}; exec "$0" -c "$1" "$2"'
    done = subprocess.run(["bash", "-c", line, sys.executable, SCRIPT, tmp_path / "x"], check=False)
    assert done.returncode == 2
    assert (tmp_path / "x").read_bytes() == b""


# --- by hand ---


def test_what_is_printable_stays():
    assert printable("ä 部品 1.png: 3 µm") == "ä 部品 1.png: 3 µm"
    assert printable("a\nb\tc\x1b[0m\udcff\x85") == r"a\nb\tc\x1b[0m\udcff\x85"


def test_an_interrupted_watch_prints_what_it_has(place: Place, capsys: pytest.CaptureFixture):
    def once(x: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return x.mean(axis=1)

    place.detectors["one"] = fake_detector(grey_levels=LEVELS, network=once)
    assert run(*command(place)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"1 recorded: {place.out / 'inspections.jsonl'}"
