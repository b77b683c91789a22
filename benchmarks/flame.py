"""A flame graph of rows: where `predict_many` of an exported model spends its time, nothing written.

    pip install py-spy
    python benchmarks/flame.py MODEL.onnx --data ROOT/mvtec/bottle --out FILE.svg [--source OTHER/src]
                               [--images 40] [--repeats 4]

`--source` is another source tree, a folder that holds blemish/, by default this one. One thread decodes,
one runs the network, one reads maps off; what runs is looked at 50 times a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
RATE = 50
"""Samples a second."""


def work(model: Path, data: Path, images: int, repeats: int) -> None:
    """Score test images of a category, again and again."""
    import dataclasses

    from blemish.data.dataset import open_dataset
    from blemish.inference.load import load

    samples = [sample.path for sample in open_dataset(data).test]
    files = samples[:: max(1, len(samples) // images)][:images]
    detector = load(model, device="cpu", threads=1)
    rows = dataclasses.replace(detector, maps=False) if hasattr(detector, "maps") else detector
    list(rows.predict_many(files[:2], threads=1))
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(repeats):
        for row in rows.predict_many(files, threads=1):
            if isinstance(row, Exception):
                raise row


def main() -> None:
    """Record, or be what is recorded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--data", type=Path, required=True, help="a category with test images")
    parser.add_argument("--out", type=Path, help="the picture")
    parser.add_argument("--source", type=Path, default=SOURCE, help="the source tree")
    parser.add_argument("--images", type=int, default=40, help="test images")
    parser.add_argument("--repeats", type=int, default=4, help="how often they are scored")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.model, options.data, options.images, options.repeats)
        return
    if options.out is None:
        parser.error("--out is needed")
    asked = ["--images", str(options.images), "--repeats", str(options.repeats), "--work"]
    script = [sys.executable, __file__, str(options.model), "--data", str(options.data), *asked]
    usual = os.environ | {"PYTHONPATH": str(options.source.resolve()), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(script, env=usual, **pipes) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise SystemExit("the model cannot be run; what it said is above")
        record = ["py-spy", "record", "--function", "--nonblocking", "--rate", str(RATE)]
        spy = subprocess.Popen([*record, "--output", str(options.out), "--pid", str(worker.pid)])
        time.sleep(1)  # until it looks
        worker.stdin.write("\n")
        worker.stdin.close()
        spy.wait()  # it ends with the worker


if __name__ == "__main__":
    main()
