"""The HTML report of an evaluation: one page, readable without network, script or installation.

Numbers, curves and texts are inside the page; it refers to nothing but the images that lie beside it.
Its looks are in `templates/report.html.j2`, its charts in `charts`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError, UsageError
from blemish.core.types import GOOD
from blemish.report import choice as choosing
from blemish.report import sensitivity
from blemish.report.content import ReportCurve, ReportImage, ReportOverlap
from blemish.report.html import (
    DASH,
    format_area,
    format_number,
    format_percent,
    format_seconds,
    require_packages,
    write_page,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


PACKAGES = ("jinja2", "matplotlib")
"""What the page needs of `blemish[report]`."""
KEYS = {
    *("image_auroc", "pixel_auroc", "pixel_auroc_fpr30", "pixel_auroc_fpr30_mcclish", "aupro_fpr30"),
    *("image_f1max", "false_alarm_rate", "detection_rate", "requested_false_alarm_rate", "threshold"),
    *("aupro_fpr5", "pixel_average_precision", "seg_f1", "seg_precision", "seg_recall"),
    *("aupimo", "au_spro_fpr5", "false_alarm_p_value", "seconds_per_image", "n_good", "n_defect"),
    *("per_defect", "leakage", "sensitivity"),
}
"""What a report reads of `evaluation.json`. All must be there; any may be None."""
DEFECT_KEYS = {"n", "image_auroc", "pixel_auroc", "detection_rate"}
"""The same for a defect of `per_defect`."""

UNLIKELY = 0.01
"""Below this chance, false alarms beyond the promise are told. Our choice: one warning of 100 for nothing."""

SHOW_ALL = 300
"""Up to so many images the gallery shows all of them. Our choice: a page of that size still scrolls well."""
SHOW_TELLING = 60
"""Beyond `SHOW_ALL`, so many are shown: misses first, then every label in turn. Our choice: one sitting."""


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A number with its name, and what it means or why it is missing."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Images of the gallery under one heading, most wrong first; `total` counts those left out too."""

    anchor: str
    title: str
    images: list[ReportImage]
    total: int


def write_report(
    out: Path,
    *,
    title: str,
    evaluation: Mapping[str, Any],
    images: list[ReportImage],
    curves: list[ReportCurve],
    training_log: Path | None,
    facts: Mapping[str, str],
    overlap: ReportOverlap | None = None,
    choice: Mapping[str, Any] | None = None,
    choice_picture: str | None = None,
) -> Path:
    """Write `out/report.html` and return its path.

    `evaluation` has the `KEYS` of `evaluation.json`: rates and areas in [0, 1], `leakage` a list of
    (training name, test name) pairs. `training_log` is a `log.csv` with the columns `epoch` and
    `train_loss`, and `validation_loss` if there was one. `facts` is shown as a table in its own order.
    `overlap` is drawn as a chart of its own. `choice` says how the method was chosen, as choice.json does;
    `choice_picture` is the path of its examples relative to `out`.

    Raises `UsageError` without the packages of `blemish[report]` or for an absolute image path, and
    `DataError` for a missing key, a score that is not finite, or a training log that cannot be read.
    """
    require_packages(*PACKAGES)
    from blemish.report import charts as charts

    _check(evaluation, images)
    drawn = charts.draw(evaluation, images, curves, training_log)
    drawn = drawn + ([charts.draw_overlap(overlap)] if overlap is not None else [])
    content = {"title": title, "charts": drawn, "facts": facts} | _content(evaluation, images)
    content |= sensitivity.content_of(evaluation["sensitivity"])
    content |= {"choice": None, "choice_rows": [], "choice_picture": choice_picture}
    if choice is not None and (sentence := choosing.sentence_of(choice)) is not None:
        content |= {"choice": sentence, "choice_rows": choosing.rows_of(choice)}
    return write_page(out / "report.html", "report", content, wrong=_is_miss)


def _content(evaluation: Mapping[str, Any], images: list[ReportImage]) -> dict[str, Any]:
    misses, groups = _gallery(images)
    return {
        "sentence": _sentence(evaluation),
        "broken_promise": broken_promise(evaluation),
        "tiles": _tiles(evaluation),
        "numbers": _numbers(evaluation),
        "evaluation": evaluation,
        "misses": misses,
        "groups": groups,
        "calibrated": any(image.anomalous is not None for image in images),
        "n_images": len(images),
        "n_shown": sum(len(group.images) for group in groups),
    }


