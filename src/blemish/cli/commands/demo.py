"""`blemish demo`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from blemish.cli.commands.evaluate import EvaluateOptions, evaluate_into
from blemish.cli.console import TrainingBar, progress_bar
from blemish.cli.parser import parse
from blemish.core.ownership import owned


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Generate a data set of good and bad parts, train on it, evaluate, and report; minutes on a CPU."""

    out: Path = Path("demo")
    """Where to write; an interrupted demo goes on where it stood."""


def demo(arguments: list[str]) -> int:
    """Run `blemish demo`."""
    options = parse("demo", DemoOptions, arguments)
    from blemish.data import synthetic
    from blemish.methods import registry
    from blemish.training import fit

    # a few minutes are enough for this part, and 19 calibration images promise 5 %
    config = replace(registry.preset_named("auto", "default"), minutes=6.0, calibration_fraction=0.16)
    data, run = options.out / "data", options.out / "run"
    with owned(options.out):
        print(f"1/3 generating good and bad parts in {data}")
        synthetic.generate(data)
        print(f"2/3 training on the good ones, into {run}")
        with progress_bar() as progress:
            fit.fit(data, config=config, out=run, resume=True, watcher=TrainingBar(progress))
        print("3/3 evaluating on parts it has not seen")
        evaluate_into(EvaluateOptions(model=run, data=data), options.out / "evaluation", run)
    return 0
