"""A method of another package, as the page on adding one shows it: trained, asked, exported, benchmarked."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from blemish.evaluation.software import code_of
from blemish.methods import registry
from blemish.methods.registry import METHODS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-a-method.md"
COMMANDS = """
import sys
from blemish.cli.main import main

data, out = sys.argv[1:]
commands = (
    ("train", "--data", data, "--method", "mean-image", "--image-size", "32", "--out", f"{out}/run"),
    ("predict", "--model", f"{out}/run", "--out", f"{out}/predictions", f"{data}/test"),
    ("export", "--model", f"{out}/run", "--out", f"{out}/model.onnx"),
    ("predict", "--model", f"{out}/model.onnx", "--out", f"{out}/exported", f"{data}/test"),
    ("bench", "--data", data, "--methods", "mean-image", "--out", f"{out}/bench"),
)
for command in commands:
    code = main(list(command))
    assert code == 0, (command, code)
"""
REFUSED = """
import sys
from blemish.cli.main import main

for method in ("mean-image", "pca"):
    code = main(["train", "--data", sys.argv[1], "--method", method])
    assert code == 2, (method, code)
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process where a package with the page's method is installed."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (entry,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S)
    site = tmp_path / "site"
    about = site / "my_package-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    name, value = re.findall(r'^([\w-]+) = "([\w.:]+)"$', entry, re.M)[0]
    (about / "entry_points.txt").write_text(f"[blemish.methods]\n{name} = {value}\n")
    module = site / (value.partition(":")[0].replace(".", "/") + ".py")
    module.parent.mkdir()
    module.write_text(code)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def rows(file: Path) -> dict[str, float]:
    found = (json.loads(line) for line in file.read_text().splitlines())
    return {row["path"]: row["score"] for row in found}


@pytest.mark.slow
def test_another_packages_method_does_all_that_ours_do(
    installed: dict[str, str], tiny_category: Path, tmp_path: Path
):
    command = [sys.executable, "-c", COMMANDS, str(tiny_category), str(tmp_path)]
    ran = subprocess.run(command, env=installed, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    ours, exported = (rows(tmp_path / n / "predictions.jsonl") for n in ("predictions", "exported"))
    assert ours == pytest.approx(exported, rel=1e-4)
    assert len(ours) == len(list((tiny_category / "test").rglob("*.png")))
    cells = json.loads((tmp_path / "bench" / "results.json").read_text())["cells"]
    assert [cell["method"] for cell in cells] == ["mean-image"]
    assert all(0 <= cell["evaluation"]["image_auroc"] <= 1 for cell in cells)


@pytest.fixture
def module(installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's file, while its method is registered in this process."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    kind = registry.load_installed()[0]["mean-image"]
    monkeypatch.setitem(METHODS, "mean-image", kind)
    yield Path(inspect.getfile(kind))
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_a_bench_sees_that_an_outside_method_has_changed(module: Path):
    def digests() -> list[str]:
        return [code_of(method).fingerprint() for method in ("mean-image", "pca")]

    before = digests()
    module.write_text(module.read_text() + "\n# another version\n")
    after = digests()
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.slow
def test_a_package_that_cannot_be_loaded_is_named_in_one_line(installed: dict[str, str], tmp_path: Path):
    (module,) = (tmp_path / "site" / "my_package").glob("*.py")
    module.write_text("import a_package_that_is_not_there\n")
    ran = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path / "good")], env=installed, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    outside, ours = ran.stderr.splitlines()
    assert "--method mean-image: " in outside
    assert "a_package_that_is_not_there" in outside
    assert "--method mean-image: " not in ours  # others go on
    assert f"{tmp_path / 'good'}: no such file or folder" in ours


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("mean-image", RuntimeError("broken\nby itself"), "cannot be loaded (broken by itself)"),
        ("mean-image", int, "is no subclass of Method"),
        ("mean+image", METHODS["pca"], "its name holds a plus or a colon"),
    ],
)
def test_what_another_package_brings_is_refused_when_it_is_asked_for(
    name: str, kind: object, why: str, monkeypatch: pytest.MonkeyPatch
):
    def load() -> object:
        if isinstance(kind, Exception):
            raise kind
        return kind

    entry = SimpleNamespace(name=name, value="my_package:MeanImage", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    found, broken = registry.load_installed()
    assert not found
    assert why in broken[name]
