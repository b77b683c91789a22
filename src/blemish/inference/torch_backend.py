"""From a model's description to the network that runs it: methods and presets by name, weights, devices."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from blemish.core.errors import ModelError, UsageError
from blemish.core.types import DetectorConfig
from blemish.inference.detector import Detector
from blemish.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from blemish.inference.model_file import ModelFile


def detector_of(
    model_file: ModelFile,
    *,
    name: str,
    device: str = "auto",
    allow: frozenset[str] = frozenset(),
    false_alarm_rate: float | None = None,
    batch_size: int = 16,
) -> Detector:
    """Build the network that a model file describes and put its detector around it.

    Raises ModelError when they do not fit, UsageError for a device or rate that cannot be had.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no usable CUDA device; use --device cpu or auto")
    network = network_of(model_file, name=name)
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return Detector(
        model_file=model_file,
        network=runner(network.to(where), where),
        allow=allow,
        false_alarm_rate=false_alarm_rate,
        batch_size=batch_size,
    )


def network_of(model_file: ModelFile, *, name: str) -> Any:
    """Build the network that a model file describes. Raises ModelError where its weights do not fit."""
    if model_file.method not in METHODS:
        raise ModelError(f"{name}: method {model_file.method!r} is unknown to this blemish; upgrade it")
    kind = METHODS[model_file.method]
    known = {f.name for f in fields(kind.config_type)}
    unknown = sorted(set(model_file.config) - known)
    if unknown:
        raise ModelError(f"{name}: option {unknown[0]!r} is unknown to this blemish; upgrade it")
    network = kind(kind.config_type(**options_of(model_file)), model_file.image_format.channels)
    try:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in model_file.tensors.items()})
    except RuntimeError as error:
        raise ModelError(f"{name}: its weights do not fit its description; train it again") from error
    return network.eval()


def runner(network: torch.nn.Module, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """Wrap a torch network as a function of arrays, float32 (B, C, H, W) -> (B, h, w), in fp32.

    A network with a `scoring_batch` is given that many images at a time, which bounds its memory.
    """
    network.eval()
    most = getattr(network, "scoring_batch", None)

    def run(x: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(x).split(most or len(x))
        with torch.inference_mode():
            return torch.cat([network(part.to(device)).cpu() for part in parts]).numpy()

    return run


def method_named(method: str) -> Any:
    """Return the method's class. Raises UsageError when there is none of that name."""
    if method not in METHODS:
        raise UsageError(f"--method {method}: no such method; choose one of {', '.join(METHODS)}")
    return METHODS[method]


def preset_named(method: str, preset: str) -> DetectorConfig:
    """Return a preset's options. Raises UsageError when the method has none of that name."""
    presets = method_named(method).presets
    if preset not in presets:
        raise UsageError(
            f"--preset {preset}: {method} has no such preset; choose one of {', '.join(presets)}"
        )
    return presets[preset]


def options_of(model_file: ModelFile) -> dict[str, Any]:
    """Return a model file's config as its dataclass has it: JSON knows no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in model_file.config.items()}
