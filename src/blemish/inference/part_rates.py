"""Which false-alarm and review rates can be promised for parts of several views; others are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.core.errors import UsageError
from blemish.inference.calibration import images_needed
from blemish.inference.detector import DEFAULT_FALSE_ALARM_RATE, default_rate
from blemish.inference.detector_arguments import check_review_order

if TYPE_CHECKING:
    import numpy as np


def promised_rate(rate: float | None, *, lowest: float, of: str, kind: str, times: int = 1) -> float:
    """Return the false-alarm rate that is asked for, or the default. Raises UsageError below `lowest`.

    An error says that `of`, such as 20 calibration parts, promise no less, and how many good ones of a `kind`
    would; `times` is the number of views among which the rate is divided.
    """
    wanted = default_rate(lowest) if rate is None else rate
    if not 0 < wanted < 1 or wanted < lowest:
        at = f"can promise {_rounded_up(lowest):g} of parts at the lowest"
        asked = DEFAULT_FALSE_ALARM_RATE if rate is None else rate
        if not 0 < asked < 1:
            raise UsageError(f"false-alarm rate {asked:g}: it must lie between 0 and 1; 0.05 is 5 %")
        raise UsageError(
            f"false-alarm rate {asked:g}: {of} {at}; hold out {images_needed(asked / times)} good {kind}, "
            "or ask for a higher rate"
        )
    return wanted


def _rounded_up(rate: float) -> float:
    """Return a rate to be named, of 4 digits: rounded to the nearest, it might be refused when given."""
    return -(-rate * 10_000 // 1) / 10_000


def check_review_rate_of_parts(rate: float, review_rate: float | None, possible: np.ndarray) -> None:
    """Refuse a review rate that sends no part to a person. Raises UsageError.

    `possible` are the p-values (k,) that there can be.
    """
    if review_rate is None:
        return
    check_review_order(rate, review_rate)
    if not ((possible > rate) & (possible <= review_rate)).any():
        least = possible[possible > rate].min()
        raise UsageError(
            f"--review-rate {review_rate:g}: so few calibration parts cannot tell it from the false-alarm "
            f"rate, {rate:.3g}; give {_rounded_up(least):g} or more"
        )
