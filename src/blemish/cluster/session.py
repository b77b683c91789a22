"""Connecting to Ray, which spreads work over machines: to a cluster, or to one that is started here.

Every machine needs the same blemish, and a file system that holds the data and the output.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCAL = "local"
MAX_RETRIES = 10
"""How many workers a job or a partition may lose and still be tried again."""
CONNECT_TIMEOUT_S = 10.0
"""Seconds that the other side may take to accept a connection."""


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Connect to the Ray cluster at `address`: host:port, ray://host:port, or local (one on this machine).

    Within, SIGTERM interrupts as Ctrl-C does. Raises UsageError, one line, without Ray and when the cluster
    cannot be joined.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are meant for developers of Ray
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of a change to come
    try:
        import ray
    except ImportError as error:
        raise UsageError("--cluster: ray is missing; pip install 'blemish[cluster]'") from error
    _check_reachable(address)
    before = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    try:
        dashboard = False if address == LOCAL else None
        with _without_stderr():
            ray.init(address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        line = " ".join((str(error).strip() or repr(error)).splitlines()[0].split())
        raise UsageError(
            f"--cluster {address}: cannot be joined: {line}; HOST:PORT joins from a machine of the cluster, "
            "ray://HOST:10001 from any other"
        ) from error
    in_main = threading.current_thread() is threading.main_thread()
    try:
        if in_main:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield
    finally:
        ray.shutdown()
        if in_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Hide what Ray's core prints when it starts; errors are exceptions anyway."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_reachable(address: str) -> None:
    """Refuse an address where nobody listens, which Ray would try for a minute. Raises UsageError."""
    if address == LOCAL:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--cluster {address}: must be local, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--cluster {address}: nobody answers there ({error}); start a cluster by `ray start --head`, or "
            "use --cluster local"
        ) from error
