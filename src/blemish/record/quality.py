"""How well the station decides, as far as people have judged: sampling, reasons, and their figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from blemish.core.errors import UsageError
from blemish.record import tables
from blemish.record.audit_log import AuditLog
from blemish.record.estimates import Estimate, Sample, estimate, estimate_of_samples
from blemish.record.sampling import SamplingPlan
from blemish.record.tables import Search, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blemish.record.audit_log import Act

MOST_REASONS = 100


@dataclass(frozen=True, kw_only=True)
class QualityFigures:
    """What the machine and people decided in a time."""

    n: int
    accepted: int
    rejected: int
    review: int
    unjudged: int
    failed: int
    sampled: int
    """Accepted parts that were drawn for a person."""
    escapes: Estimate
    """Defects among the drawn parts that a person judged: the share of accepted parts that are defects.

    Parts that were drawn under different shares of the plan count for as many accepted parts as they stand
    for; then `share` is not `found` / `n`, and the interval is conservative (`estimate_of_samples`).
    """
    false_rejects: Estimate
    """Good parts among the rejected parts that a person judged."""
    waiting: int
    """Rejected and drawn parts, and those in review, that nobody has judged yet."""
    reasons: tuple[tuple[str, int], ...]
    """Defects that people confirmed, by reason, the most frequent first; empty: none was given."""


class Quality(AuditLog):
    """The part of a store that is about quality."""

    def sampling(self) -> SamplingPlan:
        """Return the plan by which whoever records into this record draws."""
        plans = sa.select(tables.sampling).order_by(*tables.sampling.columns)
        return plan_of(next(iter(self._fetch_all(plans)), None))

    def set_sampling(self, plan: SamplingPlan, *, act: Act | None = None) -> None:
        """Draw by another plan from the next inspection on."""
        with self._write_transaction() as connection:
            self._wait_for_turn(connection)  # else two that do it at once would leave two plans
            connection.execute(sa.delete(tables.sampling))
            connection.execute(sa.insert(tables.sampling).values(share=plan.share, seed=plan.seed))
            self._log(connection, act)

    def reasons(self) -> list[str]:
        """Return the kinds of defects that are offered, in their order."""
        table = tables.reasons.c
        query = sa.select(table.name).where(table.place.is_not(None)).order_by(table.place)
        return [row.name for row in self._fetch_all(query)]

    def set_reasons(self, names: Sequence[str], *, act: Act | None = None) -> None:
        """Offer these kinds of defects; verdicts keep the reasons that they have.

        Raises UsageError for the same name twice, and for more than MOST_REASONS.
        """
        texts = [tables.escape_text(name.strip()) or "" for name in names]
        if len(set(texts)) < len(texts) or not all(texts) or len(texts) > MOST_REASONS:
            raise UsageError(f"reasons: give up to {MOST_REASONS} names, each once and none empty")
        with self._write_transaction() as connection:
            connection.execute(sa.update(tables.reasons).values(place=None))
            known = {row.name for row in connection.execute(sa.select(tables.reasons.c.name))}
            for place, name in enumerate(texts):
                if name in known:
                    change = sa.update(tables.reasons).where(tables.reasons.c.name == name)
                    connection.execute(change.values(place=place))
                else:
                    connection.execute(sa.insert(tables.reasons).values(name=name, place=place))
            self._log(connection, act)

    def _check_reason(self, connection: sa.Connection, reason: str | None) -> None:
        """Refuse a reason that was never in the list; one that was is taken, as a verdict may come late."""
        name = tables.reasons.c.name
        if reason is not None and connection.execute(sa.select(name).where(name == reason)).first() is None:
            raise UsageError(f"reason {reason!r}: is not in the list; add it to the reasons first")

    def quality(self, wanted: Search) -> QualityFigures:
        """Sum up what the machine and people decided."""
        where = tables.conditions(wanted, lag=self._lag)
        kinds, count = (rows.decision, rows.verdict, rows.sample), sa.func.count().label("n")
        grouped = self._fetch_all(sa.select(*kinds, count).where(*where).group_by(*kinds))

        def number(
            decision: str | None = None, verdicts: Sequence[str | None] = (), drawn: bool | None = None
        ) -> int:
            return sum(
                row.n
                for row in grouped
                if decision in (None, row.decision)
                and (not verdicts or row.verdict in verdicts)
                and drawn in (None, row.sample is not None)
            )

        return QualityFigures(
            n=number(),
            accepted=number("accepted"),
            rejected=number("rejected"),
            review=number("review"),
            unjudged=number("unjudged"),
            failed=number("failed"),
            sampled=number(drawn=True),
            escapes=estimate_of_samples(_samples(grouped)),
            false_rejects=estimate(number("rejected", ["good"]), number("rejected", ["good", "defect"])),
            waiting=sum(number(each, [None]) for each in tables.FOR_A_PERSON)
            + number("accepted", [None], True),
            reasons=self._pareto(replace(wanted, verdict="defect")),
        )

    def _pareto(self, wanted: Search) -> tuple[tuple[str, int], ...]:
        where = tables.conditions(wanted, lag=self._lag)
        reason, count = sa.func.coalesce(tables.verdicts.c.reason, ""), sa.func.count()
        joined = tables.inspections.join(tables.verdicts, tables.verdicts.c.number == rows.counts)
        query = sa.select(reason, count).select_from(joined).where(*where).group_by(reason)
        return tuple(
            sorted(((row[0], row[1]) for row in self._fetch_all(query)), key=lambda r: (-r[1], r[0]))
        )


def plan_of(row: sa.Row[Any] | None) -> SamplingPlan:
    """Return the plan of a record; one that has none draws nothing."""
    return SamplingPlan() if row is None or row.share is None else SamplingPlan(row.share, row.seed)


def _samples(grouped: Iterable[sa.Row[Any]]) -> list[Sample]:
    """Return what was drawn under each share, of numbers of rows by decision, verdict and share."""
    found = defaultdict[float, Counter[str | None]](Counter)
    for row in grouped:
        if row.decision == "accepted" and row.sample is not None:
            found[row.sample][row.verdict] += row.n
    return [
        Sample(share=share, drawn=said.total(), judged=said["good"] + said["defect"], found=said["defect"])
        for share, said in sorted(found.items())
    ]
