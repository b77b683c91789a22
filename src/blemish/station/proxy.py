"""A station behind a proxy: by which names it is called, whom it believes, and below which path it lies."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse

from blemish.core.errors import UsageError
from blemish.station.security import is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_.~-]+)*")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a station is found."""

    hosts: tuple[str, ...] = ()
    """The names it answers to, without ports; none: any."""
    names: tuple[str, ...] = ()
    """What a browser calls it: `name` or `name:port`, in lower case."""
    trusted: tuple[str, ...] = ()
    """Addresses or networks of proxies that say who the client is, and whether it came by https."""
    root_path: str = ""
    """The path below which a proxy shows it: empty, or `/…` without a slash at its end."""


def place_of(host: str, *, names: Sequence[str], trusted: Sequence[str], root_path: str) -> Place:
    """Check the options of `serve`, and return where the station is found. Raises UsageError."""
    for name in names:
        if not _NAME.fullmatch(name.lower()):
            raise UsageError(
                f"--name {name}: must be NAME or NAME:PORT as browsers show it, without https://"
            )
    for address in trusted:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise UsageError(
                f"--trusted-proxy {address}: must be the address of a proxy, or a network as 10.0.0.0/24"
            ) from error
    root_path = root_path.rstrip("/")
    if not _ROOT_PATH.fullmatch(root_path) or {".", ".."} & {*root_path.split("/")}:
        raise UsageError(f"--root-path {root_path}: must be a path such as /station")
    called = tuple(name.lower() for name in names)
    hosts = tuple(re.sub(r":[0-9]+$", "", name) for name in called)
    if is_loopback(host) or names:
        own = f"[{host}]" if ":" in host.strip("[]") else host
        hosts = (*hosts, *LOOPBACK, own.replace("[[", "[").replace("]]", "]").lower())
    return Place(hosts=hosts, names=called, trusted=tuple(trusted), root_path=root_path)


class RootPath:
    """Middleware: takes requests below a path, whether the proxy has removed that path or not."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on with `root_path` set; the path without its slash is sent to the page."""
        if scope["type"] == "http":
            root, path = self.root_path, scope["path"]
            if path == root:
                await RedirectResponse(f"{root}/", 307)(scope, receive, send)
                return
            whole = path if path.startswith(f"{root}/") else root + path
            scope = dict(scope, root_path=root, path=whole)
        await self.app(scope, receive, send)
