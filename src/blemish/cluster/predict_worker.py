"""A worker of a cluster: it scores one partition of the inputs and writes all of its rows, or none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args, get_origin

from blemish.cluster import listing
from blemish.cluster.storage import OutputFolder, is_url, open_parquet
from blemish.core.errors import BlemishError, UsageError
from blemish.core.types import ResultRow, field_types
from blemish.data.hashing import source_digest
from blemish.inference import load as opening
from blemish.inference.predict_folder import row_of
from blemish.inference.prediction_counts import PredictionCounts
from blemish.inference.promise import Promise

if TYPE_CHECKING:
    import pyarrow as pa

    from blemish.cluster.predict_parts import PartScoring
    from blemish.inference.detector import Detector

RUN_NAME = "_run.json"
"""The file that says what a run scores and how; written when the listing is complete.

What is no part begins with `_`, so that pyarrow, pandas, DuckDB or Spark read the folder as one table.
"""
ROWS_PER_GROUP = 1024
"""Rows in a group of a Parquet file: as many are in memory at most."""
PICTURES = ("map", "overlay")
"""Fields of a row that are not written: nobody looks at millions of pictures."""
DECODE_THREADS = 4
"""Threads of a worker that fetch and decode; its network has one."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What to score, and how."""

    model: Path
    """Run folder, model file or exported model."""
    inputs: tuple[str, ...]
    """Files, folders, globs, URLs, Parquet files."""
    out: str
    """A folder that all nodes see, or a URL."""
    false_alarm_rate: float | None = None
    """Share of good parts that may be rejected, in (0, 1); None: the default."""
    review_rate: float | None = None
    """Share of good parts that may be rejected or sent to a person; None: none is sent."""
    allow: frozenset[str] = frozenset()
    """Conversions permitted beside those of training."""
    batch_size: int = 16
    """Images in a call of the network."""
    partition: int = 4096
    """Inputs in a partition, a multiple of the batch size."""
    device: str = "auto"
    """cuda: each worker has a GPU; auto or cpu: each has a CPU."""
    product: str | None = None
    """What all images show, of a model of several products."""
    parts: PartScoring | None = None
    """How parts of several views are told and decided; None: each image is by itself."""

    def __post_init__(self) -> None:
        """Refuse partitions that would cut batches, which could move figures' last bits."""
        if self.partition < 1 or self.batch_size < 1 or self.partition % self.batch_size:
            raise UsageError(
                f"--partition {self.partition}: must be a multiple of --batch-size {self.batch_size}"
            )

    def load(self, model: Path, threads: int | None = None) -> Detector:
        """Load a copy of the model. Raises ModelError, and UsageError for a rate that cannot be promised."""
        return opening.load(
            model,
            device="cuda" if self.device == "cuda" else "cpu",
            allow=self.allow,
            false_alarm_rate=self.false_alarm_rate,
            review_rate=self.review_rate,
            batch_size=self.batch_size,
            threads=threads,
            product=self.product,
        )


@dataclass(frozen=True, kw_only=True)
class Order:
    """What workers are told, beside the number of a partition."""

    scoring: Scoring
    out: OutputFolder
    run: dict[str, Any]
    """What `RUN_NAME` says."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables of the command's environment that they take over."""


_workers: list[Worker] = []
"""The worker of this process, from its first partition on."""


def score_partition(order: Order, number: int) -> PredictionCounts | str:
    """Have the worker of this process score a partition; returns its counts, or an error in one line."""
    if not _workers or _workers[0].order != order:
        _workers[:] = [Worker(order)]
    return _workers[0](number)


