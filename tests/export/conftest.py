"""Exports by the dozen."""

from __future__ import annotations

import pytest
from exports import read_operators_once


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> None:
    """A process reads them once."""
    read_operators_once()
