from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="blemish[report] is not installed")

from matplotlib.patches import StepPatch

from blemish.report import charts as charts
from blemish.report.content import ReportCurve, ReportImage, ReportOverlap

CURVE = ReportCurve(name="image", fpr=np.array([0, 0, 0.5, 1]), tpr=np.array([0, 0.6, 1, 1]), area=0.9876)
SCORES = {"good": (0.5, 1.5, 1.9), "hole": (3.0, 2.0), "crack": (1.0, 0.75, 2.5)}
IMAGES = [
    ReportImage(
        name=f"{s}", label=label, score=s, p_value=None, anomalous=None, overlay=f"{s}.png", thumbnail=None
    )
    for label, scores in SCORES.items()
    for s in scores
]


def test_roc_draws_the_curves_as_given_and_the_point_of_the_threshold() -> None:
    axes = charts.roc([CURVE], fpr=0.1, tpr=0.9).axes[0]
    _, curve, point = axes.lines
    assert np.array_equal(np.asarray(curve.get_xydata()), [[0, 0], [0, 0.6], [0.5, 1], [1, 1]])
    assert np.asarray(point.get_xydata()).tolist() == [[0.1, 0.9]]
    assert curve.get_label() == "image 0.988"
    assert len(charts.roc([CURVE], fpr=None, tpr=0.9).axes[0].lines) == 2


def test_the_marks_in_the_charts_are_those_of_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(charts, "to_svg", lambda figure, name: figures.append(figure) or "<svg/>")
    evaluation = {"false_alarm_rate": 0.1, "detection_rate": 0.9, "threshold": 1.25}
    drawn = charts.draw(evaluation, IMAGES, [CURVE], None)
    roc, histogram = (figure.axes[0] for figure in figures)
    assert roc.lines[-1].get_xydata().tolist() == [[0.1, 0.9]]
    assert histogram.lines[-1].get_xdata() == [1.25, 1.25]
    assert [chart.svg for chart in drawn] == ["<svg/>", "<svg/>", None]
    assert drawn[1].alt == "Scores of 3 good and 5 defective images"


def test_the_overlap_has_a_line_for_each_image_their_mean_and_the_band() -> None:
    overlap = ReportOverlap(
        fpr=np.array([1e-6, 1e-5, 1e-4, 1]),
        overlaps=np.array([[0, 0, 0.5, 1], [0.2, 0.4, 1, 1]]),
        areas=np.array([0.25, 0.7]),
        rates=(1e-5, 1e-4),
    )
    axes = charts.per_image(overlap).axes[0]
    first, second, mean = axes.lines
    assert [np.asarray(line.get_ydata()).tolist() for line in (first, second)] == overlap.overlaps.tolist()
    assert np.asarray(mean.get_ydata()).tolist() == pytest.approx([0.1, 0.2, 0.75, 1])
    assert mean.get_label() == "mean, AUPIMO 0.475"
    assert (axes.get_xscale(), axes.patches[0].get_extents().width > 0) == ("log", True)
    chart = charts.draw_overlap(overlap)
    assert chart.svg is not None
    assert "math" not in chart.svg  # no formula's source stands in the place of a number
    assert chart.svg is not None
    assert "from 0.001 % to 0.01 %" in chart.note


def test_thinning_keeps_the_ends_and_stays_within_a_step() -> None:
    rng = np.random.default_rng(3)
    x, y = (np.concatenate([[0.0], np.sort(rng.beta(0.3, 2, 20_000)), [1.0]]) for _ in range(2))
    keep = charts.thin(x, y)
    assert keep[0] == 0
    assert keep[-1] == len(x) - 1
    assert np.all(np.diff(keep) > 0)
    assert len(keep) <= 2 * charts.RESOLUTION + 2
    # Each left-out point against the last kept one before it, along the path.
    last = keep[np.searchsorted(keep, np.arange(len(x)), side="right") - 1]
    assert np.max((x - x[last]) + (y - y[last])) <= 1 / charts.RESOLUTION
    assert charts.thin(np.array([0, 0, 1]), np.array([0, 1, 1])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("threshold", [None, 1.25, -3.0, 40.0])
def test_bins_hold_every_score_and_none_is_on_both_sides_of_the_threshold(threshold: float | None) -> None:
    scores = np.concatenate([np.random.default_rng(0).gamma(2, 1, 500), [1.25, 0.0]])
    edges = charts.bin_edges(scores, threshold)
    counts = np.histogram(scores, edges)[0]
    assert counts.sum() == len(scores)
    assert np.all(np.diff(edges) > 0)
    if threshold is not None:
        # Rejected is what is above the threshold, strictly: 1.25 itself is accepted at 1.25.
        assert counts[edges[:-1] > threshold].sum() == np.sum(scores > threshold)


def test_bins_of_equal_scores() -> None:
    for value in (0.0, 7.5, -1e6):
        assert np.histogram([value] * 3, charts.bin_edges(np.full(3, value), None))[0].sum() == 3


def test_histogram_counts_good_and_defective_images_and_marks_the_threshold() -> None:
    axes = charts.histogram(IMAGES, 1.25).axes[0]
    steps = [p.get_data() for p in axes.patches if isinstance(p, StepPatch) and p.get_fill()]
    # Above 1.25: two of the three good parts, and three of the five defects.
    above = [int(values[edges[:-1] > 1.25].sum()) for values, edges, _ in steps]
    assert [int(values.sum()) for values, _, _ in steps] == [3, 5]
    assert above == [2, 3]
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [1.25, 1.25]
    assert axes.get_legend_handles_labels()[1] == ["good (3)", "defective (5)", "threshold"]
    assert len(charts.histogram(IMAGES, float("inf")).axes[0].lines) == 0


def test_training_curve_is_that_of_the_log(tmp_path: Path) -> None:
    text = "epoch,train_loss,validation_loss,seconds\n1,8,9,1\n2,4,,1\n3,0.5,0.6,1\n"
    path = tmp_path / "log.csv"
    path.write_text(text)
    logs = charts.read_log(path)
    axes = charts.training(logs).axes[0]
    train, validation = axes.lines
    assert np.asarray(train.get_xydata()).tolist() == [[1, 8], [2, 4], [3, 0.5]]
    np.testing.assert_array_equal(validation.get_ydata(), [9, np.nan, 0.6])
    assert axes.get_legend_handles_labels()[1] == ["training", "validation"]
    assert axes.get_yscale() == "log"  # 9 / 0.5 > 10
    narrow = {"epoch": [1.0, 2.0], "train_loss": [2.0, -1.0], "validation_loss": [float("nan")] * 2}
    axes = charts.training({"": narrow}).axes[0]
    assert (axes.get_yscale(), len(axes.lines)) == ("linear", 1)


def test_each_member_has_a_training_curve(tmp_path: Path) -> None:
    names = ("metal", "planted", "nsa", "cutpaste")
    rows = [f"{name},{epoch},{10 * i + epoch},1" for i, name in enumerate(names) for epoch in (1, 2)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["member,epoch,train_loss,seconds", *rows]))
    axes = charts.training(charts.read_log(path)).axes[0]
    assert axes.get_legend_handles_labels()[1] == [f"{name}, training" for name in names]
    assert [np.asarray(line.get_xydata()).tolist() for line in axes.lines] == [
        [[1, 10 * i + 1], [2, 10 * i + 2]] for i in range(4)
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 4


def test_rates_are_written_as_people_read_them():
    assert [charts.as_percent(rate) for rate in (1e-6, 1e-5, 0.01, 1.0)] == [
        "0.0001 %",
        "0.001 %",
        "1 %",
        "100 %",
    ]
