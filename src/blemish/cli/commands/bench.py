"""`blemish bench`, here or on a cluster."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from blemish.cli.arguments import BenchArguments
from blemish.cli.commands.jobs import drawn, refuse_without_cluster, share_of, told
from blemish.cli.console import parse, progress_bar
from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from blemish.evaluation.jobs import Progress


def bench(arguments: list[str]) -> int:
    """Run `blemish bench`."""
    args: BenchArguments = parse("bench", BenchArguments, arguments)
    from blemish.evaluation import benchmark
    from blemish.evaluation.benchmark_report import write_results

    if args.cluster is None:
        refuse_without_cluster(args, "cpus_per_cell", "gpus_per_cell")
        joined, run = nullcontext(), partial(benchmark.run, jobs=1 if args.jobs is None else args.jobs)
    elif args.jobs is not None:
        raise UsageError(f"--jobs {args.jobs}: is for one machine; on a cluster use --cpus-per-cell instead")
    else:
        from blemish.cluster.jobs import run as run_on_cluster
        from blemish.cluster.session import joined as join

        joined, run = join(args.cluster), partial(run_on_cluster, **share_of(args, "cell"))
    categories = benchmark.categories_in(args.data, args.categories)
    cells = benchmark.plan(args.methods, categories, args.seeds, args.out)
    with joined, progress_bar(estimate=False) as bar:
        args.out.mkdir(parents=True, exist_ok=True)
        draw = drawn(bar, "cells")

        def show(now: Progress) -> None:
            draw(now)
            write_results(args.out, cells, now)

        progress = run(cells, on_change=show)
    return told(progress, "cells", args.out / "results.html")
