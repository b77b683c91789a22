"""`blemish train`, here or on a cluster."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blemish.cli.console import (
    TrainingBar,
    describe_calibrations,
    draw_jobs,
    is_first_process,
    print_left_out,
    print_summary,
    progress_bar,
)
from blemish.cli.options import (
    CategoryOptions,
    CountingOptions,
    DeviceOptions,
    LayoutOption,
    PartNameOptions,
    ProductsOption,
    resources,
)
from blemish.cli.parser import parse_known, parse_with_config
from blemish.cli.streams import complain
from blemish.core.errors import BlemishError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blemish.inference.model_file import ModelFile
    from blemish.training.watcher import Watcher


NAMED = 10
"""So many images that were not learnt are named; the model has all of them."""


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What decides which other options there are, and their defaults."""

    method: str = "auto"
    """The method to train; METHOD+METHOD: one model of several, each METHOD or METHOD:PRESET."""
    preset: str = "default"
    """The method's set of options to start from."""


@dataclass(frozen=True, kw_only=True)
class DriverOptions(CategoryOptions):
    """What the trainings of a cluster are not told: it concerns them all, or differs from one to another."""

    data: Path
    """A category in MVTec layout, a folder of good images, or a CSV manifest
    (path,split,label,mask,part,view,product,roi). With --cluster a folder with categories in
    MVTec layout, one or two levels below it."""
    out: Path | None = None
    """Run folder; default runs/<data set>-<method>. With --cluster it holds one for each category."""
    resume: bool = False
    """Go on with the unfinished run in the run folder."""
    tensorboard: Path | None = None
    """Also write the losses of each epoch below this folder, as TensorBoard reads them."""
    cpus_per_model: int | None = None
    """With --cluster: CPUs of a training, and its threads; default 1."""
    gpus_per_model: int | None = None
    """With --cluster: GPUs of a training; default 0, which trains on CPUs."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(
    DeviceOptions,
    LayoutOption,
    PartNameOptions,
    CountingOptions,
    MethodOptions,
    ProductsOption,
    DriverOptions,
):
    """Learn what good looks like from the good images of a data set.

    The options of the method are below; --preset sets their defaults. With --cluster it trains a model for
    each category.
    """

    seed: int = 0
    """Fixes the split, the first weights and the order of images."""
    known_defects: Path | None = None
    """A folder of the defects that you have, with or without <name>_mask files: they help to choose the
    method, beside planted ones, and are never learnt."""
    drop_suspects: float = 0.0
    """Share of the training images that is not learnt, 0.05 for 5 %: those least like the others."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the machine has it natively."""
    channels: Literal[1, 3] | None = None
    """Convert RGB to grey (1) or grey to RGB (3); without it images are taken as they are."""
    bit_depth: Literal[8, 10, 12, 14, 16] | None = None
    """Bits that 16-bit files really use."""
    value_range: tuple[float, float] | None = None
    """Values of 16-bit or float images that mean 0 and 1; others beyond them are taken as they are."""
    roi: Path | None = None
    """Where the images count: a picture whose white counts, or polygons in JSON. All else is covered."""


def train(arguments: list[str]) -> int:
    """Run `blemish train`."""
    chosen, _ = parse_known("train", MethodOptions, arguments)
    from blemish.images.roi import read_roi
    from blemish.inference.counting import Counting
    from blemish.methods import registry
    from blemish.training import fit as fitting

    preset = registry.preset_named(chosen.method, chosen.preset)
    command = "train" if chosen == MethodOptions(preset=chosen.preset) else f"train --method {chosen.method}"
    options, config = parse_with_config(command, TrainOptions, preset, arguments)
    out = options.out or Path("runs") / f"{_name_of(options.data)}-{options.method.replace(':', '+')}"
    fit = partial(
        fitting.fit,
        method=options.method,
        preset=options.preset,
        config=config,
        layout=options.layout,
        names=options.names(),
        seed=options.seed,
        precision=options.precision,
        known_defects=options.known_defects,
        drop_suspects=options.drop_suspects,
        image_options=fitting.ImageOptions(
            channels=options.channels, bit_depth=options.bit_depth, value_range=options.value_range
        ),
        counting=replace(Counting(), **options.sizes(), roi=read_roi(options.roi) if options.roi else None),
    )
    if options.cluster is not None:
        return _train_on_cluster(options, options.cluster, what_makes_a_model(arguments), out, fit)
    options.refuse_without_cluster("categories", "cpus_per_model", "gpus_per_model")
    data = options.data_sets(options.data)
    if is_first_process():
        print_what_is_learnt(data, options.layout)
    with progress_bar() as progress, _logging(options, out, TrainingBar(progress)) as watcher:
        detector = fit(data, out=out, device=options.device, resume=options.resume, watcher=watcher)
    if is_first_process():
        _print_model(out, detector.model_file)
    return 0


