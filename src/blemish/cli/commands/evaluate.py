"""`blemish evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cli.console import print_left_out, progress_bar
from blemish.cli.options import LayoutOption, ModelOptions, PartOptions, ProductOption, ProductsOption
from blemish.cli.parser import parse
from blemish.cli.streams import complain
from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blemish.data.dataset import Dataset
    from blemish.inference.detector import Detector
    from blemish.inference.part_models import Views


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions, LayoutOption, PartOptions, ProductsOption, ProductOption):
    """Measure a model on a labelled test set; writes evaluation.json, scores.csv and report.html.

    Of several products each has its own below products/, and products.json and report.html have them all.
    """

    data: Path
    """A category in MVTec layout or another that is known, or a CSV manifest with a test split."""
    out: Path | None = None
    """Where to write; default <run>/evaluation."""
    known_defects: Path | None = None
    """A folder of the defects that you have, with or without <name>_mask files: reported apart."""
    sensitivity: bool = True
    """Also plant defects into good test images, about 60, and show which of them are found."""


def evaluate(arguments: list[str]) -> int:
    """Run `blemish evaluate`."""
    options = parse("evaluate", EvaluateOptions, arguments)
    run = options.model if options.model.is_dir() else options.model.parent
    evaluate_into(options, options.out or run / "evaluation", run)
    return 0


def evaluate_into(options: EvaluateOptions, out: Path, run: Path) -> None:
    """Evaluate into a folder, and say what was found; warnings come first. `run` is the model's folder."""
    from blemish.data.products import open_each
    from blemish.evaluation.evaluate import evaluate as run_evaluation
    from blemish.evaluation.products import evaluate_products
    from blemish.evaluation.sensitivity import IMAGES_OF_EVALUATE
    from blemish.inference.model_file import MODEL_NAME

    is_run = (run / MODEL_NAME).is_file()  # else what lies beside the model may be of anything
    detector = options.load()
    data = options.data_sets(options.data)
    each = open_each(data, need_train=False, layout=options.layout, names=options.names())
    detector = _of_product(detector, options, each)
    for dataset in each.values():
        print_left_out(dataset.left_out)
    with progress_bar() as progress:
        task = progress.add_task("scoring", total=sum(len(dataset.test) for dataset in each.values()))
        planted = IMAGES_OF_EVALUATE if options.sensitivity else 0
        all_planted = planted * len(each)
        second = progress.add_task("scoring planted defects", total=all_planted, visible=options.sensitivity)

        def run_one(own: Detector, dataset: Dataset, into: Path) -> dict[str, Any]:
            return run_evaluation(
                own,
                dataset,
                into,
                training_log=run / "log.csv" if is_run else None,
                choice_picture=run / "choice.png" if is_run else None,
                planted=planted,
                known_defects=options.known_defects,
                views=_views(options, dataset, own),
                on_image=lambda: progress.advance(task),
                on_planted=lambda: progress.advance(second),
            )

        if None in each:
            evaluation = run_one(detector, each[None], out)
        else:
            datasets = {str(name): dataset for name, dataset in each.items()}
            evaluation = evaluate_products(detector, datasets, out, run_one)
    _tell_each(evaluation)
    print(f"report: {out / 'report.html'}")


def _of_product(detector: Detector, options: EvaluateOptions, each: Mapping[str | None, Dataset]) -> Detector:
    """Return the detector of the product that all images show. Raises UsageError for what cannot be."""
    if None in each:
        return detector.for_product(options.product)
    if options.product is not None:
        raise UsageError(f"--product {options.product}: the images have products of their own; leave it out")
    if options.known_defects is not None:
        raise UsageError(
            f"--known-defects {options.known_defects}: are of one product; evaluate that with --product"
        )
    return detector


