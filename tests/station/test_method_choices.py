"""What can be trained is said without torch in the station's own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from blemish.core.errors import UsageError
from blemish.methods.registry import METHODS
from blemish.station import method_choices

PRESETS = {name: list(method.presets) for name, method in METHODS.items()}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A station without torch: what it asks another process, which answers as it does."""
    questions: list[tuple[str, ...]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "blemish.station.method_choices"]
        questions.append(tuple(command[3:]))
        return SimpleNamespace(
            returncode=0, stdout=json.dumps(method_choices.answer(questions[-1])), stderr=""
        )

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(method_choices, "_known", {})
    monkeypatch.setattr(subprocess, "run", run)
    return questions


def test_a_station_without_torch_asks_once(asked: list[tuple[str, ...]]):
    assert method_choices.presets() == PRESETS
    assert method_choices.presets() == PRESETS
    assert asked == [()]


def test_a_combination_is_refused_by_the_line_of_the_methods(asked: list[tuple[str, ...]]):
    method_choices.check_combination("pca+kde", "default")
    for _ in range(2):  # a refusal is not kept: who installs the method asks again
        with pytest.raises(UsageError, match="no such member 'nothing'"):
            method_choices.check_combination("pca+nothing", "default")
    assert asked == [("pca+kde", "default"), *[("pca+nothing", "default")] * 2]


@pytest.mark.parametrize("given", ["pca+\0", "pca+\ud800"])
def test_what_no_process_can_be_asked_is_refused(asked: list[tuple[str, ...]], given: str):
    with pytest.raises(UsageError, match="there is no such method or preset"):
        method_choices.check_combination(given, "default")
    assert not asked


def test_a_process_that_fails_is_one_line(asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch):
    ended = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nValueError: broken")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(UsageError, match="the methods cannot be loaded: ValueError: broken"):
        method_choices.presets()


@pytest.mark.parametrize("missing", [True, False])
def test_torch_that_is_there_or_missing(missing: bool, monkeypatch: pytest.MonkeyPatch):
    refuse: Callable[..., object] = monkeypatch.setitem if missing else lambda *_: None
    refuse(sys.modules, "blemish.methods.registry", None)
    assert method_choices.answer(()) == {"presets": {} if missing else PRESETS}
