"""Standard output and standard error: what is told to a person, who may have gone away.

A command whose output somebody else reads (`blemish predict … | head`) ends as a Unix filter does. What works
on by itself (`watch`, `serve`) never waits for whoever reads, and never ends for want of a reader.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing import TextIO

PIPE_CLOSED = 141
"""The exit code of a filter that nobody reads: 128 + SIGPIPE, as a shell has it."""
MAX_WAITING_LINES = 1000
"""Lines that wait to be printed at most; then the oldest are dropped."""
CLOSE_TIMEOUT_S = 5.0
"""Seconds that waiting lines have to be printed when the work is over."""


def open_streams() -> None:
    """Give standard streams that are closed a place that takes everything, and have no text refused.

    Else the next file that is opened would be in their place, and get what is told to people.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> OSError | None:
    """Write what standard output still holds. Returns why it cannot be written; it is silent from then on."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        return error
    except ValueError:  # it was closed
        pass
    return None


def complain(text: str) -> None:
    """Print a line on standard error, where somebody can be told."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    r"""Write what would break or colour a line, and bytes that are no text, as `\n` and `\udcff`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_line(stream: TextIO, text: str) -> None:
    """Write a line at once, past the stream's own memory, which would keep what is refused and try again.

    Raises OSError when the stream does not take it, ValueError when it is closed.
    """
    line = printable(text) + "\n"
    try:
        number = stream.fileno()
    except (OSError, AttributeError):  # no file of the system
        stream.write(line)
        stream.flush()
        return
    data = line.encode(stream.encoding or "utf-8", "backslashreplace")
    while data:
        data = data[os.write(number, data) :]


class Lines:
    """Prints lines from a thread of its own: whoever does not read them, or has gone, holds up nothing."""

    def __init__(self, command: str) -> None:
        """Open; `command` opens the lines on standard error."""
        self.command = command
        self._waiting: deque[tuple[Literal["stdout", "stderr"], str]] = deque()
        self._changed, self._ending = threading.Condition(), False
        self._dropped, self._failed = 0, False
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Print what waits, for some seconds at most."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)

    def out(self, text: str) -> None:
        """Print a line on standard output; never waits."""
        self._put("stdout", text)

    def say(self, text: str) -> None:
        """Print a line on standard error; never waits."""
        self._put("stderr", f"{self.command}: {text}")

    def _put(self, where: Literal["stdout", "stderr"], text: str) -> None:
        with self._changed:
            if len(self._waiting) >= MAX_WAITING_LINES:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((where, text))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._ending:
                        return
                    self._changed.wait()
                where, text = self._waiting.popleft()
                dropped, self._dropped = self._dropped, 0
            if dropped:
                self._print(
                    "stderr", f"{self.command}: {dropped} lines were not printed, nobody read them in time"
                )
            self._print(where, text)

    def _print(self, where: Literal["stdout", "stderr"], text: str) -> None:
        try:
            write_line(getattr(sys, where), text)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            if where == "stdout" and not self._failed:
                self._failed = True
                self._print("stderr", f"{self.command}: standard output: {why}; it goes on without")


def _silence(stream: TextIO) -> None:
    """Let a stream that is broken take everything, so that its end is no further error."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
