"""The training loop on networks small enough to follow by hand."""

from __future__ import annotations

import csv
import math
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blemish.core.errors import Interrupted, TrainingError, UsageError
from blemish.methods.base import TrainedMethod
from blemish.methods.config import TrainedConfig
from blemish.training import trainer as training
from blemish.training.checkpoint import load_checkpoint, save_checkpoint
from blemish.training.device import make_accelerator
from blemish.training.schedule import learning_rate_at
from blemish.training.trainer import Trainer

FALLING = TrainedConfig(learning_rate=1.0, schedule="constant", batch_size=2, epochs=3)


class Numbers:
    """n images of 1 x 1 pixel that hold their own index."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(indices, np.float32).reshape(-1, 1, 1, 1)


class Follower(nn.Module):
    """A network as the loop knows it, of a single phase."""

    phases, begin_phase = TrainedMethod.phases, TrainedMethod.begin_phase
    loss_of_turn = TrainedMethod.loss_of_turn


class Falling(Follower):
    """Its loss is its weight, so that each Adam step lowers the weight by the learning rate.

    Adam with the constant gradient 1: m / sqrt(v) = 1 after bias correction. With rate 1 the weight after n
    steps is -n. Validation losses are read off a script, by epoch.
    """

    def __init__(
        self, script: tuple[float, ...] = (), *, steps_per_epoch: int = 2, nan_at: float = -1e9
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.script, self.steps_per_epoch, self.nan_at = script, steps_per_epoch, nan_at
        self.seen: list[list[float]] = []
        self.prepared: list[int] = []
        self.finished_with: float | None = None

    def loss(self, x: torch.Tensor, share: object = None) -> torch.Tensor:
        done = round(-self.weight.item())
        if not self.training:
            return torch.tensor(self.script[done // self.steps_per_epoch - 1])
        self.seen.append(x.flatten().tolist())
        return self.weight.sum() * (math.nan if -done <= self.nan_at else 1.0)

    def prepare(self, batches) -> None:
        self.prepared = [round(v) for x in batches() for v in x.flatten().tolist()]

    def finish(self, batches) -> None:
        self.finished_with = self.weight.item()
        assert not self.training
        assert sum(len(x) for x in batches()) > 0


class Learner(Follower):
    """A network whose weights depend on the order of the images and on every rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("mean", torch.zeros(1))
        self.preparations = 0

    def loss(self, x: torch.Tensor, share: object = None) -> torch.Tensor:
        x = x.flatten(1) / 10
        return (self.layers(x - self.mean) - x.sin()).square().mean()

    def prepare(self, batches) -> None:
        self.preparations += 1
        self.mean.copy_(torch.cat(list(batches())).mean().view(1) / 10)

    def finish(self, batches) -> None:
        pass


def trainer(network: nn.Module, config=FALLING, *, folder=None, n=4, validation=0, seed=0, identity=None):
    if folder is not None:
        folder.mkdir(exist_ok=True)
    return Trainer(
        network,
        config,
        Numbers(n),
        Numbers(validation) if validation else None,
        accelerator=make_accelerator("cpu", "fp32"),
        seed=seed,
        folder=folder,
        identity=identity or {"seed": seed},
    )


def changed(**options) -> TrainedConfig:
    return TrainedConfig(**{"learning_rate": 1.0, "schedule": "constant", "batch_size": 2, **options})


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def one_line(error: pytest.ExceptionInfo, *words: object) -> str:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text
    return text


# --- the learning rate ---


