"""Help of each command, light and whole; what is mistyped is one line: option, value, rule, cure."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import pytest
from commands import refused, run

from blemish.cli.commands.bench import BenchOptions
from blemish.cli.commands.predict import PredictOptions
from blemish.cli.commands.train import TrainOptions
from blemish.cli.main import COMMANDS
from blemish.cli.parser import parse, parse_known, parse_with_config
from blemish.core.errors import UsageError
from blemish.core.types import Decision
from blemish.methods import registry
from blemish.methods.config import DetectorConfig
from blemish.methods.registry import METHODS

HEAVY = {"torch", "accelerate", "scipy", "matplotlib", "jinja2", "tifffile", "numpy", "PIL", "ray"}
HEAVY |= {"starlette", "fastapi", "sqlalchemy", "onnxruntime", "uvicorn"}

ENOUGH: dict[str, tuple[str, ...]] = {
    "demo": (),
    "train": ("--data", "x"),
    "evaluate": ("--model", "x", "--data", "x"),
    "sensitivity": ("--model", "x", "--data", "x"),
    "audit": ("--data", "x"),
    "card": ("x",),
    "recalibrate": ("--model", "x", "--data", "x", "--out", "x"),
    "parts": ("--model", "x", "--data", "x"),
    "predict": ("--model", "x", "x.png"),
    "watch": ("--model", "x", "--folder", "x"),
    "serve": ("--model", "x"),
    "token": ("somebody",),
    "verify": (),
    "report": ("--since", "2026-03-01"),
    "backup": ("--to", "x"),
    "restore": ("--backup", "x"),
    "export": ("--model", "x", "--out", "x.onnx"),
    "bench": ("--data", "x", "--methods", "pca"),
    "submission": ("--model", "x", "--data", "x"),
    "compare": ("a", "b"),
}
"""What each command cannot do without."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not refused as it should be writes where nobody minds."""
    monkeypatch.chdir(tmp_path)


# --- help ---


