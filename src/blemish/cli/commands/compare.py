"""`blemish compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from blemish.cli.parser import parse


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare runs that were evaluated on the same images; writes comparison.json and comparison.html."""

    runs: Annotated[tuple[Path, ...], Parameter(name="run", metavar="RUN RUN [...]")] = field(kw_only=False)
    """Run folders, or folders of evaluations."""
    out: Path = Path("comparison")
    """Where to write."""
    measure: Literal["image_auroc", "pixel_auroc", "pixel_auroc_fpr30", "aupro_fpr30"] = "image_auroc"
    """What is tested for a difference; the last three compare maps and need masks."""


def compare(arguments: list[str]) -> int:
    """Run `blemish compare`."""
    options = parse("compare", CompareOptions, arguments)
    from blemish.evaluation.compare import compare as run_comparison

    for pair in run_comparison(options.runs, options.out, measure=options.measure)["pairs"]:
        print(pair["verdict"])
    print(f"side by side: {options.out / 'comparison.html'}")
    return 0
