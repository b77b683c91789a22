"""One decision for a part that has several views, with the false-alarm rate promised for parts.

To reject a part when any of its V views exceeds the threshold of images breaks the promise: up to V times as
many good parts are rejected. Two rules keep it.

Calibrated together (`TogetherRule`): n good parts were scored in all their views. Put the new part among
them. Each view's scores are standardised by median and spread of all n + 1, and the statistic of a part is
that of its worst view,

    T_i = max over v of (s_iv - median_v) / spread_v,        p = (1 + #{i : T_i >= T}) / (n + 1)

If the part is good, the n + 1 are exchangeable, and as T treats them all alike, so are their statistics: p is
at most `rate` with probability at most `rate` (full conformal prediction: Vovk, Gammerman and Shafer 2005).
However much the views of one part resemble one another, nothing is lost.

Calibrated apart (`ApartRule`): each model has good images of its own, and nobody knows how the views depend
on each other. Then p = min(1, V · min p_v) keeps the promise whatever they do (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from blemish.core.errors import DataError
from blemish.inference.calibration import calibrate, usual
from blemish.inference.p_values import bonferroni
from blemish.inference.part_rates import check_review_rate_of_parts, promised_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.core.types import Decision
    from blemish.inference.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class ViewScore:
    """What is known of one view of a part; the score is None where its image could not be used."""

    view: str | None = None
    score: float | None
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class PartDecision:
    """What is decided of a part.

    `score` says how far its worst view lies above the usual, in spreads of good ones. `p_value` is in (0, 1],
    and None with `anomalous` where nothing was calibrated. Of a part without all its views `missing` names
    those, or says their number: it is never accepted. `threshold` and `review_threshold` are those of the
    score; of models that were calibrated apart there are none, and the p-value decides.
    """

    decision: Decision
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    review_threshold: float | None = None
    anomalous: bool | None = None
    missing: list[str] = field(default_factory=list)
    rule: Literal["together", "apart"] = "together"


class PartRule(Protocol):
    """Decides of parts from their views."""

    review_rate: float | None
    carried_by: int
    """Good parts, or of models calibrated apart good images of one view, that carry the promise."""
    count: int | None
    """The number of views of a part; None: as many as it has."""
    names: tuple[str, ...]
    """What the views are called; empty: they are not told apart."""

    @property
    def rate(self) -> float | None:
        """The false-alarm rate in force over parts; None: nothing was calibrated."""
        ...

    def decide(self, views: Sequence[ViewScore]) -> PartDecision:
        """Decide of a part. Raises DataError for views that it cannot have."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PartCalibration:
    """What good parts scored that no model has learnt: `scores` (n, V), finite, in the models' own units.

    `views` names the columns; empty: views are not told apart, and one model scores them all.
    """

    scores: np.ndarray
    views: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse scores of another form. Raises DataError."""
        shape = self.scores.shape
        if len(shape) != 2 or 0 in shape or (self.views and len(self.views) != shape[1]):
            raise DataError(f"scores of parts {shape} for views {self.views}: must be parts × views")
        if not np.isfinite(self.scores).all():
            raise DataError("scores of parts: must be finite")

    @property
    def n(self) -> int:
        """The number of calibration parts."""
        return len(self.scores)

    @property
    def statistics(self) -> np.ndarray:
        """The statistics T (n,) of the calibration parts, without another one."""
        centre, spread = usual(self.scores if self.views else self.scores.ravel()[:, None])
        return ((self.scores - centre) / spread).max(axis=1)

    def compare(self, scores: Sequence[float], views: Sequence[str | None]) -> tuple[float, Calibration]:
        """Return the statistic T of a part, and those of the calibration parts beside it.

        `scores` are those of the `views` that it has; the others' are left out of the calibration parts too.
        Where views are not told apart, all are standardised alike, and fewer than V make no difference.
        """
        own = np.asarray(scores, dtype=np.float64)
        if self.views:
            known = self.scores[:, [self.views.index(str(view)) for view in views]]
            centre, spread = usual(np.vstack([known, own]))
        else:
            known = self.scores
            centre, spread = usual(np.concatenate([known.ravel(), own])[:, None])
        statistics = ((known - centre) / spread).max(axis=1)
        return float(((own - centre) / spread).max()), calibrate(statistics, statistics)


class TogetherRule:
    """Decides by parts that were calibrated in all their views: see the module's docstring."""

    def __init__(
        self, calibration: PartCalibration, *, rate: float | None = None, review_rate: float | None = None
    ) -> None:
        """Take rates as a detector does, but over parts. Raises UsageError for what cannot be promised."""
        n = calibration.n
        self.calibration, self.carried_by = calibration, n
        self.count, self.names = calibration.scores.shape[1], calibration.views
        self.rate = promised_rate(rate, lowest=1 / (n + 1), of=f"{n} calibration parts", kind="parts")
        self.review_rate = review_rate
        check_review_rate_of_parts(self.rate, review_rate, np.arange(1, n + 2) / (n + 1))

    def decide(self, views: Sequence[ViewScore]) -> PartDecision:
        """Decide of a part. Raises DataError for views that the calibration parts do not have."""
        missing = missing_views(views, self.count, self.names)
        seen = [(v.score, v.view) for v in views if v.score is not None]
        if not seen:
            return PartDecision(decision="failed", missing=missing)
        score, calibration = self.calibration.compare(*zip(*seen, strict=True))
        p, review = calibration.p_value(score), self.review_rate
        return PartDecision(
            decision=decide(p, self.rate, review, complete=not missing),
            score=score,
            p_value=p,
            threshold=calibration.threshold(self.rate),
            review_threshold=None if review is None else calibration.threshold(review),
            anomalous=p <= self.rate,
            missing=missing,
        )


