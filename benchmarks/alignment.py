"""Which parts `auto` would turn to one angle, and what it costs.

    python benchmarks/alignment.py --data DATA/pill --data FOLDER/pill_turned … [--channels 1]

Of the good images of each category, as `auto` loads them: whether parts are found on a plain background; what
share of the variance of pixels is left when they are turned to lie alike (the bound is `MORE_ALIKE` of
`training.alignment`); and milliseconds of a core for an image: to find the part, to turn it, and to turn its
map back.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blemish.data.dataset import open_dataset
from blemish.data.split import split_good
from blemish.methods.auto import AutoConfig
from blemish.methods.components.alignment import Alignment
from blemish.training.alignment import LOOKED_AT, variance_left
from blemish.training.auto import shaped
from blemish.training.batches import spread
from blemish.training.images import ImageOptions, load_images
from blemish.training.watcher import Silent

if TYPE_CHECKING:
    from collections.abc import Callable


def milliseconds(step: Callable[[], object], times: int = 10) -> float:
    """Return what a step takes of a core."""
    began = time.process_time()
    for _ in range(times):
        step()
    return 1000 * (time.process_time() - began) / times


def measured(data: Path, channels: int | None) -> str:
    """Say in a line what was found."""
    split = split_good(open_dataset(data), validation_fraction=0.15, calibration_fraction=0.1, seed=0)
    config = shaped(AutoConfig(), split)
    learnt = [split.train[i] for i in spread(len(split.train), LOOKED_AT)]
    split = replace(split, train=learnt, validation=[], calibration=[])
    images = load_images(split, config, ImageOptions(channels=channels), Silent().loading, 0)
    x = torch.from_numpy(images.train.batch(spread(len(learnt), LOOKED_AT)))
    alignment = Alignment(x.shape[1], (x.shape[2], x.shape[3]))
    if not alignment.learn(x, images.aspect):
        return f"{data.name}: {len(x)} images, no plain background, or parts too long"
    one = x[:1]
    with torch.inference_mode():
        pose = alignment.pose_of(one)
        aligned = alignment.align(one, pose)
        steps: list[Callable[[], object]] = [
            lambda: alignment.pose_of(one),
            lambda: alignment.align(one, pose),
            lambda: alignment.back(aligned[:, :1], pose),
        ]
        cost = ", ".join(f"{milliseconds(step):.1f}" for step in steps)
    return f"{data.name}: {len(x)} images, variance left {variance_left(alignment, x):.3f}; ms {cost}"


def main() -> None:
    """Measure the categories that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--channels", type=int, default=None)
    options = parser.parse_args()
    for data in options.data:
        print(measured(data, options.channels), flush=True)


if __name__ == "__main__":
    main()
