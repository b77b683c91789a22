"""Warnings of decoders: damage that they see and decode nevertheless, made an error here.

imagecodecs passes the warnings of libjpeg, libtiff and OpenJPEG on to Python's logging. A log may be turned
off, and a warning that nobody sees is half an image that somebody trusts. So they are taken before they get
to the log, in the thread that decodes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[list[str] | None] = ContextVar("warnings of a decoder", default=None)
_logger = logging.getLogger("imagecodecs")
_log_warning = _logger.warning


def _collect(message: object, *arguments: object) -> None:
    collected = _collected.get()
    if collected is None:
        _log_warning(message, *arguments)
    else:
        collected.append(str(message) % arguments if arguments else str(message))


_logger.warning = _collect  # pyright: ignore[reportAttributeAccessIssue]  # a handler is told less: see above


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Give the list of what imagecodecs warns of within the block, in this thread."""
    collected: list[str] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