class ApartRule:
    """Decides by p-values of models that were calibrated apart, each on good images of its own."""

    def __init__(
        self,
        calibration_of: Callable[[str | None], Calibration | None],
        *,
        count: int | None = None,
        names: tuple[str, ...] = (),
        rate: float | None = None,
        review_rate: float | None = None,
    ) -> None:
        """Take what calibrates each view, None: nothing does; their number or names; and rates over parts.

        Raises UsageError for a rate that cannot be promised.
        """
        self.calibration_of, self.names = calibration_of, names
        self.count = len(names) or count
        self.given, self.review_rate = rate, review_rate
        sizes = [0 if c is None else c.n for c in map(calibration_of, names or (None,))]
        self.carried_by = min(sizes)
        self.rate = self.rate_for(self.count or 1) if self.carried_by else None

    def rate_for(self, count: int) -> float:
        """Return the rate in force for parts of so many views. Raises UsageError."""
        n = self.carried_by
        of = f"{n} calibration images of a view, of {count} views,"
        lowest = float(_exact(count / (n + 1)))
        rate = promised_rate(self.given, lowest=lowest, of=of, kind="images", times=count)
        check_review_rate_of_parts(rate, self.review_rate, _exact(count * np.arange(1, n + 2) / (n + 1)))
        return rate

    def decide(self, views: Sequence[ViewScore]) -> PartDecision:
        """Decide of a part. Raises DataError for views that it cannot have."""
        missing = missing_views(views, self.count, self.names)
        seen = [v for v in views if v.score is not None]
        if not seen:
            return PartDecision(decision="failed", missing=missing, rule="apart")
        score = max(self._distance(v) for v in seen)
        values = [v.p_value for v in seen if v.p_value is not None]
        if self.rate is None or len(values) < len(seen):
            left = "review" if missing else "unjudged"
            return PartDecision(decision=left, score=score, missing=missing, rule="apart")
        count = self.count or len(views)
        p = float(_exact(bonferroni([*values, *[1.0] * (count - len(values))])))
        rate = self.rate_for(count)
        return PartDecision(
            decision=decide(p, rate, self.review_rate, complete=not missing),
            score=score,
            p_value=p,
            anomalous=p <= rate,
            missing=missing,
            rule="apart",
        )

    def _distance(self, view: ViewScore) -> float:
        """Return how far a view's score lies above the usual, in spreads of its good images."""
        assert view.score is not None
        calibration = self.calibration_of(view.view)
        if calibration is None:
            return view.score
        centre, spread = usual(calibration.scores[:, None])
        return float((view.score - centre[0]) / spread[0])


def _exact(p: np.ndarray | float) -> np.ndarray:
    """Return products of p-values without the last digits, by which 3 · 0.1 would exceed a rate of 0.3.

    The lowest rate is rounded alike: else the lowest p-value might lie above it, and nothing be rejected.
    """
    return np.round(p, 12)


def decide(p: float, rate: float, review_rate: float | None, *, complete: bool) -> Decision:
    """Decide by a p-value; what is not complete and not rejected goes to a person."""
    if p <= rate:
        return "rejected"
    if not complete or (review_rate is not None and p <= review_rate):
        return "review"
    return "accepted"


def missing_views(views: Sequence[ViewScore], count: int | None, names: tuple[str, ...]) -> list[str]:
    """Name views that a part lacks, or that cannot be used. Raises DataError for others."""
    given = [v.view for v in views]
    if names:
        for view in given:
            if view not in names:
                raise DataError(f"view {view}: is unknown; the views of a part are {', '.join(names)}")
            if given.count(view) > 1:
                raise DataError(f"view {view}: the part has it {given.count(view)} times; give it once")
        used = {v.view for v in views if v.score is not None}
        return [name for name in names if name not in used]
    if count is not None and len(views) > count:
        raise DataError(
            f"the part has {len(views)} images, and parts have {count} views; take the others away"
        )
    lacking = (count or len(views)) - sum(v.score is not None for v in views)
    return [f"{lacking} of {count or len(views)}"] if lacking else []
