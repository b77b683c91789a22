"""The only training loop: epochs, validation, early stopping, checkpoints.

Everything random is a function of the seed and of where the loop stands, never of how it got there. So a
run that is killed at any moment and resumed from its last checkpoint ends with the same weights, bit for
bit on a CPU, as one that was left alone.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from blemish.core.errors import Interrupted, TrainingError
from blemish.core.stop_signals import StopSignals
from blemish.methods.components.distributed import share_of
from blemish.methods.config import TrainedConfig
from blemish.training.batches import ImageBatches, as_floats, in_order
from blemish.training.checkpoint import CHECKPOINT_FOLDER, State, load_checkpoint, save_checkpoint
from blemish.training.device import keep_freed_memory
from blemish.training.run_folder import Outcome, write_log
from blemish.training.turns import Loss, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from accelerate import Accelerator

    from blemish.methods.base import TrainedMethod, Turn
    from blemish.methods.components.distributed import Share

CHECKPOINT_SECONDS = 30.0
"""A checkpoint is written when the last one is older than this."""


class Trainer:
    """One training run: weights, optimiser, state, and the folder they are kept in.

    Of several processes each takes its share of every batch; what they add up is the same for all, so all
    hold the same state, and the first one alone writes.
    """

    def __init__(
        self,
        network: TrainedMethod[Any],
        config: TrainedConfig,
        train: ImageBatches,
        validation: ImageBatches | None,
        *,
        scored: ImageBatches | None = None,
        accelerator: Accelerator,
        seed: int,
        folder: Path | None,
        identity: dict[str, Any],
    ) -> None:
        self.network, self.config, self.train_images, self.validation = network, config, train, validation
        self.scored = scored or train  # the training images as scoring sees them, for statistics
        self.accelerator, self.seed, self.folder, self.identity = accelerator, seed, folder, identity
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.epochs = config.epochs or math.ceil(config.steps / self.steps_per_epoch)
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        fused = True if accelerator.device.type in ("cpu", "cuda") else None
        method = identity.get("method", type(network).__name__)
        self.turns = Turns(
            network,
            config,
            method=method,
            steps=self.epochs * self.steps_per_epoch,
            processes=accelerator.num_processes,
        )
        loss = Loss(network, method=method)
        optimizer = self.turns.optimizer(fused=fused)
        # told to place both, accelerate does not ask for distributed tensors, whose import takes a second
        self.loss, self.optimizer = accelerator.prepare(loss, optimizer, device_placement=[True, True])
        self._stop_asked = False
        self._saved_at = time.monotonic()

    def run(self, *, resume: bool, on_progress: Callable[[Trainer], None] = lambda _: None) -> Outcome:
        """Train to the end, keep the best epoch's weights in the network, and report.

        `on_progress` is called after every step. Raises TrainingError on a loss that is not finite, and
        Interrupted (a TrainingError) after Ctrl-C or SIGTERM, with everything saved.
        """
        keep_freed_memory()
        if not (resume and self._load_checkpoint()):
            self.network.prepare(lambda: self._batches(self.scored))
        began = time.monotonic() - self.state.seconds
        with StopSignals(self.ask_to_stop), self._others_may_die(), torch.random.fork_rng(self._cuda()):
            while self.state.epoch < self.epochs and not self._is_over():
                for x, share in self._rest_of_epoch():
                    self._step(x, share)
                    self.state.seconds = time.monotonic() - began
                    on_progress(self)
                    self._save_if_due()
                self._end_epoch()
        if self.best is not None:
            self.network.load_state_dict(self.best)
        self.network.eval()
        self.network.finish(lambda: self._batches(self.scored))
        return Outcome(
            epochs=self.state.epoch,
            steps=self.state.epoch * self.steps_per_epoch,
            best_epoch=self.state.best_epoch + 1 if self.validation else None,
            best_validation_loss=self.state.best_loss if self.validation else None,
            seconds=self.state.seconds,
        )

    @contextmanager
    def _others_may_die(self) -> Iterator[None]:
        """Of several processes: say in a line that one is gone, or cannot go on."""
        try:
            yield
        except RuntimeError as error:
            if self.accelerator.num_processes == 1:
                raise
            line = str(error).strip().partition("\n")[0]
            raise TrainingError(
                f"one of {self.accelerator.num_processes} processes is gone or cannot go on "
                f"({line[:200] or type(error).__name__}); start all of them again with --resume"
            ) from error

    def _cuda(self) -> list[torch.device]:
        """Devices beside the CPU whose draws are seeded: the caller's own sequence is given back."""
        return [self.accelerator.device] if self.accelerator.device.type == "cuda" else []

    def _is_over(self) -> bool:
        """Early stopping: after `min_epochs`, when `patience` epochs brought no better validation loss."""
        config, state = self.config, self.state
        if config.patience is None or self.validation is None:
            return False
        if state.best_epoch < 0:
            return False  # as in all phases but the last
        since_best = state.epoch - 1 - state.best_epoch
        return state.epoch > config.min_epochs and since_best >= config.patience

    def _rest_of_epoch(self) -> Iterator[tuple[Tensor, Share | None]]:
        """Batches of this epoch that are still to come, in the order that seed and epoch fix."""
        order = np.random.default_rng([self.seed, self.state.epoch]).permutation(len(self.train_images))
        return self._shares(self.train_images, order, self.state.step)

    def _shares(
        self, images: ImageBatches, order: np.ndarray, step: int = 0
    ) -> Iterator[tuple[Tensor, Share | None]]:
        """Of each batch from `step` on, what this process takes."""
        size, accelerator = self.config.batch_size, self.accelerator
        for start in range(step * size, len(order), size):
            batch = order[start : start + size]
            share = share_of(
                len(batch), process=accelerator.process_index, processes=accelerator.num_processes
            )
            yield self._to_device(images.batch(batch if share is None else batch[share.own])), share

    def _batches(self, images: ImageBatches) -> Iterator[Tensor]:
        return (self._to_device(batch) for batch in in_order(images, self.config.batch_size))

    def _to_device(self, batch: np.ndarray) -> Tensor:
        return as_floats(torch.from_numpy(batch).to(self.accelerator.device))

    def _step(self, x: Tensor, share: Share | None) -> None:
        state = self.state
        done = state.epoch * self.steps_per_epoch + state.step
        self._begin_phase(self.turns.phase_at(done))
        self._seed_draws(state.epoch, state.step)
        values: list[float] = []
        for turn in self.turns.of_step(done, self.optimizer):
            self.optimizer.zero_grad()
            loss, mean, images = self._loss_of_batch(x, share, turn)
            values.append(self._finite(mean, "loss" if self.turns.single else f"the {turn.name}'s loss"))
            self.accelerator.backward(loss)
            self.optimizer.step()
            if len(values) == 1:
                state.loss_sum, state.images = state.loss_sum + mean * images, state.images + images
        state.step += 1

    def _begin_phase(self, phase: int) -> None:
        """Tell the network once of each phase that begins with this step."""
        while self.state.phase < phase:
            self.state.phase += 1
            self._seed_draws(self.epochs, self.state.phase)
            self.network.eval()
            name = self.turns.phases[self.state.phase].name
            self.network.begin_phase(name, lambda: self._batches(self.scored))
            self.network.train()

    def _loss_of_batch(self, x: Tensor, share: Share | None, turn: Turn) -> tuple[Tensor, float, int]:
        """Return the loss to descend, the whole batch's mean loss, and its number of images."""
        with self.accelerator.autocast():
            loss = self.loss(x, share, turn.name)
        if share is not None:
            loss = loss * share.weight  # as the gradient is the mean of the processes'
        images = len(x) if share is None else share.total
        return loss, self._mean_over_processes(loss.item()), images

    def _mean_over_processes(self, value: float) -> float:
        """Let all processes go on from the same number."""
        if self.accelerator.num_processes == 1:
            return value
        values = self.accelerator.gather(torch.tensor([value], device=self.accelerator.device))
        return values.double().mean().item()  # type: ignore[union-attr]

    def _seed_draws(self, *place: int) -> None:
        """Make what the network draws (crops, negatives) depend on seed and place in the loop alone."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, *place]).generate_state(1)[0]))

    def _finite(self, value: float, what: str) -> float:
        if math.isfinite(value):
            return value
        saved = self.checkpoint is not None and self.checkpoint.exists()
        where = f"the last good checkpoint is {self.checkpoint}" if saved else "there is no checkpoint yet"
        raise TrainingError(
            f"{what} is {value} at epoch {self.state.epoch + 1}, step {self.state.step + 1}: lower "
            f"--learning-rate (now {self.config.learning_rate:g}) or use --precision fp32; {where}"
        )

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        if self.validation is None:
            return None
        total = 0.0
        self.network.eval()
        self._seed_draws(self.epochs)  # the same draws after every epoch, and none of an epoch's
        for x, share in self._shares(self.validation, np.arange(len(self.validation))):
            _, mean, images = self._loss_of_batch(x, share, self.turns.phases[self.state.phase].turns[0])
            total += mean * images
        self.network.train()
        return self._finite(total / len(self.validation), "validation loss")

    def _end_epoch(self) -> None:
        state = self.state
        validation = self._validation_loss()
        row = {"epoch": state.epoch + 1, "train_loss": state.loss_sum / state.images}
        if validation is not None:
            row["validation_loss"] = validation
            if validation < state.best_loss and state.phase == len(self.turns.phases) - 1:
                state.best_loss, state.best_epoch = validation, state.epoch
                self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        state.rows.append(row | {"seconds": round(state.seconds, 3)})
        state.epoch, state.step, state.loss_sum, state.images = state.epoch + 1, 0, 0.0, 0
        self._write_log()
        if state.epoch == 1:
            self._save_checkpoint()
        self._save_if_due()

    def _save_if_due(self) -> None:
        if self._mean_over_processes(float(self._stop_asked)) > 0:
            self._save_checkpoint()
            raise Interrupted(f"stopped in epoch {self.state.epoch + 1} of {self.epochs}")
        if time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
            self._save_checkpoint()

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint file, or None when nothing is kept."""
        return None if self.folder is None else self.folder / CHECKPOINT_FOLDER / "state.pt"

    def _save_checkpoint(self) -> None:
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        save_checkpoint(
            self.checkpoint,
            {
                "identity": self.identity,
                "state": asdict(self.state),
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
            },
        )
        self._saved_at = time.monotonic()

    def _load_checkpoint(self) -> bool:
        """Take up a checkpoint, if there is one. Raises CheckpointError when it is of another run."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return False
        content = load_checkpoint(self.checkpoint, self.identity)
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.best, self.state = content["best"], State(**content["state"])
        return True

    def _write_log(self) -> None:
        if self.folder is None or not self.accelerator.is_main_process:
            return
        write_log(self.folder, self.state.rows)

    def ask_to_stop(self) -> None:
        """Stop after the step under way, with a checkpoint."""
        self._stop_asked = True
