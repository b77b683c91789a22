from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import files_of, refused, run
from conftest import save, tiny_image
from fakes import count_decodes, fake_detector

from blemish.images import draw
from blemish.inference.inputs import find_inputs
from blemish.inference.predict_folder import predict_to_folder
from blemish.inference.stopped_run import keep_batches

IDENTITY = {"model": "m", "--allow": []}


def of_its_batch(x: np.ndarray) -> np.ndarray:
    """A network whose answers are those of an image in its batch: other batches would show."""
    return x.mean(axis=1) + x.mean()


def stop_after(rows: int) -> Callable[[dict[str, Any]], None]:
    seen = []

    def on_row(row: dict[str, Any]) -> None:
        seen.append(row)
        if len(seen) == rows:
            raise KeyboardInterrupt

    return on_row


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty-one images, of which one cannot be read."""
    for i in range(21):
        save(tmp_path / "in" / f"{i:02d}.png", tiny_image(i)[:32, :32])
    (tmp_path / "in" / "02.png").write_bytes(b"no image")
    return tmp_path / "in"


@pytest.mark.parametrize(("rows", "kept"), [(3, 0), (13, 12), (16, 16), (21, 21)])
def test_the_files_are_those_of_a_run_without_a_stop(
    rows: int, kept: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    detector = fake_detector(network=of_its_batch, grey_levels=range(100, 130), batch_size=4)
    inputs, out = find_inputs([str(images)]), tmp_path / "out"
    predict_to_folder(detector, inputs, tmp_path / "whole", identity=IDENTITY)
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(detector, inputs, out, identity=IDENTITY, on_row=stop_after(rows))
    with (out / "predictions.jsonl").open("a") as lines:
        lines.write('{"path": "cut o')
    decoded, seen = count_decodes(monkeypatch), []
    counts = predict_to_folder(detector, inputs, out, identity=IDENTITY, resume=True, on_row=seen.append)
    assert (counts.scored, counts.failed, len(seen)) == (20, 1, 21)
    readable = {str(path) for path, _ in inputs[kept:]} - {str(images / "02.png")}
    assert set(decoded) - {str(images / "02.png")} == readable
    assert files_of(out) == files_of(tmp_path / "whole")
    assert "started.json" not in files_of(out)


def test_a_run_that_is_stopped_twice(images: Path, tmp_path: Path):
    detector, inputs = fake_detector(network=of_its_batch, batch_size=4), find_inputs([str(images)])
    predict_to_folder(detector, inputs, tmp_path / "whole", overlays=None)
    for rows in (9, 6, 15):
        with pytest.raises(KeyboardInterrupt):
            predict_to_folder(
                detector,
                inputs,
                tmp_path / "out",
                overlays=None,
                identity=IDENTITY,
                resume=True,
                on_row=stop_after(rows),
            )
    predict_to_folder(detector, inputs, tmp_path / "out", overlays=None, identity=IDENTITY, resume=True)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_whole_batches_are_kept():
    kept = [{"n": i} for i in range(7)]

    def taken(n: int, inputs: int, batch: int) -> tuple[list[int], list[int]]:
        rows = keep_batches(deque(kept[:n]), range(inputs), batch)
        found = []
        while True:
            try:
                found.append(next(rows)["n"])
            except StopIteration as end:
                return found, list(end.value)

    assert taken(7, 9, 3) == ([0, 1, 2, 3, 4, 5], [6, 7, 8])
    assert taken(2, 9, 3) == ([], list(range(9)))
    assert taken(7, 7, 3) == (list(range(7)), [])
    assert taken(0, 4, 3) == ([], [0, 1, 2, 3])


def test_the_command_goes_on_with_the_same_run_alone(
    tiny_model: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    model, out = shutil.copytree(tiny_model, tmp_path / "model"), tmp_path / "out"
    asks = ("predict", images, "--out", out, "--model", model, "--batch-size", "4")
    write_map = draw.write_map

    def stopping(path: Path, anomaly_map: np.ndarray) -> None:
        if path.stem == "14":
            raise KeyboardInterrupt
        write_map(path, anomaly_map)

    with monkeypatch.context() as stop:
        stop.setattr(draw, "write_map", stopping)
        assert run(*asks, "--resume") == 130  # there is nothing yet: it begins
    told = refused(capsys, *asks)
    assert "stopped before its end (rows written: 14); repeat the command with --resume, or choose" in told
    for options, what in (
        (("--batch-size", "8"), "--batch-size"),
        (("--overlay-format", "webp"), "--overlay-format"),
        (("--false-alarm-rate", "0.5"), "--false-alarm-rate"),
    ):
        told = refused(capsys, *asks, "--resume", *options)
        assert f"out: was started with another {what}; repeat the first command with --resume, or" in told
    save(images / "99.png", tiny_image(0))
    assert "another list of inputs" in refused(capsys, *asks, "--resume")
    (images / "99.png").unlink()
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights + b" ")
    with pytest.MonkeyPatch.context() as loaded:
        loaded.setattr("blemish.inference.load.load", lambda *_, **__: fake_detector(batch_size=4))
        assert "another model" in refused(capsys, *asks, "--resume")
    (model / "model.safetensors").write_bytes(weights)
    assert run(*asks, "--resume") == 1  # one cannot be read
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 21
    assert json.loads((out / "summary.json").read_text())["scored"] == 20
    assert "already holds predictions" in refused(capsys, *asks, "--resume")
    told = refused(capsys, "predict", images, "--model", model, "--cluster", "local", "--resume")
    assert "--resume: the same command goes on by itself on a cluster; leave it out" in told
