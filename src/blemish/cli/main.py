"""The command line. A command is imported when it runs, so that help is instant.

Exit codes: 0 all done; 1 done, but some inputs failed and are listed; 2 refused, with one line that says
why; 130 stopped by Ctrl-C; 141 nobody reads the output any more.
"""

from __future__ import annotations

import os
import sys
from errno import EDQUOT, ENOSPC
from importlib import import_module

from blemish.cli.streams import PIPE_CLOSED, complain, flush_output, open_streams
from blemish.core.errors import BlemishError, Interrupted

STOPPED = 130
TURNS_BEFORE_SLEEP = "3000"
"""How often a thread of torch's asks for work before it sleeps (GNU OpenMP's GOMP_SPINCOUNT).

Its own 300,000 take the core from whatever it waits for, where other programs need the cores too.
"""
EXTRAS = {
    "torch": "train",
    "accelerate": "train",
    "safetensors": "train",
    "scipy": "train",
    "jinja2": "report",
    "matplotlib": "report",
    **dict.fromkeys(("fpdf", "fontTools"), "pdf"),
    **dict.fromkeys(
        ("alembic", "fastapi", "prometheus_client", "pydantic", "sqlalchemy", "starlette", "uvicorn"),
        "station",
    ),
    "psycopg": "postgres",
    **dict.fromkeys(("authlib", "joserfc", "requests"), "oidc"),
    **dict.fromkeys(("fsspec", "pyarrow", "ray"), "cluster"),
}
"""What brings a package that is not there."""

COMMANDS = {
    "demo": "generate parts, train, evaluate, report: see it work within minutes",
    "train": "learn what good looks like from good images",
    "evaluate": "measure a model on a labelled test set",
    "sensitivity": "which planted defects a model finds, by kind, size and contrast",
    "audit": "find defects, odd pictures and near-copies among images said to be good",
    "card": "write a model card: data, figures, limits, sensitivity, licence of weights",
    "parts": "calibrate decisions of parts that have several views",
    "recalibrate": "new thresholds from good images, or for other sizes, without training",
    "predict": "score images: rows, heat maps, overlays",
    "watch": "score what cameras write into a folder, each file once",
    "serve": "the inspection station: a service and its page",
    "token": "make or remove a token for the station",
    "verify": "check that the station's log of who did what was not changed",
    "report": "the shift report of a station as PDF: decisions, escapes, reasons, confirmed defects",
    "backup": "copy the record and the files of a station, which may be running",
    "restore": "make a station's folder and record from a backup",
    "export": "write a model as ONNX, to run without torch",
    "bench": "train and evaluate methods × categories × seeds, and put them in a table",
    "submission": "maps of MVTec AD 2's private test images, as its evaluation server takes them",
    "compare": "runs side by side, and whether one is better than the other",
}
"""What each command does: it is the function of its name in the module of its name in `commands`."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    open_streams()
    os.environ.setdefault("GOMP_SPINCOUNT", TURNS_BEFORE_SLEEP)  # is read when torch is imported
    given = sys.argv[1:] if arguments is None else arguments
    name = " ".join(["blemish", *given[:1]])
    try:
        code = _run(given)
    except SystemExit:  # help was asked for
        error = flush_output()
        if error is None:
            raise
        return _output_failed(name, error)
    error = flush_output()
    return code if error is None else _output_failed(name, error)


def _output_failed(command: str, error: OSError) -> int:
    """Return the exit code of a command whose output cannot be written, which is no fault of `--out`."""
    if isinstance(error, BrokenPipeError):  # as a filter ends, whose reader has seen enough
        return PIPE_CLOSED
    complain(f"{command}: standard output: {error.strerror or error}; send it elsewhere")
    return 2


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0 if given else 2
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"blemish {version('blemish')}")
        return 0
    if given[0] not in COMMANDS:
        complain(f"blemish: {given[0]}: no such command; choose one of {', '.join(COMMANDS)}")
        return 2
    return _guarded(given[0], given[1:])


def _guarded(command: str, arguments: list[str]) -> int:
    """Run a command; whatever goes wrong is one line on stderr."""
    try:
        module = import_module(f"blemish.cli.commands.{command}")
        return getattr(module, command)(arguments)
    except BlemishError as error:
        complain(f"blemish {command}: {error}")
        return STOPPED if isinstance(error, Interrupted) else 2
    except KeyboardInterrupt:
        complain(f"blemish {command}: stopped")
        return STOPPED
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0], "all")
        complain(f"blemish {command}: {error.name} is missing; pip install 'blemish[{extra}]'")
        return 2
    except OSError as error:
        broken = flush_output()
        if broken is not None or isinstance(error, BrokenPipeError):
            return _output_failed(f"blemish {command}", broken or error)
        where = error.filename or _out(command, arguments) or "its output"
        cure = "free some space" if error.errno in (ENOSPC, EDQUOT) else "check the path and its rights"
        complain(f"blemish {command}: {where}: {error.strerror or error}; {cure}, or choose another --out")
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        complain(f"blemish {command}: not enough memory; lower --batch-size or --image-size")
        return 2


def _out(command: str, arguments: list[str]) -> str | None:
    """Return where a command that has begun was told to write."""
    from blemish.cli.options import OutOption
    from blemish.cli.parser import parse_known

    return parse_known(command, OutOption, arguments)[0].out


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    lines = [
        "usage: blemish COMMAND [OPTIONS]",
        "",
        "Learn what good looks like from good images alone.",
        "",
        *commands,
        "",
        "blemish COMMAND --help shows a command's options; blemish --version the version.",
    ]
    return "\n".join(lines)
