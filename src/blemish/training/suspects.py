"""Training that does not trust all of its good images: the most suspicious share of them is not learnt.

The training images are cut into folds, and each fold is scored by `filters` that learnt the others: a defect
that is learnt hides itself. Images that calibrate are never dropped: a threshold of those that a look at
their scores has left would promise too much. Leaving out what fits worst is an old idea of robust statistics;
the folds, the method and what is never dropped are our choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blemish.core.errors import UsageError
from blemish.inference.postprocess import image_score
from blemish.methods.registry import METHODS
from blemish.training.batches import as_floats, in_order
from blemish.training.learn import FIT_BATCH, ImageSubset, make_network, resized
from blemish.training.run_folder import DROPPED, DROPPED_ENTRY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blemish.data.split import Split
    from blemish.methods.config import DetectorConfig
    from blemish.training.batches import ImageBatches
    from blemish.training.images import TrainingImages

METHOD = "filters"
"""What scores the images: it learns in seconds."""
SIDE = 128
"""The side in pixels to which images are resized for that."""
FOLDS = 5
FEWEST = 10
"""The fewest training images of which some are dropped: with fewer, there is no telling what is usual."""


def check_share(share: float, config: DetectorConfig) -> None:
    """Refuse a share that no training can drop. Raises UsageError."""
    if not 0 <= share <= 0.5:
        raise UsageError(f"--drop-suspects {share}: must be at least 0 and at most 0.5; 0.05 is 5 %")
    if share and config.tiling is not None:
        raise UsageError("--drop-suspects: images in tiles are not dropped; leave it or --tile-size out")


def identity_of(share: float) -> dict[str, float]:
    """Return what must be the same for a run to be the same: nothing where none is dropped."""
    return {DROPPED: share} if share else {}


def without_suspects(
    images: TrainingImages, split: Split, share: float, seed: int
) -> tuple[TrainingImages, dict[str, Any]]:
    """Return the images that are learnt, and what the model says of the others: nothing with a share of 0.

    Raises UsageError for fewer than `FEWEST` training images.
    """
    if share == 0:
        return images, {}
    n, digests = len(images.train), [split.digests[sample.path] for sample in split.train]
    different = len(set(digests))
    if different < FEWEST:
        raise UsageError(
            f"--drop-suspects {share}: {different} different training images, and {FEWEST} are needed; leave "
            "it out"
        )
    scores = scores_of_others(images.train, digests, images.image_format.channels, seed)
    count = max(1, round(share * n))
    dropped = sorted(np.argsort(-scores, kind="stable")[:count].tolist())
    kept = np.setdiff1d(np.arange(n), dropped).tolist()
    names = {digests[i]: split.train[i].path.name for i in dropped}
    train = ImageSubset(images.train, kept)
    scored = train if images.scored is images.train else ImageSubset(images.scored, kept)
    learnt = replace(images, train=train, scored=scored)
    return learnt, {DROPPED_ENTRY: {"share": share, "images": len(dropped), "digests": names}}


@torch.inference_mode()
def scores_of_others(images: ImageBatches, digests: Sequence[str], channels: int, seed: int) -> np.ndarray:
    """Score each image by a model that learnt the other folds, float64 (n,); equal files are in one fold."""
    kind = METHODS[METHOD]
    config = replace(kind.presets["default"], image_size=SIDE)
    groups = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(groups))
    fold = order[[groups[digest] for digest in digests]] % min(FOLDS, len(groups))
    scores, small = np.zeros(len(images)), resized(images, config.size)
    for k in range(int(fold.max()) + 1):
        theirs, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        network = make_network(kind, config, channels, seed)
        learnt = ImageSubset(small, theirs.tolist())
        network.fit(lambda learnt=learnt: _batches(learnt))
        network.eval()
        maps = [network(x) for x in _batches(ImageSubset(small, own.tolist()))]
        scores[own] = [image_score(each.numpy(), config.image_score) for each in torch.cat(maps)]
    return scores


def _batches(images: ImageBatches) -> Iterator[torch.Tensor]:
    return (as_floats(torch.from_numpy(batch)) for batch in in_order(images, FIT_BATCH))