def _check(evaluation: Mapping[str, Any], images: list[ReportImage]) -> None:
    missing = KEYS - evaluation.keys()
    for name, row in (evaluation.get("per_defect") or {}).items():
        missing |= {f"per_defect.{name}.{key}" for key in DEFECT_KEYS - row.keys()}
    if missing:
        keys = ", ".join(sorted(missing))
        raise DataError(
            f"evaluation: {keys} missing; a report needs every key, null if unknown; evaluate again"
        )
    for image in images:
        if not math.isfinite(image.score):
            raise DataError(f"{image.name}: score {image.score}; scores must be finite; leave the image out")
        for path in (image.overlay, image.thumbnail or ""):
            # It would tie the page to this machine, and "//name/" would even leave it.
            if path.startswith("/"):
                raise UsageError(
                    f"{image.name}: {path} is absolute; must be relative to the report; cut its root"
                )


def _is_miss(image: ReportImage) -> bool:
    return image.anomalous is not None and image.anomalous != (image.label != GOOD) and not image.review


def _gallery(images: list[ReportImage]) -> tuple[list[_Group], list[_Group]]:
    """Sort into misses (accepted defects, rejected good parts) and labels, each with the most wrong first.

    Most wrong is the lowest score of a defect and the highest of a good part. The labels are sorted by
    name, good ones last.
    """
    ranked = sorted(images, key=lambda i: (i.score if i.label != GOOD else -i.score, i.name))
    missed = [image for image in ranked if _is_miss(image) and image.label != GOOD]
    alarms = [image for image in ranked if _is_miss(image) and image.label == GOOD]
    labels = sorted({image.label for image in images}, key=lambda label: (label == GOOD, label))
    by_label = [[image for image in ranked if image.label == label] for label in labels]
    shown = _telling(missed, alarms, by_label) if len(images) > SHOW_ALL else set(images)

    def group(anchor: str, title: str, members: list[ReportImage]) -> _Group:
        kept = [image for image in members if image in shown]
        return _Group(anchor=anchor, title=title, images=kept, total=len(members))

    misses = [group("missed", "Defects accepted", missed), group("alarms", "Good parts rejected", alarms)]
    groups = [group(f"label-{i}", *pair) for i, pair in enumerate(zip(labels, by_label, strict=True))]
    return [one for one in misses if one.total], groups


def _telling(
    missed: list[ReportImage], alarms: list[ReportImage], by_label: list[list[ReportImage]]
) -> set[ReportImage]:
    """Choose `SHOW_TELLING` images: a third for either kind of miss, the rest from every label in turn."""
    third = SHOW_TELLING // 3
    in_turn = (image for image in chain.from_iterable(zip_longest(*by_label)) if image is not None)
    order = dict.fromkeys(chain(missed[:third], alarms[:third], in_turn))
    return set(list(order)[:SHOW_TELLING])


def _sentence(evaluation: Mapping[str, Any]) -> str:
    """Say the result in plain words; the counts follow from the rates exactly, for they are ratios."""
    clauses = []
    for kind, noun in (("defect", "defective part"), ("good", "good part")):
        rate = evaluation["detection_rate" if kind == "defect" else "false_alarm_rate"]
        n = evaluation[f"n_{kind}"]
        if rate is None or not n:
            continue
        k = round(rate * n)
        verb = "" if clauses else " was rejected" if k == 1 else " were rejected"
        clauses.append(f"{'of' if clauses else 'Of'} {n} {noun}{'' if n == 1 else 's'} {k or 'none'}{verb}")
    if not clauses:
        return "No threshold was calibrated, so no part was accepted or rejected; only scores are compared."
    return ", ".join(clauses) + "."


def broken_promise(evaluation: Mapping[str, Any]) -> str | None:
    """Say that there were more false alarms than the calibration lets expect, or None."""
    chance, n = evaluation["false_alarm_p_value"], evaluation["n_good"]
    if chance is None or chance >= UNLIKELY:
        return None
    return (
        f"{round(evaluation['false_alarm_rate'] * n)} of {n} good test images were rejected, where "
        f"{format_percent(evaluation['requested_false_alarm_rate'])} was promised: by chance "
        f"{format_percent(chance)} of the time; they are not like the good images held out of training"
    )


