"""The one rule for seeds: what every generator takes."""

from __future__ import annotations

from blemish.core.errors import UsageError


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuse a seed that a generator does not take; `name` is that of the option. Raises UsageError."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"{name} {seed}: must be at least 0 and below 2**63")