def test_learning_rate_by_hand():
    cosine = TrainedConfig(learning_rate=2.0, schedule="cosine")
    # 100 steps: warm-up over 10, step s takes (s + 1) / 10 of the rate; then 90 steps of half a cosine.
    assert learning_rate_at(0, 100, cosine) == pytest.approx(0.2)
    assert learning_rate_at(4, 100, cosine) == pytest.approx(1.0)
    assert learning_rate_at(9, 100, cosine) == pytest.approx(2.0)
    assert learning_rate_at(10, 100, cosine) == pytest.approx(2.0)  # cos 0 = 1
    assert learning_rate_at(40, 100, cosine) == pytest.approx(1.5)  # cos(pi / 3) = 1/2 -> 2 * (1 + 1/2) / 2
    assert learning_rate_at(55, 100, cosine) == pytest.approx(1.0)  # cos(pi / 2) = 0
    assert learning_rate_at(100, 100, cosine) == pytest.approx(0.0)
    # The warm-up is 50 steps at most, and 1 at least.
    assert learning_rate_at(0, 1000, cosine) == pytest.approx(2 / 50)
    assert learning_rate_at(49, 1000, cosine) == pytest.approx(2.0)
    assert learning_rate_at(0, 1, cosine) == pytest.approx(2.0)
    constant = TrainedConfig(learning_rate=2.0, schedule="constant")
    assert [learning_rate_at(s, 100, constant) for s in (0, 50, 99)] == [2.0, 2.0, 2.0]


def test_optimiser_gets_the_scheduled_rate():
    config = changed(learning_rate=0.25, schedule="cosine", epochs=10)
    rates = []
    trainer(Falling(), config).run(
        resume=False, on_progress=lambda t: rates.append(t.optimizer.param_groups[0]["lr"])
    )
    assert rates == [learning_rate_at(step, 20, config) for step in range(20)]


# --- epochs and their log ---


def test_each_image_once_an_epoch_in_an_order_of_the_seed():
    def orders(seed: int) -> list[list[float]]:
        network = Falling()
        trainer(network, n=5, seed=seed).run(resume=False)
        assert network.prepared == [0, 1, 2, 3, 4]
        assert [len(x) for x in network.seen] == [2, 2, 1] * 3
        return [[v for x in network.seen[i : i + 3] for v in x] for i in (0, 3, 6)]

    first = orders(0)
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in first)
    assert first[0] != first[1]
    assert orders(0) == first
    assert orders(1) != first


