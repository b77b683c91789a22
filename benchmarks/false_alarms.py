"""Did a benchmark's models keep their promised false-alarm rates on good test images?

    python benchmarks/false_alarms.py BENCH [--out FILE]

BENCH is what `blemish bench --out BENCH` left. For each cell: how often chance alone gives as many false
alarms, were the good test images like those held out of training (`Calibration.chance_of`). Were they so in
all cells, a share of at most α of the cells would lie at or below any α. Cells of one category and seed share
their images.

Writes FILE (default: benchmarks/results/false_alarms.json).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from blemish.inference.model_file import load_model_file

LEVELS = (0.01, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bench", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/false_alarms.json"))
    args = parser.parse_args()
    rows = []
    for cell in json.loads((args.bench / "results.json").read_text())["cells"]:
        evaluation, calibration = cell["evaluation"], load_model_file(args.bench / cell["run"]).calibration
        assert calibration is not None
        n, promised = evaluation["n_good"], evaluation["requested_false_alarm_rate"]
        alarms = round(evaluation["false_alarm_rate"] * n)
        chance = calibration.chance_of(alarms, n, promised)
        rows.append(
            {key: cell[key] for key in ("method", "category", "seed")}
            | {"alarms": alarms, "good": n, "held_out": calibration.n, "promised": promised, "chance": chance}
        )
    rows.sort(key=lambda row: row["chance"])
    below = {str(level): sum(row["chance"] <= level for row in rows) for level in LEVELS}
    for row in rows[:10]:
        print(row)
    print(f"{len(rows)} cells, at or below each level: {below}")
    args.out.write_text(json.dumps({"cells": len(rows), "at_or_below": below, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
