"""A detector in another process: pickled, copied, sent to workers."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_image

from blemish.core.errors import ModelError
from blemish.inference import load
from blemish.inference.detector import Detector


@pytest.fixture(params=["trained", "exported"])
def detector(request: pytest.FixtureRequest, tiny_model: Path, tiny_onnx: Path) -> Detector:
    return load.load({"trained": tiny_model, "exported": tiny_onnx}[request.param])


def test_a_pickled_detector_says_the_same(detector: Detector, tiny_category: Path):
    image = next((tiny_category / "test" / "hole").iterdir())
    said = detector.predict(image)
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        once = pickle.loads(pickle.dumps(detector, protocol))  # noqa: S301  its own
        for other in (once, pickle.loads(pickle.dumps(once)), copy.deepcopy(detector)):  # noqa: S301
            again = other.predict(image)
            assert again.shared_fields() == said.shared_fields()
            np.testing.assert_array_equal(again.anomaly_map, said.anomaly_map)
            assert (other.threshold, other.rate, other.batch_size) == (said.threshold, detector.rate, 16)
            assert other.at_rate(0.5).threshold == detector.at_rate(0.5).threshold


def test_workers_of_multiprocessing_take_it(tiny_onnx: Path):
    detector = load.load(tiny_onnx, threads=1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        scores = [p.score for p in pool.map(detector.predict, [tiny_image(1), tiny_image(2)])]
    assert scores == [detector.predict(tiny_image(i)).score for i in (1, 2)]


def test_a_file_that_has_changed_is_not_pickled_in_its_place(tiny_onnx: Path, tmp_path: Path):
    file = tmp_path / "m.onnx"
    shutil.copy(tiny_onnx, file)
    detector = load.load(file)
    copied = pickle.loads(pickle.dumps(detector))  # noqa: S301
    file.write_bytes(b"another")
    with pytest.raises(ModelError, match=r"m\.onnx: has changed since it was loaded; load the model again"):
        pickle.dumps(detector)
    file.unlink()
    with pytest.raises(ModelError, match=r"m\.onnx: cannot be read any more .*; load the model again"):
        pickle.dumps(detector)
    assert pickle.dumps(copied)  # it holds the bytes itself