def test_log_by_hand(tmp_path):
    outcome = trainer(Falling((5.0, 4.0, 6.0), steps_per_epoch=3), n=5, validation=1, folder=tmp_path).run(
        resume=False
    )
    # Weights before the steps of epoch 1 are 0, -1, -2 and the batches hold 2, 2, 1 images:
    # (0 * 2 - 1 * 2 - 2 * 1) / 5 = -0.8; each epoch of 3 steps later, 3 lower.
    rows = log_of(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([-0.8, -3.8, -6.8], abs=1e-5)
    assert [float(row["validation_loss"]) for row in rows] == [5, 4, 6]
    assert (outcome.epochs, outcome.steps, outcome.best_epoch, outcome.best_validation_loss) == (3, 9, 2, 4.0)


def test_steps_give_epochs():
    # 5 images in batches of 2 are 3 steps an epoch; 7 steps take 3 epochs.
    outcome = trainer(Falling(), changed(steps=7), n=5).run(resume=False)
    assert (outcome.epochs, outcome.steps, outcome.best_validation_loss) == (3, 9, None)
    assert outcome.best_epoch is None


# --- early stopping ---


@pytest.mark.parametrize(
    ("min_epochs", "patience", "script", "stops_after", "best"),
    [
        (0, 2, (5, 4, 3, 3.5, 3.2, 1), 5, 3),  # epochs 4 and 5 are no better than 3
        (0, 1, (5, 4, 4, 1), 3, 2),  # as good is not better
        (4, 1, (5, 6, 7, 8, 9, 1), 5, 1),  # due after epoch 2, but it begins after epoch 4
        (3, 2, (5, 6, 7, 4, 8, 9, 1), 6, 4),  # epoch 4 saves it, 5 and 6 end it
        (0, None, (5, 6, 7, 8, 9, 10, 11), 7, 1),  # never
        (0, 9, (5, 6, 7, 8, 9, 10, 4), 7, 7),  # not before the last epoch
    ],
)
def test_early_stopping_by_hand(min_epochs, patience, script, stops_after, best):
    network = Falling(tuple(map(float, script)))
    config = changed(epochs=len(script), min_epochs=min_epochs, patience=patience, validation_fraction=0.1)
    outcome = trainer(network, config, validation=1).run(resume=False)
    assert (outcome.epochs, outcome.best_epoch) == (stops_after, best)
    assert outcome.best_validation_loss == script[best - 1]
    # Two steps an epoch: the network ends, and takes its statistics, with the weight after epoch `best`.
    assert network.weight.item() == pytest.approx(-2 * best, abs=1e-4)
    assert network.finished_with == network.weight.item()


def test_without_validation_the_last_weights_stay():
    network = Falling()
    trainer(network, changed(epochs=4)).run(resume=False)
    assert network.weight.item() == pytest.approx(-8, abs=1e-4)


# --- a loss that is not finite ---


def test_nan_names_epoch_and_step_and_leaves_the_checkpoint(tmp_path):
    # Two steps an epoch: the weight is -3 before the second step of epoch 2.
    with pytest.raises(TrainingError) as error:
        trainer(Falling(nan_at=-3), folder=tmp_path).run(resume=False)
    file = tmp_path / "checkpoint" / "state.pt"
    one_line(error, "loss is nan at epoch 2, step 2", "--learning-rate", file)
    assert torch.load(file, weights_only=True)["state"]["epoch"] == 1
    network = Falling()
    assert trainer(network, folder=tmp_path).run(resume=True).epochs == 3
    assert network.weight.item() == pytest.approx(-6, abs=1e-4)
    assert [row["epoch"] for row in log_of(tmp_path)] == ["1", "2", "3"]


def test_nan_at_once_has_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError) as error:
        trainer(Falling(nan_at=0), folder=tmp_path).run(resume=False)
    one_line(error, "epoch 1, step 1", "there is no checkpoint yet")


def test_nan_in_validation():
    with pytest.raises(TrainingError) as error:
        trainer(Falling((1.0, math.nan, 1.0)), validation=1).run(resume=False)
    one_line(error, "validation loss is nan at epoch 2")


# --- stop and resume ---

LEARNER = changed(learning_rate=0.01, schedule="cosine", epochs=4)


def stopping_at(step: int):
    def stop(t: Trainer) -> None:
        if t.state.epoch * t.steps_per_epoch + t.state.step == step:
            t.ask_to_stop()

    return stop


@pytest.mark.heavy
def test_stopped_at_any_step_and_resumed_is_as_undisturbed(tmp_path):
    whole = Learner()
    expected = trainer(whole, LEARNER, n=5, validation=2, folder=tmp_path / "whole").run(resume=False)
    for step in range(1, 13):  # 3 steps an epoch, 4 epochs
        folder = tmp_path / str(step)
        with pytest.raises(Interrupted) as error:
            trainer(Learner(), LEARNER, n=5, validation=2, folder=folder).run(
                resume=False, on_progress=stopping_at(step)
            )
        one_line(error, f"stopped in epoch {(step - 1) // 3 + 1} of 4")
        resumed = Learner()
        outcome = trainer(resumed, LEARNER, n=5, validation=2, folder=folder).run(resume=True)
        assert resumed.preparations == 0  # its statistics came with the checkpoint
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), (step, name)
        assert log_of(folder) == log_of(tmp_path / "whole")
        assert (outcome.best_epoch, outcome.steps) == (expected.best_epoch, expected.steps)


