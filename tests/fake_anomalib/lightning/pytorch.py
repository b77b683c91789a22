from __future__ import annotations

seeded: int | None = None


def seed_everything(seed: int) -> int:
    global seeded
    seeded = seed
    return seed
