"""`blemish audit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blemish.cli.console import print_left_out, progress_bar
from blemish.cli.options import DeviceOptions, LayoutOption
from blemish.cli.parser import parse

NAMED = 10
"""So many suspects are printed; the page has all of them."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions(DeviceOptions, LayoutOption):
    """Find defects, odd pictures and near-copies among images that are said to be good.

    Each image is scored by a model that did not learn it. Writes audit.json and audit.html; removes nothing.
    """

    data: Path
    """A category in MVTec layout, a folder of good images, or a CSV manifest; its good training images."""
    out: Path = Path("audit")
    """Where to write."""
    method: str = "filters"
    """What scores the images; filters learn in seconds."""
    folds: int = 5
    """So many models are trained, each without its part of the images."""
    seed: int = 0
    """Fixes which images are in which part."""
    false_alarm_rate: float | None = None
    """For what leaving the suspects out would change; default 0.05."""


def audit(arguments: list[str]) -> int:
    """Run `blemish audit`."""
    options = parse("audit", AuditOptions, arguments)
    from blemish.data.dataset import open_dataset
    from blemish.evaluation.audit import audit as run_audit
    from blemish.evaluation.audit import content_of
    from blemish.report.audit import change_of, sentence_of

    dataset = open_dataset(options.data, layout=options.layout)
    print_left_out(dataset.left_out)
    with progress_bar() as progress:
        task = progress.add_task("scoring", total=len(dataset.train) + len(dataset.calibration))
        found = run_audit(
            dataset,
            options.out,
            method=options.method,
            folds=options.folds,
            seed=options.seed,
            device=options.device,
            false_alarm_rate=options.false_alarm_rate,
            on_image=lambda: progress.advance(task),
        )
    content = content_of(found)
    print(sentence_of(content))
    for each in found.suspects[:NAMED]:
        print(f"{each.suspicion:8.1f}  {each.path}: {', '.join(each.reasons)}")
    if len(found.suspects) > NAMED:
        print(f"and {len(found.suspects) - NAMED} more, in the report")
    print(change_of(content))
    print(f"report: {options.out / 'audit.html'}")
    return 0
