"""The log of a training for TensorBoard: each epoch once, also of a run that was gone on with."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused, run

pytest.importorskip("tensorboardX", reason="blemish[tensorboard] is not installed")
from tensorboardX.proto.event_pb2 import Event

from blemish.training.tensorboard import TensorBoard
from blemish.training.watcher import Silent

SMALL = (
    "--image-size",
    32,
    "--patch-size",
    8,
    "--embedding",
    8,
    "--hidden",
    16,
    "--heads",
    2,
    "--device",
    "cpu",
)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The values of each name by epoch, from all files of a folder in order."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            body = data[at + 12 : at + 12 + length]
            assert len(body) == length
            event = Event.FromString(body)
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found[value.tag][event.step] = value.simple_value
            at += length + 16
    return found


@pytest.mark.usefixtures("single_thread")
def test_the_epochs_of_log_csv_are_there(tiny_category: Path, tmp_path: Path):
    out, logs = tmp_path / "flange", tmp_path / "logs"
    words = ("train", "--data", tiny_category, "--method", "metal", *SMALL, "--epochs", 3, "--out", out)
    assert run(*words, "--tensorboard", logs, "--validation-fraction", 0.2) == 0
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = scalars(logs / "flange")
    for column, name in (("train_loss", "loss/train"), ("validation_loss", "loss/validation")):
        assert found[name] == pytest.approx({int(r["epoch"]): float(r[column]) for r in rows}, rel=1e-5)
    assert len(rows) == 3


class Told:
    """As much of a trainer as a watcher looks at."""

    def __init__(self, folder: Path | None, rows: list[dict[str, Any]]) -> None:
        self.folder, self.network, self.identity = folder, torch.nn.Linear(1, 1), {"method": "metal"}
        self.state = type("State", (), {"rows": rows})


def test_a_run_that_goes_on_and_members_have_each_epoch_once(tmp_path: Path):
    epochs = [{"epoch": n, "train_loss": float(n), "seconds": 1.0} for n in (1, 2, 3)]
    for rows in (epochs[:2], epochs):  # the second is gone on with from the first
        board = TensorBoard(tmp_path / "logs", tmp_path / "run", Silent())
        told: Any = Told(tmp_path / "run", rows[:1])
        board.training(told)
        told.state.rows[1:] = rows[1:]
        board.finish()
        assert board.trainings == 1
    assert scalars(tmp_path / "logs" / "run")["loss/train"] == {1: 1.0, 2: 2.0, 3: 3.0}
    board = TensorBoard(tmp_path / "logs", tmp_path / "several", Silent())
    for name in ("planted", "member 0"):
        board.training(Told(tmp_path / "several" / "choice" / name, epochs))  # type: ignore[arg-type]
    board.finish()
    board.finish()
    assert board.trainings == 2
    for name in ("planted", "member 0"):
        assert scalars(tmp_path / "logs" / "several" / name)["loss/train"] == {1: 1.0, 2: 2.0, 3: 3.0}


def test_what_has_no_epochs_is_told(tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = (
        "train",
        "--data",
        tiny_category,
        "--method",
        "pca",
        "--image-size",
        32,
        "--out",
        tmp_path / "run",
    )
    assert run(*words, "--tensorboard", tmp_path / "logs", "--device", "cpu") == 0
    assert "nothing was written, as nothing had epochs" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_without_its_package_or_on_a_cluster_it_is_refused(
    tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = (
        "train",
        "--data",
        tiny_category,
        "--method",
        "pca",
        "--out",
        tmp_path / "run",
        "--tensorboard",
        "x",
    )
    assert "is for one machine" in refused(capsys, *words, "--cluster", "local")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert "tensorboardX is missing; pip install 'blemish[tensorboard]'" in refused(capsys, *words)
