"""Draw how the loss fell in several trainings, as a small SVG, from the logs in their run folders.

    python benchmarks/learning_curves.py NAME=RUN [NAME=RUN ...] --out benchmarks/results/learning_metal.svg

A point is the mean loss of an epoch, or of several where there are many, over the optimiser steps so far.
Each run is of one method: `auto`'s has the logs of several members, which count their steps each.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from blemish.core.errors import UsageError
from blemish.core.files import write_whole
from blemish.report.charts import read_log

LOOKS = ("-", "--", "-.", ":", (0, (1, 3)))
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "blemish",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
POINTS = 60
"""Points of a curve at most: a reader sees no more."""


def steps_of(run: Path) -> int:
    """Return the optimiser steps in an epoch of a run."""
    told = json.loads((run / "run.json").read_text())
    return math.ceil(told["images"]["train"] / told["config"]["batch_size"])


def draw(runs: dict[str, Path]) -> Figure:
    """Draw the training losses of runs by name."""
    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, run) in enumerate(runs.items()):
        logs = read_log(run / "log.csv")
        if list(logs) != [""]:
            raise UsageError(f"{run}: its log is of {', '.join(logs)}; give runs of one method each")
        log, each = logs[""], steps_of(run)
        every = math.ceil(len(log["epoch"]) / POINTS)
        at = [epoch * each for epoch in log["epoch"]][::every]
        losses = log["train_loss"]
        means = [
            sum(part) / len(part) for j in range(0, len(losses), every) if (part := losses[j : j + every])
        ]
        axes.plot(at, means, linestyle=LOOKS[i % len(LOOKS)], label=name, linewidth=1.5)
    axes.set(xlabel="optimiser steps", ylabel="mean loss of an epoch", xlim=(0, None))
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Read the logs and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    pairs = [text.partition("=") for text in options.runs]
    if bad := [text for text, (_, equals, _) in zip(options.runs, pairs, strict=True) if not equals]:
        raise UsageError(f"{bad[0]}: must be NAME=RUN, RUN the folder of a training")
    with style.context(STYLE):
        figure = draw({name: Path(run) for name, _, run in pairs})
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    write_whole(options.out, drawn.getvalue())


if __name__ == "__main__":
    main()
