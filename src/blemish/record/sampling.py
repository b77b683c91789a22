"""Which accepted parts are drawn at random for a person to judge, so that escapes can be estimated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from blemish.record.rows import Inspection


def lot(seed: int, id: str) -> float:
    """Return the lot of an inspection in [0, 1), as good as uniform; the same for a seed and an identifier.

    An identifier has 80 random bits, and who sends a part does not choose it.
    """
    digest = hashlib.sha256(f"{seed}:{id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class SamplingPlan:
    """Draw `share` of the accepted parts, in [0, 1]."""

    share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no share. Raises UsageError."""
        if not 0 <= self.share <= 1:
            raise UsageError(f"sampling {self.share}: must lie between 0 and 1; 0.02 draws 2 %")

    def draw(self, inspection: Inspection) -> float | None:
        """Return the share under which an inspection was drawn, or None."""
        drawn = inspection.decision == "accepted" and lot(self.seed, inspection.id) < self.share
        return self.share if drawn else None
