"""Runs side by side, from evaluations written by hand: whose test, whose order, whose pictures."""

from __future__ import annotations

import csv
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused, run
from PIL import Image
from sklearn.metrics import roc_auc_score

pytest.importorskip("jinja2", reason="blemish[report] is not installed")

from blemish.core.errors import DataError, UsageError
from blemish.evaluation import compare as comparison
from blemish.evaluation.compare import Evaluated, compare, describe_difference, read_evaluation
from blemish.evaluation.pictures import overlay_name, thumbnail_name
from blemish.metrics.confidence import Comparison, delong
from blemish.metrics.resampler import PixelResampler, paired_bootstrap
from blemish.report.html import MEASURES

SHARP = {
    "test/good/0.png": 0.0,
    "test/good/1.png": 0.1,
    "test/good/2.png": 0.2,
    "test/good/3 #a? 50%.png": 0.3,
    "test/good/4.png": 0.4,
    "test/hole/0.png": 1.0,
    "test/hole/1.png": 1.1,
    "test/hole/2.png": 1.2,
    "test/line/0.png": 1.3,
    "test/line/1.png": 1.4,
}
"""Every defect above every good image: AUROC 1."""
BLUNT = dict(zip(SHARP, (10.0, 90.0, 40.0, 60.0, 20.0, 50.0, 30.0, 70.0, 15.0, 80.0), strict=True))
"""Of the 25 pairs 3 + 2 + 4 + 1 + 4 = 14 are right: AUROC 0.56."""


def evaluated(
    run_folder: Path, scores: dict[str, float], *, method: str = "pca", without: str = "", **more: Any
) -> Path:
    """Write what `blemish evaluate` leaves in a run folder: figures, scores and pictures."""
    folder = run_folder / "evaluation"
    folder.mkdir(parents=True)
    known = {"method": method, "preset": "default", "dataset": "nut", "test_fingerprint": "f" * 64}
    content = known | dict.fromkeys(MEASURES) | {"image_auroc": 0.5} | more
    content.pop(without, None)
    (folder / "evaluation.json").write_text(json.dumps(content))
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "score", "p_value", "anomalous"])
        writer.writerows([name, label_of(name), repr(score), "", ""] for name, score in scores.items())
    for i, name in enumerate(scores):
        for picture, extra in ((thumbnail_name(name), 0), (overlay_name(name), len(method))):
            (folder / picture).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * i, 10 * extra, 90)).save(folder / picture)
    return run_folder


