"""The model card: what a model learnt from, what it was measured at, what it cannot do, whose weights it has.

Its content is made once, as sections of sentences and tables, and written as Markdown and as a page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.core.files import write_whole
from blemish.report import choice as choosing
from blemish.report import sensitivity as planted
from blemish.report.card_figures import check_figures
from blemish.report.evaluation import broken_promise
from blemish.report.html import DASH, MEASURES, format_area, format_number, format_percent, write_page
from blemish.report.products import as_one, figures_of, promise_of, sensitivity_of
from blemish.report.sections import Section, Table, markdown_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from blemish.inference.model_file import ModelFile

FIGURES = MEASURES | {
    "aupro_fpr5": "AUPRO up to FPR 0.05",
    "pixel_average_precision": "pixel average precision",
    "aupimo": "AUPIMO",
    "seg_f1": "SegF1 at the promised rate",
}
"""The areas of evaluation.json that a card shows, and their names."""
SELDOM = 0.5
"""What is found less often than this is named among the limits. Our choice: more are missed than found."""


def write_model_card(
    out: Path,
    model_file: ModelFile,
    evaluation: Mapping[str, Any] | None,
    sensitivity: Mapping[str, Any] | None,
    products: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write `out/card.md` and `out/card.html`, and return their paths.

    `evaluation` and `sensitivity` are what `evaluate` and `sensitivity` wrote as JSON, None where they were
    not run; without the latter the evaluation's own card of planted defects is shown. `products` is what
    `evaluate` wrote of a model of several. Raises DataError for figures of another model or of another
    blemish, UsageError without the packages of `blemish[report]`.
    """
    check_figures(model_file, evaluation, sensitivity, products)
    if sensitivity is None and evaluation is not None:
        sensitivity = evaluation.get("sensitivity")
    title = f"{model_file.provenance.get('dataset') or 'model'}: {model_file.method}"
    sections = sections_of(model_file, evaluation, sensitivity, products)
    measured = evaluation if products is None else as_one(products)
    content = {"title": title, "sentence": _sentence(model_file, measured), "sections": sections}
    page = write_page(out / "card.html", "model_card", content)
    write_whole(out / "card.md", markdown_of(title, content["sentence"], sections))
    return out / "card.md", page


def sections_of(
    model_file: ModelFile,
    evaluation: Mapping[str, Any] | None,
    sensitivity: Mapping[str, Any] | None,
    products: Mapping[str, Any] | None = None,
) -> list[Section]:
    """Return the whole content of a card."""
    measured = evaluation if products is None else as_one(products)
    limits = list(_limits(model_file, measured, sensitivity))
    limits += [] if products is None else list(_broken_promises(products))
    return [
        _model(model_file),
        _data(model_file),
        _weights(model_file),
        promise_of(model_file) if model_file.products else _promise(model_file, evaluation),
        _figures(evaluation) if products is None else figures_of(products),
        _sensitivity(sensitivity) if products is None else sensitivity_of(products),
        Section(title="Limits", sentences=limits),
    ]


def _broken_promises(products: Mapping[str, Any]) -> Iterator[str]:
    for name, evaluation in products["products"].items():
        if broken := broken_promise(evaluation):
            yield f"The promise was not kept for {name}: {broken}."


# --- the sections -----------------------------------------------------------------------------------------


def _sentence(model_file: ModelFile, evaluation: Mapping[str, Any] | None) -> str:
    learnt = model_file.provenance.get("images", {}).get("train")
    said = f"A detector that learnt from {learnt or 'good'} good images and from no defect"
    if evaluation is None or evaluation["image_auroc"] is None:
        return f"{said}. It has not been measured on a test set."
    images = evaluation["n_good"] + evaluation["n_defect"]
    mean = "mean " if "products" in evaluation else ""
    return f"{said}; {mean}image AUROC {format_area(evaluation['image_auroc'])} on {images} test images."


def _model(model_file: ModelFile) -> Section:
    height, width = model_file.size
    choice, tiling = model_file.provenance.get("choice"), model_file.tiling
    chosen = choosing.sentence_of(choice) if choice else None
    versions = model_file.provenance.get("versions", {})
    facts = [
        ("Method", f"{model_file.method}, preset {model_file.preset}"),
        *([("Chosen", chosen)] if chosen else []),
        ("Images that it takes", model_file.image_format.describe()),
        ("What the network sees", f"{height}×{width} px"),
        *([("Parts", "turned to lie alike")] if model_file.config.get("aligned") else []),
        *([("Tiles", f"{tiling.size[0]}×{tiling.size[1]} px of the image")] if tiling else []),
        ("Options", ", ".join(f"{key} {value}" for key, value in model_file.config.items())),
        ("Versions", ", ".join(f"{key} {value}" for key, value in versions.items()) or DASH),
    ]
    return Section(title="Model", sentences=[], tables=(Table(head=("what", "value"), rows=facts),))


def _data(model_file: ModelFile) -> Section:
    known = model_file.provenance
    facts = [
        ("Data set", str(known.get("dataset") or DASH)),
        ("Good images", ", ".join(f"{n} {part}" for part, n in known.get("images", {}).items()) or DASH),
        ("Fingerprint of what was learnt", str(known.get("fingerprint") or DASH)),
        ("Seed", str(known.get("seed", DASH))),
    ]
    said = [
        "All images were said to be good. The model stands on that: a defect among them is learnt as good."
    ]
    return Section(title="Data", sentences=said, tables=(Table(head=("what", "value"), rows=facts),))


