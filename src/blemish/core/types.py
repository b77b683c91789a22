"""The words every room shares: samples, predictions, regions and tilings."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Decision = Literal["accepted", "rejected", "unjudged", "failed", "review"]  # a new one goes to the end:
# what is kept of old rows has them by their places
"""What the machine decides of a part. `review`: a person is to look at it; `unjudged`: nothing was
calibrated; `failed`: the image cannot be used."""

MIN_SIDE = 16
"""The shortest side in pixels. Our choice: below it there is no patch with surroundings to learn from."""

GOOD = "good"
"""The label of an image without any defect, as in the MVTec layout."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a data set.

    `label` is `GOOD` or the name of a defect. `mask` is the ground truth of a defective image, or
    None when there is none (good images, and data sets without ground truth).
    """

    path: Path
    split: Literal["train", "calibration", "test"]
    label: str = GOOD
    mask: Path | None = None
    more_masks: tuple[Path, ...] = ()
    """Further masks of the same image, where a data set has one for each defect."""
    any_value: bool = False
    """Whether all that is not 0 in the masks is defective, as in data sets that number their defects."""
    part: str | None = None
    """The part that the image shows, where parts have several images; None: it is one by itself."""
    view: str | None = None
    """Which view of the part it is; None: they are not told apart."""
    product: str | None = None
    """What is made, where a data set holds several products."""
    roi: Path | None = None
    """Where this image counts: a file as `--roi` takes it; None: wherever the model's region says."""

    @property
    def masks(self) -> tuple[Path, ...]:
        """All masks of the image."""
        return (*((self.mask,) if self.mask is not None else ()), *self.more_masks)

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.label != GOOD


@dataclass(frozen=True, kw_only=True)
class Region:
    """A connected region of the anomaly map above the pixel threshold, in pixels of the original image.

    The box is half open: columns `x0 <= x < x1`, rows `y0 <= y < y1`. `peak` is the largest map value
    inside, unbounded, in the unit of the map.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    area_px: int
    peak: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is said of one image wherever it is said: in predictions, rows, tables, answers of the service.

    These all take the fields from here, in this order. `p_value`, `threshold`, `anomalous` and `regions`
    need a calibration: without one they are None, None, None and empty.
    """

    path: str | None = None
    """What the image is called."""
    score: float | None
    """Raw image score, unbounded, larger is more anomalous; None when the image could not be used."""
    p_value: float | None = None
    """How extreme the score is among good images, in (0, 1]."""
    threshold: float | None = None
    """The score above which a part is rejected, in the unit of the score."""
    anomalous: bool | None = None
    """Whether the score lies above the threshold."""
    regions: list[Region] = field(default_factory=list)
    """Where the anomaly map lies above the pixel threshold, the highest peak first."""
    review_threshold: float | None = None
    """The score above which a part that is not rejected goes to a person; None: no part does."""

    def shared_fields(self) -> dict[str, Any]:
        """Return the fields that every result has, by name, without those that a subclass adds."""
        return {each.name: getattr(self, each.name) for each in fields(Result)}


def decision_of(result: Result) -> Decision:
    """Return what the machine decides of a part whose image it could use, or not (no score)."""
    if result.score is None:
        return "failed"
    if result.anomalous is None:
        return "unjudged"
    if result.anomalous:
        return "rejected"
    review = result.review_threshold
    return "review" if review is not None and result.score > review else "accepted"


@dataclass(frozen=True, kw_only=True)
class Prediction(Result):
    """What a detector says of one image that it could use.

    `anomaly_map` is float32 (H, W) at the size of the original image, resized from `coarse_map` (h, w) at
    the model's resolution; both are unbounded, in the unit of the score.
    """

    score: float
    anomaly_map: np.ndarray
    coarse_map: np.ndarray | None = field(default=None, compare=False, repr=False)
    product: str | None = None
    """What the part is, where a model knows several products; its score is then in the product's own unit."""

    @property
    def decision(self) -> Decision:
        """What becomes of the part: accepted, review or rejected; unjudged without a calibration."""
        return decision_of(self)


@dataclass(frozen=True, kw_only=True)
class ResultRow(Result):
    """A row of predictions.jsonl: the result, its pictures, or the error of an image that cannot be used."""

    map: str | None = None
    """The anomaly map's file, relative to the output folder."""
    overlay: str | None = None
    """The picture with the map over it, relative to the output folder."""
    error: str | None = None
    """Why the image could not be used, in one line."""
    decision: str = "failed"
    """What becomes of the part, as `Decision`."""


def field_types(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass in order, each with its type; of `X | None` it is X."""
    hints = get_type_hints(kind)
    return {each.name: _without_none(hints[each.name]) for each in fields(kind)}


def _without_none(hint: Any) -> Any:
    given = [member for member in get_args(hint) if member is not type(None)]
    return given[0] if get_origin(hint) in (Union, UnionType) and len(given) == 1 else hint


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How large images are cut: `size` (height, width) of a tile in pixels of the image, and the share of a
    tile's side, in [0, 0.5], by which neighbours `overlap` at least. Raises UsageError for what cannot be.
    """

    size: tuple[int, int]
    overlap: float

    def __post_init__(self) -> None:
        """Refuse what cuts nothing."""
        if min(self.size) < MIN_SIDE:
            raise UsageError(f"--tile-size {min(self.size)}: must be {MIN_SIDE} or larger")
        if not 0 <= self.overlap <= 0.5:
            raise UsageError(f"--tile-overlap {self.overlap}: must lie between 0 and 0.5")
