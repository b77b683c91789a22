"""Rounding an exported graph: its trained layers multiply integers of 8 bits.

Static quantisation: the weights w of each output channel become round(w / s), a layer's input x becomes
round(x / s) + z, with scales s and zeros z that take in all values met on good training images.

Which layers is our choice, by measurement (docs/deployment.md): those whose weights the method trains. What a
method computes around them, blurred squares that are subtracted from each other, multiplies the rounding; so
does the density of frozen features.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.core.errors import ModelError
from blemish.inference import torch_backend
from blemish.inference.backend import Output
from blemish.inference.onnx_backend import INPUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx
    import torch

    from blemish.inference.detector import Detector
    from blemish.inference.model_file import ModelFile

LAYERS = ("Conv", "Gemm", "MatMul")
"""The ONNX operators that onnxruntime multiplies in 8 bits."""


def trained_layers(graph: onnx.GraphProto, network: torch.nn.Module) -> list[str]:
    """Name the nodes that multiply by weights the network was trained to have, as they are or transposed."""
    from onnx import numpy_helper

    def key(values: np.ndarray) -> tuple[tuple[int, ...], bytes]:
        return values.shape, np.ascontiguousarray(values).tobytes()

    own = [p.detach().numpy() for p in network.parameters() if p.requires_grad]
    trained = {key(w) for p in own for w in (p, p.T)}
    weights = {entry.name for entry in graph.initializer if key(numpy_helper.to_array(entry)) in trained}
    return [node.name for node in graph.node if node.op_type in LAYERS and weights & set(node.input)]


class _GoodImages:
    """What the network is given of good images, one input at a time, as onnxruntime asks for it."""

    def __init__(self, detector: Detector, paths: Sequence[Path]) -> None:
        self.inputs = self._of(detector, paths)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input, or None after the last."""
        return next(self.inputs, None)

    def _of(self, detector: Detector, paths: Sequence[Path]) -> Iterator[dict[str, np.ndarray]]:
        seen: list[np.ndarray] = []

        class Noting:
            """Runs the detector's network, and keeps what it is given."""

            def run(self, images: np.ndarray) -> Output:
                seen.extend(images)
                return detector.backend.run(images)

        noting = replace(detector, backend=Noting())
        for path in paths:
            noting.predict(path)
            yield from ({INPUT: x[np.newaxis]} for x in seen)
            seen.clear()


def round_layers(
    file: Path, rounded: Path, model_file: ModelFile, exact: Detector, good: Sequence[Path], model: Path
) -> int:
    """Write an exported graph with its trained layers in 8 bits; returns how many these are.

    `exact` runs the graph as it was, on `good` images; `model` is what an error names. Raises ModelError for
    a method without trained layers.

    Weights get 7 of the 8 bits: the sum of two products of 8 and 7 bits fits 16, in which processors without
    VNNI add them up. With 8 they would saturate there, and thresholds made here would be wrong there.
    """
    import onnx
    from onnxruntime import quantization

    layers = trained_layers(onnx.load(file).graph, torch_backend.network_of(model_file, name=str(model)))
    if not layers:
        raise ModelError(
            f"{model}: {model_file.method} has no trained layer that 8 bits would speed up; leave --int8 out"
        )
    with _quiet():
        quantization.quantize_static(
            file,
            rounded,
            _GoodImages(exact, good),  # type: ignore[arg-type]
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=list(LAYERS),
            nodes_to_quantize=layers,
        )
    return len(layers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself that onnxruntime recommends a preparation that changes nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
