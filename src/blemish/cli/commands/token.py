"""`blemish token`."""

from __future__ import annotations

from blemish.cli.arguments import TokenArguments
from blemish.cli.console import parse
from blemish.station.security import Tokens


def token(arguments: list[str]) -> int:
    """Run `blemish token`."""
    args: TokenArguments = parse("token", TokenArguments, arguments)
    tokens = Tokens(args.folder)
    if args.remove:
        tokens.remove(args.name)
        print(f"{args.name}: removed; a running station forgets it when it is started again")
        return 0
    print(tokens.add(args.name, args.role))
    return 0
