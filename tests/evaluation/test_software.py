"""What of an installation figures depend on: each file that makes them, and none that does not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from blemish.evaluation.software import FIGURES, PACKAGE, Code, code_of, software


@pytest.mark.parametrize(
    ("method", "file", "moves"),
    [
        *(("pca", file, True) for file in ("methods/baselines/pca.py", "methods/components/encoders.py")),
        *(("pca", file, True) for file in ("metrics/roc.py", "metrics/confidence.py", "core/types.py")),
        *(("pca", file, True) for file in ("training/fit.py", "training/trainer.py", "data/dataset.py")),
        *(("pca", file, True) for file in ("images/preprocess.py", "inference/calibration.py")),
        *(("pca", file, True) for file in ("evaluation/evaluate.py", "methods/__init__.py")),
        *(("pca", file, False) for file in ("methods/metal.py", "methods/baselines/kde.py")),
        *(("pca", file, False) for file in ("methods/cpc_ad.py", "report/evaluation.py", "cli/main.py")),
        *(("pca", file, False) for file in ("cli/commands/demo.py", "station/app.py", "__init__.py")),
        *(("metal", f"methods/{file}.py", moves) for file, moves in (("metal", True), ("cpc_ad", False))),
        *(("metal", f"methods/metal_{part}.py", True) for part in ("config", "encoders", "equations")),
        *(("cpc-ad", f"methods/cpc_ad_{part}.py", True) for part in ("config", "equations", "pairs")),
        *(("pca", f"methods/{file}.py", False) for file in ("metal_equations", "baselines/gan_networks")),
        *(("distaug", f"methods/baselines/{file}.py", True) for file in ("cutpaste", "cutpaste_backbones")),
        *(("filters", f"methods/density/{file}.py", True) for file in ("densities", "features")),
        *(("pca+kde", f"methods/{file}.py", True) for file in ("baselines/pca", "baselines/kde", "auto")),
        *(("pca+kde", f"methods/{file}.py", False) for file in ("metal", "baselines/variation")),
        *(("anomalib", file, True) for file in ("evaluation/anomalib.py",)),
        *(("anomalib", f"methods/{file}.py", False) for file in ("metal", "baselines/pca")),
    ],
)
def test_the_fingerprint_sees_the_code_that_makes_figures(monkeypatch, method: str, file: str, moves: bool):
    changed, read = PACKAGE / file, Path.read_bytes
    assert changed.is_file()
    before = code_of(method).fingerprint()
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"\n" if self == changed else b""))
    assert (code_of(method).fingerprint() != before) == moves


def test_the_rooms_of_the_fingerprint_exist():
    assert all((PACKAGE / room / "__init__.py").is_file() for room in FIGURES)


def test_the_code_of_another_machine_is_looked_for_without_torch(tmp_path: Path):
    """As a worker of a cluster does: it is told which files count, and says what it has of them."""
    (tmp_path / "code").write_bytes(pickle.dumps(code_of("metal")))
    program = (
        "import sys, pickle, pathlib, blemish.cluster.attempts as attempts\n"
        "print(attempts.software(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))['code'])\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "code")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said == [software(code_of("metal"))["code"], "False"]


def test_a_module_that_is_missing_is_another_code():
    code, without = Code(outside=("xml.dom.minidom",)), Code()
    assert code.fingerprint() != without.fingerprint()
    for missing in ("a_package_that_is_not_there", "a_package_that_is_not_there.module", "xml.nothing"):
        assert Code(outside=(missing,)).fingerprint() == without.fingerprint()
