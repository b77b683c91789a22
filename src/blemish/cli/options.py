"""Groups of options that several commands have; a command's own options stand beside the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.data.part_names import PartNames
    from blemish.inference.detector import Detector
    from blemish.inference.part_models import Views
    from blemish.record.labels import Labelling


@dataclass(frozen=True, kw_only=True)
class OutOption:
    """Where a command was told to write; None: it was not told, and each has a default of its own."""

    out: str | None = None


@dataclass(frozen=True, kw_only=True)
class LayoutOption:
    """How a data set lies on the disk."""

    layout: str = "auto"
    """auto, mvtec, mvtec-ad-2, mvtec-loco, visa, btad, ksdd2, dagm, real-iad, or one view of the latter:
    real-iad-c1 to real-iad-c5."""


@dataclass(frozen=True, kw_only=True)
class ProductOption:
    """What is inspected, of a model that knows several products."""

    product: str | None = None
    """The product that all images show, where the model has several and no manifest says which."""


@dataclass(frozen=True, kw_only=True)
class ProductsOption:
    """Which products a folder holds."""

    products: Annotated[tuple[str, ...], Parameter(metavar="NAME [...]")] = ()
    """Sub-folders of --data, each a product and a data set by itself. A manifest has a column for it."""

    def data_sets(self, data: Path) -> Path | dict[str, Path]:
        """Return the data set, or that of each product by its name. Raises UsageError for a name twice."""
        found = {name: data / name for name in self.products}
        if len(found) < len(self.products):
            raise UsageError(f"--products {' '.join(self.products)}: names a product twice")
        return found or data


@dataclass(frozen=True, kw_only=True)
class PartNameOptions:
    """Which images show one part."""

    part_pattern: str | None = None
    """Several images show one part: a regular expression with one group that finds the part in their names,
    as (\\d+)_ does in 17_top.png. With a / in it, it is searched in the whole path."""
    view_pattern: str | None = None
    """The same for the view of the part that an image shows, as _(\\w+)[.] does."""

    def names(self) -> PartNames | None:
        """Return the patterns, None without them. Raises UsageError for patterns of another form."""
        from blemish.data.part_names import make_part_names

        return make_part_names(self.part_pattern, self.view_pattern)


@dataclass(frozen=True, kw_only=True)
class ViewModelOptions(PartNameOptions):
    """Which models score the views of a part."""

    view_model: Annotated[tuple[str, ...], Parameter(metavar="VIEW=MODEL [...]")] = ()
    """Models of views that have one of their own, as top=runs/top; --model scores the others."""


@dataclass(frozen=True, kw_only=True)
class PartOptions(ViewModelOptions):
    """How parts are decided from their views."""

    parts: Path | None = None
    """The file of `blemish parts`; default: parts.json of the run, if it has one."""
    views: tuple[str, ...] = ()
    """Without such a file: how many views a part has, or their names."""

    def refuse_without_parts(self) -> None:
        """Raise UsageError for options of parts where nothing tells the parts."""
        for field in ("view_model", "parts", "views"):
            if getattr(self, field) not in (None, ()):
                option = f"--{field.replace('_', '-')}"
                raise UsageError(f"{option}: is for parts of several images; give --part-pattern too")

    def load_views(
        self,
        model: Path,
        load: Callable[[Path], Detector],
        part_views: Sequence[tuple[str, str | None]] = (),
    ) -> Views:
        """Load the models and choose the rule; `part_views` are those that come. Raises BlemishError."""
        from blemish.inference.part_models import ViewModels, make_views

        models = ViewModels.of(model, self.view_model)
        detectors = models.load(load)
        return make_views(models, detectors, calibration=self.parts, views=self.views, part_views=part_views)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a network runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one."""


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(DeviceOptions):
    """How a detector decides, and where it runs."""

    false_alarm_rate: float | None = None
    """Share of good parts that may be rejected; default 0.05, or the lowest that can be promised."""
    review_rate: float | None = None
    """Share of good parts that may be rejected or sent to a person, above --false-alarm-rate: parts between
    the two are for review. Default: none is."""
    allow: tuple[Literal["channels", "depth"], ...] = ()
    """Conversions permitted for images that are not as in training: channels, depth."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(DetectorOptions):
    """One model, and what its detector takes."""

    model: Path
    """Run folder, model file or exported model."""
    provider: Literal["cpu", "openvino", "cuda", "tensorrt"] = "cpu"
    """What runs an exported model; it must answer as the cpu does, and not fall back to it."""

    def load(self, batch_size: int = 16, model: Path | None = None) -> Detector:
        """Load the detector of --model, or that of another one with the same options.

        Raises ModelError, and UsageError for a device or rate that cannot be had.
        """
        from blemish.inference.load import load

        return load(
            model or self.model,
            device=self.device,
            allow=frozenset(self.allow),
            false_alarm_rate=self.false_alarm_rate,
            review_rate=self.review_rate,
            batch_size=batch_size,
            provider=self.provider,
        )


@dataclass(frozen=True, kw_only=True)
class CountingOptions:
    """From which size on a region counts; thresholds are made for it."""

    min_area: float | None = None
    """The smallest area of a region that counts, in pixels of the image; smaller ones do not. 0: any."""
    min_length: float | None = None
    """The same for the diagonal of a region's box."""
    mm_per_px: float | None = None
    """How many millimetres a pixel shows: sizes are then in mm² and mm."""

    def sizes(self) -> dict[str, float]:
        """Return the sizes that were given."""
        given = {name: getattr(self, name) for name in ("min_area", "min_length", "mm_per_px")}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Work on many machines."""

    cluster: str | None = None
    """Work on a Ray cluster: HOST:PORT, ray://HOST:PORT, or local. Repeat the command to go on."""

    def refuse_without_cluster(self, *fields: str) -> None:
        """Raise UsageError for an option of a cluster where none is named."""
        for field in fields:
            if self.cluster is None and getattr(self, field) not in (None, ()):
                option = f"--{field.replace('_', '-')}"
                raise UsageError(f"{option}: is for a cluster; add --cluster, or leave it out")


