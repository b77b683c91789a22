"""What `pip install blemish` weighs, how fast it starts, and whether it answers as torch does.

    python benchmarks/base_install.py --model runs/bottle --images data/bottle/test [--out FILE.json]

Run it where torch is: it exports the model and scores the images with torch, then makes a new environment in
a temporary folder, installs this repository there without extras, and does the same with the exported file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STARTS = 5
"""A start is timed this often; the fastest counts, as the first reads from disk and others are disturbed."""


def installed(folder: Path) -> Path:
    """Make an environment below `folder` with this repository and its base dependencies; its Python."""
    copy = folder / "blemish"
    copy.mkdir()
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(copy)], check=True)
    return python


def weights(packages: Path) -> dict[str, float]:
    """MB of each distribution in a site-packages folder, the heaviest first."""
    sizes: dict[str, float] = {}
    for found in distributions(path=[str(packages)]):
        files = {Path(str(found.locate_file(file))).resolve() for file in found.files or ()}
        sizes[found.metadata["Name"]] = sum(f.stat().st_size for f in files if f.is_file()) / 1e6
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def blemish(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the blemish that this Python has, away from the repository."""
    command = [python, "-m", "blemish.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=python.parent)


def fastest(*command: str | Path) -> float:
    """Seconds of the fastest of a few runs."""
    taken = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=Path(command[0]).parent)
        taken.append(time.perf_counter() - began)
    return min(taken)


def refusal(python: Path, *arguments: str | Path) -> dict[str, object]:
    """What a command that needs torch says without it."""
    done = blemish(python, *arguments)
    lines = done.stderr.strip().splitlines()
    names_cure = "blemish[train]" in done.stderr
    return {
        "line": lines[-1].replace(f"{Path(arguments[2]).parent}/", "") if lines else "",
        "lines": len(lines),
        "code": done.returncode,
        "names the cure": names_cure,
    }


def table(python: Path, model: Path, images: Path, out: Path) -> list[dict[str, str]]:
    """predictions.csv of a folder of images."""
    done = blemish(python, "predict", "--model", model, "--out", out, images)
    assert done.returncode == 0, done.stderr
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def agreement(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> dict[str, object]:
    """Compare two tables: scores relative to each other, every other column to the letter."""
    differences = [abs(float(b["score"]) / float(a["score"]) - 1) for a, b in zip(ours, theirs, strict=True)]
    other = [
        (a["path"], name)
        for a, b in zip(ours, theirs, strict=True)
        for name in a
        if name != "score" and a[name] != b[name]
    ]
    return {"images": len(ours), "largest_relative_score_difference": max(differences), "others": other}


def measure(model: Path, images: Path) -> dict[str, object]:
    """Everything the page of results says, from one run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        here = Path(sys.executable)
        done = blemish(here, "export", "--model", model, "--out", folder / "model.onnx")
        assert done.returncode == 0, done.stderr
        torch_table = table(here, model, images, folder / "by torch")
        python = installed(folder)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}, scheme="venv"))
        sizes = weights(packages)
        for name in ("pip", "setuptools"):  # came with the environment
            sizes.pop(name, None)
        return {
            "python": platform.python_version(),
            "torch_on_disk": (packages / "torch").exists(),
            "packages": len(sizes),
            "megabytes": round(sum(sizes.values()), 1),
            "ten_largest_megabytes": {k: round(v, 1) for k, v in list(sizes.items())[:10]},
            "seconds_python_alone": fastest(python, "-c", ""),
            "seconds_import_blemish": fastest(python, "-c", "import blemish"),
            "seconds_blemish_help": fastest(python, "-m", "blemish.cli", "--help"),
            "predict": agreement(torch_table, table(python, folder / "model.onnx", images, folder / "out")),
            "train": refusal(python, "train", "--data", images),
            "trained_model": refusal(python, "predict", "--model", model, "--out", folder / "none", images),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "base_install.json")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = measure(args.model.resolve(), args.images.resolve())
    args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