class Worker:
    """Scores partitions in a process of its own, with a model that it loads once."""

    def __init__(self, order: Order) -> None:
        os.environ.update(order.settings)
        self.order, self.scoring, self.out, self.run = order, order.scoring, order.out, order.run
        self.detectors: dict[str, Detector] = {}

    def __call__(self, number: int) -> PredictionCounts | str:
        """Score the partition of this number, unless its file exists; returns its counts, or an error."""
        try:
            return self._score_partition(number)
        except BlemishError as error:
            return str(error)
        except OSError as error:
            where = f"{error.filename or self.out.location} on {os.uname().nodename}"
            why = f"{where}: {error.strerror or error}"
            return f"{why}; what is finished stays, repeat the command to continue"

    def _score_partition(self, number: int) -> PredictionCounts:
        name = partition_name(number)
        try:
            return _read_counts(self.out.path_of(name))
        except FileNotFoundError:
            pass
        model = _model_of(self.run, number)
        if model not in self.detectors:
            self.detectors[model] = self._load(model)
        detector = self.detectors[model]
        listing.check_folders_exist(self.run["folders"])
        inputs = listing.read_listing(self.out, number)
        images = listing.as_images(inputs)
        results = replace(detector, maps=False).predict_many(images, threads=DECODE_THREADS)
        rows = (row_of(i.path, result) for i, result in zip(inputs, results, strict=True))
        with closing(results), self.out.temporary_for(name) as part:
            return write_rows(rows, part, Promise.of(detector).as_fields())

    def _load(self, model: str) -> Detector:
        """Check that this node sees the run and has its code, then load a model. Raises BlemishError."""
        node = os.uname().nodename
        if self.out.read(RUN_NAME) is None:
            raise UsageError(
                f"{self.out.location}: is not visible on {node}; choose an --out that all nodes see"
            )
        if source_digest() != self.run["of"]["code"]:
            raise UsageError(
                f"--cluster: {node} has another version of blemish; install the same one on each node"
            )
        if not is_url(self.out.location):
            return self.scoring.load(Path(self.out.path_of(model)), threads=1)
        with TemporaryDirectory(prefix="blemish-") as folder:
            copy = Path(folder) / Path(model).name
            copy.write_bytes(self.out.read(model) or b"")
            return self.scoring.load(copy, threads=1)


def partition_name(number: int) -> str:
    """Return the file of the rows of a partition."""
    return f"part-{number:06d}.parquet"


def _model_of(run: dict[str, Any], number: int) -> str:
    """Return the file in the run's folder of the model that scores a partition."""
    own = [each["model"] for each in run.get("own_models", ()) if each["first"] <= number]
    return own[-1] if own else run["model"]


def schema() -> pa.Schema:
    """Return the columns of the rows: what predictions.jsonl has, without maps and overlays."""
    import pyarrow as pa

    columns = field_types(ResultRow).items()
    return pa.schema([(name, _arrow_type(kind)) for name, kind in columns if name not in PICTURES])


def _arrow_type(kind: Any) -> pa.DataType:
    """Return what Parquet has for a field's type: a number, a text, a dataclass of them, or a list of one."""
    import pyarrow as pa

    if get_origin(kind) is list:
        return pa.list_(_arrow_type(get_args(kind)[0]))
    if isinstance(kind, type) and is_dataclass(kind):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in field_types(kind).items()])
    return {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}[kind]


def write_rows(rows: Iterator[dict[str, Any]], part: Path, promise: dict[str, Any]) -> PredictionCounts:
    """Write rows to a Parquet file, a group at a time, with their counts and promise in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = PredictionCounts()
    with pq.ParquetWriter(part, schema(), compression="zstd") as file:
        while some := list(islice(rows, ROWS_PER_GROUP)):
            errors = [row["error"] for row in some if row["error"] is not None]
            total += PredictionCounts(
                scored=len(some) - len(errors),
                anomalous=sum(row["anomalous"] is True for row in some),
                review=sum(row["decision"] == "review" for row in some),
                failed=len(errors),
                errors=errors,
            )
            file.write_table(
                pa.Table.from_pylist([row | {"path": _printable_path(row["path"])} for row in some], schema())
            )
        said = {"blemish": asdict(total), "blemish.promise": promise}
        file.add_key_value_metadata({key: json.dumps(value) for key, value in said.items()})
    return total


def _printable_path(path: str) -> str:
    r"""Write a name that is not UTF-8 with its bytes as `\xe9`: a Parquet file takes text only."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read_counts(full: str) -> PredictionCounts:
    """Read the counts of a finished partition. Raises FileNotFoundError."""
    return PredictionCounts(**json.loads(open_parquet(full).metadata.metadata[b"blemish"]))
