"""What can be trained: methods and their presets, asked of a process of its own.

To load the methods loads torch, which takes seconds and keeps some hundred MB for as long as a process lives.
A station with an exported model needs none of it, as a training has its own process too. So the question is
put to `python -m blemish.station.method_choices`, once; a station that has loaded torch for its model answers
itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

from blemish.core.errors import BlemishError, UsageError

_known: dict[tuple[str, ...], Any] = {}
_asking = threading.Lock()


def presets() -> dict[str, list[str]]:
    """Return the presets of each method; none where torch is missing. Raises UsageError, one line."""
    return _asked()


def check_combination(method: str, preset: str) -> None:
    """Refuse METHOD+METHOD with a member or preset that there is not. Raises UsageError, one line."""
    if not (method + preset).isprintable():  # no process takes them
        raise UsageError(f"{method!r} {preset!r}: there is no such method or preset")
    _asked(method, preset)


def _asked(*question: str) -> Any:
    if "torch" in sys.modules:
        said = answer(question)
    else:
        with _asking:  # who asks meanwhile waits for the same answer
            said = _known.get(question) or _ask(question)
            if "refused" not in said:
                _known[question] = said
    if "refused" in said:
        raise UsageError(said["refused"])
    return said["presets"]


def _ask(question: tuple[str, ...]) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, *question]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        return {"refused": f"the methods cannot be loaded: {lines[-1][:300]}"}
    return json.loads(done.stdout)


def answer(question: tuple[str, ...]) -> dict[str, Any]:
    """Load the methods and return their presets; or why they, or a METHOD and its PRESET, are refused."""
    try:
        from blemish.methods.registry import METHODS, preset_named

        if question:
            preset_named(*question)
    except ModuleNotFoundError:
        return {"presets": {}}
    except BlemishError as error:
        return {"refused": str(error)}
    return {"presets": {name: list(method.presets) for name, method in METHODS.items()}}


if __name__ == "__main__":
    print(json.dumps(answer(tuple(sys.argv[1:]))))
