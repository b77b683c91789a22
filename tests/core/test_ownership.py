"""One owner of an output folder, whichever command it is, by whatever path, and however it ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import QUICK, refused, run
from fakes import fake_detector, grey
from watched import LEVELS, Place, check, command, rows_of

from blemish.core.errors import UsageError
from blemish.core.ownership import LOCK_NAME, owned
from blemish.inference import load

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="owners are processes that it forks")


@contextmanager
def owner(folder: Path, **options: str) -> Iterator[int]:
    """Another process that owns a folder, until it is killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with owned(folder, **options):  # pyright: ignore[reportArgumentType]
            os.write(write, b"x")
            time.sleep(300)
        os._exit(0)
    assert os.read(read, 1) == b"x"
    os.close(read)
    os.close(write)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def refusal_of(folder: Path) -> str:
    with pytest.raises(UsageError) as error, owned(folder):
        pass
    return str(error.value)


def test_the_next_one_is_refused_in_a_line_with_the_process_id(tmp_path: Path):
    with owner(tmp_path / "out") as process:
        why = f"process {process} writes there now; wait until it ends, or choose another --out"
        assert refusal_of(tmp_path / "out") == f"{tmp_path / 'out'}: {why}"
        with owned(tmp_path / "other"):
            pass


def test_the_same_folder_by_another_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    with owner(tmp_path / "a") as process:
        for path in (tmp_path / "link", tmp_path / "a" / "b" / "..", Path(), Path("../a"), Path("../link")):
            assert f"process {process} writes there now" in refusal_of(path)


def test_a_killed_owner_leaves_no_lock_and_its_number_means_nothing(tmp_path: Path):
    with owner(tmp_path):
        pass  # killed as it leaves
    assert (tmp_path / LOCK_NAME).exists()
    for left in (
        "1 here\n",
        f"{os.getppid()} x\n",
        "",
        "no number\n",
        f"{os.getpid()} x",
    ):  # a number used again
        (tmp_path / LOCK_NAME).write_text(left)
        with owned(tmp_path):
            assert (tmp_path / LOCK_NAME).read_text().startswith(f"{os.getpid()} ")
        assert not (tmp_path / LOCK_NAME).exists()


def test_a_block_that_fails_gives_the_folder_back_and_a_refusal_leaves_none(tmp_path: Path):
    for error in (UsageError, UsageError, ZeroDivisionError, ZeroDivisionError):
        with pytest.raises(error), owned(tmp_path / "out"):
            raise error
        assert (tmp_path / "out").exists() == (error is ZeroDivisionError)
    assert list((tmp_path / "out").iterdir()) == []


def test_who_owns_it_may_ask_again_and_another_thread_may_not(tmp_path: Path):
    found: list[str] = []
    with owned(tmp_path), owned(tmp_path):
        thread = threading.Thread(target=lambda: found.append(refusal_of(tmp_path)))
        thread.start()
        thread.join()
    assert f"process {os.getpid()} writes there now" in found[0]


def test_of_many_at_once_one_writes_at_a_time(tmp_path: Path):
    inside, most, done = [0], [0], [0]

    def work() -> None:
        while done[0] < 200:
            try:
                with owned(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    done[0] += 1
                    inside[0] -= 1
            except UsageError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert list(tmp_path.iterdir()) == []


def test_one_that_goes_on_waits_for_who_is_about_to_end(tmp_path: Path):
    with owner(tmp_path) as process:
        threading.Timer(0.2, os.kill, (process, signal.SIGKILL)).start()
        with owned(tmp_path, patience_s=60):
            pass


# --- the commands ---


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(load, "load", lambda *_, **__: fake_detector(grey_levels=LEVELS))
    return Place(tmp_path, monkeypatch)


Make = Callable[[Place, Path], list[str | Path]]


def train(place: Place, out: Path) -> list[str | Path]:
    for i in range(4):
        grey(place.folder / f"{i}.png", 50 * i + 9)
    return ["train", "--data", place.folder, "--method", "metal", "--out", out, *QUICK]


def evaluate(place: Place, out: Path) -> list[str | Path]:
    grey(place.folder / "set" / "test" / "good" / "0.png", 10)
    grey(place.folder / "set" / "test" / "bad" / "0.png", 250)
    return ["evaluate", "--model", place.model, "--data", place.folder / "set", "--out", out]


def bench(place: Place, out: Path) -> list[str | Path]:
    evaluate(place, out)
    for i in range(3):
        grey(place.folder / "set" / "train" / "good" / f"{i}.png", 50 * i + 9)
    return ["bench", "--data", place.folder / "set", "--methods", "pca", "--out", out]


COMMANDS: dict[str, Make] = {
    "watch": lambda place, out: [*command(place), "--out", out],
    "predict": lambda place, out: [
        "predict",
        "--model",
        place.model,
        grey(place.folder / "a.png", 9),
        "--out",
        out,
    ],
    "train": train,
    "evaluate": evaluate,
    "bench": bench,
    "demo": lambda _, out: ["demo", "--out", out],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_refuses_a_folder_that_another_one_writes(
    name: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / "shared"
    words = COMMANDS[name](place, out)
    with owner(out) as process:
        line = refused(capsys, *words)
        assert line == (
            f"blemish {name}: {out}: process {process} writes there now; "
            "wait until it ends, or choose another --out"
        )
        assert os.listdir(out) == [LOCK_NAME]  # noqa: PTH208


def test_export_and_serve_have_locks_of_their_own(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    file, station = tmp_path / "m.onnx", tmp_path / "station"
    with owner(tmp_path, lock=".m.onnx.lock") as process:
        line = refused(capsys, "export", "--model", tiny_model, "--out", file)
        assert line.startswith(f"blemish export: --out {file}: process {process} writes there now")
    with owner(station, lock=".serve.lock") as process:
        line = refused(capsys, "serve", "--model", tiny_model, "--folder", station, "--port", "0")
        assert line == (
            f"blemish serve: {station}: process {process} writes there now; "
            "wait until it ends, or choose another --folder"
        )
        with owned(station):  # a watch may keep its record in the folder of a station
            pass


def test_two_watches_of_one_folder_record_each_file_once_and_tell_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for i in range(3):
        grey(place.folder / f"{i}.png", 255)
    told = tmp_path / "told"
    words = [*command(place), "--on-reject", f"sh -c 'cat >> {told}; echo >> {told}'"]

    def script() -> Iterator[float]:
        yield 1.0
        with pytest.raises(UsageError, match=f"process {os.getpid()} writes there now"):
            threading_result(lambda: Place.watch(other))
        yield 1.0

    other = Place.__new__(Place)
    other.__dict__.update(place.__dict__)
    place.script, place.stop_by_signal = script(), True
    assert run(*words) == 0
    check(place.out, [f"{i}.png" for i in range(3)])
    assert [json.loads(line)["path"] for line in told.read_text().splitlines()] == [
        f"{i}.png" for i in range(3)
    ]
    assert len(rows_of(place.out)) == 3


def threading_result(action: Callable[[], object]) -> None:
    """Run an action in a thread of its own, as another program would, and raise what it raised."""
    raised: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
