"""Running the command line inside the test's process."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_origin

import pytest
from cyclopts import App, ArgumentCollection, Parameter

from blemish.cli.main import main

QUICK = (
    *("--method", "metal"),
    *("--image-size", "32", "--patch-size", "8", "--embedding", "8", "--hidden", "16", "--heads", "2"),
    *("--steps", "2", "--validation-fraction", "0.1", "--calibration-fraction", "0.4"),
    *("--device", "cpu", "--precision", "fp32"),
)
"""Options that make a training a matter of a second."""


assemble, _assembled = App.assemble_argument_collection, dict[Any, ArgumentCollection]()


def assemble_once(
    app: App, *, default_parameter: Parameter | None = None, parse_docstring: bool = False
) -> ArgumentCollection:
    """Make options from the fields of a class, or copy those of equal fields: most of a parsing's time."""
    kind: Any = app.default_command
    if parse_docstring or default_parameter or not hasattr(kind, "__dataclass_fields__"):
        return assemble(app, default_parameter=default_parameter, parse_docstring=parse_docstring)
    types = [f.type.__origin__ if get_origin(f.type) is Annotated else f.type for f in fields(kind)]  # type: ignore[union-attr]
    options = [(f.name, str(t), repr(f.default)) for f, t in zip(fields(kind), types, strict=True)]
    key = (*app.name, *app.help_flags, kind.__name__, kind.__bases__, *options)
    if key not in _assembled:
        _assembled[key] = assemble(app)
    return _assembled[key].copy(reset_tokens=True)


App.assemble_argument_collection = assemble_once  # type: ignore[method-assign]


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


def files_of(out: Path) -> dict[str, bytes]:
    """Return the content of all files below an output folder, but for its lock."""
    found = (path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}
