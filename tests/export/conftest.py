"""Real data, or generated ones in their place, for models that are exported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import real_data


@pytest.fixture(scope="module")
def any_data(tiny_category: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the real data sets, or of generated ones that have their names."""
    from light_presets import SETS

    try:
        return real_data()
    except FileNotFoundError:
        made = tmp_path_factory.mktemp("data")
        for root, category, defect in SETS.values():
            shutil.copytree(tiny_category, made / root / category)
            shutil.copytree(tiny_category / "test" / "hole", made / root / category / "test" / defect)
        return made
