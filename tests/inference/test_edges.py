"""What only a corner of the inference path shows: a backend's own scores, counts that add up, line ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import save
from fakes import fake_detector, grey, with_options
from onnx import TensorProto

from blemish.core.errors import ImageError
from blemish.inference.backend import Output
from blemish.inference.inputs import find_inputs
from blemish.inference.onnx_backend import PORTION, attach, portion_of
from blemish.inference.predict_folder import predict_to_folder
from blemish.inference.prediction_counts import MAX_ERRORS_KEPT, PredictionCounts


class OwnScores:
    """Maps are the mean of the channels; scores are 10, 11, 12, ... whatever the map shows."""

    def run(self, images: np.ndarray) -> Output:
        return Output(images.mean(axis=1), np.arange(10, 10 + len(images)))


def test_a_backends_own_scores_come_before_those_of_its_maps(tmp_path: Path):
    detector = replace(fake_detector(grey_levels=(255, 0)), backend=OwnScores())
    paths = [grey(tmp_path / f"{i}.png", 100 + i) for i in range(3)]
    found = [p for p in detector.predict_many(paths) if not isinstance(p, ImageError)]
    assert [p.score for p in found] == [10, 11, 12]
    assert [float(p.anomaly_map.max()) for p in found] == pytest.approx([100 / 255, 101 / 255, 102 / 255])
    assert all(p.anomalous for p in found)  # the threshold is 1


def test_a_prediction_has_the_map_at_the_models_resolution_too():
    image = np.zeros((40, 64, 3), np.uint8)
    image[:20] = 255
    found = fake_detector().predict(image)
    assert found.coarse_map is not None
    assert found.coarse_map.shape == (32, 32)
    assert found.anomaly_map.shape == (40, 64)
    assert (found.coarse_map[0].max(), found.coarse_map[-1].max()) == (1, 0)


def test_a_tile_that_cannot_be_used_names_its_image(tmp_path: Path):
    tiled = with_options(fake_detector(), tile_size=32)
    path = save(tmp_path / "grey.png", np.zeros((64, 64), np.uint8))  # one channel, where three are taken
    (found,) = tiled.predict_many([path])
    assert isinstance(found, ImageError)
    assert str(found).startswith(f"{path}: has 1 channels")


@pytest.mark.parametrize("portion", [None, 1, 16])
def test_a_graph_keeps_how_many_images_it_is_given_at_a_time(portion: int | None):
    x, y = (onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y"))
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))
    attach(graph, fake_detector(grey_levels=(1, 2)).model_file, portion=portion)
    assert portion_of(graph) == portion
    keys = [entry.key for entry in graph.metadata_props]
    assert (PORTION in keys) == (portion is not None)


def test_counts_add_up_and_keep_the_first_errors():
    none = PredictionCounts()
    assert (none.scored, none.anomalous, none.failed, none.errors) == (0, 0, 0, [])
    first = PredictionCounts(scored=5, anomalous=2, failed=3, errors=["a", "b", "c"])
    second = PredictionCounts(scored=70, anomalous=40, failed=30, errors=[f"e{i}" for i in range(30)])
    both = first + second
    assert (both.scored, both.anomalous, both.failed) == (75, 42, 33)
    assert both.errors == ["a", "b", "c", *second.errors][:MAX_ERRORS_KEPT]
    assert first + none == first


def test_rows_end_with_a_line_feed_alone(tmp_path: Path):
    inputs = find_inputs([str(grey(tmp_path / "a.png", 9))])
    predict_to_folder(fake_detector(), inputs, tmp_path / "out")
    for name in ("predictions.csv", "predictions.jsonl"):
        data = (tmp_path / "out" / name).read_bytes()
        assert data.endswith(b"\n")
        assert b"\r" not in data


def test_a_film_keeps_its_suffix_beside_a_folder_of_its_name(tmp_path: Path):
    film = tmp_path / "line" / "part.avi"
    picture = grey(tmp_path / "line" / "part" / "1.png", 9)
    film.write_bytes(b"a film is not opened here")
    alone = grey(tmp_path / "line" / "other.png", 9)
    places = dict(find_inputs([str(film), str(picture), str(alone)]))
    assert places[film] == Path("part.avi")  # its frames would lie in part/, as the picture does
    assert places[picture] == Path("part/1")
    assert places[alone] == Path("other")
    assert dict(find_inputs([str(film), str(alone)]))[film] == Path("part")
