"""From a model file to a network with its weights, run by torch on a device."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from blemish.core.errors import ModelError, UsageError, one_line
from blemish.inference.backend import Output
from blemish.inference.detector import Detector
from blemish.inference.detector_arguments import check_device
from blemish.inference.model_file import options_of
from blemish.methods.registry import METHODS
from blemish.methods.scorer import Scorer

if TYPE_CHECKING:
    import numpy as np

    from blemish.inference.model_file import ModelFile
    from blemish.methods.base import Method


def detector_of(
    model_file: ModelFile,
    *,
    name: str,
    device: str = "auto",
    allow: frozenset[str] = frozenset(),
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
    batch_size: int = 16,
) -> Detector:
    """Build the detector of a model file, its network run by torch.

    Raises ModelError when they do not fit, UsageError for a device or rate that cannot be had.
    """
    where = torch_device(device)
    return Detector(
        model_file=model_file,
        backend=TorchBackend(network_of(model_file, name=name), where),
        allow=allow,
        false_alarm_rate=false_alarm_rate,
        review_rate=review_rate,
        batch_size=batch_size,
    )


def torch_device(name: str) -> torch.device:
    """Return the device that is meant; auto is CUDA if there is one.

    Raises UsageError for CUDA where there is none, and for another name than auto, cpu or cuda.
    """
    check_device(name)
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no usable CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def network_of(model_file: ModelFile, *, name: str) -> Method[Any]:
    """Build the network that a model file describes.

    Raises ModelError where its weights do not fit, or its options are none.
    """
    if model_file.method not in METHODS:
        raise ModelError(f"{name}: method {model_file.method!r} is unknown to this blemish; upgrade it")
    kind = METHODS[model_file.method]
    known = {f.name for f in fields(kind.config_type)}
    unknown = sorted(set(model_file.config) - known)
    if unknown:
        raise ModelError(f"{name}: option {unknown[0]!r} is unknown to this blemish; upgrade it")
    try:
        config = kind.config_type(**options_of(model_file))
    except (TypeError, ValueError, AttributeError, UsageError) as error:
        raise ModelError(f"{name}: its options are damaged ({one_line(error)}); train it again") from error
    network = kind(config, model_file.image_format.channels)
    try:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in model_file.tensors.items()})
    except RuntimeError as error:
        raise ModelError(f"{name}: its weights do not fit its description; train it again") from error
    return network.eval()


def use_full_fp32() -> None:
    """Have float32 on a GPU mean all of its 24 bits, in this whole process: TF32 has 11 of them.

    Torch's convolutions take TF32 unless they are told not to; its matrix products do not.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


class TorchBackend:
    """Runs a network of ours by torch, in fp32 without TF32, on one device."""

    def __init__(self, network: Method[Any], device: torch.device) -> None:
        """Take a network with its weights; it is moved to the device and set to score."""
        use_full_fp32()  # or scores would not be those of a CPU, nor a threshold right on both
        self.network, self.device = network.to(device).eval(), device
        self.scorer = Scorer(network).to(device).eval()

    def run(self, images: np.ndarray) -> Output:
        """Score images, float32 (B, C, h, w), so many at a time as the method bounds it."""
        parts = torch.from_numpy(images).split(self.network.scoring_batch or len(images))
        with torch.inference_mode():
            said = [self.scorer(part.to(self.device)) for part in parts]
        if isinstance(said[0], tuple):
            maps, scores = (torch.cat(kind).cpu().numpy() for kind in zip(*said, strict=True))
            return Output(maps, scores)
        return Output(torch.cat(said).cpu().numpy())
