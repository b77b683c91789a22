"""What holds for the whole package: help is instant, inference needs no torch, the paper map is true."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "blemish"

HEAVY = {"torch", "accelerate", "scipy", "matplotlib", "jinja2", "tifffile", "safetensors"}


def name_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "blemish"


MODULES = {name_of(file): file for file in sorted(SOURCE.rglob("*.py"))}


def loaded_by(*command: str) -> set[str]:
    """Top-level packages that a Python command imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
    )
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}


def test_importing_blemish_and_help_are_light():
    for command in (("-c", "import blemish"), ("-m", "blemish.cli", "--help")):
        loaded = loaded_by(*command)
        assert "blemish" in loaded
        assert not loaded & (HEAVY | {"PIL", "rich", "cyclopts"})


def test_inference_around_the_network_needs_no_torch():
    loaded = loaded_by(
        "-c",
        "from blemish.inference import detector, model_file, predict_folder\n"
        "from blemish.evaluation import evaluate\n"
        "from blemish.data import dataset\n"
        "from blemish.metrics import roc",
    )
    assert "numpy" in loaded
    assert not loaded & {"torch", "accelerate", "matplotlib"}


def test_nothing_is_left_to_do():
    for file in (*SOURCE.rglob("*.py"), *SOURCE.rglob("*.j2")):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", file.read_text()), file


def paper_map() -> list[tuple[str, str]]:
    """(dotted name, test) of each row of the map that names both."""
    row = re.compile(r"^\|.*\| *`(blemish\.[\w.]+)` *\| *`(tests/[\w/]+\.py(?:::\w+)?)` *\|$")
    found = map(row.match, (ROOT / "docs" / "paper_map.md").read_text().splitlines())
    return [match.groups() for match in found if match]


def resolve(dotted: str) -> object:
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        if ".".join(parts[1:cut]) in MODULES:
            found: object = importlib.import_module(".".join(parts[:cut]))
            for attribute in parts[cut:]:
                found = getattr(found, attribute)
            return found
    raise AttributeError(dotted)


def functions_in(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_paper_map_is_true():
    rows = paper_map()
    assert sum("::" in test for _, test in rows) >= 6
    functions_of = functools.cache(functions_in)
    for dotted, test in rows:
        assert callable(resolve(dotted)), dotted
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), test
        if name:
            assert name in functions_of(ROOT / file), test
