"""Parts of several views in an evaluation: each is decided as `predict` decides it, and measured as one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError
from blemish.core.files import write_whole
from blemish.core.types import GOOD
from blemish.data.dataset import find_leakage
from blemish.evaluation.pictures import name_of_sample, overlay_name, predict_and_draw
from blemish.evaluation.scored import Scored, score_of
from blemish.inference.part_rows import ROWS_NAME, PartRow, draw_part, part_row, picture_names
from blemish.inference.parts import TogetherRule
from blemish.metrics.confidence import bootstrap_interval, exact_interval
from blemish.metrics.roc import Roc, image_roc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from blemish.core.types import Sample
    from blemish.data.dataset import Dataset
    from blemish.inference.part_models import Views

RESAMPLES = 1000
"""So many draws make an interval."""
MAX_SHOWN = 60
"""Parts that were decided wrongly, or lack a view, that a report shows at most."""


def usual_images(dataset: Dataset, views: Views) -> Dataset:
    """Return the data set with those test images alone that the usual model scores.

    Raises DataError where none of them is good, or none defective: nothing can be measured of these.
    """
    usual = views.models.usual
    test = [s for s in dataset.test if views.models.path(s.view) == usual]
    defects = sum(s.is_defect for s in test)
    if not 0 < defects < len(test):
        raise DataError(
            f"{dataset.root}: of the test images that {usual} scores {len(test) - defects} are good and "
            f"{defects} defective, and figures of images are of these; give --model the model of a view that "
            "shows good and defective parts, and name this one by --view-model"
        )
    return replace(dataset, test=test)


def score_others(dataset: Dataset, views: Views, out: Path) -> tuple[list[Scored], list[tuple[str, str]]]:
    """Score the test images of views with models of their own, and draw them; also return what was learnt.

    The latter is as of `find_leakage`. Raises ImageError for an image that cannot be used.
    """
    scored: list[Scored] = []
    leaks: list[tuple[str, str]] = []
    for path in dict.fromkeys(p for p in views.models.own.values() if p != views.models.usual):
        samples = [s for s in dataset.test if views.models.path(s.view) == path]
        own, detector = replace(dataset, test=samples), views.detectors[path].for_samples(samples)
        leaks += find_leakage(detector.model_file.provenance.get("training_digests", {}), samples)
        for sample, prediction, _ in predict_and_draw(detector, own, out):
            scored.append(score_of(sample, prediction, own))
    return scored, leaks


def measure_parts(dataset: Dataset, views: Views, scored: Iterable[Scored], out: Path) -> dict[str, Any]:
    """Decide of the test parts, write parts.jsonl and their pictures, and return what was measured.

    `scored` are all test images. A part is defective if one of its images is; it has that image's label.
    """
    by_name = {s.name: s for s in scored}
    groups: dict[str, list[Sample]] = {}
    for sample in dataset.test:
        groups.setdefault(str(sample.part), []).append(sample)
    found: list[tuple[PartRow, str]] = []
    names = picture_names(groups)
    for part, samples in sorted(groups.items()):
        rows = [(s.view, _row_of(by_name[name_of_sample(s, dataset)])) for s in samples]
        row = replace(part_row(part, rows, views.rule), picture=names[part])
        draw_part(row, out, names[part])
        found.append((row, next((s.label for s in samples if s.is_defect), GOOD)))
    lines = (json.dumps(asdict(row) | {"label": label}) + "\n" for row, label in found)
    write_whole(out / ROWS_NAME, "".join(lines))
    shown = [_told(row, label) for row, label in found if _is_telling(row, label)]
    return _measured(found, views) | {"shown": shown[:MAX_SHOWN]}


def _row_of(scored: Scored) -> dict[str, Any]:
    row = {"path": scored.name, "score": scored.score, "p_value": scored.p_value}
    return row | {"decision": scored.decision, "overlay": overlay_name(scored.name), "error": None}


def _is_telling(row: PartRow, label: str) -> bool:
    wrong = "rejected" if label == GOOD else "accepted"
    return row.decision == wrong or bool(row.missing) or row.error is not None


def _told(row: PartRow, label: str) -> dict[str, Any]:
    kept = ("part", "decision", "p_value", "missing", "picture", "error")
    return {"label": label, **{name: value for name, value in asdict(row).items() if name in kept}}


def _measured(found: Sequence[tuple[PartRow, str]], views: Views) -> dict[str, Any]:
    good, bad = ([row for row, label in found if (label == GOOD) == kind] for kind in (True, False))
    rule, whole = views.rule, [(row.score, label != GOOD) for row, label in found if row.score is not None]
    scores, defects = [score for score, _ in whole], [defect for _, defect in whole]
    area = interval = None
    if any(defects) and not all(defects):
        area = image_roc(scores, defects).auroc()
        interval = list(bootstrap_interval(scores, defects, Roc.auroc, n=RESAMPLES))
    content: dict[str, Any] = {
        "n_good": len(good),
        "n_defect": len(bad),
        "incomplete": sum(bool(row.missing) for row, _ in found),
        "rule": "together" if isinstance(rule, TogetherRule) else "apart",
        "promise": views.describe(),
        "auroc": area,
        "auroc_interval95": interval,
        "requested_false_alarm_rate": rule.rate,
        "requested_review_rate": rule.review_rate,
    }
    for prefix, rows in (("false_alarm", good), ("detection", bad)):
        content |= _share(f"{prefix}_rate", [row.decision == "rejected" for row in rows], rule.rate)
        content |= _share(f"any_view_{prefix}_rate", [_any(row) for row in rows], rule.rate)
    content |= _share("review_rate", [row.decision != "accepted" for row in good], rule.review_rate)
    return content | _share(
        "review_detection_rate", [row.decision != "accepted" for row in bad], rule.review_rate
    )


def _any(row: PartRow) -> bool:
    """Whether an image of the part exceeds the threshold of images."""
    return any(view.decision == "rejected" for view in row.views)


def _share(name: str, held: Sequence[bool], rate: float | None) -> dict[str, Any]:
    """Return a share with its 95 % interval; None without a rate or parts."""
    if rate is None or not held:
        return {name: None, f"{name}_interval95": None}
    return {name: sum(held) / len(held), f"{name}_interval95": list(exact_interval(sum(held), len(held)))}