def label_of(name: str) -> str:
    return name.split("/")[1]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs, their images in different orders."""
    shuffled = dict(sorted(BLUNT.items(), key=lambda item: item[1]))
    return [
        evaluated(tmp_path / "sharp", SHARP, method="metal", image_auroc=1.0, pixel_auroc=0.75),
        evaluated(tmp_path / "blunt", shuffled, method="pca", image_auroc=0.56),
    ]


# --- by hand ---


def scored(scores: dict[str, float]) -> Evaluated:
    return Evaluated(name="run", folder=Path(), evaluation={}, scores=scores, labels={})


def test_a_rank_is_the_share_of_the_others_that_score_lower():
    # b: a is lower, and half of c counts, of 3 others
    ranks = scored({"d": 50.0, "b": 2.0, "a": -1.0, "c": 2.0}).ranks()
    assert ranks == {"d": 1.0, "b": 0.5, "a": 0.0, "c": 0.5}
    assert scored({"a": 7.0, "b": 7.0}).ranks() == {"a": 0.5, "b": 0.5}
    assert scored({"a": 7.0}).ranks() == {"a": 0.0}


def test_images_that_are_ranked_most_differently_come_first(monkeypatch):
    one = scored({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0})  # ranks 0, 1/4, 1/2, 3/4, 1
    two = scored({"e": 8.0, "d": 7.0, "c": 6.0, "b": 5.0, "a": 9.0})  # a 1, the others 1/4 less than above
    assert comparison._most_different([one, two]) == ["a", "b", "c", "d", "e"]
    three = scored({"a": 9.0, "b": 6.0, "c": 5.0, "d": 7.0, "e": 8.0})  # as two, but c 0 and b 1/4
    assert comparison._most_different([one, two, three]) == ["a", "c", "b", "d", "e"]
    monkeypatch.setattr(comparison, "SHOWN", 2)
    assert comparison._most_different([one, two, three]) == ["a", "c"]


def outcome(difference: float, p: float) -> Comparison:
    rest = dict.fromkeys(("a", "b", "standard_error", "z", "low", "high"), 0.0)
    return Comparison(difference=difference, p=p, **rest)


@pytest.mark.parametrize(
    ("difference", "p", "said"),
    [
        (0.125, 0.0123, "a is better than b by 0.125 of image AUROC (p = 0.012)."),
        (-0.125, 0.05, "b is better than a by 0.125 of image AUROC (p = 0.05)."),
        (-0.125, 0.051, "a and b cannot be told apart: they differ by 0.125 of image AUROC (p = 0.051)."),
        (0.0, 1.0, "a and b cannot be told apart: they differ by 0.000 of image AUROC (p = 1)."),
    ],
)
def test_the_verdict(difference: float, p: float, said: str):
    assert describe_difference("a", "b", outcome(difference, p)) == said


# --- two runs ---


def test_the_test_is_paired_by_name_whatever_the_order_on_disk(runs: list[Path], tmp_path: Path):
    content = compare(runs, tmp_path / "out")
    assert content == json.loads((tmp_path / "out" / "comparison.json").read_text())
    (pair,) = content["pairs"]
    defective = np.array([label_of(name) != "good" for name in SHARP])
    scores = [np.array(list(s.values())) for s in (SHARP, BLUNT)]
    expected = delong(*scores, defective)
    assert pair["p"] == expected.p
    assert 0 < pair["p"] < 0.05
    assert (pair["low"], pair["high"]) == (expected.low, expected.high)
    assert pair["difference"] == pytest.approx(1 - 14 / 25)
    assert [pair["a"], pair["b"]] == pytest.approx([roc_auc_score(defective, s) for s in scores])
    assert pair["runs"] == ["sharp", "blunt"]  # below the folder that they share
    said = f"sharp is better than blunt by 0.440 of image AUROC (p = {expected.p:.2g})."
    assert pair["verdict"] == said
    assert (content["measure"], content["test"]) == ("image_auroc", "DeLong's test, two-sided")
    (back,) = compare(runs[::-1], tmp_path / "back")["pairs"]
    assert back["verdict"] == said
    assert back["difference"] == -pair["difference"]
    assert [(r["run"], r["method"], r["pixel_auroc"]) for r in content["runs"]] == [
        ("sharp", "metal", 0.75),
        ("blunt", "pca", None),
    ]


def test_a_run_and_itself_cannot_be_told_apart(runs: list[Path], tmp_path: Path):
    (pair,) = compare([runs[0], runs[0] / "evaluation"], tmp_path / "out")["pairs"]
    assert (pair["difference"], pair["p"]) == (0, 1)
    assert "cannot be told apart" in pair["verdict"]


def test_a_run_and_its_opposite_leave_json_that_others_can_read(runs: list[Path], tmp_path: Path):
    opposite = evaluated(tmp_path / "opposite", {name: -score for name, score in SHARP.items()})
    compare([runs[0], opposite], tmp_path / "out")
    text = (tmp_path / "out" / "comparison.json").read_text()
    (pair,) = json.loads(text, parse_constant=pytest.fail)["pairs"]
    assert (pair["difference"], pair["standard_error"], pair["p"]) == (1, 0, None)


def test_without_a_variance_there_is_no_p_value(tmp_path: Path, capsys):
    """One ranks perfectly, the other scores all alike: of four images DeLong's test would say p = 0."""
    names = ["test/good/0.png", "test/good/1.png", "test/hole/0.png", "test/hole/1.png"]
    both = [
        evaluated(tmp_path / "sharp", dict(zip(names, (0.0, 0.1, 1.0, 1.1), strict=True))),
        evaluated(tmp_path / "flat", dict.fromkeys(names, 1.0)),
    ]
    assert run("compare", *both, "--out", tmp_path / "out") == 0
    said = "sharp and flat differ by 0.500 of image AUROC; on these images the test has no variance"
    assert capsys.readouterr().out.startswith(said)
    (pair,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["pairs"]
    assert (pair["p"], pair["low"], pair["high"]) == (None, None, None)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count('<td class="right">n/a</td>') == 2
    assert said in page


def test_three_runs_are_three_pairs(runs: list[Path], tmp_path: Path):
    third = evaluated(tmp_path / "third", {name: score**2 for name, score in BLUNT.items()})
    content = compare([*runs, third], tmp_path / "out")
    assert [pair["runs"] for pair in content["pairs"]] == [
        ["sharp", "blunt"],
        ["sharp", "third"],
        ["blunt", "third"],
    ]
    assert [round(pair["difference"], 6) for pair in content["pairs"]] == [0.44, 0.44, 0]
    assert "not corrected for being 3" in (tmp_path / "out" / "comparison.html").read_text()


def test_the_command_says_the_verdict(runs: list[Path], tmp_path: Path, capsys):
    assert run("compare", *runs, "--out", tmp_path / "out") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("sharp is better than blunt by 0.440")
    assert second == f"side by side: {tmp_path / 'out' / 'comparison.html'}"


def test_of_several_products_one_is_compared_at_a_time(runs: list[Path], tmp_path: Path, capsys):
    (tmp_path / "all" / "evaluation").mkdir(parents=True)
    (tmp_path / "all" / "evaluation" / "products.json").write_text("{}")
    one = tmp_path / "all" / "evaluation" / "products" / "NAME"
    said = f"{tmp_path / 'all'}: was evaluated on several products; compare one of them: {one}"
    assert refused(capsys, "compare", tmp_path / "all", runs[0]) == f"blemish compare: {said}"


# --- the page ---


def test_the_pictures_are_copies_of_each_runs_own(runs: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    compare(runs, out)
    for name in SHARP:
        copied = [out / "pictures" / "image" / thumbnail_name(name)]
        own = [runs[0] / "evaluation" / thumbnail_name(name)]
        for i in (0, 1):
            copied.append(out / "pictures" / str(i) / overlay_name(name))
            own.append(runs[i] / "evaluation" / overlay_name(name))
        assert [f.read_bytes() for f in copied] == [f.read_bytes() for f in own]
    first = overlay_name("test/hole/0.png")
    assert (out / "pictures" / "0" / first).read_bytes() != (out / "pictures" / "1" / first).read_bytes()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_in_a_browser(runs: list[Path], tmp_path: Path, browser, width: int, scheme: str):
    out = tmp_path / "out"
    (pair,) = compare(runs, out)["pairs"]
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests = []
    view.on("request", lambda request: requests.append(request.url))
    view.goto((out / "comparison.html").as_uri())
    view.eval_on_selector_all("img", "all => Promise.all(all.map(i => (i.loading = 'eager', i.decode())))")
    assert all(url.startswith(out.as_uri()) for url in requests)
    assert len(requests) == 1 + 3 * len(SHARP)
    assert view.eval_on_selector_all("img", "all => all.every(i => i.naturalWidth == 8)")
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.inner_text(".sentence") == pair["verdict"]
    shown = view.eval_on_selector_all("#images .name", "all => all.map(e => e.firstChild.textContent)")
    assert shown == comparison._most_different([read_evaluation(r) for r in runs])
    # ranks in ninths, of SHARP 0 to 9, of BLUNT 0 9 4 6 2 5 3 7 1 8: good/1 differs by 8, line/0 by 7
    assert shown[:2] == ["test/good/1.png", "test/line/0.png"]
    assert shown[-3:] == ["test/good/0.png", "test/hole/0.png", "test/hole/2.png"]
    card = view.inner_text("#images .card:first-child")
    assert "good" in card
    assert "score 0.1, rank 11.1 %" in card
    assert "score 90, rank 100 %" in card
    view.close()


def test_names_are_text(runs: list[Path], tmp_path: Path):
    odd = evaluated(tmp_path / "<b>&", SHARP)
    compare([runs[0], odd], tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<b>&" not in page
    assert escape(odd.name) in page


# --- refusals ---


def test_one_run_is_not_compared(runs: list[Path], tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert "1 run: a comparison needs two at least" in refused(capsys, "compare", runs[0], "--out", out)
    with pytest.raises(UsageError, match="0 run"):
        compare([], out)
    assert not out.exists()


def test_a_run_that_was_not_evaluated(runs: list[Path], tmp_path: Path, capsys):
    (tmp_path / "bare").mkdir()
    for missing in (tmp_path / "bare", tmp_path / "nowhere"):
        error = refused(capsys, "compare", runs[0], missing, "--out", tmp_path / "out")
        assert f"{missing}: was not evaluated; run `blemish evaluate --model {missing} --data ...`" in error
    (runs[1] / "evaluation" / "scores.csv").unlink()
    assert "was not evaluated" in refused(capsys, "compare", *runs, "--out", tmp_path / "out")


@pytest.mark.parametrize("key", ["test_fingerprint", "preset", "aupro_fpr30"])
def test_an_evaluation_of_an_older_blemish(runs: list[Path], tmp_path: Path, capsys, key: str):
    old = evaluated(tmp_path / "old", SHARP, without=key)
    error = refused(capsys, "compare", runs[0], old, "--out", tmp_path / "out")
    assert f"{old / 'evaluation'}: not an evaluation of this blemish ('{key}'); evaluate again" in error


@pytest.mark.parametrize("text", ["{", "[1]", '{"method"'])
def test_an_evaluation_that_is_damaged(runs: list[Path], tmp_path: Path, capsys, text: str):
    (runs[1] / "evaluation" / "evaluation.json").write_text(text)
    error = refused(capsys, "compare", *runs, "--out", tmp_path / "out")
    assert "not an evaluation of this blemish" in error


def test_other_images_of_the_same_names(runs: list[Path], tmp_path: Path, capsys):
    other = evaluated(tmp_path / "other", SHARP, dataset="cable", test_fingerprint="e" * 64)
    error = refused(capsys, "compare", runs[0], other, "--out", tmp_path / "out")
    assert "evaluated on other test images (cable) than" in error
    assert "though they bear the same names" in error


@pytest.mark.parametrize("turned", [False, True])
def test_one_run_scored_an_image_that_the_other_did_not(
    runs: list[Path], tmp_path: Path, capsys, turned: bool
):
    fewer = evaluated(tmp_path / "fewer", {k: v for k, v in SHARP.items() if k != "test/line/1.png"})
    pair = [fewer, runs[0]] if turned else [runs[0], fewer]
    error = refused(capsys, "compare", *pair, "--out", tmp_path / "out")
    assert f"{fewer}: did not score test/line/1.png (line), which {runs[0]} did" in error
    assert "compare runs on the same test images" in error


def test_the_third_run_is_checked_as_well(runs: list[Path], tmp_path: Path):
    other = evaluated(tmp_path / "other", SHARP, test_fingerprint="e" * 64)
    with pytest.raises(DataError, match="other test images"):
        compare([*runs, other], tmp_path / "out")


def test_a_picture_that_is_missing(runs: list[Path], tmp_path: Path, capsys):
    picture = runs[1] / "evaluation" / overlay_name("test/good/0.png")
    picture.unlink()
    error = refused(capsys, "compare", *runs, "--out", tmp_path / "out")
    assert f"{picture}: is missing; evaluate again" in error
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_maps_are_compared_by_a_paired_bootstrap(tmp_path: Path):
    folders = [evaluated(tmp_path / name, SHARP, pixel_auroc=0.5) for name in ("a", "b")]
    rng = np.random.default_rng(0)
    resamplers = []
    for folder, gain in zip(folders, (3.0, 0.5), strict=True):
        resampler = PixelResampler()
        for name in SHARP:
            mask = np.zeros((8, 8), dtype=bool)
            mask[2:5, 2:5] = label_of(name) != "good"
            resampler.add((rng.normal(size=(8, 8)) + gain * mask).astype(np.float32), mask)
        resampler.save(folder / "evaluation" / "pixels.npz")
        resamplers.append(resampler)
    content = compare(folders, tmp_path / "out", measure="pixel_auroc")
    expected = paired_bootstrap(*resamplers, "auroc")
    assert content["pairs"][0]["difference"] == expected.difference > 0
    assert content["pairs"][0]["p"] == expected.p
    assert "of pixel AUROC" in content["pairs"][0]["verdict"]
    assert "bootstrap over images" in content["test"]


def test_maps_are_not_compared_without_masks_or_in_another_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shuffled = dict(reversed(SHARP.items()))
    made = {
        "masks": evaluated(tmp_path / "masks", SHARP, pixel_auroc=0.5),
        "none": evaluated(tmp_path / "none", SHARP),
        "shuffled": evaluated(tmp_path / "shuffled", shuffled, pixel_auroc=0.5),
    }
    for other, message in (
        ("none", "without masks"),
        ("shuffled", "another order"),
        ("masks", "cannot be read"),
    ):
        options = ("--measure", "pixel_auroc", "--out", tmp_path / "out")
        assert message in refused(capsys, "compare", made[other], made["masks"], *options)


def test_a_run_beside_itself_keeps_its_whole_name(runs: list[Path], tmp_path: Path):
    (pair,) = compare([runs[0], runs[0]], tmp_path / "out")["pairs"]
    assert pair["runs"] == [str(runs[0]), str(runs[0])]
    assert (pair["difference"], pair["p"]) == (0, 1)
