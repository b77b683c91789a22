"""The command line. Each command imports what it needs when it runs, so that help is instant.

Exit codes: 0 all done; 1 done, but some inputs failed and are listed; 2 refused, with one line that says
why; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from errno import EDQUOT, ENOSPC
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.terminal import StopSignals, TrainingBar, is_first_process, parse, peek, progress_bar
from blemish.types import BlemishError, Interrupted, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish.arguments import EvaluateArguments, PredictArguments, TrainArguments
    from blemish.jobs import Progress
    from blemish.predicting import PredictionCounts

STOPPED = 130
EXTRAS = {
    "torch": "train",
    "accelerate": "train",
    "safetensors": "train",
    "jinja2": "report",
    "matplotlib": "report",
    **dict.fromkeys(
        ("alembic", "fastapi", "prometheus_client", "pydantic", "sqlalchemy", "starlette", "uvicorn"),
        "station",
    ),
    "psycopg": "postgres",
    **dict.fromkeys(("fsspec", "pyarrow", "ray"), "cluster"),
}
"""What brings a package that is not there."""


# --- the commands -------------------------------------------------------------------------------------


def train(arguments: list[str]) -> int:
    """Run `blemish train`."""
    method, preset = peek(arguments, "--method", "metal"), peek(arguments, "--preset", "default")
    from blemish import fitting

    defaults = fitting.preset_named(method, preset)
    import tyro

    from blemish.arguments import TrainArguments

    kind = TrainArguments[type(defaults)]
    args = parse("train", kind, arguments, default=kind(data=tyro.MISSING, config=defaults))
    out = args.out or Path("runs") / f"{args.data.resolve().stem}-{method}"
    options = fitting.ImageOptions(
        channels=args.channels, bit_depth=args.bit_depth, value_range=args.value_range
    )
    fit = partial(
        fitting.fit,
        method=method,
        preset=preset,
        config=args.config,
        seed=args.seed,
        precision=args.precision,
        image_options=options,
    )
    if args.cluster is not None:
        return _train_on_cluster(args, args.words(defaults), out, fit)
    _refuse_without_cluster(args, "categories", "cpus_per_model", "gpus_per_model")
    with progress_bar() as progress:
        watcher = TrainingBar(progress)
        detector = fit(args.data, out=out, device=args.device, resume=args.resume, watcher=watcher)
    if not is_first_process():
        return 0
    print(f"model: {out / 'model.safetensors'}")
    calibration = detector.bundle.calibration
    if calibration is None:
        print("no calibration images: scores and maps, but no threshold")
    else:
        promised = f"false-alarm rates promised from {calibration.lowest_rate:.3g}"
        print(f"calibrated on {calibration.n} good images: {promised}")
    return 0


def _train_on_cluster(args: TrainArguments, words: list[str], out: Path, fit: Callable[..., Any]) -> int:
    """Train a model for each category, each one by the command with these words."""
    from blemish import benchmark
    from blemish.cluster import cells, joined

    share = _share(args, "model")
    categories = benchmark.categories_in(args.data, args.categories)
    trainings = cells.trainings(categories, out, method=args.method, options=words)
    for training in trainings:
        if training.result() is not None:  # a finished run of other options or images is refused
            fit(training.data, out=training.folder, device="cpu", resume=True)
    with joined(str(args.cluster)), progress_bar(estimate=False) as bar:
        progress = cells.run(trainings, **share, on_change=_drawn(bar, "models"))
    return _told(progress, "models", out)


def evaluate(arguments: list[str]) -> int:
    """Run `blemish evaluate`."""
    from blemish.arguments import EvaluateArguments

    args: EvaluateArguments = parse("evaluate", EvaluateArguments, arguments)
    run = args.model if args.model.is_dir() else args.model.parent
    _evaluate(args, args.out or run / "evaluation", run / "log.csv")
    return 0


def _evaluate(args: EvaluateArguments, out: Path, training_log: Path) -> None:
    from blemish.data import open_dataset
    from blemish.evaluate import evaluate as run_evaluation
    from blemish.opening import load
    from blemish.report import broken_promise

    detector = load(
        args.model,
        device=args.device,
        allow=frozenset(args.allow),
        false_alarm_rate=args.false_alarm_rate,
    )
    dataset = open_dataset(args.data, need_train=False)
    with progress_bar() as progress:
        task = progress.add_task("scoring", total=len(dataset.test))
        evaluation = run_evaluation(
            detector, dataset, out, training_log=training_log, on_image=lambda: progress.advance(task)
        )
    for trained, tested in evaluation["leakage"]:
        print(f"warning: leakage: {tested} was trained on, as {trained}", file=sys.stderr)
    if broken := broken_promise(evaluation):
        print(f"warning: {broken}", file=sys.stderr)
    _print_evaluation(evaluation)
    print(f"report: {out / 'report.html'}")


def predict(arguments: list[str]) -> int:
    """Run `blemish predict`."""
    from blemish.arguments import PredictArguments

    args: PredictArguments = parse("predict", PredictArguments, arguments)
    if args.cluster is not None:
        return _predict_on_cluster(args, args.cluster)
    if args.partition is not None or "://" in args.out:
        option = f"--partition {args.partition}" if args.partition is not None else f"--out {args.out}"
        raise UsageError(f"{option}: is for scoring on a cluster; give --cluster too, or leave it out")
    from blemish import video
    from blemish.opening import load
    from blemish.predicting import find_inputs, predict_to_folder

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
    from blemish.cluster import joined, scoring

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


def export(arguments: list[str]) -> int:
    """Run `blemish export`."""
    from blemish.arguments import ExportArguments

    args: ExportArguments = parse("export", ExportArguments, arguments)
    from blemish.export import export as run_export

    if args.int8 != (args.data is not None):
        raise UsageError("--int8 needs --data, the data of the training, and --data is for --int8: give both")
    if args.data is not None:
        return _export_int8(args.model, args.data, args.out)
    difference = run_export(args.model, args.out)
    size = args.out.stat().st_size / 2**20
    print(f"{args.out}: {size:.1f} MiB, equal to the model within {difference:.1g} of its output's range")
    return 0


def _export_int8(model: Path, data: Path, out: Path) -> int:
    from blemish.quantising import quantise

    found = quantise(model, data, out)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {found.layers} layers in 8 bits")
    for name, areas in (("image AUROC", found.image_auroc), ("pixel AUROC", found.pixel_auroc)):
        if areas is not None:
            print(f"{name} of {found.images} test images: {areas[1]:.4f}, in 32 bits {areas[0]:.4f}")
    median, largest = 100 * found.median_difference, 100 * found.largest_difference
    print(f"scores of good images differ by {median:.2g} % in the median, by {largest:.2g} % at most")
    return 0


def watch(arguments: list[str]) -> int:
    """Run `blemish watch`."""
    from blemish.arguments import WatchArguments

    args: WatchArguments = parse("watch", WatchArguments, arguments)
    from contextlib import nullcontext

    from blemish import grabbing, hooks, watching

    def say(text: str) -> None:
        print(f"blemish watch: {text}", file=sys.stderr, flush=True)

    makers = {"on-reject": (args.on_reject, hooks.command), "webhook": (args.webhook, hooks.webhook)}
    makers["mqtt"] = (args.mqtt, hooks.mqtt)
    senders = {name: make(given) for name, (given, make) in makers.items() if given is not None}
    told = [hooks.Hook(name, send, say, retry=name != "on-reject") for name, send in senders.items()]

    def on_row(row: dict[str, Any]) -> None:
        _print_inspection(row)
        if row["anomalous"]:
            for hook in told:
                hook.tell(row)

    camera, database = nullcontext(lambda _: None), nullcontext()
    if args.camera is not None:
        camera = grabbing.grabbing(args.camera, args.folder, every=args.every, say=say)
    if args.database is not None:
        from blemish.station.keeping import keeping

        database = keeping(args.database, args.out / watching.LEDGER, say)
    try:
        with StopSignals() as stop, camera as on_look, database as keeper:
            recorded = watching.watch(
                args.model,
                args.folder,
                args.out,
                move_to=args.move_to,
                allow=frozenset(args.allow),
                false_alarm_rate=args.false_alarm_rate,
                device=args.device,
                stopped=lambda: stop.asked,
                on_row=on_row,
                on_look=on_look,
                keeper=keeper,
                say=say,
            )
    finally:
        for hook in told:
            lost = hook.close(hooks.LAST_CALL)
            if lost:
                say(f"{hook.name}: {lost} rejects were not delivered")
    print(f"{recorded} recorded: {args.out / watching.LEDGER}")
    return 0


def bench(arguments: list[str]) -> int:
    """Run `blemish bench`."""
    from blemish.arguments import BenchArguments

    args: BenchArguments = parse("bench", BenchArguments, arguments)
    from contextlib import nullcontext

    from blemish import benchmark, cluster
    from blemish.benchmark_page import write_results

    if args.cluster is None:
        _refuse_without_cluster(args, "cpus_per_cell", "gpus_per_cell")
        joined, run = nullcontext(), partial(benchmark.run, jobs=1 if args.jobs is None else args.jobs)
    elif args.jobs is not None:
        raise UsageError(f"--jobs {args.jobs}: is for one machine; on a cluster use --cpus-per-cell instead")
    else:
        from blemish.cluster.cells import run as run_on_cluster

        joined, run = cluster.joined(args.cluster), partial(run_on_cluster, **_share(args, "cell"))
    categories = benchmark.categories_in(args.data, args.categories)
    cells = benchmark.plan(args.methods, categories, args.seeds, args.out)
    with joined, progress_bar(estimate=False) as bar:
        args.out.mkdir(parents=True, exist_ok=True)
        draw = _drawn(bar, "cells")

        def show(now: Progress) -> None:
            draw(now)
            write_results(args.out, cells, now)

        progress = run(cells, on_change=show)
    return _told(progress, "cells", args.out / "results.html")


def _drawn(bar: Any, what: str) -> Callable[[Progress], None]:
    """Return what draws the progress of jobs on a bar, and prints how each of them went."""
    from blemish.page import format_duration

    task = bar.add_task(what)

    def draw(now: Progress) -> None:
        left = "" if now.seconds_left is None else f", about {format_duration(now.seconds_left)} left"
        text = f"{'; '.join(now.running)}{left}"
        bar.update(task, completed=now.finished, total=now.total, description=text)
        if now.latest is not None:
            bar.console.print(f"{now.latest}{left}", markup=False, highlight=False, soft_wrap=True)

    return draw


def _told(progress: Progress, what: str, where: Path) -> int:
    """Print what became of jobs, and return the exit code."""
    for name, error in progress.failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    print(f"{progress.finished} of {progress.total} {what}: {where}")
    return 1 if progress.failed else 0


def _share(args: Any, unit: str) -> dict[str, int]:
    """Return the CPUs and GPUs of a job on a cluster. Raises UsageError."""
    share = {}
    for name, least in (("cpus", 1), ("gpus", 0)):
        given = getattr(args, f"{name}_per_{unit}")
        share[name] = least if given is None else given
        if share[name] < least:
            raise UsageError(f"--{name}-per-{unit} {given}: must be {least} or larger")
    return share


def _refuse_without_cluster(args: Any, *options: str) -> None:
    for option in options:
        if getattr(args, option) not in (None, ()):
            raise UsageError(
                f"--{option.replace('_', '-')}: is for a cluster; add --cluster, or leave it out"
            )


def compare(arguments: list[str]) -> int:
    """Run `blemish compare`."""
    from blemish.arguments import CompareArguments

    args: CompareArguments = parse("compare", CompareArguments, arguments)
    from blemish.comparison import compare as run_comparison

    for pair in run_comparison(args.runs, args.out, measure=args.measure)["pairs"]:
        print(pair["verdict"])
    print(f"side by side: {args.out / 'comparison.html'}")
    return 0


def demo(arguments: list[str]) -> int:
    """Run `blemish demo`."""
    from blemish.arguments import DemoArguments, EvaluateArguments

    args: DemoArguments = parse("demo", DemoArguments, arguments)
    from dataclasses import replace

    from blemish import fitting, synthetic

    # half the default's steps are enough for this part, and 19 calibration images promise 5 %
    config = replace(fitting.preset_named("metal", "default"), steps=200, calibration_fraction=0.16)
    data, run = args.out / "data", args.out / "run"
    print(f"1/3 generating good and bad parts in {data}")
    synthetic.generate(data)
    print(f"2/3 training on the good ones, into {run}")
    with progress_bar() as progress:
        fitting.fit(data, config=config, out=run, resume=True, watcher=TrainingBar(progress))
    print("3/3 evaluating on parts it has not seen")
    _evaluate(EvaluateArguments(model=run, data=data), args.out / "evaluation", run / "log.csv")
    return 0


def serve(arguments: list[str]) -> int:
    """Run `blemish serve`."""
    from blemish.station import commands

    return commands.serve(arguments)


def token(arguments: list[str]) -> int:
    """Run `blemish token`."""
    from blemish.station import commands

    return commands.token(arguments)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "demo": (demo, "generate parts, train, evaluate, report: see it work within minutes"),
    "train": (train, "learn what good looks like from good images"),
    "evaluate": (evaluate, "measure a model on a labelled test set"),
    "predict": (predict, "score images: rows, heat maps, overlays"),
    "watch": (watch, "score what cameras write into a folder, each file once"),
    "serve": (serve, "the inspection station: a service and its page"),
    "token": (token, "make or remove a token for the station"),
    "export": (export, "write a model as ONNX, to run without torch"),
    "bench": (bench, "train and evaluate methods × categories × seeds, and put them in a table"),
    "compare": (compare, "runs side by side, and whether one is better than the other"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0 if given else 2
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"blemish {version('blemish')}")
        return 0
    if given[0] not in COMMANDS:
        print(f"blemish: {given[0]}: no such command; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _guarded(given[0], given[1:])


def _guarded(command: str, arguments: list[str]) -> int:
    """Run a command; whatever goes wrong is one line on stderr."""
    try:
        return COMMANDS[command][0](arguments)
    except BlemishError as error:
        print(f"blemish {command}: {error}", file=sys.stderr)
        return STOPPED if isinstance(error, Interrupted) else 2
    except KeyboardInterrupt:
        print(f"blemish {command}: stopped", file=sys.stderr)
        return STOPPED
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0], "all")
        print(f"blemish {command}: {error.name} is missing; pip install 'blemish[{extra}]'", file=sys.stderr)
        return 2
    except OSError as error:
        where = error.filename or peek(arguments, "--out", "output")
        cure = "free some space" if error.errno in (ENOSPC, EDQUOT) else "check the path and its rights"
        print(
            f"blemish {command}: {where}: {error.strerror or error}; {cure}, or choose another --out",
            file=sys.stderr,
        )
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        print(
            f"blemish {command}: not enough memory; lower --batch-size or --image-size",
            file=sys.stderr,
        )
        return 2


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    lines = [
        "usage: blemish COMMAND [OPTIONS]",
        "",
        "Learn what good looks like from good images alone.",
        "",
        *commands,
        "",
        "blemish COMMAND --help shows a command's options; blemish --version the version.",
    ]
    return "\n".join(lines)


def _print_inspection(row: dict[str, Any]) -> None:
    verdict = {None: "", True: " rejected", False: " accepted"}[row["anomalous"]]
    score = row["error"] or f"score {row['score']:.4g}{verdict}, {1000 * row['seconds']:.0f} ms"
    line = f"{row['sequence']} {row['path']}: {score}"
    print(line.encode(errors="backslashreplace").decode(), flush=True)  # names need not be UTF-8


def _print_evaluation(evaluation: dict[str, Any]) -> None:
    names = {
        "image_auroc": "image AUROC",
        "pixel_auroc": "pixel AUROC",
        "pixel_auroc_fpr30": "pixel AUROC up to FPR 0.3 (area / 0.3)",
        "pixel_auroc_fpr30_mcclish": "pixel AUROC up to FPR 0.3 (McClish)",
        "aupro_fpr30": "AUPRO up to FPR 0.3",
        "requested_false_alarm_rate": "false-alarm rate promised",
        "false_alarm_rate": "false-alarm rate measured",
        "detection_rate": "detection rate",
        "seconds_per_image": "seconds per image",
    }
    for key, name in names.items():
        value = evaluation[key]
        print(f"{name:<40} {'-' if value is None else f'{value:.4f}'}")


if __name__ == "__main__":
    sys.exit(main())
