"""An exported model answers as the trained one does on real images, of every method and preset.

Noise is not enough: where a camera saturates, all training images are equal to the last bit, and a method may
take another library's rounding for a defect there.

Where there are no real data sets, generated images stand for them.

How each is trained, and what is left out: `tests/light_presets.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from light_presets import cases, check_answers, good_and_new, light
from parity import assert_same_answers
from PIL import Image

from blemish.export.onnx import export
from blemish.images import decode
from blemish.training import fit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_thread", "operators_read_once")]


@pytest.mark.parametrize(("method", "preset", "data"), cases(baselines=False))
def test_real_images_answer_alike(method: str, preset: str, data: str, any_data: Path, tmp_path: Path):
    check_answers(method, preset, data, any_data, tmp_path)


def written(image: np.ndarray, kind: str, path: Path) -> Path:
    """Write 8-bit RGB pixels (H, W, 3) as a file of another kind."""
    planes = {"planarconfig": "contig", "photometric": "minisblack"}
    if kind == "16-bit TIFF":
        tifffile.imwrite(path.with_suffix(".tif"), image.astype(np.uint16) * 257, photometric="rgb")
    elif kind == "float TIFF of 5 channels":
        five = image[..., [0, 1, 2, 1, 0]].astype(np.float32) / 255
        tifffile.imwrite(path.with_suffix(".tif"), five, **planes)
    elif kind == "RGBA PNG":
        opaque = np.full(image.shape[:2], 255, np.uint8)
        Image.fromarray(np.dstack([image, opaque])).save(path.with_suffix(".png"), compress_level=1)
    else:
        Image.fromarray(image[100:420, 50:650]).save(path.with_suffix(".png"), compress_level=1)
    return path


@pytest.mark.parametrize("kind", ["16-bit TIFF", "float TIFF of 5 channels", "RGBA PNG", "crop"])
def test_real_images_of_odd_kinds_answer_alike(kind: str, data_root: Path, tmp_path: Path):
    good, new = good_and_new(data_root, "bottle", tmp_path)
    for part, paths in (("odd", sorted(good.iterdir())), ("new", new)):
        (tmp_path / part).mkdir()
        for i, path in enumerate(paths):
            written(decode.read(path), kind, tmp_path / part / str(i))
    run = tmp_path / "run"
    fit.fit(tmp_path / "odd", method="pca", config=light("pca", "default"), out=run, device="cpu")
    export(run, tmp_path / "model.onnx")
    assert_same_answers(run, tmp_path / "model.onnx", sorted((tmp_path / "new").iterdir()))
