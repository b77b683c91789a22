"""A run of `predict` that was stopped goes on: what its rows depend on, and those that it keeps."""

from __future__ import annotations

import json
from collections import deque
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from blemish.core.errors import UsageError
from blemish.core.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from pathlib import Path

ROWS_NAME, SUMMARY_NAME = "predictions.jsonl", "summary.json"
STARTED_NAME = "started.json"
"""What the rows of a run depend on; it is there from the first row until the run is done."""
I = TypeVar("I")  # noqa: E741
"""An input."""


def begin(out: Path, identity: Mapping[str, Any] | None, *, resume: bool = False) -> deque[dict[str, Any]]:
    """Begin a run in a folder, or go on with the one that was stopped there; returns the rows that it wrote.

    `identity` is what the rows depend on, as JSON has it, by the words of the error where it differs; None:
    nobody can go on with the run. Raises UsageError for a folder that holds predictions, all or some of them,
    where they are not those of this run with `resume`.
    """
    started = out / STARTED_NAME
    if not (resume and started.exists() and (out / ROWS_NAME).exists()):
        _refuse_to_overwrite(out)
        if identity is not None:
            write_whole(started, json.dumps(identity, indent=2) + "\n")
        return deque()
    known, wanted = json.loads(started.read_text(encoding="utf-8")), dict(identity or {})
    other = [name for name in wanted | known if known.get(name) != wanted.get(name)]
    if other:
        raise UsageError(
            f"{out}: was started with another {other[0]}; repeat the first command with --resume, or choose "
            "another --out"
        )
    with (out / ROWS_NAME).open(encoding="utf-8") as lines:
        return deque(json.loads(line) for line in lines if line.endswith("\n"))  # the last may be cut off


def end(out: Path) -> None:
    """Say that a run is done."""
    (out / STARTED_NAME).unlink(missing_ok=True)


def _refuse_to_overwrite(out: Path) -> None:
    rows, started = out / ROWS_NAME, out / STARTED_NAME
    if not rows.exists():
        return
    if (out / SUMMARY_NAME).exists() and not started.exists():
        raise UsageError(f"{out}: already holds predictions; choose another --out, or remove it")
    with rows.open("rb") as lines:
        written = sum(line.endswith(b"\n") for line in lines)
    cure = "repeat the command with --resume" if started.exists() else "remove it and score all again"
    raise UsageError(
        f"{out}: holds predictions of a run that was stopped before its end (rows written: {written}); "
        f"{cure}, or choose another --out"
    )


def keep_batches(
    kept: deque[dict[str, Any]], inputs: Iterable[I], batch_size: int
) -> Generator[dict[str, Any], None, Iterator[I]]:
    """Yield the rows of a stopped run that are whole batches of its inputs, and return the other inputs.

    So the network gets the batches that it would have got without the stop, and gives the same last bits.
    """
    left = iter(inputs)
    while kept and (batch := list(islice(left, batch_size))):
        if len(kept) < len(batch):
            kept.clear()
            return chain(batch, left)
        yield from (kept.popleft() for _ in batch)
    return left