def _tell_each(evaluation: dict[str, Any]) -> None:
    """Print what was found of the data set, or of each product and of all of them."""
    if "products" not in evaluation:
        _tell(evaluation)
        return
    for name, found in evaluation["products"].items():
        print(f"{name}:")
        _tell(found)
    print("mean over products:")
    _print_evaluation(evaluation["mean"])


def _tell(evaluation: dict[str, Any]) -> None:
    """Print what was found of one data set; warnings come first."""
    from blemish.report.evaluation import broken_promise

    for trained, tested in evaluation["leakage"]:
        complain(f"warning: leakage: {tested} was trained on, as {trained}")
    if calibrated_by := evaluation["calibrated_by"]:
        complain(f"warning: {_first_of(calibrated_by)}: tested, and calibrated with: the rates flatter")
    if chosen_by := evaluation["chosen_by"]:
        complain(
            f"warning: {_first_of(chosen_by)}: tested, and the method was chosen by it: the figures flatter"
        )
    if broken := broken_promise(evaluation):
        complain(f"warning: {broken}")
    _print_evaluation(evaluation)


def _first_of(paths: Sequence[str]) -> str:
    return f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else paths[0]


def _views(options: EvaluateOptions, dataset: Dataset, detector: Detector) -> Views | None:
    """Return how parts are decided, where the data set has parts. Raises BlemishError."""
    part_views = [(s.part, s.view) for s in dataset.test if s.part is not None]
    if not part_views:
        options.refuse_without_parts()
        return None
    return options.load_views(
        options.model,
        lambda path: detector if path == options.model else options.load(model=path),
        part_views,
    )


def _print_parts(parts: dict[str, Any]) -> None:
    print(f"parts: {parts['n_good']} good, {parts['n_defect']} defective, {parts['incomplete']} incomplete")
    for key, name in (
        ("auroc", "parts, AUROC"),
        ("requested_false_alarm_rate", "parts, false-alarm rate promised"),
        ("false_alarm_rate", "parts, false-alarm rate measured"),
        ("detection_rate", "parts, detection rate"),
    ):
        value, interval = parts[key], parts.get(f"{key}_interval95")
        between = "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})"
        print(f"{name:<40} {'-' if value is None else f'{value:.4f}'}{between}")
    print(parts["promise"])


def _print_evaluation(evaluation: dict[str, Any]) -> None:
    names = {
        "image_auroc": "image AUROC",
        "pixel_auroc": "pixel AUROC",
        "pixel_auroc_fpr30": "pixel AUROC up to FPR 0.3 (area / 0.3)",
        "pixel_auroc_fpr30_mcclish": "pixel AUROC up to FPR 0.3 (McClish)",
        "aupro_fpr30": "AUPRO up to FPR 0.3",
        "aupro_fpr5": "AUPRO up to FPR 0.05",
        "pixel_average_precision": "pixel average precision",
        "aupimo": "AUPIMO",
        "au_spro_fpr5": "AU-sPRO up to FPR 0.05",
        "seg_f1": "SegF1 at the rate promised",
        "requested_false_alarm_rate": "false-alarm rate promised",
        "false_alarm_rate": "false-alarm rate measured",
        "requested_review_rate": "review rate promised",
        "review_rate": "review rate measured",
        "review_detection_rate": "defects not accepted",
        "detection_rate": "detection rate",
        "seconds_per_image": "seconds per image",
    }
    for key, name in names.items():
        if key not in evaluation:  # a mean has fewer figures
            continue
        value = evaluation[key]
        if key == "au_spro_fpr5" and value is None:  # most data sets have no saturations
            continue
        print(f"{name:<40} {'-' if value is None else f'{value:.4f}'}")
    if evaluation.get("parts"):
        _print_parts(evaluation["parts"])
    if known := evaluation.get("known_defects"):
        found = "" if known["detection_rate"] is None else f", {100 * known['detection_rate']:.0f} % rejected"
        print(f"{'known defects, image AUROC':<40} {known['image_auroc']:.4f} of {known['n']}{found}")
