"""Whether `blemish predict` and `watch` stay as they are over many files: memory, descriptors, threads.

    python benchmarks/steady.py [--predict 20000] [--watch 5000] [--rate 50] [--model MODEL] [--out FOLDER]

Scores hard links to generated images of 64×64 in a temporary folder, by default with PCA trained on some of
them and exported. `predict` gets all files at once; to `watch` they come at `rate` a second while it watches,
until its ledger has a row for each, and then SIGTERM ends it. Both are processes of their own, of which /proc
is read each second (Linux), from their first row on. The medians of the first third of the samples and of the
last are compared; files a second are those of the same thirds of the rows. The ledger must hold each file
once, and every row its map and overlay.

Writes steady.json and steady.png into FOLDER. The exit code is 1 when a file is missing or twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE, DIFFERENT = 64, 100
"""Pixels of an image's side; how many images differ, the rest being links to them."""
PANELS = {"rss_mb": "resident memory, MB", "descriptors": "open descriptors", "threads": "threads"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """A process at one moment: `rows` written so far, resident memory in MB (10^6 bytes)."""

    seconds: float
    rows: int
    rss_mb: float
    descriptors: int
    threads: int


class Lines:
    """Counts the lines of a growing file, reading only what is new."""

    def __init__(self, file: Path) -> None:
        self.file, self.at, self.count = file, 0, 0

    def now(self) -> int:
        """Return how many lines there are; none while there is no file."""
        if self.file.exists():
            with self.file.open("rb") as rows:
                rows.seek(self.at)
                new = rows.read()
            self.at, self.count = self.at + len(new), self.count + new.count(b"\n")
        return self.count


def look_at(process: subprocess.Popen, began: float, rows: int) -> Look | None:
    """Read a process's state from /proc; None once it has ended."""
    about = Path("/proc") / str(process.pid)
    try:
        lines = (about / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return Look(
            seconds=time.monotonic() - began,
            rows=rows,
            rss_mb=int(status["VmRSS"].split()[0]) * 1024 / 1e6,
            descriptors=len(os.listdir(about / "fd")),  # noqa: PTH208
            threads=int(status["Threads"]),
        )
    except (OSError, KeyError):
        return None


def followed(
    command: list[str], rows: Path, log: Path, *, each_second: Callable[[float, int], bool]
) -> tuple[list[Look], int]:
    """Run `blemish COMMAND`, look at it each second from its first row on; returns its exit code too.

    `each_second` hears the seconds since the start and the rows, and says whether to end it by SIGTERM.
    """
    looks, lines, asked, began = [], Lines(rows), False, time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "blemish.cli", *command], stdout=subprocess.DEVNULL, stderr=said
        )
        while process.poll() is None:
            count = lines.now()
            look = look_at(process, began, count)
            if count and look is not None and not asked:
                looks.append(look)
            if each_second(time.monotonic() - began, count) and not asked:
                process.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(1)
    return looks, process.returncode


def links(folder: Path, originals: list[Path], first: int, last: int) -> None:
    """Put hard links into a folder, numbered from `first` up to `last`, which is left out."""
    for i in range(first, last):
        os.link(originals[i % len(originals)], folder / f"{i:06d}.png")


def growth(looks: list[Look]) -> dict[str, Any]:
    """Compare the first third of the samples with the last."""
    if len(looks) < 3:
        return {"samples": len(looks)}
    third = len(looks) // 3
    ends = looks[:third], looks[-third:]
    found: dict[str, Any] = {"samples": len(looks)}
    for name in (*PANELS, "rows"):
        first, last = (statistics.median(getattr(look, name) for look in part) for part in ends)
        found[name] = {"first_third": first, "last_third": last, "growth": last - first}
    files = found["rows"]["growth"]
    found["bytes_per_file"] = 1e6 * found["rss_mb"]["growth"] / files if files else None
    rates = [(p[-1].rows - p[0].rows) / (p[-1].seconds - p[0].seconds) if third > 1 else None for p in ends]
    found["files_per_s"] = {"first_third": rates[0], "last_third": rates[1]}
    return found


def once_each(rows: list[dict[str, Any]], expected: set[str], out: Path) -> dict[str, int]:
    """Count what is wrong: files without a row, with several, with an error; rows without their pictures."""
    counts = Counter(Path(row["path"]).name for row in rows)
    return {
        "rows": len(rows),
        "missing": len(expected - counts.keys()),
        "twice": sum(count > 1 for count in counts.values()),
        "foreign": len(counts.keys() - expected),
        "failed": sum(row["error"] is not None for row in rows),
        "without_pictures": sum(
            not (row["error"] or ((out / row["map"]).exists() and (out / row["overlay"]).exists()))
            for row in rows
        ),
    }


