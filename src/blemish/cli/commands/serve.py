"""`blemish serve`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from blemish.cli.arguments import ServeArguments
from blemish.cli.console import StopSignals, parse
from blemish.core.errors import UsageError
from blemish.record.retention import Policy
from blemish.station.security import Tokens, check_binding, is_loopback

if TYPE_CHECKING:
    from uvicorn import Config

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def serve(arguments: list[str]) -> int:
    """Run `blemish serve` until Ctrl-C or SIGTERM."""
    args: ServeArguments = parse("serve", ServeArguments, arguments)
    import uvicorn

    from blemish.station.app import create
    from blemish.station.station import Station

    tokens = Tokens(args.folder)
    check_binding(args.host, tokens)
    listening = _listen(args.host, args.port)
    station = Station(
        args.model,
        args.folder,
        database=args.database,
        false_alarm_rate=args.false_alarm_rate,
        allow=frozenset(args.allow),
        device=args.device,
        capacity=args.capacity,
        max_pixels=args.max_megapixels * 10**6,
        training_data=args.training_data,
        policy=Policy(
            accepted_days=args.keep_accepted_days,
            rejected_days=args.keep_rejected_days,
            gigabytes=args.keep_gigabytes,
        ),
    )
    app = create(
        station,
        tokens=tokens,
        hosts=LOOPBACK if is_loopback(args.host) else (),
        max_bytes=args.max_megabytes * 10**6,
        time_limit=args.time_limit,
    )
    port = listening.getsockname()[1]
    name = f"[{args.host}]" if ":" in args.host else args.host
    print(f"blemish station: http://{name}:{port} (Ctrl-C ends it)", flush=True)
    config: Config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=30, server_header=False
    )
    with StopSignals():  # the server ends by them, and then hands them on
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is opened, so that a port in use is one line and touches nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; choose another") from error
    return listening
