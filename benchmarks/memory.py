"""Peak memory of `blemish predict` over 100 and over 10,000 files, which must not grow; and of training.

    python benchmarks/memory.py [--files 100 10000] [--out benchmarks/results/memory.json]

Generates 128×128 images, trains on them for a few steps, and runs the command in processes of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def run(*arguments: str) -> dict[str, float]:
    """Run the command line in a process that reports its own peak memory and time."""
    code = (
        "import resource, sys; from blemish.cli.main import main; code = main(sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    )
    peak = int(done.stdout.rsplit("peak", 1)[1])
    return {"peak_mib": peak / 1024, "seconds": time.perf_counter() - began}


def write_images(folder: Path, n: int) -> None:
    """Write n generated RGB images of 128×128."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{i:06d}.png", compress_level=1)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    options = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_images(root / "good", 128)
        for preset in ("default", "paper-object"):
            out = root / f"run-{preset}"
            steps = ["--epochs", "4"]
            result[f"train {preset}, 128 images"] = run(
                "train", "--data", str(root / "good"), "--preset", preset, "--out", str(out), *steps
            )
        for n in options.files:
            write_images(root / f"files{n}", n)
            result[f"predict {n} files"] = run(
                "predict",
                "--model",
                str(root / "run-default"),
                "--out",
                str(root / f"out{n}"),
                str(root / f"files{n}"),
            )
    text = json.dumps(result, indent=2)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
