from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch

from anomalib.post_processing import PostProcessor


class InferenceBatch(NamedTuple):
    pred_score: torch.Tensor
    anomaly_map: torch.Tensor | None


class Fake:
    """Score: 100 x the mean brightness in [0, 1]. Map: 1000 x the brightness - 500, of blocks of 8 x 8."""

    trainer_arguments: ClassVar[dict[str, int]] = {"num_sanity_val_steps": 0}

    def __init__(self, *, post_processor: PostProcessor, evaluator: bool, visualizer: bool) -> None:
        assert not post_processor.enable_normalization, "scores would be clamped to [0, 1]"
        assert not post_processor.enable_thresholding, "a threshold would be fitted on test images"
        assert evaluator is visualizer is False

        self.device = torch.device("cpu")
        self.training = True

    def eval(self) -> Fake:
        self.training = False
        return self

    def __call__(self, batch: torch.Tensor) -> InferenceBatch:
        assert not self.training
        assert batch.shape[1] == 3, "the real one knows RGB alone"
        brightness = batch.mean(dim=1)  # (B, H, W)
        blocks = torch.nn.functional.avg_pool2d(brightness, 8)
        return InferenceBatch(100 * brightness.mean(dim=(1, 2)), 1000 * blocks[:, None] - 500)


class NoMaps(Fake):
    """The same without a map; one pass over the images is all it needs."""

    trainer_arguments: ClassVar[dict[str, int]] = {"max_epochs": 1}

    def __call__(self, batch: torch.Tensor) -> InferenceBatch:
        return super().__call__(batch)._replace(anomaly_map=None)
