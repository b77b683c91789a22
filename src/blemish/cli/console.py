"""What the commands share: options parsed into dataclasses, and progress bars with an estimate."""

from __future__ import annotations

import io
import os
import signal
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

    from blemish.training.trainer import Trainer


class TrainingBar:
    """Draws the progress of a training."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None

    def loading(self, total: int) -> Callable[[], None]:
        """Draw a bar for decoding; returns what advances it."""
        task = self.progress.add_task("decoding", total=total)
        return lambda: self.progress.advance(task)

    def training(self, trainer: Trainer) -> None:
        """Draw a bar for the steps, with the latest losses."""
        state, per_epoch = trainer.state, trainer.steps_per_epoch
        done = state.epoch * per_epoch + state.step
        if self.task is None:
            self.task = self.progress.add_task("training", total=trainer.epochs * per_epoch, completed=done)
        losses = [
            state.rows[-1][k] for k in ("train_loss", "validation_loss") if state.rows and k in state.rows[-1]
        ]
        shown = " / ".join(f"{x:.4f}" for x in losses)
        text = f"training, epoch {state.epoch + 1}" + (f", loss {shown}" if losses else "")
        self.progress.update(self.task, completed=done, description=text)


class StopSignals:
    """While entered, Ctrl-C and SIGTERM only set `asked`; the second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopSignals:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


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


def parse(command: str, kind: Any, arguments: list[str], default: Any = None) -> Any:
    """Parse options into a dataclass; a mistake becomes a UsageError of one line."""
    import tyro

    caught = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with redirect_stderr(caught):
            return tyro.cli(
                kind,
                prog=f"blemish {command}",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
                **options,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_first_paragraph(caught.getvalue())}; see blemish {command} --help") from None


def _first_paragraph(box: str) -> str:
    """Take the parser's message out of its frame or, on a plain terminal, from between its rules."""
    paragraphs: list[list[str]] = [[]]
    lines = [line.strip("│ ") for line in box.splitlines() if line.strip("│ ")]
    for line in lines:
        if line.startswith(("╭", "╰", "──", "---")):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    framed = bool(lines) and lines[0].startswith("╭")  # else the first paragraph is the title
    told = [" ".join(p) for p in paragraphs[0 if framed else 1 :] if p]
    return " ".join(told[0].split()) if told else "bad usage"


def peek(arguments: list[str], option: str, default: str) -> str:
    """Find an option's value before the rest can be parsed, which depends on it."""
    value = default
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif argument.startswith(option + "="):
            value = argument.split("=", 1)[1]
    return value