def _why_missing(evaluation: Mapping[str, Any], key: str) -> str:
    if key in ("seconds_per_image", "n_good", "n_defect"):
        return "not measured"
    if key == "threshold" or (key == "seg_f1" and evaluation["aupro_fpr30"] is not None):
        return "no calibration"
    if key != "detection_rate" and evaluation["n_good"] == 0:
        return "no good test images"
    if key != "false_alarm_rate" and evaluation["n_defect"] == 0:
        return "no defective test images"
    if key in ("detection_rate", "false_alarm_rate"):
        return "no calibration"
    return "no masks" if key.startswith(("pixel", "aup", "seg")) else "not computed"


def _figure(
    evaluation: Mapping[str, Any], key: str, label: str, text: Callable[[float], str], note: str = ""
) -> _Figure:
    value = evaluation[key]
    if value is None:
        return _Figure(label=label, value=DASH, note=_why_missing(evaluation, key))
    return _Figure(label=label, value=text(value), note=note)


def _tiles(evaluation: Mapping[str, Any]) -> list[_Figure]:
    e, seconds, asked = evaluation, evaluation["seconds_per_image"], evaluation["requested_false_alarm_rate"]
    caught = _share(e["detection_rate"], e["n_defect"], "defective")
    alarms = _share(e["false_alarm_rate"], e["n_good"], "good")
    pace = f"{1 / seconds:.3g} images per second" if seconds else ""
    alarms += "" if asked is None else f"; asked for {format_percent(asked)}"
    return [
        _figure(e, "detection_rate", "Detection rate", format_percent, caught),
        _figure(e, "false_alarm_rate", "False-alarm rate", format_percent, alarms),
        _figure(e, "image_auroc", "Image AUROC", format_area, "good against defective images"),
        _figure(e, "pixel_auroc", "Pixel AUROC", format_area, "sound against defective pixels"),
        _figure(e, "aupro_fpr30", "AUPRO", format_area, "overlap per region, FPR up to 30 %"),
        _figure(e, "seconds_per_image", "Time per image", format_seconds, pace),
    ]


def _numbers(evaluation: Mapping[str, Any]) -> list[_Figure]:
    e, partial = evaluation, "Pixel AUROC, FPR up to 30 %"
    precision, recall = e["seg_precision"], e["seg_recall"]
    marked = ""
    if precision is not None and recall is not None:
        marked = f"precision {format_area(precision)}, recall {format_area(recall)}, at the promised rate"
    numbers = [
        _figure(e, "pixel_auroc_fpr30", partial, format_area, "area / 0.3"),
        _figure(e, "pixel_auroc_fpr30_mcclish", partial, format_area, "McClish: 0.5 is chance"),
        _figure(e, "aupro_fpr5", "AUPRO, FPR up to 5 %", format_area, "overlap per region, area / 0.05"),
        _figure(e, "aupimo", "AUPIMO", format_area, "overlap per image, hardly a false pixel on good ones"),
        _figure(e, "pixel_average_precision", "Pixel average precision", format_area, "over all thresholds"),
        _figure(e, "seg_f1", "SegF1", format_area, marked),
        _figure(e, "image_f1max", "Best image F1", format_area, "at the best threshold in hindsight"),
        _figure(e, "threshold", "Threshold", format_number, "a higher score is rejected"),
        _figure(e, "n_good", "Good test images", str),
        _figure(e, "n_defect", "Defective test images", str),
    ]
    if e.get("requested_review_rate") is not None:
        asked = f"asked for {format_percent(e['requested_review_rate'])}"
        numbers += [
            _figure(
                e,
                "review_rate",
                "Good parts not accepted",
                format_percent,
                f"{asked}; for review or rejected",
            ),
            _figure(
                e, "review_detection_rate", "Defects not accepted", format_percent, "for review or rejected"
            ),
            _figure(e, "review_threshold", "Review threshold", format_number, "a higher score is for review"),
        ]
    if e["au_spro_fpr5"] is not None:  # data sets with saturations alone have it
        numbers.insert(4, _figure(e, "au_spro_fpr5", "AU-sPRO, FPR up to 5 %", format_area, "area / 0.05"))
    return numbers


def _share(rate: float | None, n: int | None, noun: str) -> str:
    return f"{round(rate * n)} of {n} {noun} rejected" if rate is not None and n else ""
