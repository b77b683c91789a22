"""How one network learns: by the training loop, or by itself when it has no gradient to follow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blemish.images.resize import resize
from blemish.methods.base import TrainedMethod
from blemish.training.batches import in_order
from blemish.training.run_folder import Outcome
from blemish.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from accelerate import Accelerator

    from blemish.methods.base import Method
    from blemish.methods.components.alignment import Alignment
    from blemish.methods.config import DetectorConfig
    from blemish.training.batches import ImageBatches

FIT_BATCH = 16
"""Images that a method without a training loop sees at a time."""
CHANGED_BYTES = 2**30
"""The most bytes of changed images that are kept of a source, beside those of `data.cache`."""


@dataclass(frozen=True, kw_only=True)
class LearningTask:
    """What a network learns from, and where the run is kept.

    `train` may be larger than the network's images, for random crops; `scored` are the same images as scoring
    sees them. `identity` says what must be the same for a checkpoint in `folder` to be gone on from.
    """

    train: ImageBatches
    validation: ImageBatches | None
    scored: ImageBatches
    accelerator: Accelerator
    seed: int
    folder: Path | None
    identity: dict[str, Any]
    resume: bool
    on_progress: Callable[[Trainer], None]
    covered: bool = False
    """Whether parts of the images are covered, as they lie outside of a region of interest."""


class ImageSubset:
    """Some images of others, by number: `ImageBatches`."""

    def __init__(self, images: ImageBatches, numbers: Sequence[int]) -> None:
        self.images, self.numbers = images, np.asarray(numbers)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.numbers)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Images (B, C, H, W), as `images` gives them."""
        return self.images.batch(self.numbers[indices])


class ChangedImages:
    """Other images that were changed: `ImageBatches`. The first `CHANGED_BYTES` of them are kept."""

    def __init__(self, images: ImageBatches, change: Callable[[int, np.ndarray], np.ndarray]) -> None:
        """Name the images, and what makes of one, its number and (C, H, W) as they give it, another.

        That one is float32 in [0, 1].
        """
        self.images, self.change = images, change
        self.kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Images (B, C, H, W), in the order of `indices`."""
        new = [i for i in dict.fromkeys(indices.tolist()) if i not in self.kept]
        found = self.images.batch(np.array(new)) if new else ()
        fresh = {i: self.change(i, image) for i, image in zip(new, found, strict=True)}
        for i, image in fresh.items():
            if (len(self.kept) + 1) * image.nbytes <= CHANGED_BYTES:
                self.kept[i] = image
        return np.stack([fresh[i] if i in fresh else self.kept[i] for i in indices.tolist()])


def resized(images: ImageBatches, size: tuple[int, int]) -> ImageBatches:
    """Return images at a height and width: these themselves, where they have it."""

    def change(_: int, image: np.ndarray) -> np.ndarray:
        small = resize(image, size)
        return small / np.float32(255) if image.dtype == np.uint8 else small

    has_size = images.batch(np.zeros(1, int)).shape[2:] == size
    return images if has_size else ChangedImages(images, change)


class JoinedImages:
    """The images of two sources, one after the other: `ImageBatches`."""

    def __init__(self, first: ImageBatches, second: ImageBatches) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        """Number of images."""
        return len(self.first) + len(self.second)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Images (B, C, H, W), in the order of `indices`."""
        n = len(self.first)
        pieces = [
            (self.first if i < n else self.second).batch(np.array([i if i < n else i - n])) for i in indices
        ]
        return np.concatenate(pieces)


def make_network(
    kind: type[Method[Any]],
    config: DetectorConfig,
    channels: int,
    seed: int,
    tensors: Mapping[str, torch.Tensor] | None = None,
    alignment: Alignment | None = None,
) -> Method[Any]:
    """Make a network; its first weights follow from the seed, and `tensors` that it begins with, alone.

    Its `alignment`, where its options have it turn parts, was learnt before.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind(config, channels)
    state = network.state_dict()
    for name, values in (tensors or {}).items():
        state[name].copy_(values)
    if alignment is not None:
        assert network.alignment is not None  # as its options say
        network.alignment.load_state_dict(alignment.state_dict())
    return network


def learn(network: Method[Any], config: DetectorConfig, task: LearningTask) -> Outcome:
    """Have a network learn with these options, and report how it went.

    Raises TrainingError on a loss that is not finite, Interrupted after Ctrl-C or SIGTERM.
    """
    network.covered = task.covered
    if not isinstance(network, TrainedMethod):
        return _fit(network.to(task.accelerator.device), task)
    trainer = Trainer(
        network,
        config,  # type: ignore[arg-type]  a TrainedMethod has these
        task.train,
        task.validation,
        scored=task.scored,
        accelerator=task.accelerator,
        seed=task.seed,
        folder=task.folder,
        identity=task.identity,
    )
    return trainer.run(resume=task.resume, on_progress=task.on_progress)


def _fit(network: Method[Any], task: LearningTask) -> Outcome:
    """Let a method without a training loop take what it needs from the training images."""
    began, device = time.monotonic(), task.accelerator.device
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        network.fit(lambda: (torch.from_numpy(b).to(device) for b in in_order(task.train, FIT_BATCH)))
    return Outcome(seconds=time.monotonic() - began)
