"""Export: a trained model as one ONNX file that `blemish.runtime` runs without torch."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from blemish import fitting
from blemish.bundle import calibration_tensors, describe, load_bundle
from blemish.runtime import CALIBRATION, DESCRIPTION, INPUT, OUTPUT, PORTION, OnnxDetector
from blemish.types import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from blemish.bundle import Bundle

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference of an exported graph's output, as a share of its range, that is accepted."""


def export(model: Path, out: Path) -> float:
    """Write the model of a run folder or model file as ONNX, with all that inference needs in its metadata.

    The graph is checked and its output compared with torch's on random images before the file appears.
    Returns the largest difference, as a share of the output's range. Raises ModelError when a model cannot
    be exported faithfully, UsageError without the packages of `blemish[onnx]`.
    """
    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: an exported model's name ends in .onnx")
    bundle = load_bundle(model)
    network = fitting.network_of(bundle, name=str(model))
    graph = _graph_of(network, bundle)
    portion = getattr(network, "scoring_batch", None)
    described = {
        DESCRIPTION: describe(bundle),
        CALIBRATION: json.dumps({k: v.tolist() for k, v in calibration_tensors(bundle).items()}),
        **({} if portion is None else {PORTION: str(portion)}),
    }
    for key, value in described.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.stem}.tmp.onnx")
    try:
        part.write_bytes(graph.SerializeToString())
        difference = _difference(network, part, bundle)
        if not difference <= TOLERANCE:
            raise ModelError(
                f"{model}: its exported graph differs from it by {difference:.2g} of the output's range, "
                f"more than {TOLERANCE:g}; nothing was written"
            )
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return difference


def _graph_of(network: torch.nn.Module, bundle: Bundle) -> onnx.ModelProto:
    """Trace the network's forward for any number of images at the model's size."""
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter's own dependency
    except ImportError as error:
        raise UsageError(f"export: {error.name} is missing; pip install 'blemish[onnx]'") from error
    example = torch.zeros(2, bundle.image_format.channels, *bundle.size)
    with warnings.catch_warnings(), redirect_stdout(None), _quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=2**16)},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    onnx.checker.check_model(graph)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that no model of ours needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _difference(network: torch.nn.Module, file: Path, bundle: Bundle) -> float:
    """Compare the exported graph with the network on random images, as a share of the output's range."""
    x = np.random.default_rng(0).random((3, bundle.image_format.channels, *bundle.size), np.float32)
    theirs = OnnxDetector.load(file).network(x)
    ours = fitting.runner(network, torch.device("cpu"))(x)
    return float(np.abs(ours - theirs).max() / max(float(np.ptp(ours)), 1e-12))
