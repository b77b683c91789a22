"""`blemish demo`."""

from __future__ import annotations

from dataclasses import replace

from blemish.cli.arguments import DemoArguments, EvaluateArguments
from blemish.cli.commands.evaluate import evaluate_into
from blemish.cli.console import TrainingBar, parse, progress_bar


def demo(arguments: list[str]) -> int:
    """Run `blemish demo`."""
    args: DemoArguments = parse("demo", DemoArguments, arguments)
    from blemish.data import synthetic
    from blemish.methods import registry
    from blemish.training import fit

    # half the default's steps are enough for this part, and 19 calibration images promise 5 %
    config = replace(registry.preset_named("metal", "default"), steps=200, calibration_fraction=0.16)
    data, run = args.out / "data", args.out / "run"
    print(f"1/3 generating good and bad parts in {data}")
    synthetic.generate(data)
    print(f"2/3 training on the good ones, into {run}")
    with progress_bar() as progress:
        fit.fit(data, config=config, out=run, resume=True, watcher=TrainingBar(progress))
    print("3/3 evaluating on parts it has not seen")
    evaluate_into(EvaluateArguments(model=run, data=data), args.out / "evaluation", run / "log.csv")
    return 0
