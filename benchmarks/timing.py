"""Median times and the machine's matrix rate, for the benchmarks beside it."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(call: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Return the median time of a call after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matrix_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the flop/s of a square matrix product."""
    n = 8192 if device == "cuda" else 2048
    a, b = torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / seconds(lambda: a @ b, 5, device)
