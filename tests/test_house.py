"""The rules of the house: imports point one way, help is instant, the map of the papers is true."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "blemish"

LAYERS = [
    {"types"},
    {"pixels"},
    {"decoding", "_tiff"},
    {"images"},
    {"drawing", "tiles", "video"},
    {"manifest", "scoring", "calibration", "metrics", "published", "synthetic", "_disc"},
    {"uncertainty"},
    {"layout"},
    {"data"},
    {
        "methods.layers",
        "methods.encoders",
        "methods.sharing",
        "methods.baselines.autoencoder",
        "methods.baselines.pasting",
        "methods.baselines.trunks",
    },
    {"methods.baselines"},
    {
        "methods.metal",
        "methods.cpc_ad",
        "methods.baselines.pca",
        "methods.baselines.cutpaste",
        "methods.baselines.kde",
        "methods.baselines.variation",
        "methods.baselines.texture_inspection",
        "methods.baselines.ae_l2",
        "methods.baselines.ae_ssim",
    },
    {"methods"},
    {"loading", "training", "bundle"},
    {"pipeline"},
    {"page"},
    {"report", "_report_charts"},
    {"networks", "predicting", "runtime"},
    {"fitting"},
    {"opening", "export"},
    {"cluster"},
    {"cluster.stores"},
    {"cluster.sources"},
    {"cluster.worker"},
    {"cluster.scoring"},
    {"quantising"},
    {"station.drift"},
    {"station", "station.records", "station.migrations.env", "station.migrations.versions.v0001"},
    {"station.tables", "station.database", "station.exporting", "station.trends", "station.archive"},
    {"station.store"},
    {"station.retention", "station.keeping"},
    {"watching", "hooks", "grabbing"},
    {"evaluate"},
    {"blemish", "arguments"},
    {"station.engine", "station.pictures", "station.versions", "station.trainings", "station.training"},
    {"station.recalibration"},
    {"station.running"},
    {"station.security", "station.metering", "station.answers"},
    {"station.routing"},
    {"station.modelling", "station.inspecting"},
    {"station.service"},
    {"peer", "comparison"},
    {"jobs"},
    {"benchmark"},
    {"benchmark_page"},
    {"cluster.attempts"},
    {"cluster.cells"},
    {"terminal"},
    {"commands", "commands.jobs"},
    {*(f"commands.{name}" for name in ("train", "evaluate", "predict", "watch", "serve", "token", "export"))},
    {"commands.bench", "commands.compare", "commands.demo"},
    {"cli"},
]
"""A module imports from lower layers only. Within one, a module and its private half see each other."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "accelerate", "scipy", "matplotlib", "jinja2", "tifffile", "safetensors"}


def name_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "blemish"


MODULES = {name_of(file): file for file in sorted(SOURCE.rglob("*.py"))}


def imports_of(file: Path) -> set[str]:
    """The modules of blemish that a file imports, anywhere in it, for types only or not."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            whole = [f"{module}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix("blemish.") in MODULES else module for n in whole]
        else:
            continue
        found |= {n.removeprefix("blemish.") for n in names if n.split(".")[0] == "blemish"}
    return found


def test_every_module_has_its_layer():
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    for other in imports_of(MODULES[name]):
        private = name.startswith("_") or other.startswith("_")
        below = LEVEL[other] < LEVEL[name] or (private and LEVEL[other] == LEVEL[name])
        assert below, f"{name} imports {other}"


def test_the_import_rule_sees_every_kind_of_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "import blemish.data\nfrom blemish import images, fit\nfrom blemish.types import Sample\nimport os\n"
        "def f():\n    from blemish.methods import metal\n"
    )
    assert imports_of(file) == {"data", "images", "blemish", "types", "methods.metal"}


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
        assert not loaded & (HEAVY | {"PIL", "rich", "tyro"})


def test_inference_around_the_network_needs_no_torch():
    loaded = loaded_by("-c", "from blemish import pipeline, bundle, predicting, evaluate, data, metrics")
    assert "numpy" in loaded
    assert not loaded & {"torch", "accelerate", "matplotlib"}


def test_nothing_is_left_to_do():
    for file in (*SOURCE.rglob("*.py"), *SOURCE.rglob("*.j2")):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", file.read_text()), file


def paper_map() -> list[tuple[str, str]]:
    """(dotted name, test) of each row of the map that names both."""
    row = re.compile(r"^\|.*\| *`(blemish\.[\w.]+)` *\| *`(tests/\w+\.py(?:::\w+)?)` *\|$")
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


def test_paper_map_is_true():
    rows = paper_map()
    assert sum("::" in test for _, test in rows) >= 6
    for dotted, test in rows:
        assert callable(resolve(dotted)), dotted
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), test
        if name:
            defined = {
                n.name for n in ast.parse((ROOT / file).read_text()).body if isinstance(n, ast.FunctionDef)
            }
            assert name in defined, test
