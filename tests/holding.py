"""Trainings that wait at an epoch until they are stopped: none is over before a busy machine stops it.

A file says at which epoch; without it they go on to their end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from blemish.cli.main import main
from blemish.training.trainer import Trainer

HELD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import holding
sys.exit(holding.run())
"""
"""A module that trains as `blemish` does: `python -m … FILE train …`."""


def hold(file: Path) -> None:
    """Have the trainings of this process wait from now on."""
    write_log = Trainer._write_log

    def held(self: Trainer) -> None:
        write_log(self)
        while not self._stop_asked and len(self.state.rows) >= _epoch(file):
            time.sleep(0.01)

    Trainer._write_log = held


def _epoch(file: Path) -> float:
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return float("inf")


def run() -> int:
    """Run the command line after the name of the file."""
    hold(Path(sys.argv.pop(1)))
    return main()
