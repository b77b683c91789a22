"""`blemish bench`, here or on a cluster."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blemish.cli.console import draw_jobs, print_summary, progress_bar
from blemish.cli.options import CategoryOptions, LayoutOption, resources
from blemish.cli.parser import parse, parse_known
from blemish.core.errors import UsageError
from blemish.core.ownership import owned

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from blemish.evaluation.jobs import Progress


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What a paper's tables are made of."""

    out: Path = Path("bench")
    """Where to write: a run folder for each cell, and the results."""
    table: Literal["cpc-ad", "metal"] | None = None
    """Run nothing: put the figures of all results.json in --out and below into that paper's tables."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions(TableOptions, CategoryOptions, LayoutOption):
    """Train and evaluate methods × categories × seeds; writes results.json, results.md and results.html.

    Repeat the command to go on after an interruption: what is finished is not done again.
    """

    data: Path
    """A folder with categories, one or two levels below it, or one category."""
    methods: tuple[str, ...]
    """Names of methods, name:preset, or several joined by a plus that one model combines."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, each of them a run."""
    jobs: int | None = None
    """Cells at a time, each with its share of the cores; default 1."""
    cpus_per_cell: int | None = None
    """With --cluster: CPUs of a cell, and its threads; default 1."""
    gpus_per_cell: int | None = None
    """With --cluster: GPUs of a cell; default 0, which trains on CPUs."""


def bench(arguments: list[str]) -> int:
    """Run `blemish bench`."""
    tables, others = parse_known("bench", TableOptions, arguments)
    if tables.table is not None and not {"--help", "-h"} & set(others):
        return _table(tables.table, tables.out, others)
    options = parse("bench", BenchOptions, arguments)
    from blemish.evaluation import benchmark
    from blemish.evaluation.benchmark_report import write_results

    machines, run = _machines(options)
    categories = benchmark.categories_in(options.data, options.categories, options.layout)
    cells = benchmark.plan(options.methods, categories, options.seeds, options.out, layout=options.layout)
    with owned(options.out), machines, progress_bar(estimate=False) as bar:
        draw = draw_jobs(bar, "cells")

        def show(now: Progress) -> None:
            draw(now)
            write_results(options.out, cells, now)

        progress = run(cells, on_change=show)
    return print_summary(progress, "cells", options.out / "results.html")


def _table(paper: str, folder: Path, others: list[str]) -> int:
    """Write a paper's tables. Raises UsageError for an option beside --table that runs something."""
    if others:
        raise UsageError(f"{others[0]}: --table runs nothing; give --out alone beside it")
    from blemish.evaluation.paper_tables import write_tables

    with owned(folder):
        page = write_tables(paper, folder)
    print(f"tables: {page}")
    return 0


def _machines(options: BenchOptions) -> tuple[AbstractContextManager[None], Callable[..., Progress]]:
    """Return what joins the machines that the cells run on, and what runs cells there."""
    if options.cluster is None:
        from blemish.evaluation.benchmark import run

        options.refuse_without_cluster("cpus_per_cell", "gpus_per_cell")
        return nullcontext(), partial(run, jobs=1 if options.jobs is None else options.jobs)
    if options.jobs is not None:
        raise UsageError(
            f"--jobs {options.jobs}: is for one machine; on a cluster use --cpus-per-cell instead"
        )
    from blemish.cluster.jobs import run as run_on_cluster
    from blemish.cluster.session import connect

    share = resources("cell", cpus=options.cpus_per_cell, gpus=options.gpus_per_cell)
    return connect(options.cluster), partial(run_on_cluster, **share)