def _name_of(data: Path) -> str:
    """Return what a folder is called, or a manifest without its .csv."""
    place = data.resolve()
    return place.name if place.is_dir() else place.stem


@contextmanager
def _logging(options: TrainOptions, out: Path, watcher: Watcher) -> Iterator[Watcher]:
    """Give what is told of the training: a watcher, and with --tensorboard its log too."""
    if options.tensorboard is None or not is_first_process():
        yield watcher
        return
    from blemish.training.tensorboard import logging_to

    with logging_to(options.tensorboard, out, watcher) as log:
        yield log
    if not log.trainings:
        complain(f"warning: --tensorboard {options.tensorboard}: nothing was written, as nothing had epochs")


def print_what_is_learnt(data: Path | Mapping[str, str | Path], layout: str = "auto") -> None:
    """Print how many images of which folders are learnt, and what is left out; `fit` says what is wrong."""
    from blemish.data.dataset import describe_training
    from blemish.data.products import open_together

    with suppress(BlemishError):
        dataset = open_together(data, layout=layout)
        print("\n".join(describe_training(dataset)), flush=True)
        print_left_out(dataset.left_out)


def what_makes_a_model(arguments: list[str]) -> list[str]:
    """Return the arguments of `blemish train` that every training of a cluster gets, as they were given."""
    return parse_known("train", DriverOptions, arguments)[1]


def _train_on_cluster(
    options: TrainOptions, address: str, given: list[str], out: Path, fit: Callable[..., Any]
) -> int:
    """Train a model for each category, each one by the command with the arguments that were given."""
    from blemish.cluster import jobs
    from blemish.cluster.session import connect
    from blemish.core.ownership import owned
    from blemish.evaluation import benchmark

    if options.products:
        raise UsageError("--products: is for one machine; leave it out with --cluster")
    if options.tensorboard is not None:
        raise UsageError(
            f"--tensorboard {options.tensorboard}: is for one machine; leave it out with --cluster"
        )
    share = resources("model", cpus=options.cpus_per_model, gpus=options.gpus_per_model)
    categories = benchmark.categories_in(options.data, options.categories, options.layout)
    trainings = jobs.trainings(categories, out, method=options.method, options=given)
    for training in trainings:
        if training.result() is not None:  # a finished run of other options or images is refused
            fit(training.data, out=training.folder, device="cpu", resume=True)
    with owned(out), connect(address), progress_bar(estimate=False) as bar:
        progress = jobs.run(trainings, **share, on_change=draw_jobs(bar, "models"))
    return print_summary(progress, "models", out)


def _print_model(out: Path, model_file: ModelFile) -> None:
    from blemish.inference.part_models import PARTS_NAME, describe_part_calibration
    from blemish.report.choice import sentence_of

    choice = model_file.provenance.get("choice")
    if choice is not None and (chosen := sentence_of(choice)) is not None:
        print(f"chosen: {chosen}")
    elif model_file.config.get("aligned"):
        print("parts are turned to lie alike")
    if dropped := model_file.provenance.get("dropped"):
        names = list(dropped["digests"].values())
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        print(f"not learnt, as suspects: {', '.join(names[:NAMED])}{more}")
    print(f"model: {out / 'model.safetensors'}")
    print("\n".join(describe_calibrations(model_file)))
    if (out / PARTS_NAME).exists():
        print(describe_part_calibration(out / PARTS_NAME))
    if model_file.counting.as_fields():
        print(f"counts: {model_file.counting.describe()}")
