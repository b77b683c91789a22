"""How many images were scored, and with what result."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_ERRORS_KEPT = 20
"""The most errors kept in `PredictionCounts`."""


@dataclass(frozen=True, kw_only=True)
class PredictionCounts:
    """The result of a call: numbers of images scored, anomalous, failed and for review; the first errors."""

    scored: int = 0
    anomalous: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    review: int = 0

    def __add__(self, other: PredictionCounts) -> PredictionCounts:
        """Add the numbers of two calls."""
        return PredictionCounts(
            scored=self.scored + other.scored,
            anomalous=self.anomalous + other.anomalous,
            failed=self.failed + other.failed,
            errors=[*self.errors, *other.errors][:MAX_ERRORS_KEPT],
            review=self.review + other.review,
        )
