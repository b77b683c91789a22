"""The image scores (max, top 1 %, top 5 %, mean) of finished runs, from one map each.

python benchmarks/image_scores.py --data ROOT/head_ct/head_ct RUN [RUN ...] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import blemish
from blemish.data.dataset import open_dataset
from blemish.images import preprocess
from blemish.inference import postprocess
from blemish.metrics.roc import image_roc


def aurocs(run: Path, data: Path) -> dict[str, float]:
    """Image AUROC of a run by each score."""
    detector = blemish.load(run)
    model_file, test = detector.model_file, open_dataset(data, need_train=False).test
    maps = []
    for sample in test:
        small, _ = preprocess.load(
            sample.path, model_file.image_format, model_file.size, allow=model_file.allow
        )
        maps.append(detector.backend.run(small[np.newaxis]).maps[0])
    defective = [s.is_defect for s in test]
    return {
        how: image_roc([postprocess.image_score(m, how) for m in maps], defective).auroc()
        for how in ("max", "top1", "top5", "mean")
    }


def main() -> None:
    """Score each run, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = {run.name: aurocs(run, options.data) for run in options.runs}
    for how in ("max", "top1", "top5", "mean"):
        values = [row[how] for row in rows.values()]
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        print(f"{how:<5} {np.mean(values):.4f} ± {spread:.4f}  {' '.join(f'{v:.4f}' for v in values)}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
