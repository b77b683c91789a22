from __future__ import annotations

import dataclasses
import os
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="blemish[report] is not installed")
pytest.importorskip("matplotlib", reason="blemish[report] is not installed")

from blemish.core.errors import DataError, UsageError
from blemish.report import charts as charts
from blemish.report import evaluation as report
from blemish.report.content import ReportCurve, ReportImage
from blemish.report.evaluation import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}

EVALUATION = {
    "image_auroc": 0.9876,
    "pixel_auroc": 0.97123,
    "pixel_auroc_fpr30": 0.9124,
    "pixel_auroc_fpr30_mcclish": 0.9556,
    "aupro_fpr30": 0.9012,
    "aupro_fpr5": 0.7012,
    "pixel_average_precision": 0.6123,
    "seg_f1": 0.5123,
    "seg_precision": 0.4321,
    "seg_recall": 0.6321,
    "aupimo": 0.3333,
    "au_spro_fpr5": None,
    "image_f1max": 0.9533,
    "false_alarm_rate": 1 / 30,
    "false_alarm_p_value": 0.6,
    "detection_rate": 43 / 45,
    "requested_false_alarm_rate": 0.05,
    "threshold": 1.25,
    "seconds_per_image": 0.02,
    "n_good": 30,
    "n_defect": 45,
    "per_defect": {
        "hole": {"n": 20, "image_auroc": 1.0, "pixel_auroc": None, "detection_rate": 1.0},
        "crack": {"n": 25, "image_auroc": 0.9777, "pixel_auroc": 0.9444, "detection_rate": 23 / 25},
    },
    "leakage": [],
    "sensitivity": None,
}
POINT = {"kind": "scratch", "contrast": 0.15, "size": 0.05, "size_px": 13, "area_px": 40, "n": 5, "found": 2}
POINT |= {"located": 1, "share": 0.4, "low": 0.118, "high": 0.769}
CARD = {
    "defects": "planted by a program, not real",
    "false_alarm_rate": 0.05,
    "seed": 0,
    "good_images": 5,
    "planted_images": 15,
    "side_px": 256,
    "reduced_to_px": None,
    "points": [
        POINT,
        POINT | {"size": 0.1, "size_px": 26, "found": 5, "share": 1.0, "low": 0.566, "high": 1.0},
        POINT | {"kind": "blur", "contrast": None},
    ],
    "good_scored": 30,
    "good_rejected": 1,
}
CURVE = ReportCurve(name="image", fpr=np.array([0, 0, 0.5, 1]), tpr=np.array([0, 0.6, 1, 1]), area=0.9876)


def image(name: str, label: str, score: float, threshold: float | None = 1.25) -> ReportImage:
    known = threshold is not None
    return ReportImage(
        name=name,
        label=label,
        score=score,
        p_value=0.0123 if known else None,
        anomalous=score > threshold if threshold is not None else None,
        overlay=f"overlays/{name}",
        thumbnail=None,
    )


IMAGES = [
    image("g-calm.png", "good", 0.5),
    image("g-alarm.png", "good", 1.5),
    image("g-worse.png", "good", 1.9),
    image("h-clear.png", "hole", 3.0),
    image("h-sure.png", "hole", 2.0),
    image("c-missed.png", "crack", 1.0),
    image("c-worst.png", "crack", 0.75),
    image("c-found.png", "crack", 2.5),
]


DRAW = charts.draw
_drawn: dict[bytes, list[charts.Chart]] = {}


def draw_once(evaluation: dict, images: list, curves: list, training_log: Path | None) -> list[charts.Chart]:
    """Draw, or give what was drawn of the same scores, threshold and curves: most tests look at the text."""
    if training_log is not None:
        return DRAW(evaluation, images, curves, training_log)
    rates = (evaluation["false_alarm_rate"], evaluation["detection_rate"]) if curves else None
    key = pickle.dumps((evaluation["threshold"], images, curves, rates))
    if key not in _drawn:
        _drawn[key] = DRAW(evaluation, images, curves, None)
    return _drawn[key]


@pytest.fixture(autouse=True)
def charts_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "draw", draw_once)


