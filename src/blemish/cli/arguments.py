"""The options of each command, as dataclasses; their docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from blemish.methods.config import DetectorConfig

Config = TypeVar("Config", bound=DetectorConfig)
Allowed = Literal["channels", "depth"]


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Generic[Config]):
    """Learn what good looks like from the good images of a data set."""

    data: Path
    """A category in MVTec layout, a folder of good images, or a CSV manifest (path,split,label,mask). With
    --cluster a folder with categories in MVTec layout, one or two levels below it."""
    config: OmitArgPrefixes[Config]
    """The method's options; `--preset` sets their defaults."""
    method: str = "metal"
    """The method to train."""
    preset: str = "default"
    """The method's set of options to start from."""
    out: Path | None = None
    """Run folder; default runs/<data set>-<method>. With --cluster it holds one for each category."""
    seed: int = 0
    """Fixes the split, the first weights and the order of images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the machine has it natively."""
    resume: bool = False
    """Go on with the unfinished run in the run folder."""
    channels: Literal[1, 3] | None = None
    """Convert RGB to grey (1) or grey to RGB (3); without it images are taken as they are."""
    bit_depth: Literal[8, 10, 12, 14, 16] | None = None
    """Bits that 16-bit files really use."""
    value_range: tuple[float, float] | None = None
    """Values of float images that mean 0 and 1."""
    cluster: str | None = None
    """Train a model for each category on a Ray cluster: HOST:PORT, ray://HOST:PORT, or local. Repeat the
    command to go on after an interruption."""
    categories: tuple[str, ...] = ()
    """With --cluster: names of categories; default all."""
    cpus_per_model: int | None = None
    """With --cluster: CPUs of a training, and its threads; default 1."""
    gpus_per_model: int | None = None
    """With --cluster: GPUs of a training; default 0, which trains on CPUs."""

    def words(self, usual: Config) -> list[str]:
        """Write what makes the model as the command line takes it; `usual` are the preset's options."""
        own = [f for f in fields(self) if f.name in ("seed", "device", "precision")]
        own += [f for f in fields(self) if f.name in ("channels", "bit_depth", "value_range")]
        given = [(f.name, getattr(self, f.name), f.default) for f in own]
        given += [(f.name, getattr(self.config, f.name), getattr(usual, f.name)) for f in fields(usual)]
        changed = [_words(name, value) for name, value, default in given if value != default]
        return ["--method", self.method, "--preset", self.preset, *chain(*changed)]


def _words(name: str, value: object) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a model on a labelled test set; writes evaluation.json, scores.csv and report.html."""

    model: Path
    """Run folder or model file."""
    data: Path
    """A category in MVTec layout, or a CSV manifest with a test split."""
    out: Path | None = None
    """Where to write; default <run>/evaluation."""
    false_alarm_rate: float | None = None
    """Share of good parts that may be rejected; default 0.05, or the lowest that can be promised."""
    allow: tuple[Allowed, ...] = ()
    """Conversions permitted for images that are not as in training: channels, depth."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one."""


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """Score images; writes predictions.jsonl, predictions.csv, maps/ and overlays/."""

    model: Path
    """Run folder, model file or exported model."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="PATH [PATH ...]")]
    """Images, films, folders or globs; folders are searched for images only. With --cluster also URLs as
    s3://BUCKET/PREFIX, and Parquet files with the columns path and image; no films."""
    out: str = "predictions"
    """Where to write: a folder, or with --cluster a URL."""
    every: int = 1
    """Score each frame of a film (1), each second one (2), and so on."""
    false_alarm_rate: float | None = None
    """Share of good parts that may be rejected; default 0.05, or the lowest that can be promised."""
    allow: tuple[Allowed, ...] = ()
    """Conversions permitted for images that are not as in training: channels, depth."""
    batch_size: int = 16
    """Images in a call of the network."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one. With --cluster auto is cpu, a worker on each; cuda: one on each GPU."""
    cluster: str | None = None
    """Score on a Ray cluster: HOST:PORT, ray://HOST:PORT, or local. Writes Parquet files of rows, no maps or
    overlays. Repeat the command to go on after an interruption."""
    partition: int | None = None
    """With --cluster: inputs of a Parquet file of rows, a multiple of --batch-size; default 4096."""


