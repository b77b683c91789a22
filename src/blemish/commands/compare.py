"""`blemish compare`."""

from __future__ import annotations

from blemish.arguments import CompareArguments
from blemish.terminal import parse


def compare(arguments: list[str]) -> int:
    """Run `blemish compare`."""
    args: CompareArguments = parse("compare", CompareArguments, arguments)
    from blemish.comparison import compare as run_comparison

    for pair in run_comparison(args.runs, args.out, measure=args.measure)["pairs"]:
        print(pair["verdict"])
    print(f"side by side: {args.out / 'comparison.html'}")
    return 0
