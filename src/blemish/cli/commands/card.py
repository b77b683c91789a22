"""`blemish card`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from blemish.cli.parser import parse
from blemish.core.ownership import owned


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """Write a model card: data, figures, limits, sensitivity, whose weights; card.md and card.html.

    Figures are those of `blemish evaluate` and `blemish sensitivity`, where they were run.
    """

    model: Annotated[Path, Parameter(name="run", metavar="RUN")] = field(kw_only=False)
    """Run folder, model file or exported model."""
    evaluation: Path | None = None
    """Folder that evaluate wrote; default <run>/evaluation."""
    sensitivity: Path | None = None
    """Folder that sensitivity wrote; default <run>/sensitivity."""
    out: Path | None = None
    """Where to write; default <run>/card."""


def card(arguments: list[str]) -> int:
    """Run `blemish card`."""
    options = parse("card", CardOptions, arguments)
    from blemish.inference.model_file import load_model_file
    from blemish.inference.onnx_backend import SUFFIX, load_exported
    from blemish.report.card_figures import read_written
    from blemish.report.model_card import write_model_card

    exported = options.model.suffix.lower() == SUFFIX
    model_file = load_exported(options.model).model_file if exported else load_model_file(options.model)
    run = options.model if options.model.is_dir() else options.model.parent
    evaluation = None
    if not model_file.products:
        evaluation = read_written(options.evaluation, run / "evaluation", "evaluation.json")
    sensitivity = read_written(options.sensitivity, run / "sensitivity", "sensitivity.json")
    products = None
    if model_file.products:
        products = read_written(options.evaluation, run / "evaluation", "products.json")
    out = options.out or run / "card"
    with owned(out):
        for path in write_model_card(out, model_file, evaluation, sensitivity, products):
            print(f"card: {path}")
    return 0
