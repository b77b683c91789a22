"""`blemish serve`."""

from __future__ import annotations

import math
import os
import socket
import sys
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from cyclopts import Parameter

from blemish.cli.json_lines import json_lines
from blemish.cli.options import DetectorOptions, HookOptions, LabelOptions, PartOptions, StationOptions
from blemish.cli.parser import parse
from blemish.cli.streams import write_line
from blemish.core.errors import UsageError
from blemish.core.ownership import SERVE_LOCK_NAME, owned
from blemish.core.stop_signals import StopSignals

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from blemish.station.oidc import Provider
    from blemish.station.proxy import Place
    from blemish.station.security import Tokens
    from blemish.station.station import Station


@dataclass(frozen=True, kw_only=True)
class ServeOptions(DetectorOptions, StationOptions, LabelOptions, HookOptions, PartOptions):
    """Run the inspection station: a page and a service that score images and keep a record of each."""

    model: Annotated[tuple[Path, ...], Parameter(metavar="RUN|FILE [...]")]
    """Run folders, model files or exported models."""
    part_wait: float = 10.0
    """Seconds that a part of several views waits for them; without one of them it is never accepted."""
    host: str = "127.0.0.1"
    """The address to listen on; any other than this machine's own requires a token (`blemish token`)."""
    port: int = 8000
    """The port to listen on; 0: a free one."""
    name: tuple[str, ...] = ()
    """A name by which browsers call it behind a proxy: NAME or NAME:PORT. It answers to no other one."""
    trusted_proxy: tuple[str, ...] = ()
    """The address or network of a proxy that is believed who the client is, and that it came by https."""
    root_path: str = ""
    """The path below which a proxy shows the station, as /station."""
    oidc: str | None = None
    """The address of the provider of the plant's accounts (OpenID Connect), which then log in here too."""
    oidc_client: str = "blemish"
    """The name under which the provider knows the station; the secret is in BLEMISH_OIDC_SECRET."""
    oidc_roles: Annotated[tuple[str, ...], Parameter(metavar="GROUP=ROLE [...]")] = ()
    """Which group of the provider has which role here: inspectors=judge quality=engineer."""
    database: str | None = None
    """The record's address, as postgresql://user@host/name; default a SQLite file in the folder."""
    capacity: int = 64
    """Images that may wait at a time, for each model; one more is told to come again."""
    max_megabytes: int = 64
    """Size of an upload at most, in 10⁶ bytes."""
    max_megapixels: int = 100
    """Size of an image at most, in 10⁶ pixels; judged before it is decoded."""
    keep_accepted_days: float | None = None
    """Days after which images and maps of accepted parts are removed; their rows stay."""
    keep_rejected_days: float | None = None
    """The same for parts that were rejected, sent to review or failed, and for defects; not fewer."""
    keep_gigabytes: float | None = None
    """Room for images and maps, in 10⁹ bytes; the oldest go first, accepted ones before rejected ones."""
    keep_trainings_days: float = 30.0
    """Days after which trainings and versions of models are removed that no part and no use refers to."""
    training_data: Path | None = None
    """A folder whose sub-folders of good images may be named as the images of a training."""
    sample: float | None = None
    """Share of accepted parts that are drawn at random for a person, 0.02 for 2 %; default: as it was."""
    on_event: str | None = None
    """A command to run for each event: a reject, a part that a person is to look at (sent to review,
    or drawn), an alarm."""
    opcua: str | None = None
    """Serve the state for a PLC by OPC UA: opc.tcp://HOST:PORT, read only and without a login."""
    modbus: str | None = None
    """The same by Modbus TCP: HOST:PORT."""
    time_limit: float = 30.0
    """Seconds that a request waits for its answer at most."""
    rollout: Annotated[str | None, Parameter(metavar="FOLDER|URL")] = None
    """A folder or a bucket (https://…), shared by many stations, whose rollout.json says which version of a
    model is in use."""
    users: Path | None = None
    """A folder with the tokens of many stations, made by `blemish token --folder`; default `--folder`."""
    log: Literal["text", "json"] = "text"
    """How lines are logged; json: an object a line, with time, level and text."""

    def check_numbers(self) -> None:
        """Refuse numbers that no station can keep to. Raises UsageError."""
        if not 0 <= self.port < 2**16:
            raise UsageError(f"--port {self.port}: must be 0 to 65535")
        for option in ("capacity", "max_megabytes", "max_megapixels"):
            if (value := getattr(self, option)) < 1:
                raise UsageError(f"--{option.replace('_', '-')} {value}: must be 1 or larger")
        if not 0 < self.time_limit < math.inf:
            raise UsageError(f"--time-limit {self.time_limit}: must be a finite number above 0, in seconds")


def serve(arguments: list[str]) -> int:
    """Run `blemish serve` until Ctrl-C or SIGTERM."""
    options = parse("serve", ServeOptions, arguments)
    options.check_numbers()
    from blemish.record.database import refuse_password
    from blemish.station.proxy import place_of
    from blemish.station.security import Tokens, check_binding

    tokens = Tokens(options.users or options.folder)
    if options.users is not None and not tokens.known:
        raise UsageError(
            f"--users {options.users}: holds no token; make one with "
            f"`blemish token NAME --folder {options.users}`"
        )
    refuse_password(options.database)
    options = replace(options, folder=options.folder.resolve())
    os.umask(os.umask(0) | 0o077)  # what the station writes is its owner's alone
    place = place_of(
        options.host, names=options.name, trusted=options.trusted_proxy, root_path=options.root_path
    )
    provider = _provider(options)
    check_binding(options.host, tokens, proxies=_proxies(options), accounts=provider is not None)
    listening = _listen(options.host, options.port)
    logging = json_lines() if options.log == "json" else nullcontext()
    with owned(options.folder, lock=SERVE_LOCK_NAME, option="--folder"), logging:
        return _serve(options, tokens, place, provider, listening)