class Page(HTMLParser):
    """A page as text and images by section id; refuses markup that is not well nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, str | None]] = []
        self.said: dict[str, list[str]] = {}
        self.pictures: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.stack == []
        self.text = {section: " ".join(" ".join(said).split()) for section, said in self.said.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in found.items()]
        if tag == "img":
            for section in self.sections():
                self.pictures.setdefault(section, []).append(unquote(found["src"]))
        if tag not in VOID:
            self.stack.append((tag, found.get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for section in self.sections():
            self.said.setdefault(section, []).append(data)

    def sections(self) -> list[str]:
        return ["", *(name for _, name in self.stack if name)]

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def html(out: Path, evaluation: dict | None = None, **changes: object) -> str:
    arguments = {"images": IMAGES, "curves": [], "training_log": None, "facts": {"Method": "metal"}}
    path = write_report(out, title="bottle", evaluation=evaluation or EVALUATION, **(arguments | changes))  # type: ignore[arg-type]
    assert path == out / "report.html"
    return path.read_text(encoding="utf-8")


def page(out: Path, evaluation: dict | None = None, **changes: object) -> Page:
    return Page(html(out, evaluation, **changes))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of `EVALUATION` and `IMAGES`."""
    return page(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a page with all charts."""
    folder = tmp_path_factory.mktemp("full")
    return html(folder, curves=[CURVE], training_log=log(folder, "epoch,train_loss\n1,3\n2,1\n"))


def without(*keys: str) -> dict:
    return EVALUATION | dict.fromkeys(keys)


def log(folder: Path, text: str) -> Path:
    path = folder / "log.csv"
    path.write_text(text)
    return path


def test_every_section_is_there_and_every_link_on_the_page_leads_somewhere(tmp_path: Path) -> None:
    found = page(tmp_path / "new" / "folder")
    ids = found.values("id")
    assert {"summary", "charts", "numbers", "per-defect", "misses", "images", "facts"} <= set(ids)
    assert len(ids) == len(set(ids))
    inner = [link[1:] for link in found.values("href") if link.startswith("#")]
    assert inner
    assert set(inner) <= set(ids)
    assert found.text["facts"].endswith("Method metal")


def test_headline_numbers(usual: Page) -> None:
    # 43/45 = 0.95556, 1/30 = 0.03333, 1/0.02 s = 50
    assert "Detection rate 95.6 % 43 of 45 defective rejected" in usual.text["summary"]
    assert "False-alarm rate 3.3 % 1 of 30 good rejected; asked for 5.0 %" in usual.text["summary"]
    assert "Image AUROC 0.988 " in usual.text["summary"]
    assert "Pixel AUROC 0.971 " in usual.text["summary"]
    assert "AUPRO 0.901 " in usual.text["summary"]
    assert "Time per image 20 ms 50 images per second" in usual.text["summary"]
    assert "Of 45 defective parts 43 were rejected, of 30 good parts 1." in usual.text[""]


def test_further_numbers_and_the_table_by_defect(usual: Page) -> None:
    more = usual.text["more"]
    assert "FPR up to 30 % 0.912 area / 0.3" in more
    assert "FPR up to 30 % 0.956 McClish" in more
    assert "Best image F1 0.953" in more
    assert "Threshold 1.25 a higher score is rejected" in more
    assert "Good test images 30 Defective test images 45" in more
    # 23/25 = 0.92
    assert usual.text["per-defect"].endswith("crack 25 92.0 % 0.978 0.944 hole 20 100 % 1.000 –")


@pytest.mark.parametrize(
    ("keys", "where", "expected"),
    [
        (("pixel_auroc",), "summary", "Pixel AUROC – no masks"),
        (("aupro_fpr30",), "summary", "AUPRO – no masks"),
        (("pixel_auroc_fpr30",), "more", "FPR up to 30 % – no masks"),
        (("pixel_auroc_fpr30_mcclish",), "more", "FPR up to 30 % – no masks"),
        (("image_auroc",), "summary", "Image AUROC – not computed"),
        (("image_f1max",), "more", "Best image F1 – not computed"),
        (("detection_rate",), "summary", "Detection rate – no calibration"),
        (("false_alarm_rate",), "summary", "False-alarm rate – no calibration"),
        (("requested_false_alarm_rate",), "summary", "3.3 % 1 of 30 good rejected Image"),
        (("threshold",), "more", "Threshold – no calibration"),
        (("seconds_per_image",), "summary", "Time per image – not measured"),
        (("n_good",), "more", "Good test images – not measured"),
        (("n_defect",), "more", "Defective test images – not measured"),
        (("per_defect",), "per-defect", "– no defective test images"),
    ],
)
def test_a_number_that_is_none_is_a_dash_with_its_reason(
    tmp_path: Path, keys: tuple[str, ...], where: str, expected: str
) -> None:
    assert expected in page(tmp_path, without(*keys)).text[where]


def test_reasons_name_the_missing_kind_of_images(tmp_path: Path) -> None:
    rates = ("image_auroc", "pixel_auroc", "detection_rate", "false_alarm_rate")
    no_defects = page(tmp_path, without(*rates) | {"n_defect": 0}).text["summary"]
    assert "Detection rate – no defective test images" in no_defects
    assert "False-alarm rate – no calibration" in no_defects
    assert "Pixel AUROC – no defective test images" in no_defects
    no_good = page(tmp_path, without(*rates) | {"n_good": 0}).text["summary"]
    assert "Image AUROC – no good test images" in no_good
    assert "False-alarm rate – no good test images" in no_good
    assert "Detection rate – no calibration" in no_good


def test_everything_none_still_gives_a_page(tmp_path: Path) -> None:
    found = page(tmp_path, dict.fromkeys(EVALUATION), images=[], curves=[], facts={})
    assert "No threshold was calibrated" in found.text[""]
    assert "None" not in found.text[""]
    assert found.tags.count("svg") == 1  # the mark in the header
    assert "No curves to draw." in found.text["charts"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_defect": 1, "detection_rate": 1.0}, "Of 1 defective part 1 was rejected, of 30 good parts 1."),
        ({"false_alarm_rate": 0.0}, "Of 45 defective parts 43 were rejected, of 30 good parts none."),
        ({"detection_rate": None, "n_defect": 0}, "Of 30 good parts 1 was rejected."),
        ({"false_alarm_rate": None}, "Of 45 defective parts 43 were rejected."),
    ],
)
def test_the_sentence_is_grammatical(changes: dict, expected: str) -> None:
    assert report._sentence(EVALUATION | changes) == expected


def test_misses_come_first_and_the_most_wrong_of_them_at_the_front(usual: Page) -> None:
    pictures = {key: [Path(name).name for name in names] for key, names in usual.pictures.items()}
    # Threshold 1.25: the cracks at 0.75 and 1.0 were accepted, the good parts at 1.9 and 1.5 rejected.
    assert pictures["missed"] == ["c-worst.png", "c-missed.png"]
    assert pictures["alarms"] == ["g-worse.png", "g-alarm.png"]
    assert pictures["misses"] == pictures["missed"] + pictures["alarms"]
    assert pictures["images"] == [
        *("c-worst.png", "c-missed.png", "c-found.png"),
        *("h-sure.png", "h-clear.png"),
        *("g-worse.png", "g-alarm.png", "g-calm.png"),
    ]
    assert pictures[""] == pictures["misses"] + pictures["images"]


def test_captions_say_score_p_value_and_verdict(usual: Page) -> None:
    text = usual.text["images"]
    assert "c-worst.png score 0.75 p 0.012 ✗ accepted: missed" in text
    assert "c-found.png score 2.5 p 0.012 ✓ rejected" in text
    assert "g-worse.png score 1.9 p 0.012 ✗ rejected: false alarm" in text
    assert "g-calm.png score 0.5 p 0.012 ✓ accepted" in text


def test_without_misses_the_page_says_so(tmp_path: Path) -> None:
    found = page(tmp_path, images=[image("a.png", "good", 0.1), image("b.png", "hole", 2.0)])
    assert "None: every defective part was rejected, and every good one accepted." in found.text["misses"]
    assert "misses" not in found.pictures


def test_without_calibration_there_is_no_verdict(tmp_path: Path) -> None:
    found = page(tmp_path, images=[image("a.png", "good", 0.1, None), image("b.png", "hole", 2.0, None)])
    assert "no verdict that could be wrong" in found.text["misses"]
    assert "b.png score 2 no verdict" in found.text["images"]
    assert " p " not in found.text["images"]


@pytest.mark.heavy
def test_of_many_images_the_most_telling_are_shown(tmp_path: Path) -> None:
    good = [image(f"g{i}.png", "good", 0.001 * i) for i in range(200)]
    crack = [image(f"c{i}.png", "crack", 2.0 + 0.01 * i) for i in range(97)]
    few = [image(f"h{i}.png", "hole", 1.0 + 0.1 * i) for i in range(4)]  # 1.0, 1.1, 1.2 missed; 1.3 found
    found = page(tmp_path, images=good + crack + few)
    assert "The 60 most telling of 301 images are shown; 241 are left out." in found.text["left-out"]
    names = [Path(name).stem for name in found.pictures["images"]]
    assert len(names) == len(set(names)) == 60
    assert [Path(name).stem for name in found.pictures["missed"]] == ["h0", "h1", "h2"]
    # All 4 holes; the other 56 places go to cracks and good parts in turn, 28 each, from the wrong end.
    assert names == [
        *(f"c{i}" for i in range(28)),
        *(f"h{i}" for i in range(4)),
        *(f"g{i}" for i in range(199, 171, -1)),
    ]
    assert "crack 28 of 97" in found.text["label-0"]
    assert "left-out" not in page(tmp_path, images=good + crack[:96] + few).text


@pytest.mark.heavy
def test_many_misses_leave_room_for_other_images(tmp_path: Path) -> None:
    missed = [image(f"m{i}.png", "hole", 0.001 * i) for i in range(150)]
    alarms = [image(f"a{i}.png", "good", 2.0 + 0.001 * i) for i in range(100)]
    found = page(tmp_path, images=[*missed, *alarms, *(image(f"c{i}.png", "crack", 5.0) for i in range(60))])
    shown = [Path(name).stem[0] for name in found.pictures["images"]]
    # 20 missed, 20 alarms; then crack, hole and good in turn, but the first 20 of the latter two are in.
    assert len(shown) == 60
    assert shown.count("c") == 20
    assert "Defects accepted 20 of 150" in found.text["missed"]
    assert "Good parts rejected 20 of 100" in found.text["alarms"]


def test_names_are_escaped_and_paths_are_quoted(tmp_path: Path) -> None:
    evil = "<b>\"x\" & 'y'.png"
    evaluation = EVALUATION | {
        "per_defect": {"<i>": EVALUATION["per_defect"]["hole"]},
        "leakage": [["<u>.png", "t.png"]],
    }
    one = dataclasses.replace(
        image(evil, "<i>", 2.0), overlay=f"overlays/{evil}", thumbnail="thumbs/50 % #1?a:b.png"
    )
    curve = dataclasses.replace(CURVE, name="<s>$x$ & y")
    text = html(tmp_path, evaluation, images=[one], curves=[curve], facts={"<em>": "<a href=x>"})
    found = Page(text)
    assert not {"i", "u", "s", "em"} & set(found.tags)
    assert '<b>"x' not in text
    assert "overlays/%3Cb%3E%22x%22%20%26%20%27y%27.png" in found.values("href")
    assert "thumbs/50%20%25%20%231%3Fa%3Ab.png" in found.values("src")
    assert evil in found.text["images"]
    assert f"{evil} with its anomaly map, score 2" in found.values("alt")
    assert "<s>$x$ & y 0.988" in found.text["charts"]
    assert "<em> <a href=x>" in found.text["facts"]
    assert "t.png equals <u>.png" in found.text["summary"]


def test_the_page_asks_the_network_for_nothing(full: str) -> None:
    namespaces = re.compile(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]+"')
    assert "://" not in namespaces.sub("", full)
    assert "<script" not in full
    assert "@import" not in full
    assert not re.search(r"url\((?!#)", full)
    assert "prefers-color-scheme: dark" in full


def test_how_the_method_was_chosen_is_a_table_with_what_was_kept(usual: Page, tmp_path: Path) -> None:
    figures = {"image_auroc": 0.9, "pixel_auroc": 0.97, "pixel_ap": 0.5}
    rows = [{"members": ["pca"]} | figures, {"members": ["metal"], "error": "<b> no memory"}]
    rows.append({"members": ["pca", "kde"]} | figures | {"pixel_auroc": 0.98125})
    choice = {"members": ["pca", "kde"], "candidates": rows}
    found = page(tmp_path, choice=choice, choice_picture="choice.png")
    kept = "Kept: pca + kde (AUROC of planted images / pixels 0.900 / 0.981; pca 0.900 / 0.970)"
    assert kept in found.text["choice"]
    assert "These defects are made, not real." in found.text["choice"]
    assert "pca + kde ✓ kept 0.900 0.981 0.500 pca 0.900" in found.text["candidates"]
    assert "metal failed: <b> no memory" in found.text["candidates"]
    assert found.pictures["choice"] == ["choice.png"]
    assert "How the method was chosen" not in usual.text[""]
    assert "choice" not in page(tmp_path, choice={"members": ["pca"], "candidates": []}).text
    assert "choice" not in page(tmp_path, choice=choice).pictures


def test_the_candidates_have_the_figures_of_known_defects_where_there_are_any(tmp_path: Path) -> None:
    figures = {"image_auroc": 0.9, "pixel_auroc": 0.97, "pixel_ap": 0.5}
    rows = [{"members": [name]} | figures | {"known_image_auroc": 0.75} for name in ("pca", "kde")]
    rows[0] |= {"known_pixel_auroc": 0.625}
    choice = {"members": ["pca"], "candidates": [*rows, {"members": ["metal"], "error": "no memory"}]}
    found = page(tmp_path, choice=choice)
    assert "the known defects that you gave, which none of them learnt" in found.text["choice"]
    assert (
        "known image AUROC known pixel AUROC pca ✓ kept 0.900 0.970 0.500 0.750 0.625"
        in found.text["candidates"]
    )
    assert "kde 0.900 0.970 0.500 0.750 –" in found.text["candidates"]
    without = page(tmp_path, choice=choice | {"candidates": [{"members": ["pca"]} | figures]})
    assert "known" not in without.text["candidates"]


def test_the_sensitivity_card_says_planted_and_shows_shares(tmp_path: Path) -> None:
    text = html(tmp_path, EVALUATION | {"sensitivity": CARD})
    found = Page(text)
    assert "15 defects were planted into 5 good images" in found.text["sensitivity"]
    assert "of 30 images without a planted defect 1 was rejected" in found.text["sensitivity"]
    assert "made by a program, not real" in found.text["sensitivity"]
    assert "scratch, contrast 15 % 2 of 5 5 of 5" in found.text["planted"]
    assert "blur 2 of 5 –" in found.text["planted"]
    assert "5 % (13 px) 10 % (26 px)" in found.text["planted"]
    charts_of_card = [alt for alt in found.values("aria-label") if alt.startswith("Planted")]
    assert charts_of_card == [
        "Planted defects found (scratch), by size: "
        "5 % at contrast 15 %: 2 of 5; 10 % at contrast 15 %: 5 of 5",
        "Planted defects found (blur), by size: 5 %: 2 of 5",
    ]
    assert found.tags.count("figcaption") == 5
    assert found.text["sensitivity"].count("Share of planted defects") == 2
    assert not any(stand_in in text for stand_in in charts.VARIABLES)
    assert "reduced" not in found.text["sensitivity"]
    assert (
        "reduced to 1024 px"
        in page(tmp_path, EVALUATION | {"sensitivity": CARD | {"reduced_to_px": 1024}}).text["sensitivity"]
    )


def test_images_are_lazy_and_open_on_a_click(tmp_path: Path) -> None:
    found = page(tmp_path, images=[dataclasses.replace(IMAGES[0], thumbnail="thumbs/g.jpg")])
    assert found.pictures["images"] == ["thumbs/g.jpg", "overlays/g-calm.png"]
    assert found.values("loading") == ["lazy", "lazy"]
    assert found.values("href").count("overlays/g-calm.png") == 2
    assert all(found.values("alt"))


@pytest.mark.parametrize("chance", [None, 0.01, 1.0])
def test_false_alarms_that_chance_explains_are_no_warning(tmp_path: Path, chance: float | None) -> None:
    assert "promised" not in page(tmp_path, EVALUATION | {"false_alarm_p_value": chance}).text["summary"]


def test_more_false_alarms_than_chance_explains_are_a_warning(tmp_path: Path) -> None:
    text = page(tmp_path, EVALUATION | {"false_alarm_rate": 9 / 30, "false_alarm_p_value": 0.004}).text[
        "summary"
    ]
    assert (
        "9 of 30 good test images were rejected, where 5.0 % was promised: by chance 0.4 % of the time"
        in text
    )


def test_leakage_is_a_warning_and_none_is_silent(usual: Page, tmp_path: Path) -> None:
    assert "flatter" not in usual.text["summary"]
    pairs = [[f"train/{i}.png", f"test/{i}.png"] for i in range(12)]
    text = page(tmp_path, EVALUATION | {"leakage": pairs}).text["summary"]
    assert "12 test images are also among the training images: the numbers flatter the model." in text
    assert "test/9.png equals train/9.png and 2 more" in text
    assert "test/10.png" not in text


def test_charts_are_svg_in_the_colours_of_the_page(full: str) -> None:
    assert Page(full).tags.count("svg") == 4  # three charts and the mark in the header
    assert not any(stand_in in full for stand_in in charts.VARIABLES)
    defined = set(re.findall(r"(--[a-z-]+):", full))
    assert set(re.findall(r"var\((--[a-z-]+)\)", full)) <= defined
    for target in re.findall(r'(?:href="#|url\(#)([^")]+)', full):
        assert f'id="{target}"' in full


@pytest.mark.heavy
def test_the_same_evaluation_gives_the_same_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "draw", DRAW)
    assert html(tmp_path / "a", curves=[CURVE]) == html(tmp_path / "b", curves=[CURVE], images=IMAGES[::-1])


def test_a_log_without_epochs_or_no_log_draws_nothing(tmp_path: Path) -> None:
    for path in (None, log(tmp_path, "epoch,train_loss\n")):
        assert "No training log to draw." in page(tmp_path, training_log=path).text["charts"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch,loss\n1,2\n", "no column train_loss"),
        ("", "no column epoch"),
        ("epoch,train_loss\n1,x\n", "losses must be numbers"),
        (None, "must be readable"),
    ],
)
def test_a_bad_training_log_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "none.csv" if text is None else log(tmp_path, text)
    with pytest.raises(DataError, match=said) as error:
        html(tmp_path / "out", training_log=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_missing_keys_are_refused_by_name(tmp_path: Path) -> None:
    evaluation = {key: value for key, value in EVALUATION.items() if key != "aupro_fpr30"}
    evaluation["per_defect"] = {"hole": {"n": 1, "image_auroc": 1.0, "detection_rate": 1.0}}
    with pytest.raises(DataError, match=r"aupro_fpr30, per_defect\.hole\.pixel_auroc missing"):
        html(tmp_path, evaluation)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(tmp_path: Path, score: float) -> None:
    with pytest.raises(DataError, match=r"bad\.png: score (nan|inf); scores must be finite"):
        html(tmp_path, images=[image("bad.png", "hole", score)])


@pytest.mark.parametrize("change", [{"overlay": "//host/a.png"}, {"thumbnail": "/a.png"}])
def test_an_absolute_image_path_is_refused(tmp_path: Path, change: dict) -> None:
    with pytest.raises(UsageError, match="must be relative"):
        html(tmp_path, images=[dataclasses.replace(IMAGES[0], **change)])


def test_without_the_extra_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"jinja2 is missing; pip install 'blemish\[report\]'"):
        html(tmp_path)


def test_importing_the_report_does_not_import_its_libraries() -> None:
    code = "import sys, blemish.report.evaluation; assert not {'matplotlib', 'jinja2'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_in_a_browser(tmp_path: Path, browser, width: int, scheme: str) -> None:
    images = [
        dataclasses.replace(one, overlay=f"overlays/a #{i}? 50%.png", thumbnail=f"overlays/t'{i}\".png")
        for i, one in enumerate(IMAGES)
    ]
    (tmp_path / "overlays").mkdir()
    for name in [path for one in images for path in (one.overlay, one.thumbnail) if path]:
        Image.new("RGB", (32, 24), (90, 20, 10)).save(tmp_path / name)
    html(tmp_path, images=images, curves=[CURVE], training_log=log(tmp_path, "epoch,train_loss\n1,3\n2,1\n"))
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests, faults = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("requestfailed", lambda request: faults.append(request.url))
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto((tmp_path / "report.html").as_uri())
    tab.evaluate("for (const i of document.images) i.loading = 'eager'")
    tab.wait_for_function("[...document.images].every(i => i.complete)")
    assert tab.evaluate("[...document.images].map(i => i.naturalWidth)") == [32] * (2 * (4 + 8))
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    ink = tab.evaluate("getComputedStyle(document.querySelector('#charts svg text')).fill")
    page_colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert contrast(ink, page_colour) >= 4.5
    tab.close()
    assert all(url.startswith(("file:", "data:")) for url in requests)
    assert faults == []


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two CSS colours, 1 to 21 (WCAG 2)."""

    def luminance(colour: str) -> float:
        channels = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_numbers_of_where_are_shown_and_spro_where_a_data_set_has_it(tmp_path: Path):
    text = page(tmp_path / "a").text["numbers"]
    for said in (
        "AUPRO, FPR up to 5 % 0.701",
        "AUPIMO 0.333",
        "Pixel average precision 0.612",
        "SegF1 0.512",
    ):
        assert said in text
    assert "precision 0.432, recall 0.632, at the promised rate" in text
    assert "sPRO" not in text
    loco = page(tmp_path / "b", EVALUATION | {"au_spro_fpr5": 0.4321}).text["numbers"]
    assert "AU-sPRO, FPR up to 5 % 0.432" in loco
    blind = page(tmp_path / "c", EVALUATION | {"seg_f1": None, "seg_precision": None, "seg_recall": None})
    assert "SegF1 – no calibration" in blind.text["numbers"]
