"""Trainings of a station whose disk refuses, and which are cancelled late; the worker is none that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from cameras import wait_for
from stations import wait_for_training

from blemish.core.errors import ConflictError
from blemish.station import training_jobs
from blemish.station.training_jobs import Training, Trainings


class Worker:
    """A process that has learnt already."""

    def wait(self) -> int:
        return 0

    def terminate(self) -> None: ...


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Trainings, str]]]:
    """Start a training whose worker ends at once, and whose model `on_model` takes."""
    monkeypatch.setattr(training_jobs.subprocess, "Popen", lambda *_, **__: Worker())
    monkeypatch.setattr(training_jobs, "RETRY_S", 0.01)
    monkeypatch.setattr(training_jobs, "LEAST_IMAGES", 0)
    begun: list[Trainings] = []

    def start(on_model: Callable[[Path, str], str]) -> tuple[Trainings, str]:
        begun.append(Trainings(tmp_path, data=None, max_pixels=10**6, on_model=on_model))
        job = begun[0].create(name="lid", method="pca", preset="default", source=None)
        begun[0].start(job.id)
        return begun[0], job.id

    yield start
    for trainings in begun:
        trainings.close()


@pytest.mark.parametrize("refuses", ["process", "row"])
def test_what_the_disk_refuses_is_tried_again(
    refuses: str, start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    popen, write = training_jobs.subprocess.Popen, Trainings._write
    calls = iter(range(3))

    def refuse() -> None:
        if next(calls, None) is not None:
            raise OSError(28, "No space left on device")

    def begin(*given: Any, **more: Any) -> Any:
        if refuses == "process":
            refuse()
        return popen(*given, **more)

    def write_late(self: Trainings, job: Training) -> Training:
        if refuses == "row" and job.state == "done":
            refuse()
        return write(self, job)

    monkeypatch.setattr(training_jobs.subprocess, "Popen", begin)
    monkeypatch.setattr(Trainings, "_write", write_late)
    trainings, id = start(lambda *_: "a" * 64)
    assert wait_for_training(trainings, id, "done", "failed").state == "done"
    said = capsys.readouterr().err.splitlines()
    assert said == ["blemish serve: trainings: [Errno 28] No space left on device; tried again every 0 s"]


def test_what_has_learnt_is_not_cancelled_any_more(start: Any):
    refused: list[str] = []

    def cancel_meanwhile(*_: Any) -> str:
        wait_for(lambda: bool(known))  # the thread may be here before its starter
        with pytest.raises(ConflictError) as caught:
            known[0].cancel(known[1])
        refused.append(str(caught.value))
        return "a" * 64

    known: list[Any] = []
    known += start(cancel_meanwhile)
    trainings, id = known
    assert wait_for_training(trainings, id, "done", "failed").state == "done"
    assert refused == [f"training {id}: has ended; its model is taken into use now"]
