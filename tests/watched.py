"""A watched folder whose clock and camera are a script, so that its tests need neither time nor torch."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import fake_detector

from blemish.core.errors import ModelError
from blemish.watch import folder, settings
from blemish.watch.arrivals import UNREADABLE_TIMEOUT_S
from blemish.watch.parts import PartSettings
from blemish.watch.settings import WatchSettings

LEVELS = (51, 102, 153, 204)
"""Calibration: with 4 images the lowest rate is 1 / 5 and the threshold the largest, 204 / 255 = 0.8."""
Script = Iterator[float]


class Crash(BaseException):
    """The power goes."""


class Place:
    """A folder, a model and a clock that stands still while files are scored.

    A script is what the world does: it yields the seconds that pass until its next act, and when it ends the
    watch is stopped. The model's file holds the name of a detector.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.out, self.model = root / "in", root / "out", root / "model.safetensors"
        self.folder.mkdir()
        self.model.write_text("one")
        self.clock = self.until = 0.0
        self.looks, self.over = 0, False
        self.script: Script = iter([2 * UNREADABLE_TIMEOUT_S])
        self.stop_by_signal = False  # for the command, which asks nobody else
        self.told: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.at: dict[str, float] = {}
        self.detectors = {
            "one": fake_detector(grey_levels=LEVELS),
            "two": fake_detector(grey_levels=LEVELS, network=lambda x: 1 - x.mean(axis=1)),
        }
        monkeypatch.setattr(settings, "load", self.load)
        monkeypatch.setitem(folder.watch.__kwdefaults__, "now", self.now)
        monkeypatch.setattr(folder, "time", SimpleNamespace(sleep=self.sleep, monotonic=lambda: self.clock))

    def load(self, path: Path, **_: object) -> Any:
        if path.read_text() not in self.detectors:
            raise ModelError(f"{path}: is cut off")
        return self.detectors[path.read_text()]

    def now(self) -> float:
        self.looks += 1
        assert self.looks < 20_000, "does not sleep"
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        if self.clock >= self.until:
            self.act()

    def act(self) -> None:
        try:
            self.until = self.clock + next(self.script)
        except StopIteration:
            self.over = True
            if self.stop_by_signal:
                signal.raise_signal(signal.SIGINT)

    def hear(self, row: dict[str, Any]) -> None:
        self.told.append(row)
        self.at[row["path"]] = self.clock

    def watch(
        self,
        script: Script | None = None,
        *,
        out: Path | None = None,
        move_to: Path | None = None,
        parts: PartSettings | None = None,
        **more: Any,
    ) -> int:
        self.script, self.over = script or iter([2 * UNREADABLE_TIMEOUT_S]), False
        self.act()
        options = WatchSettings(
            model=self.model, folder=self.folder, out=out or self.out, move_to=move_to, parts=parts
        )
        return folder.watch(
            options,
            should_stop=lambda: self.over,
            on_row=self.hear,
            say=self.said.append,
            **more,
        )

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.out)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "inspections.jsonl").read_bytes().splitlines()]


def check(out: Path, paths: Iterable[str]) -> None:
    """Each file is recorded once, with its pictures, and the numbers run without a gap."""
    rows = rows_of(out)
    assert sorted(row["path"] for row in rows) == sorted(paths)
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        assert (out / row["map"]).stat().st_size
        assert (out / row["overlay"]).stat().st_size


def command(place: Place, *more: str | Path) -> list[str | Path]:
    return ["watch", "--model", place.model, "--folder", place.folder, "--out", place.out, *more]
