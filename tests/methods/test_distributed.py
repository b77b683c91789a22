"""Training by several processes against one process.

Where a process dies, torchrun starts them as it would for a user; where they are stopped, it is forked, and
forks them. Elsewhere they are told what torchrun tells its processes: where they meet, how many they are, and
which one each is.
"""

from __future__ import annotations

import csv
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from holding import HELD
from PIL import Image
from processes import free_port, parent_of
from warm import OF_SEVERAL_PROCESSES, Warm, also, blemish, module

from blemish.methods.components.distributed import gather_parts, own_part, share_of

COMMON = ("--device=cpu", "--precision=fp32", "--seed=3", "--batch-size=5", "--image-size=32")
COMMON += ("--validation-fraction=0.1", "--calibration-fraction=0.1", "--epochs=17")  # of 3 steps
METAL = ("--method=metal", "--patch-size=8", "--embedding=8", "--hidden=16", "--heads=2")
CPC_AD = (
    "--method=cpc-ad",
    "--patch-size=32",
    "--sub-patch-size=8",
    "--steps-ahead=1",
    "--skip=0",
    "--width=8",
)
PLANTED = ("--method=planted", "--image-size=48", "--crop-size=32", "--width=0.25", "--epochs=2")
NSA = ("--method=nsa", "--width=4", "--epochs=2")
SCRIPT = f"""
from blemish.training import trainer
trainer.CHECKPOINT_SECONDS = 0.05
{HELD}"""


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """17 images: batches of 5, and of 3, which two processes cannot halve."""
    also(OF_SEVERAL_PROCESSES)
    folder = tmp_path_factory.mktemp("shared") / "good"
    folder.mkdir()
    ramp = np.linspace(0, 200, 48)[:, None] * np.ones((1, 48))
    for i in range(17):
        noisy = np.stack([ramp, ramp.T, ramp], -1) + np.random.default_rng(i).normal(0, 12, (48, 48, 1))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def command(good: Path, out: Path, *options: str) -> list[str]:
    return ["train", "--data", str(good), "--out", str(out), *COMMON, *options]


def launched(good: Path, out: Path, *options: str) -> list[str]:
    """What torchrun is told: two processes that write a checkpoint at almost every step.

    They wait where the file `held` says.
    """
    script = out.parent / f"{out.name}.py"
    script.write_text(SCRIPT)
    return [
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(out.parent / "held"),
        *command(good, out, *options),
    ]


