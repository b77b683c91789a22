"""`blemish sensitivity`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blemish.cli.console import progress_bar
from blemish.cli.options import LayoutOption, ModelOptions, ProductOption
from blemish.cli.parser import parse


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(ModelOptions, LayoutOption, ProductOption):
    """Show what a model finds: defects of known kind, size and contrast are planted into good images.

    Writes sensitivity.json and sensitivity.html. The defects are made, not real.
    """

    data: Path
    """A category in MVTec layout, or a CSV manifest; its good test images are used."""
    out: Path | None = None
    """Where to write; default <run>/sensitivity."""
    seed: int = 0
    """Fixes where the defects lie and how they look."""
    images: int = 200
    """Planted images to score, at most; more of them give narrower intervals."""


def sensitivity(arguments: list[str]) -> int:
    """Run `blemish sensitivity`."""
    options = parse("sensitivity", SensitivityOptions, arguments)
    from blemish.data.dataset import open_dataset
    from blemish.evaluation.sensitivity import measure_into
    from blemish.evaluation.sensitivity_plan import planned

    run = options.model if options.model.is_dir() else options.model.parent
    out = options.out or run / "sensitivity"
    detector = options.load().for_product(options.product)
    dataset = open_dataset(options.data, need_train=False, layout=options.layout)
    detector = detector.for_samples(dataset.test)
    plan = planned(detector, dataset, options.images, options.seed)
    with progress_bar() as progress:
        task = progress.add_task("scoring good and planted images", total=plan.total)
        card = measure_into(detector, plan, out, on_image=lambda: progress.advance(task))
    _print_card(card)
    print(f"report: {out / 'sensitivity.html'}")
    return 0


def _print_card(card: dict[str, Any]) -> None:
    from blemish.report.sensitivity import sentence_of, table_of

    sizes, rows = table_of(card)
    print(sentence_of(card))
    print("".join([f"{'planted':<26}", *(f"{size:>18}" for size in sizes)]))
    for name, cells in rows:
        print("".join([f"{name:<26}", *(f"{cell:>18}" for cell in cells)]))
