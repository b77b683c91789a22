"""`blemish train`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cli.commands.jobs import drawn, refuse_without_cluster, share_of, told
from blemish.cli.console import TrainingBar, is_first_process, parse, peek, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from blemish.cli.arguments import TrainArguments


def train(arguments: list[str]) -> int:
    """Run `blemish train`."""
    method, preset = peek(arguments, "--method", "metal"), peek(arguments, "--preset", "default")
    from blemish.methods import registry
    from blemish.training import fit as fitting

    defaults = registry.preset_named(method, preset)
    import tyro

    from blemish.cli.arguments import TrainArguments

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
    refuse_without_cluster(args, "categories", "cpus_per_model", "gpus_per_model")
    with progress_bar() as progress:
        watcher = TrainingBar(progress)
        detector = fit(args.data, out=out, device=args.device, resume=args.resume, watcher=watcher)
    if not is_first_process():
        return 0
    print(f"model: {out / 'model.safetensors'}")
    calibration = detector.model_file.calibration
    if calibration is None:
        print("no calibration images: scores and maps, but no threshold")
    else:
        promised = f"false-alarm rates promised from {calibration.lowest_rate:.3g}"
        print(f"calibrated on {calibration.n} good images: {promised}")
    return 0


def _train_on_cluster(args: TrainArguments, words: list[str], out: Path, fit: Callable[..., Any]) -> int:
    """Train a model for each category, each one by the command with these words."""
    from blemish.cluster import jobs
    from blemish.cluster.session import joined
    from blemish.evaluation import benchmark

    share = share_of(args, "model")
    categories = benchmark.categories_in(args.data, args.categories)
    trainings = jobs.trainings(categories, out, method=args.method, options=words)
    for training in trainings:
        if training.result() is not None:  # a finished run of other options or images is refused
            fit(training.data, out=training.folder, device="cpu", resume=True)
    with joined(str(args.cluster)), progress_bar(estimate=False) as bar:
        progress = jobs.run(trainings, **share, on_change=drawn(bar, "models"))
    return told(progress, "models", out)
