"""Scoring on a cluster: Ray spreads the partitions of a listing over workers, one Parquet file each.

A partition is a fixed number of inputs in the listing's order, whole batches of the network, so that each
figure is the one that `blemish predict` gets in one process. Whoever scores a partition writes its file whole
or not at all, and what is there is never done again. So each input has exactly one row, whatever dies: a
worker (Ray tries its partition again elsewhere), a node, or this command (repeat it, and it goes on).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from blemish.cluster import listing
from blemish.cluster.predict_parts import PartViews, decide, listings, part_views_of
from blemish.cluster.predict_worker import RUN_NAME, Order, Scoring, partition_name, score_partition
from blemish.cluster.session import MAX_RETRIES
from blemish.cluster.storage import OutputFolder, StoreError, is_url
from blemish.core.errors import BlemishError, UsageError
from blemish.core.ownership import owned
from blemish.data.hashing import file_digest, source_digest
from blemish.images.folders import LeftOut
from blemish.inference.model_file import find_model
from blemish.inference.prediction_counts import PredictionCounts
from blemish.inference.promise import Promise

SUMMARY_NAME = "_summary.json"
"""The counts of a run, written when all partitions are done."""
SHARED_VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
)
"""Settings of this command's environment that its workers share. Keys are not: each node has its own."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run comes to; `parts` says what was decided of parts, None without any."""

    counts: PredictionCounts
    promise: Promise
    parts: dict[str, Any] | None = None


def score(
    scoring: Scoring,
    *,
    on_listed: Callable[[int], None] = lambda _inputs: None,
    on_done: Callable[[int, int], None] = lambda _inputs, _of: None,
    left_out: LeftOut | None = None,
) -> Answer:
    """Score all inputs on the connected cluster, and return the counts and the promise of the model.

    It goes on where an earlier call was stopped. `on_listed` gets the number of inputs of each part of the
    listing, `on_done` that of each finished partition, and of all. What the folders hold beside images is
    added to `left_out`. Raises UsageError when `out` holds
    anything else than the same run, StoreError when a store fails for good; what is finished stays.
    """
    out = _output_folder(scoring.out)
    # of a store there is no lock: two commands do the same there, and what is written twice is equal
    with nullcontext() if is_url(out.location) else owned(Path(out.location)):
        return _score(scoring, out, on_listed, on_done, LeftOut() if left_out is None else left_out)


def _score(
    scoring: Scoring,
    out: OutputFolder,
    on_listed: Callable[[int], None],
    on_done: Callable[[int, int], None],
    left_out: LeftOut,
) -> Answer:
    began = time.monotonic()
    # what no worker could do is refused here, where there may be no GPU
    load = replace(scoring, device="cpu").load
    of_parts = scoring.parts
    detectors = {scoring.model: load(scoring.model)} if of_parts is None else of_parts.models.load(load)
    promise = Promise.of(detectors[scoring.model].of(None))
    run = _read_run(scoring, out)
    if run is None:
        if of_parts is not None:
            of_parts.make_views(detectors)
        run = _start_run(scoring, out, on_listed)
    left_out.by_suffix.update(run["left_out"]["by_suffix"])
    left_out.parts += run["left_out"]["parts"]
    said = out.read(SUMMARY_NAME)
    if said is None:
        # a rate that so many views cannot promise is refused before anything is scored
        views = None if of_parts is None else of_parts.make_views(detectors, part_views_of(run["told"]))
        total = PredictionCounts()
        for counts in _score_partitions(scoring, out, run):
            total += counts
            on_done(counts.scored + counts.failed, run["listed"]["inputs"])
        more: dict[str, Any] = {} if scoring.product is None else {"product": scoring.product}
        if of_parts is not None and views is not None:
            files = [partition_name(number) for number in range(run["listed"]["partitions"])]
            more["parts"] = decide(out, of_parts.names, views, files)
        out.remove_leftovers()
        seconds = {"partitions": run["listed"]["partitions"], "seconds": time.monotonic() - began}
        said = _json(asdict(total) | promise.as_fields() | more | seconds)
        out.write(SUMMARY_NAME, said)
    return _answer_of(json.loads(said), promise)


def _answer_of(said: dict[str, Any], promise: Promise) -> Answer:
    """Return what a finished run came to, by its summary."""
    counts = PredictionCounts(**{f.name: said[f.name] for f in fields(PredictionCounts)})
    return Answer(counts=counts, promise=promise, parts=said.get("parts"))


def _output_folder(out: str) -> OutputFolder:
    return OutputFolder(location=out if is_url(out) else os.path.abspath(out))  # noqa: PTH100