def _weights(model_file: ModelFile) -> Section:
    theirs = model_file.provenance.get("backbone")
    title = "Weights and their licence"
    if theirs is None:
        said = (
            "It learnt from the images above alone, from random numbers on; no weights of others are in it."
        )
        return Section(title=title, sentences=[said])
    facts = [(key, str(value)) for key, value in theirs.items()]
    said = [
        "Its features come from a network that others have trained. Their licence counts for this model too.",
        "Terms of the images that it was trained on may limit its use as well: ask whoever answers for that.",
    ]
    return Section(title=title, sentences=said, tables=(Table(head=("what", "value"), rows=facts),))


def _promise(model_file: ModelFile, evaluation: Mapping[str, Any] | None) -> Section:
    calibration, title = model_file.calibration, "Promise on good parts"
    if calibration is None:
        said = (
            "No good images were held out: there are scores and maps, but no threshold and no promised rate."
        )
        return Section(title=title, sentences=[said])
    said = [
        f"Its thresholds come from {calibration.n} good images that it did not learn. "
        f"Rates from {format_percent(calibration.lowest_rate)} on can be promised.",
        "The promise holds for good parts like those: same part, camera, lens, light and place.",
    ]
    rate = None if evaluation is None else evaluation["requested_false_alarm_rate"]
    if evaluation is not None and rate is not None and evaluation["n_good"]:
        rejected, n = round(evaluation["false_alarm_rate"] * evaluation["n_good"]), evaluation["n_good"]
        said.append(
            f"Promised were {format_percent(rate)} false alarms; of {n} good test images "
            f"{rejected or 'none'} {'was' if rejected < 2 else 'were'} rejected."
        )
    return Section(title=title, sentences=said)


def _figures(evaluation: Mapping[str, Any] | None) -> Section:
    title = "Figures"
    if evaluation is None:
        return Section(title=title, sentences=["None yet: blemish evaluate measures them."])
    said = [
        f"Measured on {evaluation['dataset']}: {evaluation['n_good']} good and {evaluation['n_defect']} "
        f"defective images, fingerprint {evaluation['test_fingerprint'][:16]}."
    ]
    rows = [
        (name, format_area(value), _interval(evaluation.get(f"{key}_interval95")))
        for key, name in FIGURES.items()
        if (value := evaluation.get(key)) is not None
    ]
    measured = Table(head=("measure", "value", "95 % interval"), rows=rows)
    return Section(title=title, sentences=said, tables=(measured, _kinds(evaluation)))


def _kinds(evaluation: Mapping[str, Any]) -> Table:
    rows = [
        (
            label,
            str(row["n"]),
            DASH if row["detection_rate"] is None else format_percent(row["detection_rate"]),
            format_area(row["image_auroc"]),
            DASH if row["pixel_auroc"] is None else format_area(row["pixel_auroc"]),
        )
        for label, row in evaluation["per_defect"].items()
    ]
    return Table(head=("kind of defect", "images", "found", "image AUROC", "pixel AUROC"), rows=rows)


def _interval(interval: Sequence[float] | None) -> str:
    return DASH if interval is None else f"{format_number(interval[0], 3)} to {format_number(interval[1], 3)}"


def _sensitivity(card: Mapping[str, Any] | None) -> Section:
    title = "Sensitivity to planted defects"
    if card is None:
        return Section(title=title, sentences=["Not measured: blemish sensitivity does so."])
    sizes, rows = planted.table_of(card)
    table = Table(head=("planted", *sizes), rows=[(name, *cells) for name, cells in rows])
    said = [
        planted.sentence_of(card),
        "They are made by a program; real ones may be easier or harder to find.",
    ]
    return Section(title=title, sentences=said, tables=(table,))


def _limits(
    model_file: ModelFile, evaluation: Mapping[str, Any] | None, card: Mapping[str, Any] | None
) -> Iterator[str]:
    """Say what the model cannot do, as far as its files tell."""
    yield f"It takes {model_file.image_format.describe()} and refuses others: train again for a new camera."
    yield "It knows how good parts looked when it learnt: what changes slowly needs a look at its drift."
    if evaluation is None:
        yield "Nobody has measured it on real defects yet."
    else:
        yield from _weak_kinds(evaluation)
        if evaluation["leakage"]:
            yield f"{len(evaluation['leakage'])} test images were learnt: its figures are better than it is."
        for key, among in (
            ("calibrated_by", "among those that the threshold comes from: its rates flatter it"),
            ("chosen_by", "among the known defects that chose the method: its figures flatter it"),
        ):
            if n := len(evaluation.get(key) or ()):
                yield f"{n} {'test image is' if n == 1 else 'test images are'} {among}."
        if broken := broken_promise(evaluation):
            yield f"The promise was not kept on the test set: {broken}."
    if card is not None:
        weak = [
            f"{planted.label_of(p['kind'], p['contrast'])}, {p['size_px']} px"
            for p in card["points"]
            if p["share"] < SELDOM
        ]
        if weak:
            yield f"Planted defects that it mostly misses: {'; '.join(weak)}."


def _weak_kinds(evaluation: Mapping[str, Any]) -> Iterator[str]:
    rows = evaluation["per_defect"].items()
    weak = [k for k, row in rows if row["detection_rate"] is not None and row["detection_rate"] < SELDOM]
    if weak:
        yield f"Real defects that it mostly misses at the promised rate: {', '.join(weak)}."
    if evaluation["pixel_auroc"] is None:
        yield "Where its maps point was not measured: the test set has no masks, or the method draws no map."
