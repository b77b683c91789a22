"""Parts of several views on a cluster: which model scores which partition, and the decisions at the end.

Each model has partitions of its own, whole batches of its images in their order, as in one process. When all
rows are there, this command decides of the parts, by the function that decides of them on one machine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from blemish.cluster.storage import OutputFolder, open_parquet
from blemish.data.hashing import file_digest
from blemish.images.folders import LeftOut
from blemish.inference.model_file import find_model
from blemish.inference.part_models import ViewModels, Views, make_views
from blemish.inference.part_rows import ROWS_NAME, TABLE_NAME, TAKEN, PartCounts, write_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from blemish.cluster.listing import Input
    from blemish.data.part_names import PartNames
    from blemish.inference.detector import Detector


@dataclass(frozen=True, kw_only=True)
class PartScoring:
    """How names tell parts and views, which models score the views, and what decides of parts."""

    names: PartNames
    models: ViewModels
    calibration: Path | None = None
    """This and `views` are as in `make_views`."""
    views: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Return what the decisions depend on beside the images' rows, by the options' names."""
        own = {view: file_digest(find_model(path)) for view, path in sorted(self.models.own.items())}
        file = self.calibration or self.models.calibration_file
        return {
            "--part-pattern": self.names.part,
            "--view-pattern": self.names.view,
            "--view-model": own,
            "--parts": file_digest(file) if file.exists() else None,
            "--views": list(self.views),
        }

    def make_views(
        self, detectors: Mapping[Path, Detector], part_views: Sequence[tuple[str, str | None]] = ()
    ) -> Views:
        """Choose the rule, as on one machine. Raises BlemishError."""
        return make_views(
            self.models, detectors, calibration=self.calibration, views=self.views, part_views=part_views
        )

    def of_model(self, path: Path, inputs: Iterable[Input]) -> Iterator[Input]:
        """Yield the inputs that a model scores. Raises DataError for a name that tells no part."""
        return (one for one in inputs if self.models.path(self.names.of(one.path)[1]) == path)


@dataclass
class PartViews:
    """What the names of all inputs tell: how many images a part has at most, and which views there are."""

    counts: Counter[str] = field(default_factory=Counter)
    views: set[str] = field(default_factory=set)

    def watch(self, names: PartNames, inputs: Iterable[Input]) -> Iterator[Input]:
        """Yield inputs, and take note of them. Raises DataError for a name that tells no part."""
        for one in inputs:
            part, view = names.of(one.path)
            self.counts[part] += 1
            if view is not None:
                self.views.add(view)
            yield one

    def as_fields(self) -> dict[str, Any]:
        """Return what is kept of it with the run."""
        return {"count": max(self.counts.values(), default=0), "views": sorted(self.views)}


def listings(
    parts: PartScoring | None,
    list_inputs: Callable[[LeftOut], Iterator[Input]],
    left_out: LeftOut,
    part_views: PartViews,
) -> Iterator[tuple[Path | None, Iterator[Input]]]:
    """Yield the inputs of each model, after its path, None for the usual one, which is the first.

    `list_inputs` lists all inputs, again for each model; what it leaves out and what they tell is noted once.
    """
    if parts is None:
        yield None, list_inputs(left_out)
        return
    usual, *own = dict.fromkeys((parts.models.usual, *parts.models.own.values()))
    yield None, parts.of_model(usual, part_views.watch(parts.names, list_inputs(left_out)))
    for path in own:
        yield path, parts.of_model(path, list_inputs(LeftOut()))


def part_views_of(fields: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return parts and views that say the same as what was kept."""
    return [("", view) for view in fields["views"]] or [("", None)] * fields["count"]


def decide(out: OutputFolder, names: PartNames, views: Views, parts: Sequence[str]) -> dict[str, Any]:
    """Decide of all parts from the rows of the Parquet files `parts`, and write what is said of them.

    Returns the counts, with the rate and what is promised. The files begin with `_`, or who reads the folder
    as one table would read them too.
    """
    columns = [name for name in TAKEN if name != "overlay"] + ["decision"]
    rows: dict[str, list[tuple[str | None, dict[str, Any]]]] = {}
    for name in parts:
        for batch in open_parquet(out.path_of(name)).iter_batches(columns=columns):
            for row in batch.to_pylist():
                part, view = names.of(row["path"])
                rows.setdefault(part, []).append((view, row))
    with TemporaryDirectory(prefix="blemish-") as folder:
        counts = write_parts(rows, views.rule, Path(folder), pictures=False)
        for name in (ROWS_NAME, TABLE_NAME):
            out.write(f"_{name}", (Path(folder) / name).read_bytes())
    return asdict(counts) | {"false_alarm_rate": views.rule.rate, "promise": views.describe()}


def counts_of(said: Mapping[str, Any]) -> PartCounts:
    """Return the counts of what `decide` returned."""
    return PartCounts(**{name: said[name] for name in asdict(PartCounts())})
