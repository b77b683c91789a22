"""`blemish watch`: what it refuses, how it ends, and whom it tells."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused, run
from fakes import fake_detector, grey
from waiting import wait_for
from watched import LEVELS, Place, Script, check, command, rows_of

from blemish.images import folders
from blemish.watch import folder, notify
from blemish.watch.arrivals import UNREADABLE_TIMEOUT_S
from blemish.watch.ledger import LEDGER_NAME

PROMISE = (
    "false-alarm rate 20 %, promised by 4 calibration images; the usual 5 % needs 19: hold out more images"
)
"""1 / (4 + 1) of the four `LEVELS`."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_what_is_missing_is_refused_in_one_line(place: Place, capsys: pytest.CaptureFixture[str]):
    place.folder.rmdir()
    line = refused(capsys, *command(place))
    assert line.startswith(f"blemish watch: --folder {place.folder}: no such folder; make it")
    table = place.folder.parent / "today.csv"
    table.write_text("path,split,product\n")
    line = refused(capsys, *command(place), "--folder", table)
    assert f"--folder {table}: is a manifest, and images that come have none; give their folder" in line
    place.folder.mkdir()
    for option, value in (("--on-reject", "'"), ("--webhook", "plc"), ("--mqtt", "mqtt://broker")):
        assert f"{option} {value}: " in refused(capsys, *command(place), option, value)
    place.model.unlink()
    assert f"{place.model}: there is no model here" in refused(capsys, *command(place))


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_file_in_hand(
    asked: signal.Signals, place: Place, capsys: pytest.CaptureFixture[str]
):
    names = [f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        os.utime(grey(place.folder / name, 60 * i), (i, i))

    def interrupted(x: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), asked)
        return x.mean(axis=1)

    place.detectors["one"] = fake_detector(grey_levels=LEVELS, network=interrupted)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for life in range(1, 6):  # one file in each, as the signal comes while they are scored
        assert run(*command(place)) == 0
        shown = capsys.readouterr()
        assert shown.out.splitlines()[-1] == f"1 recorded: {place.out / 'inspections.jsonl'}"
        assert shown.out.startswith(f"{PROMISE}\n{life} {names[life - 1]}: score ")
        assert shown.err == ""
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    check(place.out, names)


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    small_disk: Path, place: Place, capsys: pytest.CaptureFixture[str]
):
    names = [f"{i:02d}.png" for i in range(20)]
    for i, name in enumerate(names):
        grey(place.folder / name, 10 * i)
    place.out = small_disk / "out"
    # room for more than the pictures that may be written before the first row, for fewer than all
    (small_disk / "fill").write_bytes(bytes(150 * 1024))
    line = refused(capsys, *command(place))
    assert "No space left on device; free some space" in line
    recorded = (place.out / LEDGER_NAME).read_bytes().count(b"\n")  # the last may be cut
    assert 0 < recorded < len(names)
    assert len(folders.list_images(place.folder)) == len(names)
    (small_disk / "fill").unlink()
    assert place.watch() == len(names) - recorded
    check(place.out, names)


def test_a_row_that_the_disk_does_not_take_is_written_when_it_does(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    grey(place.folder / "a.png", 10)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        line = refused(capsys, *command(place, "--move-to", place.out.parent / "moved"))
    assert line.endswith("No space left on device; free some space, or choose another --out")
    assert (place.folder / "a.png").exists()
    place.watch()
    check(place.out, ["a.png"])


def test_only_rejects_are_told_and_a_dead_hook_holds_up_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick_hooks: None
):
    monkeypatch.setattr(notify, "CLOSE_TIMEOUT_S", 0.05)
    sent: list[str] = []
    tried: list[str] = []
    hooks: list[notify.Hook] = []

    class Noted(notify.Hook):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            hooks.append(self)

    def dead(row: dict[str, Any]) -> None:
        tried.append(row["path"])
        raise OSError("unreachable")

    def script() -> Script:
        yield 2 * UNREADABLE_TIMEOUT_S
        # the second try comes after the first was said, and what was sent waits no longer
        wait_for(lambda: len(sent) == 2 and len(tried) >= 2 and not hooks[0].waiting)

    place.script = script()

    monkeypatch.setattr(notify, "Hook", Noted)
    monkeypatch.setattr(notify, "webhook", lambda _: dead)
    monkeypatch.setattr(notify, "command", lambda _: lambda row: sent.append(row["path"]))
    for i, level in enumerate((204, 205, 10, 255)):  # the threshold is 204 / 255: above it is rejected
        os.utime(grey(place.folder / f"{i}.png", level), (i, i))
    (place.folder / "no.png").write_text("I am no picture")
    place.stop_by_signal = True
    assert run(*command(place, "--on-reject", "x", "--webhook", "http://plc/")) == 0
    shown = capsys.readouterr()
    assert sent == ["1.png", "3.png"]
    assert shown.err.splitlines() == [
        "blemish watch: webhook: unreachable; trying again",
        "blemish watch: webhook: 2 rejects were not delivered",
    ]
    decisions = [line.split(": score ")[1].split(",")[0] for line in shown.out.splitlines()[1:5]]
    assert decisions == ["0.8 accepted", "0.8039 rejected", "0.03922 accepted", "1 rejected"]
    assert len(rows_of(place.out)) == 5


def test_what_was_not_delivered_is_said_when_the_watch_fails_too(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def dead(_: dict[str, Any]) -> None:
        raise OSError("unreachable")

    def move(*_: object) -> None:
        if len(rows_of(place.out)) == 2:
            raise OSError(errno.EROFS, "Read-only file system", "moved")

    monkeypatch.setattr(notify, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(notify, "webhook", lambda _: dead)
    monkeypatch.setattr(folder, "_move", move)
    for i in range(3):
        grey(place.folder / f"{i}.png", 255)
    assert run(*command(place, "--webhook", "http://plc/", "--move-to", place.out.parent / "moved")) == 2
    said = capsys.readouterr().err.splitlines()
    assert "blemish watch: webhook: 1 rejects were not delivered" in said
    assert said[-1].startswith("blemish watch: moved: Read-only file system; ")


def test_a_name_that_is_not_utf_8(place: Place, capsys: pytest.CaptureFixture[str]):
    try:
        grey(place.folder / os.fsdecode(b"a\xff.png"), 10)
    except OSError:
        pytest.skip("no such names on this disk")
    place.stop_by_signal = True
    assert run(*command(place)) == 0
    assert capsys.readouterr().out.startswith(f"{PROMISE}\n1 a\\udcff.png: score ")
    check(place.out, [os.fsdecode(b"a\xff.png")])


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "in").mkdir()
    for name in ("none.onnx", "none"):
        told = refused(
            capsys, "watch", "--model", tmp_path / name, "--folder", tmp_path / "in", "--out", tmp_path / "o"
        )
        assert "there is no model here" in told
