from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PostProcessor:
    enable_normalization: bool = True
    enable_thresholding: bool = True
