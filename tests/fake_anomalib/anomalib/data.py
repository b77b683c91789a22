from __future__ import annotations

from typing import Any


class Tabular:
    """Images by split, a row each; like the real one it always wants something to test on."""

    def __init__(
        self,
        *,
        name: str,
        samples: list[dict[str, Any]],
        num_workers: int,
        test_split_mode: str,
        val_split_mode: str,
        seed: int,
    ) -> None:
        assert name
        assert num_workers == 0
        assert test_split_mode == "from_dir"  # no image of ours may be moved to another split
        assert val_split_mode in ("none", "same_as_test")
        assert all(set(row) == {"image_path", "label_index", "split"} for row in samples)
        self.seed = seed
        self.train = [row["image_path"] for row in samples if row["split"] == "train"]
        self.test = [row["image_path"] for row in samples if row["split"] == "test"]
        assert self.test
