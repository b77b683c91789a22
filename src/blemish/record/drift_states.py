"""What the drift of each model stands at, kept so that a start need not read the whole record again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from blemish.record import tables
from blemish.record.tables import rows
from blemish.record.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Mapping


class DriftStates(Transactions):
    """The part of a store that keeps states of drift."""

    def drift_state(self, model: str) -> tuple[int, dict[str, Any]] | None:
        """Return the state of a model's drift, and the number of the last row in it; None: none is kept."""
        table = tables.drift_states
        found = self._fetch_all(sa.select(table).where(table.c.model == model))
        return (found[0].number, json.loads(found[0].state)) if found else None

    def note_drift_states(self, number: int, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the states of models after the row of a number; stations on one record may do it at once."""
        upsert = self._insert_or_update(tables.drift_states)
        with self._write_transaction() as connection:
            for model, state in sorted(states.items()):  # in one order, so that nobody waits in a circle
                values = {"model": model, "number": number, "state": json.dumps(state)}
                connection.execute(upsert, values)

    def scored_id(self, model: str, place: int, *, missing: str | None = None) -> str | None:
        """Return the identifier of the part that a model scored at a place, 1 is the first; None: not yet.

        `missing`: only parts with this in `Recorded.missing`.
        """
        scored = sa.select(rows.id).where(rows.model == model, rows.score.is_not(None), ~tables.is_view)
        scored = scored.where(rows.missing.is_(None) if missing is None else rows.missing == missing)
        found = self._fetch_all(scored.order_by(rows.number).offset(place - 1).limit(1))
        return found[0].id if found else None
