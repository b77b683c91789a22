"""Two rates: parts above the one are rejected, those between the two are for a person."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run
from fakes import fake_detector, grey
from watched import LEVELS, Place, command

from blemish.core.errors import UsageError
from blemish.core.types import Prediction
from blemish.inference import load
from blemish.inference.calibration import calibrate
from blemish.inference.detector import Detector
from blemish.watch.ledger import LEDGER_NAME

DECIDED = {10: "accepted", 153: "accepted", 154: "review", 204: "review", 205: "rejected"}
"""By `LEVELS`, rates 1 / 5 and 2 / 5: the thresholds are the largest, 204, and the one below it, 153."""


def two_rates(**options: float) -> Detector:
    return replace(fake_detector(grey_levels=LEVELS), **{"review_rate": 0.4} | options)


def test_decisions_by_hand(tmp_path: Path):
    detector = two_rates()
    assert (detector.threshold, detector.review_threshold) == pytest.approx((204 / 255, 153 / 255))
    plain = fake_detector(grey_levels=LEVELS)
    for level, decision in DECIDED.items():
        path = grey(tmp_path / f"{level}.png", level)
        found, alone = detector.predict(path), plain.predict(path)
        assert found.decision == decision
        assert found.anomalous == alone.anomalous == (decision == "rejected")
        assert found.review_threshold == detector.review_threshold
        assert alone.decision == ("rejected" if alone.anomalous else "accepted")
        assert alone.review_threshold is None
    assert fake_detector().predict(grey(tmp_path / "a.png", 255)).decision == "unjudged"


@pytest.mark.parametrize(
    ("detector", "rates", "said"),
    [
        (
            fake_detector(grey_levels=LEVELS),
            {"review_rate": 0.2},
            "0.2: must lie between .* rate, 0.2, and 1",
        ),
        (fake_detector(grey_levels=LEVELS), {"review_rate": 1.0}, "1: must lie between"),
        (
            fake_detector(grey_levels=LEVELS),
            {"review_rate": 0.3},
            "0.3: 4 .* cannot tell .*; give 0.4 or more",
        ),
        (fake_detector(grey_levels=LEVELS), {"review_rate": "0.3"}, "'0.3': must be a number"),
        (
            fake_detector(grey_levels=LEVELS),
            {"review_rate": 0.4, "false_alarm_rate": 0.5},
            "0.4: must lie between the false-alarm rate, 0.5, and 1",
        ),
        (fake_detector(), {"review_rate": 0.3}, "0.3: this model has no calibration images"),
    ],
)
def test_rates_that_send_nobody_or_everybody_are_refused(detector: Detector, rates: dict, said: str):
    with pytest.raises(UsageError, match=f"--review-rate {said}"):
        replace(detector, **rates)


def test_both_rates_are_kept():
    # Exchangeable scores: mean shares above the two thresholds are k / (n + 1), k = 1 and 4 of n + 1 = 20.
    drawn = np.random.default_rng(0).normal(size=(4000, 19 + 20))
    shares = np.array(
        [
            [np.mean(row[19:] > calibrate(row[:19], row[:19]).threshold(r)) for r in (0.05, 0.2)]
            for row in drawn
        ]
    )
    assert shares.mean(axis=0) == pytest.approx([0.05, 0.2], abs=0.004)


def test_predict_says_and_writes_all_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = {}

    def loading(*_: object, **options: object) -> Detector:
        asked.update(options)
        return two_rates()

    monkeypatch.setattr(load, "load", loading)
    out = tmp_path / "out"
    (tmp_path / "bad.png").write_text("no picture")
    files = [grey(tmp_path / f"{level}.png", level) for level in DECIDED]
    assert (
        run(
            "predict", "--model", __file__, *files, tmp_path / "bad.png", "--out", out, "--review-rate", "0.4"
        )
        == 1
    )
    assert asked["review_rate"] == 0.4
    printed = capsys.readouterr().out
    assert "5 scored, 1 anomalous, 2 for review, 1 failed" in printed
    assert "false-alarm rate 20 %, review rate 40 %, promised by 4 calibration images" in printed
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == [*DECIDED.values(), "failed"]
    assert {row["review_threshold"] for row in rows} == {two_rates().review_threshold, None}
    with (out / "predictions.csv").open() as file:
        assert [row["decision"] for row in csv.DictReader(file)] == [*DECIDED.values(), "failed"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["review"], summary["anomalous"], summary["review_rate"]) == (2, 1, 0.4)


def test_watch_moves_prints_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place, moved = Place(tmp_path, monkeypatch), tmp_path / "moved"
    place.detectors["one"], place.stop_by_signal = two_rates(), True
    for level in DECIDED:
        grey(place.folder / f"{level}.png", level)
    hooks = [
        (f"--on-{kind}", f"sh -c 'cat >> {tmp_path}/{kind}; echo >> {tmp_path}/{kind}'")
        for kind in ("reject", "review")
    ]
    assert run(*command(place), "--move-to", moved, *hooks[0], *hooks[1]) == 0
    found = {int(file.stem): file.parent.name for file in moved.rglob("*.png")}
    assert found == DECIDED
    printed = capsys.readouterr().out
    assert printed.count(" for review, ") == 2
    assert printed.count(" rejected, ") == 1
    told = {
        kind: [json.loads(line) for line in (tmp_path / kind).read_text().splitlines()]
        for kind in ("reject", "review")
    }
    assert [row["path"] for row in told["reject"]] == ["205.png"]
    assert sorted(row["path"] for row in told["review"]) == ["154.png", "204.png"]
    assert {row["event"] for row in told["review"]} == {"review"}
    ledger = [json.loads(line) for line in (place.out / LEDGER_NAME).read_text().splitlines()]
    assert {int(Path(row["path"]).stem): row["decision"] for row in ledger} == DECIDED


def test_watch_passes_the_rate_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from blemish.watch import settings

    def loading(*_: object, review_rate: float, **__: object) -> Prediction:
        raise UsageError(f"asked for {review_rate}")

    monkeypatch.setattr(settings, "load", loading)
    (tmp_path / "m").touch()
    given = ("watch", "--model", tmp_path / "m", "--folder", tmp_path, "--out", tmp_path.parent / "out")
    assert "asked for 0.25" in refused(capsys, *given, "--review-rate", "0.25")
