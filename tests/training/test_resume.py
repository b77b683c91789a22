"""Real runs, killed at bad moments and resumed, against the same run left alone: byte for byte."""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from holding import hold
from warm import Warm

from blemish.cli.main import main
from blemish.core.files import write_whole
from blemish.training import trainer

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = {
    "image-size": 32,
    "patch-size": 8,
    "embedding": 8,
    "hidden": 16,
    "heads": 2,
    "batch-size": 3,
    "epochs": 24,
    "validation-fraction": 0.1,
    "calibration-fraction": 0.1,
    "seed": 3,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    """The order of sums depends on the number of threads; the processes started below have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arguments(data: Path, out: Path, *options: str) -> list[str]:
    return [
        "train",
        "--method",
        "metal",
        "--data",
        str(data),
        "--out",
        str(out),
        *(f"--{k}={v}" for k, v in TINY.items()),
        *options,
    ]


def train_to_the_end(data: Path, out: Path, *options: str) -> bytes:
    assert main(arguments(data, out, *options)) == 0
    assert sorted(p.name for p in out.iterdir()) == ["log.csv", "model.safetensors", "run.json"]
    return (out / "model.safetensors").read_bytes()


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def wait_for_epoch(process: Warm, out: Path, epoch: int) -> None:
    while process.poll() is None:
        if (out / "log.csv").exists() and len(log_of(out)) >= epoch:
            return
        time.sleep(0.005)
    pytest.fail(f"ended before epoch {epoch}")


@pytest.fixture(scope="module")
def undisturbed(tiny_category, tmp_path_factory) -> tuple[bytes, list[dict[str, str]]]:
    out = tmp_path_factory.mktemp("undisturbed")
    return train_to_the_end(tiny_category, out), log_of(out)


@pytest.mark.heavy
def test_same_seed_same_bytes(tiny_category, tmp_path):
    def run(name: str, seed: str) -> bytes:
        return train_to_the_end(tiny_category, tmp_path / name, "--epochs", "2", "--seed", seed)

    first = run("a", "3")
    assert run("b", "3") == first
    assert run("c", "4") != first


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_within_a_checkpoint() -> None:
    save, calls = torch.save, []

    def half(content: object, file) -> None:
        calls.append(1)
        save(content, file)
        if len(calls) == 3:
            file.truncate(file.tell() // 2)
            die()

    torch.save = half


def die_before_the_model_appears() -> None:
    replace = Path.replace
    Path.replace = lambda self, to: die() if Path(to).name == "model.safetensors" else replace(self, to)


def resume_in_a_child(data: Path, out: Path, held: Path, trap: Callable[[], None] | None) -> int:
    torch.set_num_threads(1)
    trainer.CHECKPOINT_SECONDS = 0.05
    hold(held)
    if trap:
        trap()
    return main(arguments(data, out, "--resume"))


def train_in_a_child(data: Path, out: Path, held: Path) -> int:
    hold(held)
    return main(arguments(data, out))


@pytest.mark.slow
def test_killed_again_and_again_gives_the_same_bytes(tiny_category, undisturbed, tmp_path):
    out, held, moments = tmp_path / "run", tmp_path / "held", random.Random(0)

    def killed_at(epoch: int | None, trap: Callable[[], None] | None = None) -> None:
        write_whole(held, str(99 if epoch is None else epoch + 3))
        child = Warm(resume_in_a_child, tiny_category, out, held, trap, out=tmp_path / "said")
        if epoch is not None:
            wait_for_epoch(child, out, epoch)
            time.sleep(moments.uniform(0, 0.05))
            child.kill()
        assert child.wait() == -signal.SIGKILL

    killed_at(None, die_within_a_checkpoint)
    assert list((out / "checkpoint").glob("*.tmp"))  # the half that it wrote
    for epoch in (5, 10, 15, 20):
        killed_at(epoch)
    killed_at(None, die_before_the_model_appears)
    assert not (out / "model.safetensors").exists()
    assert train_to_the_end(tiny_category, out, "--resume") == undisturbed[0]
    assert log_of(out) == undisturbed[1]


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_resumes_to_the_same_bytes(tiny_category, undisturbed, tmp_path):
    out, held = tmp_path / "run", tmp_path / "held"
    held.write_text("9")
    said = {"out": tmp_path / "said.out", "err": tmp_path / "said.err"}
    process = Warm(train_in_a_child, tiny_category, out, held, **said)
    wait_for_epoch(process, out, 6)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    (line,) = [text for text in stderr.splitlines() if text.startswith("blemish")]
    assert line.startswith("blemish train: stopped in epoch")
    assert str(out) in line
    assert "Traceback" not in stderr
    assert train_to_the_end(tiny_category, out, "--resume") == undisturbed[0]
    assert log_of(out) == undisturbed[1]
