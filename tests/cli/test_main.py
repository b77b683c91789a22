from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import QUICK, refused, run
from conftest import save, tiny_image

from blemish.cli.main import COMMANDS
from blemish.core.errors import Interrupted
from blemish.inference import load, torch_backend
from blemish.methods import registry
from blemish.methods.config import TrainedConfig
from blemish.training import fit as fitting

pytestmark = pytest.mark.usefixtures("quick_evaluation")

TRAIN_OPTIONS = (
    *("--data", "--method", "--preset", "--out", "--seed", "--device", "--precision", "--resume"),
    *("--epochs", "--batch-size", "--image-size", "--learning-rate"),
)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


# --- help, version, mistakes ---


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]):
    assert run(command, "--help") == 0
    shown = capsys.readouterr()
    assert f"usage: blemish {command}" in shown.out
    of_a_station = ("serve", "token", "verify", "backup", "restore")
    assert ("--folder" if command in of_a_station else "--out") in shown.out
    assert shown.err == ""


@pytest.mark.heavy
def test_serve_names_what_brings_a_package_that_is_missing(tmp_path: Path):
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'starlette': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from blemish.cli.main import main\n"
        f"sys.exit(main(['serve', '--model', {str(tmp_path / 'x.onnx')!r}]))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 2
    assert said.stderr == "blemish serve: starlette is missing; pip install 'blemish[station]'\n"


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]):
    for arguments, code in (((), 2), (("--help",), 0), (("-h",), 0)):
        assert run(*arguments) == code
        shown = capsys.readouterr().out
        assert {line.split()[0] for line in shown.splitlines() if line.startswith("  ")} == set(COMMANDS)


def test_the_options_that_scripts_depend_on_are_there(capsys: pytest.CaptureFixture[str]):
    expected = {
        "train --method metal": TRAIN_OPTIONS,
        "evaluate": ("--model", "--data", "--out"),
        "predict": ("--model", "--out", "--false-alarm-rate", "PATH [PATH ...]"),
        "demo": ("--out",),
    }
    for command, options in expected.items():
        run(*command.split(), "--help")
        shown = capsys.readouterr().out
        assert [option for option in options if option not in shown] == [], command


def test_version(capsys: pytest.CaptureFixture[str]):
    assert run("--version") == 0
    name, number = capsys.readouterr().out.split()
    assert name == "blemish"
    assert [part.isdigit() for part in number.split(".")[:2]] == [True, True]


