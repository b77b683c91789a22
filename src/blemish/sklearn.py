"""A detector as scikit-learn's outlier detectors are: `fit`, `score_samples`, `decision_function`, `predict`.

    from blemish.sklearn import BlemishDetector
    found = BlemishDetector(method="pca").fit(images).predict(others)  # 1: accepted, -1: rejected

It needs `blemish[sklearn]`. What it refuses is a ValueError of one line, as scikit-learn has it.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tifffile

from blemish.core.errors import BlemishError
from blemish.core.types import MIN_SIDE, Sample
from blemish.data.dataset import Dataset
from blemish.images.decode import as_image

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("blemish.sklearn: scikit-learn is missing; pip install 'blemish[sklearn]'") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blemish.inference.detector import Detector
    from blemish.methods.config import DetectorConfig

FEWEST = 3
"""The fewest images to fit: two to learn from, one to calibrate on."""


class BlemishDetector(OutlierMixin, BaseEstimator):
    """Learns what good images look like, and rejects others at a false-alarm rate that it promises.

    Args:
        method: a name in METHODS. filters learn in seconds; auto chooses, in minutes.
        preset: a preset of the method.
        config: the method's options; None: the preset's.
        image_shape: None: X holds images, an array (n, H, W) or (n, H, W, C) or a list of arrays, paths or
            both. (H, W) or (H, W, C): X is a table, each row an image of this shape, flattened. "square": X
            is any table; its rows are drawn as the smallest square, a block of pixels for each value.
        value_range: the values of float images that mean 0 and 1; None: 0 and 1, and for a table the lowest
            and the highest value of the fit.
        false_alarm_rate: share of good images that may be rejected, in (0, 1); None: 5 %, or the lowest that
            the held-out images can promise.
        random_state: fixes the split, the first weights and the order of images.
        device: auto, cpu or cuda.

    Attributes:
        detector_: what `blemish.fit` returns; its `predict` has the maps, regions and p-values.
        offset_: `decision_function` is `score_samples` less this.
        n_features_in_: the columns of a table.

    Each method raises ValueError for input that it cannot take.
    """

    def __init__(
        self,
        method: str = "filters",
        *,
        preset: str = "default",
        config: DetectorConfig | None = None,
        image_shape: tuple[int, ...] | Literal["square"] | None = None,
        value_range: tuple[float, float] | None = None,
        false_alarm_rate: float | None = None,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.preset = preset
        self.config = config
        self.image_shape = image_shape
        self.value_range = value_range
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: object = None) -> BlemishDetector:
        """Learn from good images; `y` is not looked at."""
        from blemish.training.fit import fit
        from blemish.training.images import ImageOptions

        images = self._images(X, reset=True)
        with _as_value_errors(), TemporaryDirectory(prefix="blemish-") as folder:
            detector = fit(
                _dataset_of(images, Path(folder)),
                method=self.method,
                preset=self.preset,
                config=self.config,
                seed=self.random_state,
                device=self.device,
                image_options=ImageOptions(value_range=self._range_of(images)),
            )
            # one image at a time: its last bits do not depend on those beside it
            self.detector_: Detector = replace(detector, false_alarm_rate=self.false_alarm_rate, batch_size=1)
        threshold = self.detector_.threshold
        if threshold is None:
            raise ValueError("calibration_fraction 0: without a threshold nothing is decided; give it more")
        self.offset_ = -threshold
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Return how normal each image is, float64 (n,): the score with its sign turned, unbounded."""
        check_is_fitted(self, "detector_")
        images = self._images(X, reset=False)
        scores = np.empty(len(images))
        with _as_value_errors():
            for number, found in enumerate(self.detector_.predict_many(images)):
                if isinstance(found, BlemishError):
                    raise found
                scores[number] = -found.score
        return scores

    def decision_function(self, X: Any) -> np.ndarray:
        """Return `score_samples` less `offset_`, float64 (n,): below 0 is rejected."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 for each image that is accepted and -1 for one that is rejected, int64 (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _images(self, X: Any, *, reset: bool) -> list[Any]:
        """Return images as `Detector.predict` takes them; `reset` remembers the columns of a table."""
        if self.image_shape is None:
            images = list(X)
            if reset and len(images) < FEWEST:
                raise ValueError(f"{len(images)} images: at least {FEWEST} are needed; give more")
            return images
        found = validate_data(
            self,
            X,
            reset=reset,
            dtype=np.float32,
            ensure_min_samples=FEWEST if reset else 1,
            ensure_min_features=2 if reset else 1,  # an image of one value has no contrast
        )
        table = np.asarray(found)
        if self.image_shape == "square":
            return list(_drawn(table))
        if math.prod(self.image_shape) != table.shape[1]:
            raise ValueError(
                f"image_shape {self.image_shape}: has {math.prod(self.image_shape)} values, and X has "
                f"{table.shape[1]} columns; give the shape of its images"
            )
        return list(table.reshape(-1, *self.image_shape))

    def _range_of(self, images: Sequence[Any]) -> tuple[float, float] | None:
        """Return the values that mean 0 and 1, where they are not the format's own."""
        if self.value_range is not None or self.image_shape is None:
            return self.value_range
        low, high = (float(function([function(image) for image in images])) for function in (np.min, np.max))
        return low, high if low < high else low + 1

    def __sklearn_tags__(self) -> Any:
        """Say what X may be: a table where the rows' shape is given, else images."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = self.image_shape is None
        return tags


def _drawn(table: np.ndarray) -> np.ndarray:
    """Draw each row (n, d) as a square of blocks, (n, side, side), at least `MIN_SIDE` pixels wide."""
    n, d = table.shape
    cells = math.isqrt(d - 1) + 1
    whole = np.zeros((n, cells * cells), np.float32)
    whole[:, :d] = table
    block = -(-MIN_SIDE // cells)
    return whole.reshape(n, cells, cells).repeat(block, axis=1).repeat(block, axis=2)


def _dataset_of(images: Sequence[Any], folder: Path) -> Dataset:
    """Make a data set of good images; those that are no files are written into the folder."""
    paths = []
    for number, image in enumerate(images):
        if isinstance(image, str | Path):
            paths.append(Path(image))
            continue
        path, array = folder / f"{number:08d}.tiff", as_image(image)
        one = array.shape[2] == 1
        tifffile.imwrite(
            path,
            array[..., 0] if one else array,
            photometric="minisblack",
            planarconfig=None if one else "contig",  # channels of one page, not pages
            metadata=None,
        )
        paths.append(path)
    train = [Sample(path=path, split="train") for path in paths]
    return Dataset(name="images", root=folder, train=train, calibration=[], test=[], has_masks=False)


@contextmanager
def _as_value_errors() -> Iterator[None]:
    """Turn what blemish refuses into what scikit-learn's users catch."""
    try:
        yield
    except BlemishError as error:
        raise ValueError(str(error)) from error
