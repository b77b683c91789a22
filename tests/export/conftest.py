"""Exports by the dozen: torch's exporter reads its list of operators once."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """It parses the source of 500 operators at each export; they are the same for all."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    read = functools.cache(registration.ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration.ONNXRegistry, "from_torchlib", staticmethod(read))
        yield
