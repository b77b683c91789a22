"""Opening a model of either kind: a trained one, run by torch, or an exported one, run without."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.inference.detector_arguments import check_device
from blemish.inference.onnx_backend import SUFFIX, load_exported
from blemish.inference.providers import CPU

if TYPE_CHECKING:
    from blemish.inference.detector import Detector


def load(
    path: str | Path,
    *,
    device: str = "auto",
    allow: frozenset[str] = frozenset(),
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    provider: str = CPU,
    product: str | None = None,
) -> Detector:
    """Load a run folder, a model file or an exported model.

    Args:
        path: what to load; a name that ends in .onnx is an exported model.
        device: auto, cpu or cuda; exported models run on the CPU.
        allow: conversions permitted for images that are not as in training: channels, depth.
        false_alarm_rate: share of good parts that may be rejected, in (0, 1); None: the default.
        review_rate: share of good parts that may be rejected or sent to a person; None: none is sent.
        batch_size: images in a call of the network.
        threads: those that run the network, torch's in this whole process; None: as many as there are cores.
        provider: what runs an exported model: cpu, openvino, cuda or tensorrt.
        product: which of the model's products is inspected; None: it has but one, or it is chosen later.

    Raises ModelError for a file that is no model, UsageError for a device, provider, rate or product that
    cannot be had, and for a model that needs torch where there is none.
    """
    check_device(device)
    if Path(path).suffix.lower() == SUFFIX:
        if device == "cuda":
            cure = "leave --device out, or use --provider cuda"
            raise UsageError(f"--device cuda: {path} is exported and runs on the CPU; {cure}")
        exported = load_exported(
            path,
            allow=allow,
            false_alarm_rate=false_alarm_rate,
            review_rate=review_rate,
            batch_size=batch_size,
            threads=threads,
            provider=provider,
        )
        return exported if product is None else exported.for_product(product)
    _check_trained(path, provider)
    from blemish.inference import torch_backend
    from blemish.inference.model_file import load_model_file

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    model_file = load_model_file(Path(path))
    return torch_backend.detector_of(
        model_file if product is None else model_file.of_product(product),
        name=str(path),
        device=device,
        allow=allow,
        false_alarm_rate=false_alarm_rate,
        review_rate=review_rate,
        batch_size=batch_size,
    )


def _check_trained(path: str | Path, provider: str) -> None:
    """Raise UsageError where a trained model cannot be run."""
    if provider != CPU:
        raise UsageError(
            f"--provider {provider}: is for exported models; write one of {path} by blemish export"
        )
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            f"{path}: a trained model needs torch; pip install 'blemish[train]', or use its export (.onnx)"
        )