def _provider(options: ServeOptions) -> Provider | None:
    """Return the provider of the plant's accounts; None: tokens alone."""
    if options.oidc is None:
        return None
    from blemish.station.oidc import Provider

    secret = os.environ.get("BLEMISH_OIDC_SECRET")
    return Provider(options.oidc, client=options.oidc_client, secret=secret, roles=options.oidc_roles)


def _proxies(options: ServeOptions) -> list[str]:
    """Return the options that say that other machines come through a proxy."""
    from blemish.station.security import is_loopback

    names = [f"--name {name}" for name in options.name if not is_loopback(name.rsplit(":", 1)[0])]
    return names + [f"--trusted-proxy {address}" for address in options.trusted_proxy]


def _serve(
    options: ServeOptions,
    tokens: Tokens,
    place: Place,
    provider: Provider | None,
    listening: socket.socket,
) -> int:
    import uvicorn

    from blemish.station.app import create
    from blemish.station.connections import Room, connection_limit, spare_log_lines

    station = _station(options)
    app = create(
        station,
        tokens=tokens,
        place=place,
        provider=provider,
        max_bytes=options.max_megabytes * 10**6,
        time_limit=options.time_limit,
    )
    _print_start(options, station, port=listening.getsockname()[1])
    room = Room(connection_limit(), on_full=partial(app.state.meters.refuse, "connections"))
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", room.make),  # which is called as a class is
        log_level="warning",
        timeout_graceful_shutdown=30,
        server_header=False,
        proxy_headers=False,  # the application does it, for the proxies that are trusted
    )
    spare_log_lines()
    with _outgoing(options, station), StopSignals():  # the server ends by them, and then hands them on
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _print_start(options: ServeOptions, station: Station, port: int) -> None:
    """Print where the station is found, its record, and what its models promise."""
    from blemish.inference.promise import Promise

    name = f"[{options.host}]" if ":" in options.host else options.host
    with suppress(OSError, ValueError):  # a station that nobody listens to inspects all the same
        write_line(sys.stdout, f"blemish station: http://{name}:{port} (Ctrl-C ends it)")
        write_line(sys.stdout, record_line(options.folder, station.store.last_number()))
        for record in station.store.models():
            if (engine := station.engines.get(record.digest)) is not None:
                said = Promise.of(engine.model.detector).describe()
                write_line(sys.stdout, f"model {record.name}: {said}")
        for line in station.parts.lines:
            write_line(sys.stdout, f"model {station.name_of(line.model)}: {line.views.describe()}")


def record_line(folder: Path, number: int) -> str:
    """Say where the record is, and whether it is an empty one, which may not be the one that is meant."""
    found = f"{number} inspections" if number else "a new one, without an inspection"
    return f"record: {folder.resolve()}: {found}"


@contextmanager
def _outgoing(options: ServeOptions, station: Station) -> Iterator[None]:
    """Tell others what happens here: by hooks, and what a PLC reads."""
    from blemish.station.notifications import Notifications
    from blemish.station.plc import Plc
    from blemish.station.rollout import Rollout
    from blemish.watch.notify import Receivers

    def say(text: str) -> None:
        with suppress(OSError, ValueError):
            write_line(sys.stderr, f"blemish serve: {text}")

    receivers = Receivers(
        on_reject=options.on_reject,
        on_review=options.on_review,
        on_event=options.on_event,
        webhook=options.webhook,
        webhook_secret=options.webhook_secret,
        mqtt=options.mqtt,
    )
    with receivers.telling(say) as tell, ExitStack() as stack:
        if receivers:  # else each reject would be read from the record for nobody
            Notifications(station, tell)
        if options.rollout:
            stack.callback(Rollout(station, options.rollout, say).close)
        if options.opcua or options.modbus:
            plc = Plc(station, opcua=options.opcua, modbus=options.modbus)
            stack.callback(plc.close)
        yield


def _station(options: ServeOptions) -> Station:
    from blemish.record.retention import Policy
    from blemish.station.parts import PartSettings
    from blemish.station.station import Station

    return Station(
        options.model,
        options.folder,
        database=options.database,
        false_alarm_rate=options.false_alarm_rate,
        review_rate=options.review_rate,
        allow=frozenset(options.allow),
        device=options.device,
        capacity=options.capacity,
        max_pixels=options.max_megapixels * 10**6,
        training_data=options.training_data,
        labelling=options.labelling(),
        sample=options.sample,
        parts=PartSettings(
            names=options.names(),
            wait_s=options.part_wait,
            view_models=options.view_model,
            calibration=options.parts,
            views=options.views,
        ),
        policy=Policy(
            accepted_days=options.keep_accepted_days,
            rejected_days=options.keep_rejected_days,
            gigabytes=options.keep_gigabytes,
            trainings_days=options.keep_trainings_days,
        ),
    )


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is opened, so that a port in use is one line and touches nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once (TCP_NODELAY) where the socket says that it is TCP
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; choose another") from error
    return listening
