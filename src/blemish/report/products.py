"""What a page says of the products of one model: what each can promise, and the figures side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.report.html import DASH, MEASURES, format_area, format_percent, write_page
from blemish.report.sections import Section, Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from blemish.inference.model_file import ModelFile

AREAS = {
    "image_auroc": MEASURES["image_auroc"],
    "pixel_auroc": MEASURES["pixel_auroc"],
    "aupro_fpr30": MEASURES["aupro_fpr30"],
}
SHARES = {
    "false_alarm_rate": "false alarms",
    "requested_false_alarm_rate": "promised",
    "detection_rate": "defects found",
}
AVERAGED = (*AREAS, *SHARES, "review_rate", "review_detection_rate", "seconds_per_image")
"""The figures of evaluation.json that have a mean over products."""


def write_products_report(out: Path, content: Mapping[str, Any]) -> Path:
    """Write `out/report.html` of what products.json has, with links to the report of each product.

    Raises UsageError without the packages of `blemish[report]`.
    """
    names = list(content["products"])
    said = f"One model of {len(names)} products. Each has thresholds of its own good images."
    page = {
        "title": f"{', '.join(names)}: {content['method']}",
        "sentence": said,
        "sections": [figures_of(content)],
        "names": names,
    }
    return write_page(out / "report.html", "products", page)


def figures_of(content: Mapping[str, Any]) -> Section:
    """Return the figures of each product, and their mean, as evaluate wrote them into products.json."""
    rows = [
        (name, str(each["n_good"]), str(each["n_defect"]), *_cells(each))
        for name, each in content["products"].items()
    ]
    rows.append(("mean", DASH, DASH, *_cells(content["mean"])))
    head = ("product", "good", "defective", *AREAS.values(), *SHARES.values())
    said = "The mean is over products, which count alike, however many images they have."
    return Section(title="Figures", sentences=[said], tables=(Table(head=head, rows=rows),))


def _cells(figures: Mapping[str, Any]) -> list[str]:
    areas = [DASH if figures.get(key) is None else format_area(figures[key]) for key in AREAS]
    shares = [DASH if figures.get(key) is None else format_percent(figures[key]) for key in SHARES]
    return areas + shares


def as_one(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card says of all products together: means, counts, and kinds of defects by product."""
    each = content["products"]
    return {
        "products": list(each),
        "image_auroc": content["mean"]["image_auroc"],
        "pixel_auroc": content["mean"]["pixel_auroc"],
        "n_good": sum(one["n_good"] for one in each.values()),
        "n_defect": sum(one["n_defect"] for one in each.values()),
        "leakage": [pair for one in each.values() for pair in one["leakage"]],
        "calibrated_by": [path for one in each.values() for path in one.get("calibrated_by", ())],
        "chosen_by": [path for one in each.values() for path in one.get("chosen_by", ())],
        "per_defect": {
            f"{name}: {label}": row for name, one in each.items() for label, row in one["per_defect"].items()
        },
        "false_alarm_p_value": None,  # each product has its own
    }


def sensitivity_of(content: Mapping[str, Any]) -> Section:
    """Return where the cards of planted defects are."""
    shown = [name for name, one in content["products"].items() if one.get("sensitivity")]
    said = f"The evaluation reports of {', '.join(shown)} show it." if shown else "Not measured."
    return Section(title="Sensitivity to planted defects", sentences=[said])


def promise_of(model_file: ModelFile) -> Section:
    """Return what a model of several products can promise for each."""
    known = model_file.provenance.get("products", {})
    rows = []
    for each in model_file.products:
        learnt = known.get(each.product.name, {}).get("train")
        n = 0 if each.calibration is None else each.calibration.n
        rate = DASH if each.calibration is None else format_percent(each.calibration.lowest_rate)
        rows.append((each.product.name, DASH if learnt is None else str(learnt), str(n), rate))
    said = [
        "Each product has thresholds of its own: good images of it that were not learnt. "
        "The promised rate holds for each of them, not only on average.",
        "The promise holds for good parts like those: same product, camera, lens, light and place.",
    ]
    head = ("product", "learnt", "held out", "lowest rate that can be promised")
    return Section(title="Promise on good parts", sentences=said, tables=(Table(head=head, rows=rows),))
