"""`blemish predict`, here or on a cluster."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from blemish.cli.console import print_left_out, progress_bar
from blemish.cli.options import ClusterOptions, ModelOptions, PartOptions, ProductOption
from blemish.cli.parser import parse
from blemish.cli.streams import complain
from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from blemish.cluster.predict_parts import PartScoring
    from blemish.core.types import Sample
    from blemish.inference.detector import Detector
    from blemish.inference.part_rows import PartCounts
    from blemish.inference.predict_folder import OverlayFormat
    from blemish.inference.prediction_counts import PredictionCounts
    from blemish.inference.promise import Promise


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ClusterOptions, ModelOptions, ProductOption, PartOptions):
    """Score images; writes predictions.jsonl, predictions.csv, maps/ and overlays/, of parts parts.jsonl too.

    On a cluster it writes Parquet files of rows, no maps or overlays; --device auto is cpu there, a worker on
    each, and with cuda there is one on each GPU.
    """

    inputs: Annotated[tuple[str, ...], Parameter(name="path", metavar="PATH [PATH ...]")] = field(
        kw_only=False
    )
    """Images, films, folders, globs or CSV manifests, of which all rows are scored; folders are searched for
    images only. With --cluster also URLs as s3://BUCKET/PREFIX, and Parquet files with the columns path and
    image; no films and no manifests."""
    out: str = "predictions"
    """Where to write: a folder, or with --cluster a URL."""
    every: int = 1
    """Score each frame of a film (1), each second one (2), and so on."""
    batch_size: int = 16
    """Images in a call of the network."""
    pictures: bool = True
    """Write maps and overlays; without them it takes half the time, and rows name none."""
    overlay_format: Literal["png", "jpeg", "webp"] = "png"
    """Of overlays: png loses nothing, jpeg is quicker to write and a quarter as large, webp is small."""
    resume: bool = False
    """Go on with a run that was stopped: the same command with --resume keeps the rows that are written."""
    partition: int | None = None
    """With --cluster: inputs of a Parquet file of rows, a multiple of --batch-size; default 4096."""


def predict(arguments: list[str]) -> int:
    """Run `blemish predict`."""
    options = parse("predict", PredictOptions, arguments)
    if options.cluster is not None:
        return _predict_on_cluster(options, options.cluster)
    if options.partition is not None or "://" in options.out:
        named = (
            f"--partition {options.partition}" if options.partition is not None else f"--out {options.out}"
        )
        raise UsageError(f"{named}: is for scoring on a cluster; give --cluster too, or leave it out")
    from blemish.data.part_names import parts_shown
    from blemish.images import video
    from blemish.images.folders import LeftOut
    from blemish.inference.inputs import find_inputs, named, open_manifests
    from blemish.inference.predict_folder import predict_to_folder
    from blemish.inference.promise import Promise

    overlays = _overlays(options)
    left_out, out = LeftOut(), Path(options.out)
    patterns, samples = open_manifests(options.inputs)
    inputs = find_inputs(patterns, left_out)
    total = video.count_images(inputs, options.every)
    part_views = parts_shown([path for path, _ in inputs], options.names(), samples)
    if part_views is not None:
        return max(_predict_parts(options, part_views, samples, inputs), print_left_out(left_out))
    options.refuse_without_parts()
    detector = options.load(options.batch_size)
    detector = named(detector, samples, options.product, [path for path, _ in inputs])
    with progress_bar() as progress:
        task = progress.add_task("scoring", total=total)
        images = video.expand_films(inputs, options.every)
        counts = predict_to_folder(
            detector,
            images,
            out,
            overlays=overlays,
            on_row=lambda _: progress.advance(task),
            identity=_identity(options, inputs, samples),
            resume=options.resume,
        )
    code = _print_counts(counts, Promise.of_each(detector), str(out / "predictions.csv"))
    return max(code, print_left_out(left_out))


def _predict_parts(
    options: PredictOptions,
    part_views: list[tuple[str, str | None]],
    samples: list[Sample],
    inputs: list[tuple[Path, Path]],
) -> int:
    from blemish.images import video
    from blemish.inference.inputs import named
    from blemish.inference.predict_parts import predict_parts_to_folder
    from blemish.inference.promise import Promise

    films = [path for path, _ in inputs if video.is_film(path)]
    if films:
        raise UsageError(f"{films[0]}: is a film, whose frames are no views of a part; give images")
    out = Path(options.out)

    def load(model: Path) -> Detector:
        detector = options.load(options.batch_size, model)
        return named(detector, samples, options.product, [path for path, _ in inputs])

    views = options.load_views(options.model, load, part_views)
    with progress_bar() as progress:
        task = progress.add_task("scoring", total=len(inputs))
        counts, parts = predict_parts_to_folder(
            views,
            part_views,
            inputs,
            out,
            overlays=_overlays(options),
            on_row=lambda _: progress.advance(task),
            identity=_identity(options, inputs, samples),
            resume=options.resume,
        )
    code = _print_counts(counts, Promise.of_each(views.detector(None)), str(out / "predictions.csv"))
    return max(code, _print_parts(parts, views.rule.rate, views.describe(), str(out / "parts.csv")))


def _identity(
    options: PredictOptions, inputs: list[tuple[Path, Path]], samples: list[Sample]
) -> dict[str, Any]:
    """Return what the rows depend on, by the options' names. Raises BlemishError."""
    from blemish.data.hashing import file_digest, source_digest
    from blemish.inference.model_file import find_model
    from blemish.inference.part_models import ViewModels

    models = ViewModels.of(options.model, options.view_model)
    calibration = options.parts or models.calibration_file
    digests = [file_digest(find_model(path)) for path in (models.usual, *models.own.values())]
    elsewhere = ("model", "inputs", "out", "resume", "cluster", "partition")
    given = {f"--{k.replace('_', '-')}": v for k, v in asdict(options).items() if k not in elsewhere}
    said = {
        "model": digests,
        "calibration of parts": file_digest(calibration) if calibration.exists() else None,
        "list of inputs": hashlib.sha256(repr((inputs, samples)).encode()).hexdigest(),
        "code": source_digest(),  # rows of two of them are not mixed
    }
    return json.loads(json.dumps(said | given, default=str))


