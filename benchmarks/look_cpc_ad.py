"""The same images under each way to score: a picture to look at, one row per image.

    python benchmarks/look_cpc_ad.py --data ROOT/mvtec/bottle --model RUN --out look.png [--seed 0]

Columns: the image, then its map by the raw InfoNCE of the paper, the raw margin, both standardised per place,
and the default. A column has one colour scale: from the median of its good maps to twice their peak.
For each label the images of lowest, middle and highest score (by the default) are shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ablation_cpc_ad import rescored

from blemish.data.dataset import open_dataset
from blemish.images import decode
from blemish.inference import load

WAYS = {
    "InfoNCE, raw": {"score": "infonce", "place_statistics": False, "place_density": False},
    "margin, raw": {"score": "margin", "place_statistics": False, "place_density": False},
    "InfoNCE, standardised": {"score": "infonce", "place_density": False},
    "margin, standardised": {"score": "margin", "place_density": False},
    "InfoNCE and density": {"score": "infonce"},
}


def main() -> None:
    """Score, choose and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the training run, for its split")
    parser.add_argument("--out", type=Path, default=Path("look.png"))
    options = parser.parse_args()
    trained = load.load(options.model, device="cpu")
    test = open_dataset(options.data, need_train=False).test
    found = {
        name: list(rescored(trained, way, options.data, options.seed).predict_many([s.path for s in test]))
        for name, way in WAYS.items()
    }
    rows = []
    for label in sorted({s.label for s in test}):
        own = [i for i, s in enumerate(test) if s.label == label]
        own.sort(key=lambda i: found["InfoNCE and density"][i].score)
        rows += [own[0], own[len(own) // 2], own[-1]]
    figure, axes = plt.subplots(len(rows), 1 + len(WAYS), figsize=(3 * (1 + len(WAYS)), 3 * len(rows)))
    for line, i in zip(axes, rows, strict=True):
        image = decode.read(test[i].path)
        line[0].imshow(image.squeeze(), cmap="gray")
        line[0].set_title(f"{test[i].label} {test[i].path.stem}", fontsize=8)
        for axis, (name, predictions) in zip(line[1:], found.items(), strict=True):
            good = [p.anomaly_map for p, s in zip(predictions, test, strict=True) if not s.is_defect]
            low = float(np.median([np.median(m) for m in good]))
            high = low + 2 * (float(np.median([m.max() for m in good])) - low)
            axis.imshow(predictions[i].anomaly_map, cmap="magma", vmin=low, vmax=high)
            axis.set_title(f"{name}: {predictions[i].score:.2f}", fontsize=8)
        for axis in line:
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(options.out, dpi=60)


if __name__ == "__main__":
    main()
