"""Several optimisers in turn and phases, on numbers that can be followed by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from blemish.core.errors import Interrupted, TrainingError, UsageError
from blemish.methods.base import Phase, TrainedMethod, Turn
from blemish.methods.components.distributed import share_of
from blemish.methods.config import TrainedConfig
from blemish.training.device import make_accelerator
from blemish.training.schedule import learning_rate_at
from blemish.training.trainer import Trainer
from blemish.training.turns import Loss, Turns, phase_starts

CONFIG = TrainedConfig(learning_rate=1.0, schedule="constant", batch_size=2, epochs=4)


class Ones:
    """Four images of one pixel."""

    def __len__(self) -> int:
        return 4

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), 1, 1, 1), np.float32)


class Pair(TrainedMethod[TrainedConfig]):
    """Two weights that learn in turn, then a third; each loss is the sum of all three.

    So each turn would move all of them, and with Adam's first steps moves its own by its learning rate.
    """

    config_type = TrainedConfig

    def __init__(self, config: TrainedConfig = CONFIG) -> None:
        super().__init__(config, 1)
        self.a, self.b, self.c, self.frozen = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.frozen.requires_grad_(False)
        self.register_buffer("noted", torch.zeros(2))
        self.taken: list[str] = []

    def phases(self) -> tuple[Phase, ...]:
        both = (Turn("a", [self.a, self.frozen]), Turn("b", [self.b], every=2, rate=0.5, betas=(0.0, 0.9)))
        return (Phase("both", both, share=3.0), Phase("last", (Turn("c", [self.c]),)))

    def loss_of_turn(self, x: torch.Tensor, turn: str) -> torch.Tensor:
        assert [name for name in "abc" if getattr(self, name).requires_grad or not self.training] in (
            [turn],
            ["a", "b", "c"],
        )
        assert not self.frozen.requires_grad
        self.taken.append(turn)
        noise = torch.rand(()) if self.training else 0.5
        return x.mean() * (self.a + self.b + self.c + self.frozen).sum() * (0.5 + noise)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("each loss is of a turn")

    def begin_phase(self, phase: str, batches) -> None:
        assert phase == "last"
        assert not self.training
        self.noted += torch.tensor([torch.rand(()).item(), sum(len(x) for x in batches())])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def trainer(network: Pair, config: TrainedConfig = CONFIG, *, folder=None, validation=False) -> Trainer:
    return Trainer(
        network, config, Ones(), Ones() if validation else None, accelerator=make_accelerator("cpu", "fp32"),
        seed=0, folder=folder, identity={"method": "pair"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "steps", "starts"),
    [
        ([1.0], 5, [0]),
        ([3.0, 1.0], 8, [0, 6]),
        ([0.5, 0.25, 0.25], 10, [0, 5, 8]),  # 5, then 7.5
        ([1000.0, 1.0, 1.0], 4, [0, 2, 3]),  # each phase has a step
        ([0.001, 1.0], 4, [0, 1]),
        ([1.0, 1.0], 2, [0, 1]),
    ],
)
def test_phases_divide_the_steps_by_their_shares(shares, steps, starts):
    assert phase_starts(shares, steps) == starts


def test_turns_by_hand():
    network = Pair()
    trainer(network).run(resume=False)
    # 8 steps: 6 of the first phase, b in every second of them, and 2 of the last.
    assert "".join(network.taken) == "aab" * 3 + "cc"
    # With noisy slopes Adam's steps differ from the rate by less than a half.
    assert -9 < network.a.item() < -3
    assert -0.5 * 4.5 < network.b.item() < -0.5 * 1.5
    assert -3 < network.c.item() < -1
    assert network.frozen.item() == 0
    assert network.noted[1] == 4  # each image once, once
    assert all(p.requires_grad for p in (network.a, network.b, network.c))


def test_each_phase_has_its_own_schedule():
    network, config = Pair(), replace(CONFIG, schedule="cosine", learning_rate=0.1)
    turns = Turns(network, config, method="pair", steps=8, processes=1)
    optimizer, rates = turns.optimizer(fused=None), []
    for step in range(8):
        for turn in turns.of_step(step, optimizer):
            rates.append((turn.name, optimizer.param_groups["abc".index(turn.name)]["lr"]))
    assert rates == [
        *(
            (name, factor * learning_rate_at(step, 6, config))
            for step in range(6)
            for name, factor in (("a", 1.0), ("b", 0.5))
            if name == "a" or step % 2
        ),
        *(("c", learning_rate_at(step, 2, config)) for step in range(2)),
    ]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999), (0.0, 0.9), (0.9, 0.999)]


def test_the_best_epoch_is_one_of_the_last_phase():
    config = replace(CONFIG, validation_fraction=0.5, patience=1, epochs=8)
    network = Pair()
    outcome = trainer(network, config, validation=True).run(resume=False)
    # Losses fall all the time, and patience is short; still no epoch of the first phase (6 of 8) is kept.
    assert (outcome.epochs, outcome.best_epoch) == (8, 8)
    assert network.c.item() < -2


@pytest.mark.parametrize("stop_after", range(1, 8))
def test_a_training_stopped_anywhere_goes_on_to_the_same_bytes(stop_after: int, tmp_path):
    whole = Pair()
    trainer(whole).run(resume=False)
    (tmp_path / "run").mkdir()

    def stop(it: Trainer) -> None:
        if it.state.epoch * it.steps_per_epoch + it.state.step == stop_after:
            it.ask_to_stop()

    with pytest.raises(Interrupted):
        trainer(Pair(), folder=tmp_path / "run").run(resume=False, on_progress=stop)
    resumed = Pair()
    trainer(resumed, folder=tmp_path / "run").run(resume=True)
    for name, values in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], values), name


def test_a_turn_that_is_not_a_number_is_named():
    class Bad(Pair):
        def loss_of_turn(self, x: torch.Tensor, turn: str) -> torch.Tensor:
            return super().loss_of_turn(x, turn) * (float("nan") if turn == "b" else 1)

    with pytest.raises(TrainingError, match=r"^the b's loss is nan at epoch 1, step 2: lower"):
        trainer(Bad()).run(resume=False)


def test_too_few_steps_and_several_processes_are_one_line():
    with pytest.raises(UsageError, match=r"^--method pair: 1 steps are too few for 2 phases"):
        Turns(Pair(), CONFIG, method="pair", steps=1, processes=1)
    with pytest.raises(UsageError, match=r"^--method pair: its networks learn in turns; train it in one"):
        Turns(Pair(), CONFIG, method="pair", steps=8, processes=2)
    single = SimpleNamespace(phases=lambda: (Phase("one", (Turn("loss", [nn.Parameter(torch.zeros(1))]),)),))
    Turns(single, CONFIG, method="single", steps=8, processes=2)  # type: ignore[arg-type]


class Mean(Pair):
    """Its loss is the images' mean, of all of them or of a part."""

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean()

    def loss_of_turn(self, x: torch.Tensor, turn: str) -> torch.Tensor:
        return self.loss(x)


class OfWholeBatches(Mean):
    whole_batches = True


def test_what_needs_whole_batches_refuses_a_part_of_one():
    x, part = torch.ones(2, 1, 1, 1), share_of(4, process=0, processes=2)
    for network in (Mean(), OfWholeBatches()):
        assert Loss(network, method="mean")(x, None, "loss") == 1
    assert Loss(Mean(), method="mean")(x, part, "loss") == 1
    refusal = "--method mean: batch normalisation needs whole batches; train it in one process"
    with pytest.raises(UsageError, match=refusal):
        Loss(OfWholeBatches(), method="mean")(x, part, "loss")
