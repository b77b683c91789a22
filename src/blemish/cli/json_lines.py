"""Log lines as JSON, one object a line, for what collects the logs of a plant."""

from __future__ import annotations

import io
import json
import sys
import threading
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from blemish.cli.streams import write_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class JsonLines(io.TextIOBase):
    """A stream that writes what is printed as {"time": ISO 8601 in UTC, "level": ..., "text": ...}.

    What is written up to the end of a line is one object: a message with its traceback stays together.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO, level: str) -> None:
        self._stream, self._level = stream, level
        self._begun: dict[int, str] = {}  # by thread: what it has not ended yet

    def writable(self) -> bool:
        """Whether it can be written: always."""
        return True

    def write(self, text: str) -> int:
        """Take a piece of text; raises OSError when the stream below does not take it."""
        thread = threading.get_ident()
        whole = self._begun.pop(thread, "") + text
        if not whole.endswith("\n"):
            self._begun[thread] = whole
        elif said := whole.rstrip("\n"):
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            write_line(self._stream, json.dumps({"time": time, "level": self._level, "text": said}))
        return len(text)


@contextmanager
def json_lines() -> Iterator[None]:
    """While the block runs, standard output says what is well, standard error what is not, as JSON."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(JsonLines(sys.stdout, "info")))
        stack.enter_context(redirect_stderr(JsonLines(sys.stderr, "warning")))
        yield
