"""What commands say while they run and when they are done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blemish.cli.streams import complain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.progress import Progress, TaskID

    from blemish.evaluation.jobs import Progress as Jobs
    from blemish.images.folders import LeftOut
    from blemish.inference.model_file import ModelFile
    from blemish.training.trainer import Trainer


def describe_calibrations(model_file: ModelFile) -> list[str]:
    """Say what can be promised, in a line for each product."""
    known = [(f"{each.product.name}: ", each.calibration) for each in model_file.products]
    lines = []
    for name, calibration in known or [("", model_file.calibration)]:
        said = "no calibration images: scores and maps, but no threshold"
        if calibration is not None:
            promised = f"false-alarm rates promised from {calibration.named_rate():g}"
            said = f"calibrated on {calibration.n} good images: {promised}"
        lines.append(name + said)
    return lines


class TrainingBar:
    """Draws the progress of a training."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None
        self.trainer: Trainer | None = None

    def loading(self, total: int) -> Callable[[], None]:
        """Draw a bar for decoding; returns what advances it."""
        task = self.progress.add_task("decoding", total=total)
        return lambda: self.progress.advance(task)

    def choosing(self, total: int) -> Callable[[str], None]:
        """Draw a bar for the candidates that are tried; returns what says which one begins."""
        task, begun = self.progress.add_task("choosing a method", total=total), 0

        def begin(name: str) -> None:
            nonlocal begun
            self.progress.update(task, completed=begun, description=f"choosing a method, trying {name}")
            begun += 1

        return begin

    def training(self, trainer: Trainer) -> None:
        """Draw a bar for the steps, with the latest losses."""
        state, per_epoch = trainer.state, trainer.steps_per_epoch
        done = state.epoch * per_epoch + state.step
        if self.task is None or self.trainer is not trainer:
            self.trainer = trainer
            self.task = self.progress.add_task("training", total=trainer.epochs * per_epoch, completed=done)
        losses = [
            state.rows[-1][k] for k in ("train_loss", "validation_loss") if state.rows and k in state.rows[-1]
        ]
        shown = " / ".join(f"{x:.4f}" for x in losses)
        text = f"training, epoch {state.epoch + 1}" + (f", loss {shown}" if losses else "")
        self.progress.update(self.task, completed=done, description=text)


def progress_bar(*, estimate: bool = True) -> Progress:
    """Make a bar on stderr with the time used and, from the pace, the time left.

    Silent where stderr is no terminal. Without `estimate` whoever draws knows better what is left.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),  # names with brackets in them are text
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *((TextColumn("left"), TimeRemainingColumn()) if estimate else ()),
        console=console,
        disable=not console.is_terminal or not is_first_process(),  # a log holds what happened, not a bar
    )


def is_first_process() -> bool:
    """Whether this process speaks: the first one of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def draw_jobs(bar: Progress, what: str) -> Callable[[Jobs], None]:
    """Add jobs to a bar; returns what draws how far they are, and prints how each of them went."""
    from blemish.report.html import format_duration

    task = bar.add_task(what)

    def draw(now: Jobs) -> None:
        left = "" if now.seconds_left is None else f", about {format_duration(now.seconds_left)} left"
        text = f"{'; '.join(now.running)}{left}"
        bar.update(task, completed=now.finished, total=now.total, description=text)
        for line in now.just_ended:
            bar.console.print(f"{line}{left}", markup=False, highlight=False, soft_wrap=True)

    return draw


def print_summary(jobs: Jobs, what: str, where: Path) -> int:
    """Print what became of jobs, and return the exit code."""
    for name, error in jobs.failed.items():
        complain(f"failed: {name}: {error}")
    print(f"{jobs.finished} of {jobs.total} {what}: {where}")
    return 1 if jobs.failed else 0


def print_left_out(left_out: LeftOut) -> int:
    """Name in one line the files that are no image, and return the exit code: 1 where they may show parts."""
    if left_out:
        cure = "convert what shows parts, and move the rest away"
        complain(f"left out: {left_out}; read are PNG, JPEG, TIFF, BMP and WebP: {cure}")
    return 1 if left_out.parts else 0
