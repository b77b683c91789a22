"""What a detector promises: its false-alarm rate, how many images carry it, and what the usual rate needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from blemish.inference.calibration import images_needed
from blemish.inference.detector import DEFAULT_FALSE_ALARM_RATE

if TYPE_CHECKING:
    from blemish.inference.detector import Detector


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The rates in force; without calibration images there are none, and no part is rejected."""

    false_alarm_rate: float | None
    """Share of good parts that may be rejected, in (0, 1)."""
    calibration_images: int
    """Good images, held out of the training, that carry it."""
    usual_rate: float = DEFAULT_FALSE_ALARM_RATE
    """The rate that is in force where nobody asks for one and enough images carry it."""
    usual_rate_needs: int = images_needed(DEFAULT_FALSE_ALARM_RATE)
    """Calibration images that the usual rate needs."""
    counts: str | None = None
    """Which regions count, in words; None: all of them."""
    review_rate: float | None = None
    """Share of good parts that may be rejected or sent to a person, above the other; None: none is sent."""

    @classmethod
    def of(cls, detector: Detector) -> Promise:
        """Return what a detector promises."""
        calibration, counting = detector.model_file.calibration, detector.model_file.counting
        return cls(
            false_alarm_rate=detector.rate,
            calibration_images=calibration.n if calibration is not None else 0,
            review_rate=detector.review_rate,
            counts=counting.describe() if counting.as_fields() else None,
        )

    @classmethod
    def of_each(cls, detector: Detector) -> dict[str | None, Promise]:
        """Return what a detector promises for each product that it is told of; by None without products."""
        if not detector.model_file.products:
            return {None: cls.of(detector)}
        products = {*detector.named.values()} or {each.product.name for each in detector.model_file.products}
        return {name: cls.of(detector.for_product(name)) for name in sorted(products)}

    def as_fields(self) -> dict[str, Any]:
        """Return it as the fields of a file."""
        return asdict(self)

    @staticmethod
    def fields_of(promises: dict[str | None, Promise]) -> dict[str, Any]:
        """Return those of `of_each` as the fields of a file."""
        if None in promises:
            return promises[None].as_fields()
        return {"products": {name: promise.as_fields() for name, promise in promises.items()}}

    @staticmethod
    def lines_of(promises: dict[str | None, Promise]) -> list[str]:
        """Say those of `of_each`, one in a line."""
        return [("" if name is None else f"{name}: ") + each.describe() for name, each in promises.items()]

    def describe(self) -> str:
        """Say it in one line; where it is worse than usual, say why, and the cure."""
        return self._rates() + ("" if self.counts is None else f"; counts: {self.counts}")

    def _rates(self) -> str:
        usual = f"the usual {100 * self.usual_rate:.3g} % needs {self.usual_rate_needs}"
        if self.false_alarm_rate is None:
            return f"no false-alarm rate is promised: no image was held out to calibrate, and {usual}"
        rate = f"false-alarm rate {100 * self.false_alarm_rate:.3g} %, "
        rate += "" if self.review_rate is None else f"review rate {100 * self.review_rate:.3g} %, "
        rate += "promised by "
        carried = f"{self.calibration_images} calibration image{'s' if self.calibration_images != 1 else ''}"
        if self.calibration_images >= self.usual_rate_needs:
            return rate + carried
        return f"{rate}{carried}; {usual}: hold out more images"
