"""Export: a trained model as one ONNX file that `blemish.inference.onnx_backend` runs without torch."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blemish.core.errors import ModelError, UsageError
from blemish.core.files import temporary_for
from blemish.inference.model_file import load_model_file
from blemish.inference.onnx_backend import IMAGE_SCORES, INPUT, OUTPUT, SUFFIX, attach, load_exported
from blemish.inference.parity import differences, too_large
from blemish.inference.torch_backend import TorchBackend, network_of
from blemish.methods.scorer import Scorer

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


def export(model: Path, out: Path) -> float:
    """Write the model of a run folder or model file as ONNX, with all that inference needs in its metadata.

    The graph is checked and its output compared with torch's on made-up images before the file appears.
    Returns the largest difference on noise, as a share of the output's range. Raises ModelError when a
    model cannot be exported faithfully, UsageError without the packages of `blemish[onnx]`.
    """
    check_out(out)
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
        shape = (model_file.image_format.channels, *model_file.size)
        found = differences(TorchBackend(network, torch.device("cpu")), load_exported(part).backend, shape)
        if (wrong := too_large(found)) is not None:
            raise ModelError(f"{model}: its exported graph differs from it by {wrong}; nothing was written")
    return found["noise"]


def check_out(out: Path) -> None:
    """Refuse a name that is not an exported model's, as of the model itself. Raises UsageError."""
    if out.suffix != SUFFIX:
        raise UsageError(f"--out {out}: an exported model's name ends in {SUFFIX}")


def _graph_of(network: Method[Any], model_file: ModelFile) -> onnx.ModelProto:
    """Trace what the network says of any number of images at the model's size."""
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter's own dependency
    except ImportError as error:
        raise UsageError(f"export: {error.name} is missing; pip install 'blemish[onnx]'") from error
    example = torch.zeros(2, model_file.image_format.channels, *model_file.size)
    scorer = Scorer(network).eval()
    with torch.inference_mode():
        has_scores = isinstance(scorer(example), tuple)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(None), _quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            scorer,
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
