"""`blemish token`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter

from blemish.cli.options import StationOptions
from blemish.cli.parser import parse


@dataclass(frozen=True, kw_only=True)
class TokenOptions(StationOptions):
    """Make a token for the station and print it, once; only its digest is kept."""

    name: Annotated[str, Parameter(metavar="NAME")] = field(kw_only=False)
    """Whose token it is; stands beside the verdicts given with it."""
    role: Literal["view", "inspect", "judge", "engineer"] = "engineer"
    """What it may do, each also what those before it may: look; send images; give verdicts; change all."""
    days: float | None = None
    """Days after which the token works no more; default: it works until it is removed."""
    remove: bool = False
    """Remove the token instead."""


def token(arguments: list[str]) -> int:
    """Run `blemish token`."""
    options = parse("token", TokenOptions, arguments)
    from blemish.station.security import Tokens

    tokens = Tokens(options.folder)
    if options.remove:
        tokens.remove(options.name)
        print(f"{options.name}: removed; it works no more, also on a running station")
        return 0
    print(tokens.add(options.name, options.role, days=options.days))
    return 0
