"""What 8 bits cost and gain: areas, and seconds per image of the network beside those in 32 bits.

    python benchmarks/int8.py --data data/bottle --models runs/metal runs/ae-ssim [--out FILE.json]

The two networks take turns on the same image, one at a time and one thread; each counts by its fastest call.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from blemish.core.errors import BlemishError
from blemish.data.dataset import open_dataset
from blemish.export.int8 import quantise
from blemish.export.onnx import export
from blemish.images.preprocess import load
from blemish.inference.model_file import load_model_file
from blemish.inference.onnx_backend import load_exported

ROUNDS = 30


def seconds(files: list[Path], image: Path) -> list[float]:
    """Seconds per image of exported models that take turns."""
    detectors = [load_exported(file, threads=1) for file in files]
    model_file = detectors[0].model_file
    x = load(image, model_file.image_format, model_file.size)[0][np.newaxis]
    fastest = [float("inf")] * len(detectors)
    for _ in range(ROUNDS):
        for i, detector in enumerate(detectors):
            began = time.perf_counter()
            detector.backend.run(x)
            fastest[i] = min(fastest[i], time.perf_counter() - began)
    return fastest


def measure(model: Path, data: Path) -> dict[str, object]:
    """One model's row; what refuses is said."""
    with tempfile.TemporaryDirectory() as temporary:
        exact, rounded = Path(temporary) / "fp32.onnx", Path(temporary) / "int8.onnx"
        row: dict[str, object] = {"method": load_model_file(model).method}
        try:
            row |= asdict(quantise(model, data, rounded))
        except BlemishError as error:
            return row | {"refused": str(error).removeprefix(f"{model}: ")}
        export(model, exact)
        taken = seconds([exact, rounded], open_dataset(data).train[0].path)
        sizes = [file.stat().st_size / 2**20 for file in (exact, rounded)]
        return row | {"seconds": taken, "seconds_ratio": taken[1] / taken[0], "mib": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/int8.json"))
    args = parser.parse_args()
    rows = [measure(model, args.data) for model in args.models]
    args.out.write_text(json.dumps(rows, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