def test_best_weights_survive_a_resume(tmp_path):
    script = (5.0, 1.0, 2.0, 3.0)
    with pytest.raises(Interrupted):
        trainer(Falling(script), changed(epochs=4), validation=1, folder=tmp_path).run(
            resume=False, on_progress=stopping_at(7)
        )
    network = Falling(script)
    assert trainer(network, changed(epochs=4), validation=1, folder=tmp_path).run(resume=True).best_epoch == 2
    assert network.weight.item() == pytest.approx(-4, abs=1e-4)


def test_without_resume_a_checkpoint_is_not_taken_up(tmp_path):
    with pytest.raises(Interrupted):
        trainer(Falling(), folder=tmp_path).run(resume=False, on_progress=stopping_at(3))
    network = Falling()
    trainer(network, folder=tmp_path).run(resume=False)
    assert len(network.seen) == 6


def test_checkpoint_of_another_run_is_refused(tmp_path):
    before = {"seed": 1, "learning_rate": 0.5}
    with pytest.raises(Interrupted):
        trainer(Falling(), folder=tmp_path, identity=before).run(resume=False, on_progress=stopping_at(1))
    with pytest.raises(TrainingError) as error:
        trainer(Falling(), folder=tmp_path, identity=before | {"learning_rate": 0.25}).run(resume=True)
    text = one_line(
        error, tmp_path / "checkpoint" / "state.pt", "learning_rate was 0.5 and is now 0.25", "--out"
    )
    assert "seed" not in text


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"what counts": "regions of 20 px or more"}, {}, "regions of 20 px or more and is now not given"),
        ({}, {"suspects dropped": 0.05}, "suspects dropped was not given and is now 0.05"),
        ({"members": None}, {}, None),
    ],
)
def test_an_option_on_one_side_alone_makes_another_run(tmp_path, before, now, said):
    file = tmp_path / "state.pt"
    save_checkpoint(file, {"identity": {"seed": 1} | before})
    if said is None:
        assert load_checkpoint(file, {"seed": 1} | now)["identity"]["seed"] == 1
        return
    with pytest.raises(TrainingError) as error:
        load_checkpoint(file, {"seed": 1} | now)
    one_line(error, file, said, "--out")


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_damaged_checkpoint_is_one_line(tmp_path):
    with pytest.raises(Interrupted):
        trainer(Falling(), folder=tmp_path).run(resume=False, on_progress=stopping_at(3))
    file = tmp_path / "checkpoint" / "state.pt"
    whole = file.read_bytes()
    damaged = [whole[: len(whole) * i // 7] for i in range(7)] + [whole[:-1], b"some text\n"]
    damaged += [pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2), pickle.dumps([1, 2], protocol=2)]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(TrainingError) as error:
            trainer(Falling(), folder=tmp_path).run(resume=True)
        one_line(error, file, "not a whole checkpoint", "remove it")
    assert not (tmp_path / "exploded").exists()
    file.unlink()  # the cure
    assert trainer(Falling(), folder=tmp_path).run(resume=True).epochs == 3


def test_checkpoints_are_written_when_due(tmp_path, monkeypatch):
    def written(seconds: float, folder: Path) -> list[tuple[int, int]]:
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", seconds)
        t = trainer(Falling(), folder=folder)
        where = []
        save = t._save_checkpoint

        def noted() -> None:
            where.append((t.state.epoch, t.state.step))
            save()

        monkeypatch.setattr(t, "_save_checkpoint", noted)
        t.run(resume=False)
        return where

    assert written(1e9, tmp_path / "a") == [(1, 0)]  # after the first epoch, whatever the clock says
    everywhere = {(epoch, step) for epoch in range(3) for step in (0, 1, 2)} - {(0, 0)} | {(3, 0)}
    assert set(written(0, tmp_path / "b")) == everywhere


def test_signals_stop_after_the_step_and_are_handed_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        network = Falling()
        with pytest.raises(Interrupted):
            trainer(network, folder=tmp_path).run(
                resume=False, on_progress=lambda _, n=number: os.kill(os.getpid(), n)
            )
        assert len(network.seen) == 1
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_ctrl_c_is_immediate():
    def twice(_: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(Falling()).run(resume=False, on_progress=twice)


def test_one_process_may_train_with_several_precisions():
    assert [make_accelerator("cpu", p).mixed_precision for p in ("fp32", "bf16", "fp32")] == [
        "no",
        "bf16",
        "no",
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("tf32_allowed")
def test_a_training_takes_no_tf32(precision: str):
    make_accelerator("cpu", precision)
    assert not torch.backends.cudnn.allow_tf32  # which torch's convolutions take unless they are told
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(UsageError) as error:
        make_accelerator("cuda", "auto")
    one_line(error, "--device cuda", "--device cpu")


@pytest.mark.parametrize(("device", "precision"), [("mps", "auto"), ("cpu", "fp16")])
def test_another_device_or_precision_is_refused(device: str, precision: str):
    with pytest.raises(UsageError) as error:
        make_accelerator(device, precision)
    one_line(error, "must be one of auto")


# --- what a network draws, and what images it is given ---


class Drawing(Learner):
    """Notes what it draws in each loss: crops and negatives are drawn so."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}

    def loss(self, x: torch.Tensor, share: object = None) -> torch.Tensor:
        self.drawn[self.training].append(tuple(torch.rand(3).tolist()))
        return super().loss(x, share)


def test_draws_depend_on_the_seed_and_the_step_alone(tmp_path):
    def drawn(seed: int, disturb=lambda _: None) -> dict[bool, list[tuple[float, ...]]]:
        network = Drawing()
        trainer(network, LEARNER, n=5, validation=3, seed=seed).run(resume=False, on_progress=disturb)
        return network.drawn

    whole = drawn(0)
    steps, validation = whole[True], whole[False]
    assert len(set(steps)) == 12  # 4 epochs of 3 steps, each its own
    assert len(validation) == 8  # 4 epochs of 2 batches
    assert len(set(validation[:2])) == 2
    assert validation == validation[:2] * 4  # alike in every epoch, so that losses compare
    assert drawn(0, lambda _: torch.rand(5)) == whole  # whatever else draws
    assert not set(drawn(1)[True]) & set(steps)
    for step in (1, 3, 5, 12):
        folder = tmp_path / str(step)
        before, after = Drawing(), Drawing()
        with pytest.raises(Interrupted):
            trainer(before, LEARNER, n=5, validation=3, folder=folder).run(
                resume=False, on_progress=stopping_at(step)
            )
        trainer(after, LEARNER, n=5, validation=3, folder=folder).run(resume=True)
        assert before.drawn[True] + after.drawn[True] == steps


class Bytes(Numbers):
    """The same images in 8 bits: 255 is 1."""

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return super().batch(indices).astype(np.uint8)


def test_images_of_8_bits_are_given_to_the_network_from_0_to_1():
    network = Falling()
    trainer(network, n=4).run(resume=False)
    expected = network.seen
    network = Falling()
    t = trainer(network, n=4)
    t.train_images = Bytes(4)
    t.run(resume=False)
    for ours, numbers in zip(network.seen, expected, strict=True):
        assert ours == pytest.approx([number / 255 for number in numbers])


def test_statistics_are_of_the_images_as_scoring_sees_them():
    class Scored(Numbers):
        def batch(self, indices: np.ndarray) -> np.ndarray:
            return super().batch(indices) + 100

    class Finishing(Falling):
        def finish(self, batches) -> None:
            self.finished = [round(v) for x in batches() for v in x.flatten().tolist()]

    network = Finishing()
    Trainer(
        network, FALLING, Numbers(3), None, scored=Scored(3), accelerator=make_accelerator("cpu", "fp32"),
        seed=0, folder=None, identity={},
    ).run(resume=False)  # fmt: skip
    assert network.prepared == network.finished == [100, 101, 102]
    assert sorted(v for x in network.seen[:2] for v in x) == [0, 1, 2]
