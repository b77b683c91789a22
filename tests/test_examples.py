"""Each example runs as its first lines say, and finds what it was made to find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from warm import Warm, script

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def run(name: str, folder: Path) -> str:
    """Run an example from another folder, and return what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert not list(folder.iterdir())  # nothing is left behind
    return done.stdout


def forked(name: str, folder: Path) -> str:
    """Run an example in the same way, by a process that has imported what it needs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    said = folder.with_name(f"{folder.name}-said")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        process = Warm(script, EXAMPLES / name, out=said, env=environment)
    assert process.wait() == 0, said.read_text()
    assert not list(folder.iterdir())  # nothing is left behind
    return said.read_text()


def counted(said: str) -> tuple[int, int]:
    """The good and the defective parts that were rejected, from the line that says so."""
    line = re.search(r"Rejected: (\d+) of \d+ good \w+, (\d+) of \d+", said)
    assert line, said
    return int(line[1]), int(line[2])


def test_folder_of_photos(tmp_path: Path):
    good, defective = counted(forked("folder_of_photos.py", tmp_path))
    assert good <= 2
    assert defective == 4


def test_multichannel_tiff(tmp_path: Path):
    said = forked("multichannel_tiff.py", tmp_path)
    good, stained = counted(said)
    assert good <= 1
    assert stained == 5
    assert "8-channel uint16 [0, 4095]" in said
    assert "is uint8, but the model takes" in said


@pytest.mark.slow
def test_http_client(tmp_path: Path):
    pytest.importorskip("fastapi", reason="the station's packages are not installed")
    said = run("http_client.py", tmp_path)
    assert len(re.findall(r"disc-\d: (accepted|rejected), p-value [01]\.\d+", said)) == 6
    assert re.search(r"lists [3-6] rejected parts", said)
    assert "verdict defect" in said


def test_every_example_is_tested_and_says_how_it_is_run():
    tested = set(re.findall(r'(?:run|forked)\("(\w+\.py)"', Path(__file__).read_text()))
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    assert examples == tested
    for name in examples:
        assert f"python examples/{name}" in (EXAMPLES / name).read_text()