@dataclass(frozen=True, kw_only=True)
class WatchArguments:
    """Score what appears in a folder, each file once, until Ctrl-C; writes inspections.jsonl, maps, overlays.

    Start it again and it goes on where it was, also after a power cut. A changed model is loaded again.
    """

    model: Path
    """Run folder, model file or exported model."""
    folder: Path
    """Where the cameras write images, sub-folders included."""
    camera: str | None = None
    """Write frames into the folder: of a camera (0, 1, ...), a stream's address (rtsp://...) or a film."""
    every: float = 1.0
    """Seconds between two frames of the camera; 0: each frame."""
    out: Path = Path("inspections")
    """Where to write."""
    move_to: Path | None = None
    """Move recorded files to accepted/, rejected/ or failed/ below this folder; default: they stay."""
    on_reject: str | None = None
    """A command to run for each rejected part; gets the row as JSON on its standard input."""
    webhook: str | None = None
    """An address to POST the row of each rejected part to, as JSON, until it gets through."""
    mqtt: str | None = None
    """mqtt://HOST/TOPIC to publish the row of each rejected part to, until it gets through."""
    database: str | None = None
    """Keep rows in a database too, and images and maps in OUT/archive: postgresql://..., sqlite:///FILE, or
    sqlite for a file in OUT."""
    false_alarm_rate: float | None = None
    """Share of good parts that may be rejected; default 0.05, or the lowest that can be promised."""
    allow: tuple[Allowed, ...] = ()
    """Conversions permitted for images that are not as in training: channels, depth."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one."""


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Run the inspection station: a page and a service that score images and keep a record of each."""

    model: Annotated[tuple[Path, ...], arg(metavar="RUN|FILE [...]")]
    """Run folders, model files or exported models."""
    host: str = "127.0.0.1"
    """The address to listen on; any other than this machine's own requires a token (`blemish token`)."""
    port: int = 8000
    """The port to listen on; 0: a free one."""
    folder: Path = Path("station")
    """Where the record and the images are kept."""
    database: str | None = None
    """The record's address, as postgresql://user@host/name; default a SQLite file in the folder."""
    false_alarm_rate: float | None = None
    """Share of good parts that may be rejected; default 0.05, or the lowest that can be promised."""
    allow: tuple[Allowed, ...] = ()
    """Conversions permitted for images that are not as in training: channels, depth."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one."""
    capacity: int = 64
    """Images that may wait at a time, for each model; one more is told to come again."""
    max_megabytes: int = 64
    """Size of an upload at most, in 10⁶ bytes."""
    max_megapixels: int = 100
    """Size of an image at most, in 10⁶ pixels; judged before it is decoded."""
    keep_accepted_days: float | None = None
    """Days after which images and maps of accepted parts are removed; their rows stay."""
    keep_rejected_days: float | None = None
    """The same for rejected parts and defects; not fewer."""
    keep_gigabytes: float | None = None
    """Room for images and maps, in 10⁹ bytes; the oldest go first, accepted ones before rejected ones."""
    training_data: Path | None = None
    """A folder whose sub-folders of good images may be named as the images of a training."""
    time_limit: float = 30.0
    """Seconds that a request waits for its answer at most."""


@dataclass(frozen=True, kw_only=True)
class TokenArguments:
    """Make a token for the station and print it, once; only its digest is kept."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Whose token it is; stands beside the verdicts given with it."""
    role: Literal["operator", "viewer"] = "operator"
    """An operator inspects and judges, a viewer looks."""
    folder: Path = Path("station")
    """The station's folder."""
    remove: bool = False
    """Remove the token instead."""


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a trained model as one ONNX file, which predict and evaluate run without torch."""

    model: Path
    """Run folder or model file."""
    out: Path
    """Where to write; a name that ends in .onnx."""
    int8: bool = False
    """Compute trained layers in 8 bits; prints what that costs. Needs --data."""
    data: Path | None = None
    """For --int8: what the model was trained on, a category, folder or manifest."""


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Train and evaluate methods × categories × seeds; writes results.json, results.md and results.html.

    Repeat the command to go on after an interruption: what is finished is not done again.
    """

    data: Path
    """A folder with categories in MVTec layout, one or two levels below it, or one category."""
    methods: tuple[str, ...]
    """Names of methods, or name:preset."""
    categories: tuple[str, ...] = ()
    """Names of categories; default all."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, each of them a run."""
    out: Path = Path("bench")
    """Where to write: a run folder for each cell, and the results."""
    jobs: int | None = None
    """Cells at a time, each with its share of the cores; default 1."""
    cluster: str | None = None
    """Run the cells on a Ray cluster: HOST:PORT, ray://HOST:PORT, or local."""
    cpus_per_cell: int | None = None
    """With --cluster: CPUs of a cell, and its threads; default 1."""
    gpus_per_cell: int | None = None
    """With --cluster: GPUs of a cell; default 0, which trains on CPUs."""


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Compare runs that were evaluated on the same images; writes comparison.json and comparison.html."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN [...]")]
    """Run folders, or folders of evaluations."""
    out: Path = Path("comparison")
    """Where to write."""
    measure: Literal["image_auroc", "pixel_auroc", "pixel_auroc_fpr30", "aupro_fpr30"] = "image_auroc"
    """What is tested for a difference; the last three compare maps and need masks."""


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Generate a data set of good and bad parts, train on it, evaluate, and report; minutes on a CPU."""

    out: Path = Path("demo")
    """Where to write; an interrupted demo goes on where it stood."""