def measured(
    kind: str, command: list[str], rows: Path, root: Path, n: int, each_second: Callable[[float, int], bool]
) -> dict[str, Any]:
    """Follow a command to its end and check what it wrote."""
    log, began = root / f"{kind}.log", time.monotonic()
    looks, code = followed(command, rows, log, each_second=each_second)
    if code:
        raise SystemExit(f"blemish {kind} ended with {code}: {log.read_text()[-1000:]}")
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    return {
        "files": n,
        "seconds": time.monotonic() - began,
        **growth(looks),
        "ledger": once_each(written, {f"{i:06d}.png" for i in range(n)}, rows.parent),
        "looks": [asdict(look) for look in looks],
    }


def predict(model: Path, root: Path, originals: list[Path], n: int) -> dict[str, Any]:
    """Score n files with one call of `blemish predict`."""
    folder, out = root / "predict", root / "predictions"
    folder.mkdir()
    links(folder, originals, 0, n)
    command = ["predict", "--model", str(model), "--out", str(out), str(folder)]
    return measured("predict", command, out / "predictions.jsonl", root, n, lambda _seconds, _rows: False)


def watch(model: Path, root: Path, originals: list[Path], n: int, rate: float) -> dict[str, Any]:
    """Let n files come at `rate` a second to `blemish watch`, and end it by SIGTERM when all are recorded."""
    folder, out = root / "watch", root / "inspections"
    folder.mkdir()
    come = 0

    def arrive(seconds: float, rows: int) -> bool:
        nonlocal come
        due = min(n, int(seconds * rate))
        links(folder, originals, come, due)
        come = due
        return rows >= n

    command = ["watch", "--model", str(model), "--folder", str(folder), "--out", str(out)]
    return measured("watch", command, out / "inspections.jsonl", root, n, arrive)


def trained(root: Path, originals: list[Path]) -> Path:
    """Train PCA on some of the images, and export it."""
    from blemish.export.onnx import export
    from blemish.methods.baselines.pca import PcaConfig
    from blemish.training import fit

    config = PcaConfig(image_size=SIDE, calibration_fraction=0.2)
    fit.fit(originals[0].parent, method="pca", config=config, out=root / "run", device="cpu")
    export(root / "run", root / "model.onnx")
    return root / "model.onnx"


def write_images(folder: Path) -> list[Path]:
    """Write RGB images of smooth noise, all different."""
    folder.mkdir()
    rng, files = np.random.default_rng(0), []
    for i in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(60, 200, (8, 8, 3), dtype=np.uint8))
        files.append(folder / f"{i:03d}.png")
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(files[-1])
    return files


def draw(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Plot memory, descriptors and threads over the files done."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(PANELS), len(results), figsize=(5 * len(results), 7), squeeze=False)
    for column, (kind, found) in enumerate(results.items()):
        rows = [look["rows"] for look in found["looks"]]
        for axis, (name, label) in zip(axes[:, column], PANELS.items(), strict=True):
            values = [look[name] for look in found["looks"]]
            axis.plot(rows, values, linewidth=1)
            axis.set_ylim(0, 1.15 * max(values, default=1))
            axis.set_ylabel(label)
        axes[0, column].set_title(f"blemish {kind}")
        axes[-1, column].set_xlabel("files done")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predict", type=int, default=20_000, help="files for `blemish predict`")
    parser.add_argument("--watch", type=int, default=5_000, help="files for `blemish watch`")
    parser.add_argument("--rate", type=float, default=50, help="files that come to `watch` each second")
    parser.add_argument("--model", type=Path, help="default: PCA, trained here and exported")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        originals = write_images(root / "originals")
        model = options.model or trained(root, originals)
        results = {
            "predict": predict(model, root, originals, options.predict),
            "watch": watch(model, root, originals, options.watch, options.rate),
        }
    options.out.mkdir(parents=True, exist_ok=True)
    draw(results, options.out / "steady.png")
    about = {"cores": os.cpu_count(), "rate": options.rate, "side": SIDE}
    (options.out / "steady.json").write_text(json.dumps({**about, **results}, indent=1) + "\n")
    for kind, found in results.items():
        print(kind, json.dumps({k: v for k, v in found.items() if k != "looks"}, indent=2))
    wrong = ("missing", "twice", "foreign", "failed", "without_pictures")
    sys.exit(any(found["ledger"][what] for found in results.values() for what in wrong))


if __name__ == "__main__":
    main()
