"""From a model's description to the network that runs it: methods and presets by name, weights, devices."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from blemish.core.errors import ModelError, UsageError
from blemish.core.types import DetectorConfig
from blemish.inference.detector import Pipeline
from blemish.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from blemish.inference.model_file import Bundle


def detector_of(
    bundle: Bundle,
    *,
    name: str,
    device: str = "auto",
    allow: frozenset[str] = frozenset(),
    false_alarm_rate: float | None = None,
    batch_size: int = 16,
) -> Pipeline:
    """Build the network that a bundle describes and put its pipeline around it.

    Raises ModelError when they do not fit, UsageError for a device or rate that cannot be had.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no usable CUDA device; use --device cpu or auto")
    network = network_of(bundle, name=name)
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return Pipeline(
        bundle=bundle,
        network=runner(network.to(where), where),
        allow=allow,
        false_alarm_rate=false_alarm_rate,
        batch_size=batch_size,
    )


def network_of(bundle: Bundle, *, name: str) -> Any:
    """Build the network that a bundle describes, with its weights. Raises ModelError if they do not fit."""
    if bundle.method not in METHODS:
        raise ModelError(f"{name}: method {bundle.method!r} is unknown to this blemish; upgrade it")
    kind = METHODS[bundle.method]
    known = {f.name for f in fields(kind.config_type)}
    unknown = sorted(set(bundle.config) - known)
    if unknown:
        raise ModelError(f"{name}: option {unknown[0]!r} is unknown to this blemish; upgrade it")
    network = kind(kind.config_type(**options_of(bundle)), bundle.image_format.channels)
    try:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in bundle.tensors.items()})
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


def options_of(bundle: Bundle) -> dict[str, Any]:
    """Return a bundle's config as its dataclass has it: JSON knows no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in bundle.config.items()}