def by_torchrun(good: Path, out: Path, *options: str) -> subprocess.Popen:
    """Start two processes as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launched(good, out, *options)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def by_forked_torchrun(good: Path, out: Path, *options: str) -> Warm:
    """Start two processes by a torchrun that forks them, rather than start Python anew."""
    forks = ("--run-path", "--start-method=fork", *launched(good, out, *options))
    said, errors = (out.with_name(f"{out.name}.{name}") for name in ("out", "err"))
    return Warm(module, "torch.distributed.run", *forks, out=said, err=errors)


def two_processes(good: Path, out: Path, *options: str) -> list[Warm]:
    """Start two processes with what torchrun would tell them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [
        Warm(
            blemish,
            *command(good, out, *options),
            out=out.with_name(f"{out.name}.{rank}.out"),
            err=out.with_name(f"{out.name}.{rank}.err"),
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]


def trained(good: Path, out: Path, *options: str) -> list[dict[str, float]]:
    """Train by two processes to the end; returns the log's rows."""
    processes = two_processes(good, out, *options)
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert "".join(said for said, _ in told).count("model: ") == 1  # one process speaks
    assert sorted(p.name for p in out.iterdir()) == ["log.csv", "model.safetensors", "run.json"]
    return rows(out)


@pytest.fixture(scope="module")
def by_two(good, tmp_path_factory) -> Callable[..., list[dict[str, float]]]:
    """Train by two processes, once with the same options; returns the log's rows."""
    return functools.cache(lambda *options: trained(good, tmp_path_factory.mktemp("by") / "two", *options))


def rows(out: Path) -> list[dict[str, float]]:
    with (out / "log.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.torchrun
@pytest.mark.parametrize("method", [METAL, CPC_AD], ids=["metal", "cpc-ad"])
def test_two_processes_have_the_losses_of_one(method, good, by_two, single_thread, tmp_path):
    assert run("train", "--data", good, "--out", tmp_path / "one", *COMMON, *method) == 0
    one, two = rows(tmp_path / "one"), by_two(*method)
    assert len(one) == len(two) == 17  # 51 steps
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    assert one[-1]["train_loss"] < one[0]["train_loss"] - 0.1


@pytest.mark.torchrun
def test_negatives_of_each_process_are_another_loss(good, by_two, tmp_path):
    own_negatives = trained(good, tmp_path / "own", *CPC_AD, "--negatives-of=process")
    all_negatives = by_two(*CPC_AD)
    assert own_negatives[0]["train_loss"] != pytest.approx(all_negatives[0]["train_loss"], abs=1e-5)
    assert own_negatives[0]["train_loss"] == pytest.approx(all_negatives[0]["train_loss"], abs=0.2)


def worker(launcher: subprocess.Popen, rank: int) -> int:
    """Return the process number of a rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = parent_of(int(folder.name)) == launcher.pid
            if mine and f"\0RANK={rank}\0" in (folder / "environ").read_text():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no such process")


def wait_for_epoch(process: subprocess.Popen | Warm, out: Path, epoch: int) -> None:
    while process.poll() is None:
        if (out / "log.csv").exists() and len(rows(out)) >= epoch:
            return
        time.sleep(0.02)
    pytest.fail(f"ended before epoch {epoch}: {process.communicate()[1]}")


@pytest.mark.torchrun
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a rank by /proc")
def test_a_killed_rank_and_then_a_stop_end_with_the_same_weights(good, tmp_path):
    trained(good, tmp_path / "undisturbed", *METAL, "--epochs=26")
    out, options = tmp_path / "disturbed", (*METAL, "--epochs=26", "--resume")
    held = tmp_path / "held"
    held.write_text("9")
    process = by_torchrun(good, out, *options)
    wait_for_epoch(process, out, 5)
    os.kill(worker(process, rank=1), signal.SIGKILL)
    assert "one of 2 processes is gone or cannot go on" in process.communicate(timeout=300)[1]
    assert process.returncode != 0
    held.write_text("22")
    process = by_forked_torchrun(good, out, *options)
    wait_for_epoch(process, out, 18)
    process.terminate()
    assert "stopped in epoch" in process.communicate(timeout=300)[1]
    assert not (out / "model.safetensors").exists()
    trained(good, out, *options)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("disturbed", "undisturbed")]
    assert models[0] == models[1]


@pytest.mark.torchrun
def test_batch_normalisation_is_not_shared(good, tmp_path):
    processes = two_processes(
        good, tmp_path / "cutpaste", "--method=cutpaste", "--patch-size=32", "--stride=4"
    )
    for process in processes:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode != 0
        assert "--method cutpaste: batch normalisation needs whole batches; train it in one process" in errors


@pytest.mark.torchrun
@pytest.mark.parametrize("method", [PLANTED, NSA], ids=["planted", "nsa"])
def test_what_plants_defects_trains_by_two_processes(method, good, tmp_path):
    """Their losses are not those of one process: each normalises its own part of a batch."""
    log = trained(good, tmp_path / "two", *method)
    assert [row["epoch"] for row in log] == [1, 2]
    assert all(0 < row["train_loss"] < 2 and 0 < row["validation_loss"] < 2 for row in log)


@pytest.mark.parametrize(("total", "processes"), [*itertools.product((1, 2, 3, 5, 16), (1, 2, 3, 7))])
def test_shares_make_the_batch(total, processes):
    shares = [share_of(total, process=i, processes=processes) for i in range(processes)]
    if processes == 1 or total < processes:
        assert shares == [None] * processes  # each takes all of it
        return
    batch = torch.arange(total)
    assert torch.cat([own_part(batch, share) for share in shares]).tolist() == batch.tolist()
    losses = torch.rand(total)
    mean = torch.stack([share.weight * own_part(losses, share).mean() for share in shares]).mean()
    torch.testing.assert_close(mean, losses.mean())


def test_alone_nothing_is_gathered():
    part = torch.rand(2, 3)
    assert gather_parts(part, None, dim=1) is part
    assert own_part(part, None) is part
