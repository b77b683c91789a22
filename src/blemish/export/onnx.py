"""Export: a trained model as one ONNX file that `blemish.inference.onnx_backend` runs without torch."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blemish.core.errors import ModelError, UsageError
from blemish.core.files import temporary_for
from blemish.inference.model_file import load_model_file
from blemish.inference.onnx_backend import IMAGE_SCORES, INPUT, OUTPUT, attach, load_exported
from blemish.inference.torch_backend import TorchBackend, network_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from blemish.inference.model_file import ModelFile
    from blemish.methods.base import Method

OPSET = 18
EXPORTERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnx", "onnxruntime")
"""Loggers of the libraries that take part in an export."""
LARGEST_BYTES = 2**31
"""What an ONNX file holds at most."""
TOLERANCE = {"noise": 1e-4, "flat images": 1e-3}
"""Largest difference of an exported graph's output, as a share of its range, that is accepted.

On flat images SSIM divides what is left of equal numbers by its small constants, which shows the last bits.
"""


def export(model: Path, out: Path) -> float:
    """Write the model of a run folder or model file as ONNX, with all that inference needs in its metadata.

    The graph is checked and its output compared with torch's on made-up images before the file appears.
    Returns the largest difference on noise, as a share of the output's range. Raises ModelError when a
    model cannot be exported faithfully, UsageError without the packages of `blemish[onnx]`.
    """
    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: an exported model's name ends in .onnx")
    model_file = load_model_file(model)
    network = network_of(model_file, name=str(model))
    if network.not_exported is not None:
        raise ModelError(
            f"{model}: a model of {model_file.method} cannot be exported: {network.not_exported}"
        )
    size = sum(values.nbytes for values in model_file.tensors.values())
    if size >= LARGEST_BYTES:
        raise ModelError(
            f"{model}: has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB; train a smaller one"
        )
    graph = _graph_of(network, model_file)
    attach(graph, model_file, portion=network.scoring_batch)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(out) as part:
        part.write_bytes(graph.SerializeToString())
        differences = _differences(network, part, model_file)
        for kind, most in TOLERANCE.items():
            if not differences[kind] <= most:
                raise ModelError(
                    f"{model}: its exported graph differs from it by {differences[kind]:.2g} of the output's "
                    f"range on {kind}, more than {most:g}; nothing was written"
                )
    return differences["noise"]


def _graph_of(network: Method[Any], model_file: ModelFile) -> onnx.ModelProto:
    """Trace the network's forward for any number of images at the model's size."""
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter's own dependency
    except ImportError as error:
        raise UsageError(f"export: {error.name} is missing; pip install 'blemish[onnx]'") from error
    example = torch.zeros(2, model_file.image_format.channels, *model_file.size)
    with torch.inference_mode():
        has_scores = isinstance(network(example), tuple)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(None), _quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=2**16)},),
            input_names=[INPUT],
            output_names=[OUTPUT, IMAGE_SCORES] if has_scores else [OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    onnx.checker.check_model(graph)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries that export tell of their own work, which no user can do anything about; errors pass."""
    loggers = [logging.getLogger(name) for name in EXPORTERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _differences(network: Method[Any], file: Path, model_file: ModelFile) -> dict[str, float]:
    """Compare the exported graph with the network, as shares of the output's range on noise.

    Flat images, black, grey and white, are what a saturated camera sees: there all training images are the
    same, and a method that has learnt so may take the last bit of another library's sums for a defect.
    """
    shape = (3, model_file.image_format.channels, *model_file.size)
    images = {
        "noise": np.random.default_rng(0).random(shape, np.float32),
        "flat images": np.full(shape, np.array([0, 0.5, 1], np.float32)[:, None, None, None]),
    }
    exported, exact = load_exported(file).backend, TorchBackend(network, torch.device("cpu"))
    theirs, ours = ({kind: one.run(x) for kind, x in images.items()} for one in (exported, exact))
    maps, scores = ours["noise"]
    # a method that only scores images draws nothing
    width = max(float(np.ptp(maps)) or (0.0 if scores is None else float(np.abs(scores).max())), 1e-12)

    def largest(kind: str) -> float:
        pairs = zip(ours[kind], theirs[kind], strict=True)  # maps, and scores if there are any
        return max(float(np.abs(a - b).max()) for a, b in pairs if a is not None and b is not None)

    return {kind: largest(kind) / width for kind in images}
