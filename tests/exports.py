"""Exports by the dozen: torch's exporter reads its list of operators once."""

from __future__ import annotations

import functools
import gc

import pytest


@functools.cache
def read_operators_once() -> None:
    """It parses the source of 500 operators at each export; they are the same for all of a process."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    registry, usual = registration.ONNXRegistry, registration._constants.TORCHLIB_OPSET
    from_torchlib = registry.from_torchlib

    @functools.cache
    def read(opset_version: int = usual) -> object:
        found = from_torchlib(opset_version)
        gc.freeze()  # a million objects, which stay, and need not be searched for garbage at each export
        return found

    registry.from_torchlib = staticmethod(read)
