"""What the commands of many jobs share: their progress, their end, and their part of a cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blemish.evaluation.jobs import Progress


def drawn(bar: Any, what: str) -> Callable[[Progress], None]:
    """Return what draws the progress of jobs on a bar, and prints how each of them went."""
    from blemish.report.html import format_duration

    task = bar.add_task(what)

    def draw(now: Progress) -> None:
        left = "" if now.seconds_left is None else f", about {format_duration(now.seconds_left)} left"
        text = f"{'; '.join(now.running)}{left}"
        bar.update(task, completed=now.finished, total=now.total, description=text)
        if now.latest is not None:
            bar.console.print(f"{now.latest}{left}", markup=False, highlight=False, soft_wrap=True)

    return draw


def told(progress: Progress, what: str, where: Path) -> int:
    """Print what became of jobs, and return the exit code."""
    for name, error in progress.failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    print(f"{progress.finished} of {progress.total} {what}: {where}")
    return 1 if progress.failed else 0


def share_of(args: Any, unit: str) -> dict[str, int]:
    """Return the CPUs and GPUs of a job on a cluster. Raises UsageError."""
    share = {}
    for name, least in (("cpus", 1), ("gpus", 0)):
        given = getattr(args, f"{name}_per_{unit}")
        share[name] = least if given is None else given
        if share[name] < least:
            raise UsageError(f"--{name}-per-{unit} {given}: must be {least} or larger")
    return share


def refuse_without_cluster(args: Any, *options: str) -> None:
    """Raise UsageError for an option of a cluster where none is named."""
    for option in options:
        if getattr(args, option) not in (None, ()):
            raise UsageError(
                f"--{option.replace('_', '-')}: is for a cluster; add --cluster, or leave it out"
            )