def _overlays(options: PredictOptions) -> OverlayFormat | None:
    """Return the format of overlays; None: no pictures are wanted. Raises UsageError for both."""
    if options.pictures:
        return options.overlay_format
    if options.overlay_format != "png":
        raise UsageError(
            f"--overlay-format {options.overlay_format}: --no-pictures writes none; leave one out"
        )
    return None


def _predict_on_cluster(options: PredictOptions, address: str) -> int:
    from blemish.cluster import predict as scoring
    from blemish.cluster.predict_parts import counts_of
    from blemish.cluster.session import connect
    from blemish.images.folders import LeftOut

    left_out = LeftOut()
    _refuse_without_use_on_cluster(options)
    partition = {} if options.partition is None else {"partition": options.partition}
    work = scoring.Scoring(
        model=options.model,
        inputs=options.inputs,
        out=options.out,
        false_alarm_rate=options.false_alarm_rate,
        review_rate=options.review_rate,
        allow=frozenset(options.allow),
        batch_size=options.batch_size,
        device=options.device,
        product=options.product,
        parts=_parts_on_cluster(options),
        **partition,
    )
    with progress_bar() as progress:
        listing = progress.add_task("listing", total=None)

        def done(inputs: int, total: int) -> None:
            progress.update(listing, visible=False)
            progress.update(task, total=total, advance=inputs, visible=True)

        task = progress.add_task("scoring", visible=False)
        with connect(address):
            answer = scoring.score(
                work,
                on_listed=lambda inputs: progress.advance(listing, inputs),
                on_done=done,
                left_out=left_out,
            )
    out = options.out.rstrip("/")
    code = _print_counts(answer.counts, {options.product: answer.promise}, f"{out}/part-*.parquet")
    if answer.parts is not None:
        rate, promise = answer.parts["false_alarm_rate"], answer.parts["promise"]
        code = max(code, _print_parts(counts_of(answer.parts), rate, promise, f"{out}/_parts.csv"))
    return max(code, print_left_out(left_out))


def _parts_on_cluster(options: PredictOptions) -> PartScoring | None:
    """Return how parts are told and decided, None: each image is by itself. Raises UsageError."""
    from blemish.cluster.predict_parts import PartScoring
    from blemish.inference.part_models import ViewModels

    names = options.names()
    if names is None:
        options.refuse_without_parts()
        return None
    models = ViewModels.of(options.model, options.view_model)
    return PartScoring(names=names, models=models, calibration=options.parts, views=options.views)


def _refuse_without_use_on_cluster(options: PredictOptions) -> None:
    """Raise UsageError for an option that does nothing on a cluster."""
    if options.resume:
        raise UsageError("--resume: the same command goes on by itself on a cluster; leave it out")
    if options.every != 1:
        raise UsageError(
            f"--every {options.every}: is for films, which are not scored on a cluster; leave it out"
        )
    if options.overlay_format != "png":
        named = f"--overlay-format {options.overlay_format}"
        raise UsageError(f"{named}: is for pictures, which a cluster does not write; leave it out")
    if options.provider != "cpu":
        raise UsageError(
            f"--provider {options.provider}: a cluster runs exported models on CPUs; leave it out"
        )


def _print_parts(parts: PartCounts, rate: float | None, promise: str, rows: str) -> int:
    for error in parts.errors:
        complain(f"failed: {error}")
    anomalous = "" if rate is None else f", {parts.anomalous} anomalous"
    anomalous += f", {parts.review} for review" if parts.review else ""
    anomalous += f", {parts.incomplete} incomplete" if parts.incomplete else ""
    print(f"{parts.parts} parts{anomalous}, {parts.failed} failed: {rows}")
    print(promise)
    return 1 if parts.failed else 0


def _print_counts(counts: PredictionCounts, promises: dict[str | None, Promise], rows: str) -> int:
    promise = next(iter(promises.values()))
    for error in counts.errors:
        complain(f"failed: {error}")
    if counts.failed > len(counts.errors):
        more = counts.failed - len(counts.errors)
        complain(f"failed: {more} more, see {rows.rpartition('/')[2]}")
    anomalous = "" if promise.false_alarm_rate is None else f", {counts.anomalous} anomalous"
    anomalous += "" if promise.review_rate is None else f", {counts.review} for review"
    print(f"{counts.scored} scored{anomalous}, {counts.failed} failed: {rows}")
    print("\n".join(promise.lines_of(promises)))
    return 1 if counts.failed else 0
