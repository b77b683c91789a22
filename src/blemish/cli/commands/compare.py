"""`blemish compare`."""

from __future__ import annotations

from blemish.cli.arguments import CompareArguments
from blemish.cli.console import parse


def compare(arguments: list[str]) -> int:
    """Run `blemish compare`."""
    args: CompareArguments = parse("compare", CompareArguments, arguments)
    from blemish.evaluation.compare import compare as run_comparison

    for pair in run_comparison(args.runs, args.out, measure=args.measure)["pairs"]:
        print(pair["verdict"])
    print(f"side by side: {args.out / 'comparison.html'}")
    return 0
