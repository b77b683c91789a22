"""Running the command line inside the test's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.cli.main import main

QUICK = (
    *("--method", "metal"),
    *("--image-size", "32", "--patch-size", "8", "--embedding", "8", "--hidden", "16", "--heads", "2"),
    *("--steps", "2", "--validation-fraction", "0.1", "--calibration-fraction", "0.4"),
    *("--device", "cpu", "--precision", "fp32"),
)
"""Options that make a training a matter of a second."""


def run(*arguments: str | Path) -> int:
    """Run `blemish ARGUMENTS` and return its exit code."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 2) -> str:
    """Run what has to be refused, and return the one line that says why."""
    capsys.readouterr()
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert error.endswith("\n")
    assert "Traceback" not in error
    assert error.startswith((f"blemish {arguments[0]}: ", "blemish: "))
    return error.rstrip("\n")