def _identity(scoring: Scoring) -> dict[str, Any]:
    """Return what the rows depend on; the keys are the words of the error when one differs."""
    return {
        "model": file_digest(find_model(scoring.model)),
        "inputs": [i if is_url(i) else os.path.abspath(i) for i in scoring.inputs],  # noqa: PTH100
        "--false-alarm-rate": scoring.false_alarm_rate,
        "--review-rate": scoring.review_rate,
        "--allow": sorted(scoring.allow),
        **({} if scoring.product is None else {"--product": scoring.product}),
        **({} if scoring.parts is None else scoring.parts.identity()),
        "--batch-size": scoring.batch_size,
        "--partition": scoring.partition,
        "--device": scoring.device,
        "code": source_digest(),  # rows of two of them are not mixed
    }


def _read_run(scoring: Scoring, out: OutputFolder) -> dict[str, Any] | None:
    """Return the run that `out` holds, None without one. Raises UsageError for another one."""
    content = out.read(RUN_NAME)
    if content is None:
        return None
    run, wanted = json.loads(content), _identity(scoring)
    if "listed" not in run:
        raise UsageError(f"{out.location}: holds a run of another kind; choose another --out")
    other = [name for name in wanted | run["of"] if run["of"].get(name) != wanted.get(name)]
    if other:
        raise UsageError(
            f"{out.location}: was started with another {other[0]}; "
            "choose another --out, or repeat the first command"
        )
    return run


def _start_run(scoring: Scoring, out: OutputFolder, on_listed: Callable[[int], None]) -> dict[str, Any]:
    """Write into `out` what the run depends on: the listing, the model and, last of all, `RUN_NAME`."""
    there = out.names()
    if "run.json" in there:
        raise UsageError(f"{out.location}: holds a run of another kind; choose another --out")
    if any(name.startswith(("part-", "predictions.")) for name in there):
        raise UsageError(f"{out.location}: already holds predictions; choose another --out, or remove it")
    source, named = find_model(scoring.model), listing.find_inputs(scoring.inputs)
    folders = {root.folder for roots in named.values() for root in roots}
    inputs, partitions, left_out, part_views, own = 0, 0, LeftOut(), PartViews(), list[dict[str, Any]]()
    for path, found in listings(scoring.parts, partial(listing.list_inputs, named), left_out, part_views):
        if path is not None:
            own.append({"model": f"_model/{len(own)}/{find_model(path).name}", "first": partitions})
            out.write(own[-1]["model"], find_model(path).read_bytes())
        for count in listing.write_listing(found, out, scoring.partition, partitions):
            inputs, partitions = inputs + count, partitions + 1
            on_listed(count)
    model = f"_model/{source.name}"
    out.write(model, source.read_bytes())
    of_parts = {} if scoring.parts is None else {"told": part_views.as_fields(), "own_models": own}
    run = {
        "of": _identity(scoring),
        "blemish": version("blemish"),
        "model": model,
        "folders": sorted(folder for folder in folders if folder is not None),
        "listed": {"inputs": inputs, "partitions": partitions},
        "left_out": {"by_suffix": dict(left_out.by_suffix), "parts": left_out.parts},
        **of_parts,
    }
    out.write(RUN_NAME, _json(run))
    return run


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _score_partitions(scoring: Scoring, out: OutputFolder, run: dict[str, Any]) -> Iterator[PredictionCounts]:
    """Score all partitions that are not finished; yields the counts of each partition, in any order."""
    import ray
    from ray.exceptions import RayError

    resource = "GPU" if scoring.device == "cuda" else "CPU"
    if _room(resource) < 1:
        raise UsageError(
            f"--cluster: it has no {resource}; start a node that has, or choose another --device"
        )
    settings = {name: os.environ[name] for name in SHARED_VARIABLES if name in os.environ}
    order = ray.put(Order(scoring=scoring, out=out, run=run, settings=settings))
    task = ray.remote(
        num_cpus=1,
        num_gpus=1 if resource == "GPU" else 0,
        max_calls=0,  # a process that has loaded the model goes on to other partitions, with a GPU too
        max_retries=MAX_RETRIES,
        scheduling_strategy="SPREAD",
    )(score_partition)
    left, running = iter(range(run["listed"]["partitions"])), list[Any]()
    try:
        while True:
            # as many as there is room for, also on nodes that join later: none waits behind a slow one
            free = max(1, _room(resource)) - len(running)
            running += [task.remote(order, number) for number in islice(left, max(0, free))]
            if not running:
                return
            (ended,), running = ray.wait(running)
            answer = ray.get(ended)
            if isinstance(answer, str):
                raise StoreError(answer)
            yield answer
    except RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise BlemishError(
            f"--cluster: {why}; what is finished stays, repeat the command to continue"
        ) from error


def _room(resource: str) -> int:
    """Return how many workers the nodes that are there now have room for."""
    import ray

    return int(ray.cluster_resources().get(resource, 0))
