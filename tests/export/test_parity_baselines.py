"""An exported baseline answers as the trained one does on real images, as in `test_parity.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from light_presets import cases, check_answers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("single_thread", "operators_read_once")]


@pytest.mark.parametrize(("method", "preset", "data"), cases(baselines=True))
def test_real_images_answer_alike(method: str, preset: str, data: str, any_data: Path, tmp_path: Path):
    check_answers(method, preset, data, any_data, tmp_path)
