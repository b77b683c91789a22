"""Several products in one model: each has its own calibration, and its own standard for image scores.

One threshold for all products keeps its rate on average over them alone: one product may have all the false
alarms. So a part is ranked among the held-out good images of its own product (Mondrian conformal prediction:
Vovk, Lindsay, Nouretdinov and Gammerman 2003), and the rate holds for each of them.

The score that is reported is (score - centre) / scale, of the median and the median absolute deviation of
these images. As it only grows with the score it changes no rank and no decision; it lets scores of several
products be compared. Maps, and what is read off them, stay in the unit of the method.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.core.errors import UsageError
from blemish.inference.calibration import usual

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.inference.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product's name, and how its image scores are standardised; `scale` is above 0."""

    name: str
    centre: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no standard. Raises ValueError."""
        if not (self.name and np.isfinite(self.centre) and 0 < self.scale < np.inf):
            raise ValueError(f"product {self.name!r} has the standard {self.centre}, {self.scale}")

    @classmethod
    def of_scores(cls, name: str, scores: np.ndarray) -> Product:
        """Make the standard of held-out good images, (n,) with n from 1; equal scores keep their unit."""
        centre, spread = usual(scores[:, None])
        return cls(name=name, centre=float(centre[0]), scale=float(spread[0]))

    def standardise(self, score: float) -> float:
        """Return a score, unbounded, in the unit of the product."""
        return (score - self.centre) / self.scale

    def as_fields(self) -> dict[str, Any]:
        """Return it as the description of a model has it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProductCalibration:
    """What the held-out good images of a product say: thresholds, and the colours of its overlays.

    The scores of `calibration` are standardised. None: no image of it was held out.
    """

    product: Product
    calibration: Calibration | None
    display_range: tuple[float, float]


def choose(products: Sequence[ProductCalibration], name: str | None) -> ProductCalibration:
    """Return the product of a name. Raises UsageError, which says those that are known, for any other."""
    found = next((each for each in products if each.product.name == name), None)
    if found is None:
        known = ", ".join(each.product.name for each in products)
        what = "no product is given" if name is None else f"product {name!r} is unknown"
        raise UsageError(f"{what}: this model has {known}; give one of them")
    return found
