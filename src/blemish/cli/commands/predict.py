"""`blemish predict`, here or on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.cli.arguments import PredictArguments
from blemish.cli.console import parse, progress_bar
from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from blemish.inference.predict_folder import PredictionCounts


def predict(arguments: list[str]) -> int:
    """Run `blemish predict`."""
    args: PredictArguments = parse("predict", PredictArguments, arguments)
    if args.cluster is not None:
        return _predict_on_cluster(args, args.cluster)
    if args.partition is not None or "://" in args.out:
        option = f"--partition {args.partition}" if args.partition is not None else f"--out {args.out}"
        raise UsageError(f"{option}: is for scoring on a cluster; give --cluster too, or leave it out")
    from blemish.images import video
    from blemish.inference.load import load
    from blemish.inference.predict_folder import find_inputs, predict_to_folder

    inputs, out = find_inputs(args.inputs), Path(args.out)
    total = video.expected(inputs, args.every)
    detector = load(
        args.model,
        device=args.device,
        allow=frozenset(args.allow),
        false_alarm_rate=args.false_alarm_rate,
        batch_size=args.batch_size,
    )
    with progress_bar() as progress:
        task = progress.add_task("scoring", total=total)
        images = video.unrolled(inputs, args.every)
        counts = predict_to_folder(detector, images, out, on_row=lambda _: progress.advance(task))
    return _tell_predictions(counts, detector.threshold, str(out / "predictions.csv"))


def _predict_on_cluster(args: PredictArguments, address: str) -> int:
    from blemish.cluster import predict as scoring
    from blemish.cluster.session import joined

    if args.every != 1:
        raise UsageError(
            f"--every {args.every}: is for films, which are not scored on a cluster; leave it out"
        )
    partition = {} if args.partition is None else {"partition": args.partition}
    work = scoring.Scoring(
        model=args.model,
        inputs=args.inputs,
        out=args.out,
        false_alarm_rate=args.false_alarm_rate,
        allow=frozenset(args.allow),
        batch_size=args.batch_size,
        device=args.device,
        **partition,
    )
    with progress_bar() as progress:
        listing = progress.add_task("listing", total=None)

        def done(inputs: int, total: int) -> None:
            progress.update(listing, visible=False)
            progress.update(task, total=total, advance=inputs, visible=True)

        task = progress.add_task("scoring", visible=False)
        with joined(address):
            counts, threshold = scoring.score(
                work, on_listed=lambda inputs: progress.advance(listing, inputs), on_done=done
            )
    return _tell_predictions(counts, threshold, f"{args.out.rstrip('/')}/part-*.parquet")


def _tell_predictions(counts: PredictionCounts, threshold: float | None, rows: str) -> int:
    for error in counts.errors:
        print(f"failed: {error}", file=sys.stderr)
    if counts.failed > len(counts.errors):
        more = counts.failed - len(counts.errors)
        print(f"failed: {more} more, see {rows.rpartition('/')[2]}", file=sys.stderr)
    verdict = "" if threshold is None else f", {counts.anomalous} anomalous"
    print(f"{counts.scored} scored{verdict}, {counts.failed} failed: {rows}")
    return 1 if counts.failed else 0
