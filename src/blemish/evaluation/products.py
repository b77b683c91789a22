"""Evaluation of a model of several products: each by itself, with the figures of all and their mean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blemish.core.files import write_whole
from blemish.core.ownership import owned
from blemish.data.dataset import check_evaluable
from blemish.report.products import AVERAGED, write_products_report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from blemish.data.dataset import Dataset
    from blemish.inference.detector import Detector

PRODUCTS_NAME = "products.json"
"""What was found of each product, and the mean."""
PRODUCTS_FOLDER = "products"
"""Where each product has a folder with its evaluation."""


def evaluate_products(
    detector: Detector,
    datasets: Mapping[str, Dataset],
    out: Path,
    evaluate_one: Callable[[Detector, Dataset, Path], dict[str, Any]],
) -> dict[str, Any]:
    """Evaluate each product into `out/products/<name>`, and write products.json and report.html of them all.

    `evaluate_one` does it for one, as `evaluation.evaluate.evaluate`. Returns products.json's content:
    evaluation.json's of each product, and the `mean` over products, None where one product has no figure.
    Raises UsageError for a product that the model does not have, before any image is read, and what
    `evaluate` raises.
    """
    detectors = {name: detector.for_product(name) for name in sorted(datasets)}
    for dataset in datasets.values():
        check_evaluable(dataset)
    with owned(out):
        found = {
            name: evaluate_one(own, datasets[name], out / PRODUCTS_FOLDER / name)
            for name, own in detectors.items()
        }
        model_file = detector.model_file
        content = {"method": model_file.method, "preset": model_file.preset}
        content |= {"products": found, "mean": mean_of(found)}
        write_whole(out / PRODUCTS_NAME, json.dumps(content, indent=2) + "\n")
        write_products_report(out, content)
    return content


def mean_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the mean of each figure over the products, which all count alike."""
    means: dict[str, float | None] = {}
    for key in AVERAGED:
        values = [evaluation.get(key) for evaluation in found.values()]
        known = [value for value in values if value is not None]
        means[key] = sum(known) / len(known) if len(known) == len(values) else None
    return means