@dataclass(frozen=True, kw_only=True)
class CategoryOptions(ClusterOptions):
    """Work on many categories."""

    categories: tuple[str, ...] = ()
    """Names of categories; default all."""


@dataclass(frozen=True, kw_only=True)
class StationOptions:
    """Which station."""

    folder: Path = Path("station")
    """The station's folder: its record, its images, its tokens."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Where parts belong, in each row of the record."""

    station: str | None = None
    """This station's name, in each row."""
    product: str | None = None
    """What is made here, in each row whose sender does not say it; a model of several needs it."""
    line: str | None = None
    """The line, as the product."""
    shifts: Annotated[tuple[str, ...], Parameter(metavar="NAME=HH:MM [...]")] = ()
    """When each shift begins, by this computer's clock: early=06:00 late=14:00 night=22:00."""

    def labelling(self) -> Labelling:
        """Return what labels parts. Raises UsageError for shifts of another form."""
        from blemish.record.labels import Labelling, Labels

        return Labelling(Labels(product=self.product, line=self.line, station=self.station), self.shifts)


@dataclass(frozen=True, kw_only=True)
class HookOptions:
    """Who is told of rejected parts."""

    on_reject: str | None = None
    """A command to run for each rejected part; gets the row as JSON on its standard input."""
    on_review: str | None = None
    """The same for each part that a person is to look at."""
    webhook: str | None = None
    """An address to POST rejects and reviews to, and a station's other events, until it gets through."""
    webhook_secret: Path | None = None
    """A file with a secret by which each POST is signed (HMAC-SHA256)."""
    mqtt: str | None = None
    """mqtt://HOST/TOPIC to publish rejects and reviews to, and a station's other events."""


def resources(unit: str, *, cpus: int | None, gpus: int | None) -> dict[str, int]:
    """Return the CPUs and GPUs of a `unit` of work on a cluster, given or usual. Raises UsageError."""
    share = {}
    for name, given, least in (("cpus", cpus, 1), ("gpus", gpus, 0)):
        share[name] = least if given is None else given
        if share[name] < least:
            raise UsageError(f"--{name}-per-{unit} {given}: must be {least} or larger")
    return share
