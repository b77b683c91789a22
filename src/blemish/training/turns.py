"""Whose turn it is at each step: phases one after the other, and in each the turns of several optimisers.

One Adam holds a group of parameters for each turn. It passes over parameters without a gradient and has a
state for each of the others, so that it is as many optimisers as there are turns, and one checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from blemish.core.errors import UsageError
from blemish.training.optimizer import Adam
from blemish.training.schedule import learning_rate_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from blemish.methods.base import TrainedMethod, Turn
    from blemish.methods.components.distributed import Share
    from blemish.methods.config import TrainedConfig


class Loss(nn.Module):
    """The network seen by accelerate: its forward is the loss, so that wrapping applies to training."""

    def __init__(self, network: TrainedMethod[Any], *, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(self, x: Tensor, share: Share | None, turn: str) -> Tensor:
        """Images (B, C, H, W), or one process's share of them -> the mean loss of a turn.

        Raises UsageError for a share where the method needs whole batches.
        """
        if share is None:
            return self.network.loss_of_turn(x, turn)
        if self.network.whole_batches:
            raise UsageError(
                f"--method {self.method}: batch normalisation needs whole batches; train it in one process"
            )
        return self.network.loss_of_share(x, share)


def phase_starts(shares: list[float], steps: int) -> list[int]:
    """Return the step, from 0, at which each phase begins, so that phases divide `steps` by their shares.

    Each has one step at least; there must be as many steps as phases.
    """
    starts, before = [0], 0.0
    for later, share in zip(range(len(shares) - 1, 0, -1), shares, strict=False):
        before += share
        wanted = round(steps * before / sum(shares))
        starts.append(min(max(wanted, starts[-1] + 1), steps - later))
    return starts


class Turns:
    """The turns of a network's training of `steps` steps in order, and their optimiser."""

    def __init__(
        self, network: TrainedMethod[Any], config: TrainedConfig, *, method: str, steps: int, processes: int
    ) -> None:
        """Ask the network for its phases.

        Raises UsageError for fewer steps than phases, and for several turns in several processes.
        """
        self.config, self.steps = config, steps
        self.phases = network.phases()
        turns = [turn for phase in self.phases for turn in phase.turns]
        self.single = len(turns) == 1
        if processes > 1 and not self.single:
            raise UsageError(f"--method {method}: its networks learn in turns; train it in one process")
        if steps < len(self.phases):
            raise UsageError(
                f"--method {method}: {steps} steps are too few for {len(self.phases)} phases; give --steps "
                f"{len(self.phases)} or more"
            )
        self.starts = phase_starts([phase.share for phase in self.phases], steps)
        self.parameters = {turn.name: list(turn.parameters) for turn in turns}
        self.learning = {id(p) for part in self.parameters.values() for p in part if p.requires_grad}
        self.betas = {turn.name: turn.betas for turn in turns}

    def optimizer(self, *, fused: bool | None) -> Adam:
        """Make Adam with a group of parameters for each turn, in the order of `phases`."""
        groups = [{"params": part, "betas": self.betas[name]} for name, part in self.parameters.items()]
        return Adam(groups, lr=self.config.learning_rate, fused=fused)

    def phase_at(self, step: int) -> int:
        """Return the number of the phase that the step, from 0, belongs to."""
        return sum(start <= step for start in self.starts) - 1

    def of_step(self, step: int, optimizer: torch.optim.Optimizer) -> Iterator[Turn]:
        """Yield the turns that a step takes, each with its learning rate set and the others held still."""
        number = self.phase_at(step)
        first, end = self.starts[number], [*self.starts[1:], self.steps][number]
        rate = learning_rate_at(step - first, end - first, self.config)
        groups = dict(zip(self.parameters, optimizer.param_groups, strict=True))
        for turn in self.phases[number].turns:
            if (step - first + 1) % turn.every:
                continue
            groups[turn.name]["lr"] = rate * turn.rate
            if self.single:
                yield turn
                continue
            for other in self.parameters:
                self._let_learn(other, other == turn.name)
            try:
                yield turn
            finally:
                for other in self.parameters:
                    self._let_learn(other, True)

    def _let_learn(self, turn: str, on: bool) -> None:
        """Let the parameters of a turn have gradients or not; those that came frozen stay so."""
        parameters: list[nn.Parameter] = self.parameters[turn]
        for p in parameters:
            p.requires_grad_(on and id(p) in self.learning)
