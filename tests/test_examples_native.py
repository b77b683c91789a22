"""The examples in C++ and C# name what an exported file holds; the first is compiled and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import tiny_defect, tiny_image
from PIL import Image

from blemish.inference import model_file, onnx_backend
from blemish.inference.load import load

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CPP, CSHARP = EXAMPLES / "run_model.cpp", EXAMPLES / "RunModel.cs"
HEADER = "onnxruntime_cxx_api.h"
STAND_IN = Path(__file__).resolve().parent / "native"


@pytest.mark.parametrize("example", [CPP, CSHARP], ids=["C++", "C#"])
def test_they_name_what_the_file_holds(example: Path):
    said = set(re.findall(r'"([a-z_.]+)"', example.read_text()))
    names = {onnx_backend.DESCRIPTION, onnx_backend.CALIBRATION, onnx_backend.INPUT, onnx_backend.OUTPUT}
    assert names | {model_file._SCORES, "size", "value_range"} <= said


def include_folder() -> Path:
    """Where the header lies: below the folder named by ORT, the system's, or else what stands in for it."""
    roots = [Path(os.environ["ORT"])] if "ORT" in os.environ else []
    roots += [Path("/usr/include/onnxruntime"), Path("/usr/local/include")]
    return next((file.parent for root in roots for file in sorted(root.rglob(HEADER))), STAND_IN)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled example, with the library of the installed package; skipped where a part is missing."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    for part, found in (("a C++ compiler", compiler), ("libonnxruntime.so", libraries)):
        if not found:
            pytest.skip(f"{part} is not here")
    out = tmp_path_factory.mktemp("native")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # what is linked, and what is looked for later
        (out / name).symlink_to(libraries[0])
    options = ["-std=c++17", "-Wall", "-Werror", "-I", str(include_folder()), f"-L{out}", f"-Wl,-rpath,{out}"]
    command = [str(compiler), str(CPP), *options, "-lonnxruntime", "-o", str(out / "run_model")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "run_model"


@pytest.mark.slow
def test_the_program_in_cpp_judges_as_blemish_does(program: Path, pca_onnx: Path, tmp_path: Path):
    detector = load(pca_onnx, false_alarm_rate=0.05)
    for image in (tiny_image(900), tiny_defect("hole", 0)[0]):
        small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
        Image.fromarray(small).save(tmp_path / "part.ppm")
        done = subprocess.run([program, pca_onnx, tmp_path / "part.ppm"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = re.fullmatch(r"score (\S+), p-value (\S+): (accepted|rejected) at 5 %\n", done.stdout)
        assert told, done.stdout
        expected = detector.predict(small)
        assert float(told[1]) == pytest.approx(expected.score, rel=1e-4)
        assert float(told[2]) == pytest.approx(expected.p_value, rel=1e-5)
        assert (told[3] == "rejected") == expected.anomalous
    onnx = pytest.importorskip("onnx")
    model = onnx.load(pca_onnx)
    for entry in model.metadata_props:
        if entry.key == onnx_backend.DESCRIPTION:
            entry.value = json.dumps(json.loads(entry.value) | {"counting": {"min_area": 9.0}})
    onnx.save(model, tmp_path / "sized.onnx")
    refused = subprocess.run(
        [program, tmp_path / "sized.onnx", tmp_path / "part.ppm"], capture_output=True, text=True
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "without sizes, regions of interest and products" in refused.stderr
    refused = subprocess.run([program, pca_onnx, CPP], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "must be a PPM or PGM" in refused.stderr
