"""Exports by the dozen: torch's exporter reads its list of operators once."""

from __future__ import annotations

import functools

import pytest


@functools.cache
def read_operators_once() -> None:
    """It parses the source of 500 operators at each export; they are the same for all of a process."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    read = functools.cache(registration.ONNXRegistry.from_torchlib)
    registration.ONNXRegistry.from_torchlib = staticmethod(read)
