"""The false-alarm rate in force: said where parts are rejected by it, and written beside their rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run
from fakes import fake_detector, grey
from watched import Place, command

from blemish.inference import load
from blemish.inference.counting import Counting
from blemish.inference.detector import Detector
from blemish.inference.promise import Promise

FEW, MANY = [50, 60, 70], list(range(20, 60))
NEEDS = "; the usual 5 % needs 19: hold out more images"
SIZED = "regions of 20 px or more"


def counting(detector: Detector, **sizes: float) -> Detector:
    return replace(detector, model_file=replace(detector.model_file, counting=Counting(**sizes)))


SAID = {
    "three": (
        fake_detector(grey_levels=FEW),
        f"false-alarm rate 25 %, promised by 3 calibration images{NEEDS}",
    ),
    "eighteen": (  # 1 / 19
        fake_detector(grey_levels=MANY[:18]),
        f"false-alarm rate 5.26 %, promised by 18 calibration images{NEEDS}",
    ),
    "one": (fake_detector(grey_levels=[9]), f"false-alarm rate 50 %, promised by 1 calibration image{NEEDS}"),
    "nineteen": (
        fake_detector(grey_levels=MANY[:19]),
        "false-alarm rate 5 %, promised by 19 calibration images",
    ),
    "as asked": (
        fake_detector(grey_levels=MANY, false_alarm_rate=0.1),
        "false-alarm rate 10 %, promised by 40 calibration images",
    ),
    "two": (
        replace(fake_detector(grey_levels=MANY), review_rate=0.1),
        "false-alarm rate 5 %, review rate 10 %, promised by 40 calibration images",
    ),
    "sizes": (
        counting(fake_detector(grey_levels=MANY), min_area=20),
        f"false-alarm rate 5 %, promised by 40 calibration images; counts: {SIZED}",
    ),
    "none": (
        fake_detector(),
        "no false-alarm rate is promised: no image was held out to calibrate, and the usual 5 % needs 19",
    ),
}
each = pytest.mark.parametrize(("detector", "line"), SAID.values(), ids=SAID)


def fields(detector: Detector) -> dict[str, float | None]:
    calibration = detector.model_file.calibration
    return {
        "false_alarm_rate": detector.rate,
        "calibration_images": calibration.n if calibration else 0,
        "usual_rate": 0.05,
        "usual_rate_needs": 19,
        "review_rate": detector.review_rate,
        "counts": SIZED if detector.model_file.counting.has_sizes else None,
    }


@each
def test_predict_says_it_and_writes_it(
    detector: Detector,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setattr(load, "load", lambda *_, **__: detector)
    out = tmp_path / "out"
    assert run("predict", "--model", __file__, grey(tmp_path / "a.png", 100), "--out", out) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [line]
    said = json.loads((out / "summary.json").read_text())
    assert {name: said[name] for name in fields(detector)} == fields(detector)
    assert (said["scored"], said["failed"]) == (1, 0)


@each
def test_watch_says_it_at_the_start_and_of_each_new_model(
    detector: Detector,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    place = Place(tmp_path, monkeypatch)
    place.detectors = {"one": fake_detector(grey_levels=MANY), "two": detector}

    def script():
        yield 1.0
        assert json.loads((place.out / "summary.json").read_text())["calibration_images"] == 40
        place.model.write_text("two")
        grey(place.folder / "a.png", 9)
        yield 1.0
        grey(place.folder / "b.png", 9)
        yield 1.0

    place.script, place.stop_by_signal = script(), True
    assert run(*command(place)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "false-alarm rate 5 %, promised by 40 calibration images"
    assert lines.count(line) == 1
    said = json.loads((place.out / "summary.json").read_text())
    assert {name: said[name] for name in fields(detector)} == fields(detector)
    assert (
        said["model"] == json.loads((place.out / "inspections.jsonl").read_text().splitlines()[-1])["model"]
    )


def test_rows_of_a_cluster_carry_it_in_their_file(tmp_path: Path):
    pytest.importorskip("ray", reason="ray is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from blemish.cluster.predict_worker import write_rows
    from blemish.inference.predict_folder import row_of

    detector = SAID["three"][0]
    answer = detector.predict(grey(tmp_path / "a.png", 100))
    write_rows(iter([row_of("a.png", answer)]), tmp_path / "part.parquet", Promise.of(detector).as_fields())
    metadata = parquet.read_metadata(tmp_path / "part.parquet").metadata
    assert json.loads(metadata[b"blemish.promise"]) == fields(detector)
