"""The package as a user gets it: built, installed into an empty environment, and type-checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import blemish

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "blemish"

PROGRAM = '''
"""A user's program, in which a strict type checker knows every type."""

from pathlib import Path

import blemish
from blemish import Detector, Prediction, Region


def learn(folder: Path) -> Detector:
    detector: Detector = blemish.fit(folder, method=sorted(blemish.METHODS)[0], seed=1)
    return detector.at_rate(0.1)


def names(detector: Detector, images: list[Path]) -> list[str]:
    rejected: list[str] = []
    for answer in detector.predict_many(images):
        if isinstance(answer, blemish.ImageError):
            print(answer)
        elif answer.anomalous:
            rejected.append(answer.path or "")
    return rejected


def together(answers: list[Prediction]) -> float:
    return blemish.combine_p_values([answer.p_value for answer in answers], "smallest")


def worst(prediction: Prediction) -> Region | None:
    height, width = prediction.anomaly_map.shape
    print(f"{prediction.score:.3f} {prediction.p_value} on {width} x {height} pixels")
    return max(prediction.regions, key=lambda region: region.peak, default=None)


def main() -> int:
    try:
        detector = blemish.load("runs/part", false_alarm_rate=0.05)
        print(detector.threshold, worst(detector.predict("part.png")))
    except blemish.BlemishError as error:
        print(error)
        return 2
    return 0
'''


def run(*command: str | Path) -> str:
    """Run a command, which must succeed, and return what it printed."""
    done = tried(*command)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def tried(*command: str | Path) -> subprocess.CompletedProcess[str]:
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=without)


@dataclass(frozen=True)
class Built:
    """A built distribution and the environment that its wheel was installed into."""

    sdist: Path
    wheel: Path
    environment: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, the wheel made of it, and an environment with that wheel and the libraries of this one."""
    folder = tmp_path_factory.mktemp("package")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ROOT)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, *install, wheel)
    (site,) = environment.glob("lib/python*/site-packages")
    # a path in a .pth file is not searched for .pth files in turn: this environment's own blemish stays out
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    return Built(sdist, wheel, environment)


def source_files() -> set[str]:
    found = {file for file in SOURCE.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    return {file.relative_to(SOURCE.parent).as_posix() for file in found}


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(built: Built):
    with zipfile.ZipFile(built.wheel) as wheel:
        inside = {name for name in wheel.namelist() if name.startswith("blemish/")}
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        described = wheel.read(metadata).decode()
    assert inside == source_files()
    kinds = {Path(name).suffix for name in inside}
    assert {".py", ".js", ".css", ".html", ".svg", ".j2", ".csv"} <= kinds
    assert "blemish/py.typed" in inside
    assert "Project-URL: " in described


@pytest.mark.slow
def test_sdist_holds_what_a_stranger_needs_to_go_on(built: Built):
    with tarfile.open(built.sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {f"src/{name}" for name in source_files()} <= inside
    for file in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt"):
        assert file in inside
    for folder in ("docs", "examples", "tests"):
        kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
        assert kept <= inside


@pytest.mark.slow
def test_installed_package_runs_and_is_the_installed_one(built: Built, tmp_path: Path):
    overview = run(built.environment / "bin" / "blemish", "--help")
    assert overview.startswith("usage: blemish COMMAND")
    for command in ("train", "serve", "predict"):
        run(built.environment / "bin" / "blemish", command, "--help")
    asked = """
import json, sys
from importlib import resources
import blemish
from blemish.evaluation import published
from blemish.record.database import open_database
from pathlib import Path
engine = open_database(None, Path(sys.argv[1]))
engine.dispose()
files = resources.files("blemish")
web = sorted(f.name for f in (files / "station" / "web").iterdir())
templates = sorted(f.name for f in (files / "report" / "templates").iterdir())
print(json.dumps({"file": blemish.__file__, "methods": sorted(blemish.METHODS), "web": web,
                  "templates": templates, "typed": (files / "py.typed").is_file(),
                  "tables": len(list((files / "evaluation" / "published_tables").iterdir()))}))
"""
    said = json.loads(run(built.python, "-c", asked, tmp_path))
    assert Path(said["file"]).is_relative_to(built.environment)
    assert {"metal", "cpc-ad", "pca"} <= set(said["methods"])
    assert {"index.html", "station.css"} <= set(said["web"])
    assert "report.html.j2" in said["templates"]
    assert said["typed"]
    assert said["tables"] == len(list((SOURCE / "evaluation" / "published_tables").iterdir()))


WRONG = 'import blemish\n\nblemish.fit("photos").predict("part.png").score.upper()\n'


@pytest.fixture(scope="module")
def faults(built: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a strict type checker says of a program that is right and of one that is not: rules, by file."""
    folder = tmp_path_factory.mktemp("checked")
    texts = {"program.py": PROGRAM, "wrong.py": WRONG}
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "include": list(texts)})
    )
    done = tried(sys.executable, "-m", "pyright", "-p", folder, "--pythonpath", built.python, "--outputjson")
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] == 2
    found: dict[str, list[str]] = {name: [] for name in texts}
    for fault in said["generalDiagnostics"]:
        found[Path(fault["file"]).name].append(fault.get("rule", fault["message"]))
    return found


@pytest.mark.slow
def test_strict_type_checker_understands_a_users_program(faults: dict[str, list[str]]):
    assert faults["program.py"] == []


@pytest.mark.slow
def test_strict_type_checker_sees_a_wrong_program(faults: dict[str, list[str]]):
    assert "reportAttributeAccessIssue" in faults["wrong.py"]


def test_public_names_are_there_and_listed():
    for name in blemish.__all__:
        assert getattr(blemish, name) is not None
    assert set(blemish.__all__) <= set(dir(blemish))
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        blemish.Detektor  # type: ignore[attr-defined]
