"""How long trainings take beside each other, by how long their threads wait awake for work.

    python benchmarks/side_by_side.py [--method metal] [--steps 60] [--rounds 3]

Generates images, and trains on them alone and twice at a time, with the number of turns that the command line
sets (GOMP_SPINCOUNT) and with that of GNU OpenMP itself. Writes benchmarks/results/side_by_side.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from blemish.cli.main import TURNS_BEFORE_SLEEP

RESULTS = Path(__file__).parent / "results" / "side_by_side.json"
TURNS = {"blemish": TURNS_BEFORE_SLEEP, "GNU OpenMP": "300000"}
"""Our number, and its own where all threads find a core and OMP_WAIT_POLICY is not set."""


def seconds(at_once: int, turns: str, arguments: list[str], folder: Path) -> float:
    """Train so many times at once; return the seconds until the last has ended."""
    environment = os.environ | {"GOMP_SPINCOUNT": turns}
    environment.pop("OMP_NUM_THREADS", None)
    began = time.perf_counter()
    trainings = [
        subprocess.Popen(
            [sys.executable, "-m", "blemish.cli", "train", *arguments, "--out", str(folder / f"run{i}")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i in range(at_once)
    ]
    codes = [training.wait() for training in trainings]
    if any(codes):
        raise SystemExit(f"a training ended with {codes}")
    return time.perf_counter() - began


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="metal")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        good = Path(name, "good")
        good.mkdir()
        for i in range(32):
            Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(good / f"{i:02}.png")
        arguments = ["--data", str(good), "--method", options.method, "--steps", str(options.steps)]
        for round_ in range(options.rounds):
            for at_once in (1, 2):
                for whose, turns in TURNS.items():
                    with tempfile.TemporaryDirectory(dir=name) as folder:
                        took = seconds(at_once, turns, arguments, Path(folder))
                    rows.append({"round": round_, "at_once": at_once, "turns": whose, "seconds": took})
                    print(f"{at_once} at a time, {whose}: {took:.1f} s", flush=True)
    medians = {
        f"{n} at a time, {whose}": statistics.median(
            row["seconds"] for row in rows if row["at_once"] == n and row["turns"] == whose
        )
        for n in (1, 2)
        for whose in TURNS
    }
    found = {"options": vars(options), "cores": os.cpu_count(), "median": medians, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