def test_unknown_words_are_refused_with_what_there_is(
    capsys: pytest.CaptureFixture[str], tiny_category: Path, tmp_path: Path
):
    data = ("--data", tiny_category, "--out", tmp_path / "run")
    assert refused(capsys, "trian") == f"blemish: trian: no such command; choose one of {', '.join(COMMANDS)}"
    assert "--method nonsense: no such method; choose one of auto, metal, cpc-ad" in refused(
        capsys, "train", *data, "--method", "nonsense"
    )
    assert "--preset nonsense: metal has no such preset; choose one of default" in refused(
        capsys, "train", *data, "--method", "metal", "--preset=nonsense"
    )
    assert "--preset paper: auto has no such preset; name a method that has it with --method" in refused(
        capsys, "train", *data, "--preset", "paper"
    )
    for command in COMMANDS:
        line = refused(capsys, command, "--nonsense", "3")
        assert line.endswith(f"see blemish {command} --help")
    assert "--nonsense" in refused(capsys, "train", *data, "--nonsense", "3")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train",), "--data"),
        (("evaluate", "--data", "x"), "--model"),
        (("evaluate", "--model", "x"), "--data"),
        (("predict", "x.png"), "--model"),
        (("train", "--data", "x", "--epochs", "many"), "--epochs"),
        (("train", "--data", "x", "--device", "tpu"), "--device"),
        (("train", "--data", "x", "--precision", "fp64"), "--precision"),
        (("predict", "--model", "x", "a.png", "--false-alarm-rate", "few"), "--false-alarm-rate"),
    ],
)
def test_missing_and_malformed_options_are_named(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert said in refused(capsys, *arguments)


def test_predict_without_a_path_is_refused(capsys: pytest.CaptureFixture[str], tiny_model: Path):
    assert "PATH" in refused(capsys, "predict", "--model", tiny_model)


# --- train ---


def test_train_takes_its_options(tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    options = [*QUICK, "--method", "metal", "--preset", "default", "--seed", "3", "--epochs", "2"]
    options += ["--batch-size", "4", "--image-size", "32", "48", "--learning-rate", "0.002"]
    assert run("train", "--data", tiny_category, "--out", out, *options) == 0
    shown = capsys.readouterr()
    assert f"model: {out / 'model.safetensors'}" in shown.out
    assert "calibrated on 5 good images: false-alarm rates promised from 0.1667" in shown.out
    assert shown.err == ""  # no bar in a log
    record = read_json(out / "run.json")
    config = record["config"]
    assert (config["epochs"], config["batch_size"], config["learning_rate"]) == (2, 4, 0.002)
    assert (config["image_size"], config["calibration_fraction"]) == ([32, 48], 0.4)
    assert (record["seed"], record["method"], record["preset"]) == (3, "metal", "default")
    assert (record["machine"]["device"], record["machine"]["precision"]) == ("cpu", "fp32")
    assert record["images"] == {"train": 6, "validation": 1, "calibration": 5}
    assert len((out / "log.csv").read_text().splitlines()) == 3
    assert sorted(p.name for p in out.iterdir()) == ["log.csv", "model.safetensors", "run.json"]
    assert load.load(out, device="cpu").model_file.size == (32, 48)


def test_a_preset_sets_the_defaults_and_options_change_them(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    caught: dict[str, Any] = {}

    def fit(data: Path, **options: Any) -> None:
        caught.update(options, data=data)
        raise Interrupted("stopped by the test")

    monkeypatch.setattr(fitting, "fit", fit)
    run("train", "--data", tiny_category, "--method=metal", "--preset", "paper-texture", "--hidden", "77")
    paper, config = registry.preset_named("metal", "paper-texture"), caught["config"]
    assert isinstance(config, TrainedConfig)
    assert {k for k, v in vars(paper).items() if vars(config)[k] != v} == {"hidden"}
    assert vars(config)["hidden"] == 77
    assert caught["out"] == Path("runs/tiny-metal")
    (tmp_path / "lot.1").mkdir()
    run("train", "--data", tmp_path / "lot.1", "--method", "pca")
    assert caught["out"] == Path("runs/lot.1-pca")
    assert (caught["seed"], caught["device"], caught["precision"]) == (0, "auto", "auto")
    assert caught["resume"] is False
    run("train", "--data", tiny_category, "--resume", "--channels", "1", "--value-range", "0", "2.5")
    assert caught["resume"] is True
    assert caught["config"] == registry.preset_named("auto", "default")
    assert (caught["image_options"].channels, caught["image_options"].value_range) == (1, (0.0, 2.5))


def test_a_finished_run_is_not_overwritten_and_resume_accepts_it(
    tiny_category: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    shutil.copytree(tiny_model, out)
    before = (out / "model.safetensors").read_bytes()
    line = refused(capsys, "train", "--data", tiny_category, "--out", out, *QUICK)
    assert f"{out}: already holds a finished run; choose another --out" in line
    line = refused(capsys, "train", "--data", tiny_category, "--out", out, "--resume", *QUICK)
    assert "finished run whose steps was 5, not 2" in line
    same = ("--steps", "5", "--validation-fraction", "0")
    assert run("train", "--data", tiny_category, "--out", out, "--resume", *QUICK, *same) == 0
    assert (out / "model.safetensors").read_bytes() == before


def test_without_calibration_images_train_says_so(
    tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, path = tmp_path / "run", tiny_category / "test" / "hole" / "000.png"
    options = [*QUICK, "--calibration-fraction", "0"]
    assert run("train", "--data", tiny_category, "--out", out, *options) == 0
    assert "no calibration images: scores and maps, but no threshold" in capsys.readouterr().out
    assert run("predict", "--model", out, "--out", tmp_path / "p", path) == 0
    assert "1 scored, 0 failed: " in capsys.readouterr().out
    (row,) = rows_of(tmp_path / "p")
    assert (row["p_value"], row["threshold"], row["anomalous"], row["regions"]) == (None, None, None, [])
    options = ["--model", out, "--out", tmp_path / "q", path, "--false-alarm-rate", "0.05"]
    assert "no calibration images" in refused(capsys, "predict", *options)


# --- evaluate ---


@pytest.mark.heavy
def test_evaluate_writes_beside_the_run_or_where_it_is_told(
    tiny_category: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
):
    copy = tmp_path / "run"
    shutil.copytree(tiny_model, copy)
    assert run("evaluate", "--model", copy, "--data", tiny_category) == 0
    shown = capsys.readouterr()
    assert f"report: {copy / 'evaluation' / 'report.html'}" in shown.out
    assert "image AUROC                              1.0000" in shown.out
    assert shown.err == ""
    assert sorted(p.name for p in (copy / "evaluation").glob("*.*")) == [
        "evaluation.json",
        "pixels.npz",
        "report.html",
        "scores.csv",
    ]
    request.getfixturevalue("no_report")
    model = copy / "model.safetensors"
    options = ["--out", tmp_path / "e", "--false-alarm-rate", "0.5", "--device", "cpu"]
    assert run("evaluate", "--model", model, "--data", tiny_category, *options) == 0
    told = read_json(tmp_path / "e" / "evaluation.json")
    beside = read_json(copy / "evaluation" / "evaluation.json")
    assert (told["requested_false_alarm_rate"], beside["requested_false_alarm_rate"]) == (0.5, 1 / 6)
    assert told["threshold"] < beside["threshold"]
    assert told["pixel_auroc"] == beside["pixel_auroc"]


@pytest.mark.usefixtures("no_report")
def test_evaluate_warns_of_training_images_in_the_test_set(
    tiny_category: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_category, tmp_path / "data")
    trained = next(iter(load.load(tiny_model).model_file.provenance["training_digests"].values()))
    copy = tmp_path / "data" / "test" / "good" / "copy.png"
    shutil.copy(tmp_path / "data" / "train" / "good" / trained, copy)
    assert run("evaluate", "--model", tiny_model, "--data", tmp_path / "data", "--out", tmp_path / "e") == 0
    assert capsys.readouterr().err == f"warning: leakage: {copy} was trained on, as {trained}\n"


@pytest.mark.usefixtures("no_report")
def test_evaluate_warns_of_more_false_alarms_than_chance_explains(
    tiny_category: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_category, tmp_path / "data")
    for i, defective in enumerate(sorted((tmp_path / "data" / "test").glob("[!g]*/*"))):
        for copy in "ab":
            shutil.copy(defective, tmp_path / "data" / "test" / "good" / f"bad{i}{copy}.png")
    assert run("evaluate", "--model", tiny_model, "--data", tmp_path / "data", "--out", tmp_path / "e") == 0
    assert "12 of 16 good test images were rejected, where 16.7 % was promised" in capsys.readouterr().err


# --- predict ---


def test_predict_scores_everything_and_exits_0(
    tiny_category: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "p"
    inputs = [tiny_category / "test" / "hole", tiny_category / "test" / "good" / "00*.png"]
    assert run("predict", "--model", tiny_model, "--out", out, *inputs) == 0
    shown = capsys.readouterr()
    assert f"7 scored, 3 anomalous, 0 failed: {out / 'predictions.csv'}" in shown.out
    assert shown.err == ""
    assert [row["anomalous"] for row in rows_of(out)] == [True] * 3 + [False] * 4
    assert rows_of(out)[0]["map"] == "maps/hole/000.tiff"


def test_predict_goes_on_after_a_bad_file_and_exits_1(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png", tiny_image(i))
    (tmp_path / "in" / "1.png").write_text("not a picture")
    assert run("predict", "--model", tiny_model, "--out", tmp_path / "p", tmp_path / "in") == 1
    shown = capsys.readouterr()
    rows = rows_of(tmp_path / "p")
    assert shown.err == f"failed: {rows[1]['error']}\n"
    assert "2 scored, " in shown.out
    assert ", 1 failed: " in shown.out
    assert [row["error"] is None for row in rows] == [True, False, True]


def test_predict_lists_twenty_failures_and_counts_the_rest(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "in").mkdir()
    for i in range(23):
        (tmp_path / "in" / f"{i:02d}.png").write_text("not a picture")
    assert run("predict", "--model", tiny_model, "--out", tmp_path / "p", tmp_path / "in") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[19].startswith(f"failed: {tmp_path / 'in' / '19.png'}: ")
    assert lines[20] == "failed: 3 more, see predictions.csv"


def test_predict_takes_its_options(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i in range(5):
        save(tmp_path / "in" / f"{i}.png", tiny_image(i)[..., 0])  # grey, for an RGB model
    sizes: list[int] = []
    run_network = torch_backend.TorchBackend.run

    def counting(backend: torch_backend.TorchBackend, x: np.ndarray) -> Any:
        sizes.append(len(x))
        return run_network(backend, x)

    monkeypatch.setattr(torch_backend.TorchBackend, "run", counting)
    options = ["--allow", "channels", "--batch-size", "2", "--false-alarm-rate", "0.5", "--device", "cpu"]
    inputs = [tmp_path / "in" / "*.png"]
    assert run("predict", "--model", tiny_model, "--out", tmp_path / "p", *inputs, *options) == 0
    assert sizes == [2, 2, 1]
    expected = load.load(tiny_model).at_rate(0.5).threshold
    assert [row["threshold"] for row in rows_of(tmp_path / "p")] == [expected] * 5


# --- demo ---


@pytest.mark.usefixtures("no_report")
@pytest.mark.heavy
def test_demo_generates_trains_and_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from blemish.data import synthetic
    from blemish.methods.metal_config import MetalConfig

    generate, fit = synthetic.generate, fitting.fit
    config = MetalConfig(image_size=32, patch_size=8, embedding=8, hidden=16, heads=2, steps=2)

    def few(out: Path) -> Path:
        return generate(out, n_train=12, n_good=2, n_defect=1, size=64)

    def quick(data: Path, **options: Any) -> Any:
        return fit(data, **(options | {"config": config, "device": "cpu", "precision": "fp32"}))

    monkeypatch.setattr(synthetic, "generate", few)
    monkeypatch.setattr(fitting, "fit", quick)
    for _ in range(2):  # the second time everything but the evaluation is there already
        assert run("demo", "--out", tmp_path / "demo") == 0
        shown = capsys.readouterr().out
        assert [line[:4] for line in shown.splitlines()[:3]] == ["1/3 ", "2/3 ", "3/3 "]
        assert f"report: {tmp_path / 'demo' / 'evaluation' / 'report.html'}" in shown
    assert (tmp_path / "demo" / "run" / "model.safetensors").is_file()
    assert read_json(tmp_path / "demo" / "evaluation" / "evaluation.json")["n_defect"] == 3


# --- what goes wrong on the way ---


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Interrupted("stopped in epoch 3 of 9; go on with --resume"), 130, "go on with --resume"),
        (KeyboardInterrupt(), 130, "stopped"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "torch is missing; pip install"),
        (MemoryError("Unable to allocate 120 TiB"), 2, "not enough memory; lower --batch-size"),
        (RuntimeError("can't allocate memory: you tried"), 2, "not enough memory; lower --batch-size"),
        (OSError(28, "No space left on device"), 2, "here: No space left on device; free some space"),
        (OSError(13, "Permission denied", "/x"), 2, "/x: Permission denied; check the path"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_a_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fit(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(fitting, "fit", fit)
    assert said in refused(capsys, "train", "--data", "x", "--out", "here", code=code)


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def fit(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(fitting, "fit", fit)
    with pytest.raises(RuntimeError, match="mat1"):
        run("train", "--data", "x")


# --- as a process of its own ---


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blemish.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})


def test_the_overview_and_a_typo_do_not_wait_for_torch():
    code = (
        "import sys; from blemish.cli.main import main; main(['--help']); main(['--version']); main(['x']);"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU OpenMP on Linux")
@pytest.mark.parametrize("asked", [None, "7"])
def test_waiting_threads_leave_the_core_to_others(
    asked: str | None, tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if asked is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", asked)
    out = tmp_path / "run"
    said = process("train", "--data", tiny_category, "--method", "pca", "--epochs", "0", "--out", out).stderr
    assert f"GOMP_SPINCOUNT = '{asked or '3000'}'" in said


def test_exit_codes_of_a_process(tiny_model: Path, tmp_path: Path):
    assert process("--version").returncode == 0
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    good = save(tmp_path / "good.png", tiny_image(7))
    done = process("predict", "--model", tiny_model, "--out", tmp_path / "p", good, bad)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"failed: {rows_of(tmp_path / 'p')[1]['error']}"]
    done = process("trian", "--data", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("blemish: trian: no such command")
    assert done.stderr.count("\n") == 1