@pytest.mark.heavy
def test_help_imports_nothing_that_only_the_work_needs():
    """In a process that has imported nothing but the start of the command line: one command after another."""
    commands = [name for name in COMMANDS if name != "train"]
    code = f"""
import sys
from blemish.cli.main import main
for command in {commands!r}:
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert not stop.code
    print((command, sorted({{name.split(".")[0] for name in sys.modules}})), file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    imported = dict(map(ast.literal_eval, shown.stderr.splitlines()))
    assert list(imported) == commands
    for command in commands:
        assert f"usage: blemish {command} " in shown.stdout
        assert not set(imported[command]) & HEAVY, command


@pytest.mark.parametrize("method", METHODS)
def test_help_has_the_options_of_the_method_with_its_defaults(
    method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    config = registry.preset_named(method, "default")
    assert run("train", "--method", method, "--help") == 0
    common, own = capsys.readouterr().out.split("options of the method:\n")
    assert "--value-range FLOAT FLOAT" in common
    assert {line.split()[0].rstrip(",") for line in own.splitlines() if line.startswith("  --")} == {
        f"--{f.name.replace('_', '-')}" for f in fields(config)
    }
    assert own.count("(default: ") == len(fields(config))
    assert f"(default: {config.calibration_fraction})" in own
    assert "{max,mean,top1,top5}" in own


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]):
    for preset in ("default", "paper-texture"):
        assert run("train", "--method", "metal", "--preset", preset, "--help") == 0
        shown = " ".join(capsys.readouterr().out.split())
        config = registry.preset_named("metal", preset)
        assert f"early stopping. (default: {config.calibration_fraction})" in shown
        assert f"(Table 2). (default: {vars(config)['heads']})" in shown


def test_help_says_what_is_required_first_and_the_text_of_an_option_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "300")
    assert run("predict", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: blemish predict --model PATH [OPTIONS] PATH"
    options = lines[lines.index("options:") + 1 :]
    assert [line.split()[0] for line in options[:2]] == ["PATH", "--model"]
    assert options[0].endswith("With --cluster also URLs as s3://BUCKET/PREFIX, and Parquet files with the "
                               "columns path and image; no films and no manifests. (required)")  # fmt: skip


def test_help_of_what_is_moved_names_the_folder_of_each_decision(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "300")
    assert run("watch", "--help") == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.strip().startswith("--move-to"))
    assert all(f"{decision}/" in line for decision in get_args(Decision))


# --- mistakes ---


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_each_mistake_in_one_line_that_names_it(
    command: str, capsys: pytest.CaptureFixture[str]
):
    enough, see = ENOUGH[command], f"; see blemish {command} --help"
    option = "--folder" if command in ("serve", "token", "verify", "backup", "restore") else "--out"

    def told(*arguments: str) -> str:
        line = refused(capsys, command, *arguments)
        assert line.startswith(f"blemish {command}: ")
        assert line.endswith(see)
        return line.removeprefix(f"blemish {command}: ").removesuffix(see)

    assert told(*enough, "--nonsense", "3") == "--nonsense: no such option"
    assert told(*enough, "--nonsense=3") == "--nonsense: no such option"
    assert told(*enough, f"{option}x", "y") == f"{option}x: no such option, but there is {option}"
    assert told(*enough, option) == f"{option}: needs a value"
    assert told(*enough, option, "--nonsense") == f"{option}: needs a value"
    if command not in ("predict", "compare", "serve", "bench"):  # which take as many as there are
        assert told(*enough, "stray") == "stray: belongs to no option"
    for at, word in enumerate(enough):
        if word.startswith("--"):
            assert told(*enough[:at], *enough[at + 2 :]) == f"{word}: is required"


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", "--method metal --epochs many", "--epochs many: must be a whole number or None"),
        ("train", "--method metal --epochs 2.5", "--epochs 2.5: must be a whole number or None"),
        ("train", "--method metal --steps 1e3", "--steps 1e3: must be a whole number"),
        ("train", "--method metal --learning-rate fast", "--learning-rate fast: must be a number"),
        ("train", "--device tpu", "--device tpu: must be one of auto, cpu, cuda"),
        ("train", "--channels 2", "--channels 2: must be one of 1, 3"),
        ("train", "--value-range 1", "--value-range: needs 2 numbers or None"),
        ("train", "--value-range low 1", "--value-range low: must be a number"),
        ("train", "--image-size 32 wide", "wide: belongs to no option"),
        ("train", "--image-size wide", "--image-size wide: must be 2 whole numbers or a whole number"),
        ("train", "--image-size 32 48 3", "3: belongs to no option"),
        ("train", "--method metal --smoothing 1 wide", "--smoothing wide: must be a number"),
        ("train", "--resume=perhaps", "--resume perhaps: must be yes or no"),
        ("train", "--method pca --heads 2", "--heads: no such option"),
        ("train", "--method", "--method: needs a value"),
        ("evaluate", "--device tpu", "--device tpu: must be one of auto, cpu, cuda"),
        ("evaluate", "--false-alarm-rate few", "--false-alarm-rate few: must be a number"),
        ("sensitivity", "--images few", "--images few: must be a whole number"),
        ("predict", "--allow depth colours", "--allow colours: must be one of channels, depth"),
        ("predict", "--every 0.5", "--every 0.5: must be a whole number"),
        ("watch", "--every often", "--every often: must be a number"),
        ("serve", "--port http", "--port http: must be a whole number"),
        ("token", "--role king", "--role king: must be one of view, inspect, judge, engineer"),
        ("export", "--int8=perhaps", "--int8 perhaps: must be yes or no"),
        ("bench", "--seeds 0 one", "--seeds one: must be whole numbers"),
        ("compare", "--measure beauty", "--measure beauty: must be one of image_auroc, pixel_auroc, "),
    ],
)
def test_a_wrong_value_is_told_with_its_rule(
    command: str, words: str, said: str, capsys: pytest.CaptureFixture[str]
):
    line = refused(capsys, command, *ENOUGH[command], *words.split())
    assert line.startswith(f"blemish {command}: {said}")
    assert "; see blemish " in line


def test_a_misspelt_option_is_named_before_the_one_that_is_missing_for_it(capsys):
    said = refused(capsys, "train", "--dta", "x")
    assert said == "blemish train: --dta: no such option, but there is --data; see blemish train --help"
    said = refused(capsys, "train", *ENOUGH["train"], "--method", "pca", "--heads", "2")
    assert said == "blemish train: --heads: no such option; see blemish train --method pca --help"
    for command, name in (("predict", "PATH"), ("compare", "RUN"), ("token", "NAME")):
        enough = ENOUGH[command] if command == "predict" else ()
        assert f"{name}" in refused(capsys, command, *enough[:2]).split(": is required")[0]


# --- values ---


def bench(*words: str) -> BenchOptions:
    return parse("bench", BenchOptions, ["--data", "x", *words])


def test_options_take_several_values_and_the_last_time_counts():
    options = bench("--methods", "pca", "metal:paper-texture", "--seeds", "0", "1", "2", "--categories", "a")
    assert options.methods == ("pca", "metal:paper-texture")
    assert (options.seeds, options.categories) == ((0, 1, 2), ("a",))
    assert bench("--methods", "pca", "--seeds", "1", "2", "--seeds=-3", "--out=y").seeds == (-3,)
    assert bench("--methods", "a", "b", "--methods", "c").methods == ("c",)
    options = parse("predict", PredictOptions, ["a", "--model", "m", "b", "--allow", "depth", "--", "-c"])
    assert (options.inputs, options.allow) == (("a", "b", "-c"), ("depth",))


def train(*words: str, method: str = "metal") -> tuple[TrainOptions, DetectorConfig]:
    preset = registry.preset_named(method, "default")
    return parse_with_config("train", TrainOptions, preset, ["--data", "x", *words])


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--tile-size 256", "tile_size", 256),
        ("--tile-size 128 256", "tile_size", (128, 256)),
        ("--tile-size 128 --tile-size None", "tile_size", None),
        ("--image-size 64 --heads 2", "image_size", 64),
        ("--image-size 32 48 --image-size 32 64", "image_size", (32, 64)),
        ("--epochs 3 --epochs None", "epochs", None),
        ("--epochs -1 --epochs 3", "epochs", 3),
        ("--no-exposure", "exposure", False),
        ("--no-exposure --exposure", "exposure", True),
        ("--smoothing 1 2.5 --smoothing 3", "smoothing", (3.0,)),
        ("--learning-rate=1e-4", "learning_rate", 1e-4),
    ],
)
def test_options_of_the_method_replace_what_the_preset_says(words: str, field: str, value: object):
    options, config = train(*words.split())
    usual, preset = train()
    assert vars(config)[field] == value
    assert type(vars(config)[field]) is type(value)
    others = {"heads": 2} if "--heads" in words else {}
    assert config == replace(preset, **{field: value}, **others)
    assert options == usual


def test_options_of_train_itself():
    options, config = train("--value-range", "-1e-3", "2", "--resume", "--out", "None", "--seed", "-1")
    assert (options.value_range, options.resume, options.out, options.seed) == ((-0.001, 2.0), True, None, -1)
    assert config == registry.preset_named("metal", "default")
    assert train("--out", "none")[0].out == Path("none")
    assert train("--channels", "None", "--no-resume")[0] == train()[0]


@dataclass(frozen=True, kw_only=True)
class ToyConfig(DetectorConfig):
    """A method from elsewhere."""

    colour: Literal["red", "blue"] = "red"
    """Its colour."""


def test_a_config_brings_its_options_without_being_named_anywhere_else():
    words = ["--data", "x", "--colour", "blue", "--image-size", "16"]
    options, config = parse_with_config("train", TrainOptions, ToyConfig(tile_overlap=0.5), words)
    assert config == ToyConfig(colour="blue", image_size=16, tile_overlap=0.5)
    assert options.data == Path("x")
    with pytest.raises(UsageError, match="--colour green: must be one of red, blue"):
        parse_with_config("train", TrainOptions, ToyConfig(), ["--data", "x", "--colour", "green"])


def test_known_options_are_taken_out_of_the_others_which_stay_as_they_were():
    @dataclass(frozen=True, kw_only=True)
    class Known:
        seed: int = 0
        names: tuple[str, ...] = ()

    words = ["--a", "-1", "x", "--seed=3", "--no-b", "--names", "d", "e", "--a=f g", "--help"]
    known, others = parse_known("x", Known, words)
    assert known == Known(seed=3, names=("d", "e"))
    assert others == ["--a", "-1", "x", "--no-b", "--a=f g", "--help"]
