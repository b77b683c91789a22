"""The adapter for scikit-learn: its own checks, and that it says what the detector says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save, tiny_defect, tiny_image
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from blemish.methods.baselines.pca import PcaConfig
from blemish.sklearn import BlemishDetector

SMALL = PcaConfig(image_size=16, components=1, smoothing=0.0, calibration_fraction=0.3)

FEW = PcaConfig(image_size=32, components=2)


def table_detector() -> BlemishDetector:
    return BlemishDetector(method="pca", config=SMALL, image_shape="square", device="cpu")


def images(n: int) -> np.ndarray:
    return np.stack([tiny_image(i) for i in range(n)])


@pytest.fixture(scope="module")
def fitted() -> BlemishDetector:
    return BlemishDetector(method="pca", config=FEW, device="cpu").fit(images(20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(table_detector())),
    ids=lambda x: x.func.__name__ if hasattr(x, "func") else "",
)
def test_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]):
    check(estimator)


def test_images_are_judged_as_by_the_detector(fitted: BlemishDetector):
    others = np.stack([*images(3), *(tiny_defect("hole", i)[0] for i in range(3))])
    scores = fitted.score_samples(others)
    told = [fitted.detector_.predict(image) for image in others]
    np.testing.assert_allclose(scores, [-each.score for each in told], rtol=1e-4)
    np.testing.assert_array_equal(fitted.predict(others) == -1, [each.anomalous for each in told])
    np.testing.assert_array_equal(fitted.decision_function(others), scores - fitted.offset_)
    assert fitted.predict(others).tolist()[3:] == [-1, -1, -1]


def test_a_copy_in_a_pickle_says_the_same(fitted: BlemishDetector):
    copy = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    np.testing.assert_array_equal(copy.score_samples(images(2)), fitted.score_samples(images(2)))
    assert not hasattr(clone(fitted), "detector_")


def test_paths_and_arrays_and_flat_images_are_the_same_images(fitted: BlemishDetector, tmp_path: Path):
    paths = [save(tmp_path / f"{i:02d}.png", tiny_image(i)) for i in range(20)]
    by_path = clone(fitted).fit([*paths[:10], *map(str, paths[10:])])
    np.testing.assert_allclose(by_path.score_samples(images(4)), fitted.score_samples(images(4)), rtol=1e-5)
    flat = clone(fitted).set_params(image_shape=(64, 64, 3), value_range=(0.0, 255.0))
    rows = images(20).reshape(20, -1)
    np.testing.assert_allclose(
        flat.fit(rows).score_samples(rows[:4]), fitted.score_samples(images(4)), rtol=1e-4
    )


def test_what_it_cannot_take_is_a_value_error(fitted: BlemishDetector, tmp_path: Path):
    wrong = (
        (images(2), "2 images: at least 3"),
        (images(5).astype(np.float64), "float64 values are not read"),
        ([tmp_path / "gone.png"] * 4, "gone.png"),
    )
    for given, said in wrong:
        with pytest.raises(ValueError, match=said):
            clone(fitted).fit(given)
    with pytest.raises(ValueError, match="has 1 channels"):
        fitted.predict(images(2)[..., :1])
    with pytest.raises(ValueError, match=r"image_shape \(8, 8\): has 64 values, and X has 5 columns"):
        clone(fitted).set_params(image_shape=(8, 8)).fit(np.zeros((9, 5)))
    with pytest.raises(ValueError, match="without a threshold"):
        clone(fitted).set_params(config=PcaConfig(image_size=32, calibration_fraction=0.0)).fit(images(5))
