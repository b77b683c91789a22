"""The figures that a model card shows: as commands wrote them, whole and of this model alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blemish.core.errors import DataError
from blemish.report.evaluation import KEYS
from blemish.report.products import AVERAGED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from blemish.inference.model_file import ModelFile

IDENTITY = {"method", "preset", "threshold"}
"""What says of figures which model's they are."""
EVALUATION_KEYS = KEYS | IDENTITY | {"dataset", "test_fingerprint"}
"""What is read of evaluation.json."""
CARD_KEYS = {
    *IDENTITY,
    *("points", "false_alarm_rate", "planted_images", "good_images", "good_scored", "good_rejected"),
}
"""What is read of sensitivity.json."""


def read_written(folder: Path | None, usual: Path, name: str) -> dict[str, Any] | None:
    """Read what a command wrote as JSON into a folder, or into its usual one; there it may not be yet: None.

    Raises DataError for a named folder without it, and for a damaged file.
    """
    file = (folder or usual) / name
    if folder is None and not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); write it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds a {type(content).__name__}, not an object; write it again")
    return content


def check_figures(
    model_file: ModelFile,
    evaluation: Mapping[str, Any] | None,
    sensitivity: Mapping[str, Any] | None,
    products: Mapping[str, Any] | None,
) -> None:
    """Refuse figures that are not whole, or of another model; None where there are none.

    They are what evaluation.json, sensitivity.json and products.json hold. Raises DataError.
    """
    if evaluation is not None:
        _check_whole(evaluation, EVALUATION_KEYS, "evaluation.json")
        _check_same_model(model_file, evaluation, "evaluation.json", rate="requested_false_alarm_rate")
    if sensitivity is not None:
        _check_whole(sensitivity, CARD_KEYS, "sensitivity.json")
        _check_same_model(model_file, sensitivity, "sensitivity.json", rate="false_alarm_rate")
    if products is not None:
        _check_products(model_file, products)


def _check_whole(content: Any, keys: set[str], name: str) -> None:
    missing = sorted(keys - content.keys() if isinstance(content, dict) else keys)
    if missing:
        raise DataError(f"{name}: {', '.join(missing)} missing; write it again with this blemish")


def _check_products(model_file: ModelFile, products: Mapping[str, Any]) -> None:
    """Refuse what is not whole, or not of this model and its products. Raises DataError."""
    name = "products.json"
    _check_whole(products, {"products", "mean"}, name)
    _check_whole(products["mean"], set(AVERAGED), f"{name}: mean")
    known = [each.product.name for each in model_file.products]
    if unknown := [product for product in products["products"] if product not in known]:
        raise DataError(
            f"{name}: is of {', '.join(unknown)}, the model's products are {', '.join(known)}; "
            "measure this model"
        )
    for product, evaluation in products["products"].items():
        named = f"{name}: {product}"
        _check_whole(evaluation, EVALUATION_KEYS, named)
        own = model_file.of_product(product)
        _check_same_model(own, evaluation, named, rate="requested_false_alarm_rate")


def _check_same_model(model_file: ModelFile, found: Mapping[str, Any], name: str, *, rate: str) -> None:
    """Refuse figures of another model: of another method, or with another threshold. Raises DataError.

    `rate` is the field of the false-alarm rate in (0, 1) that the threshold is for. Of a model of several
    products the threshold may be that of any.
    """
    for key, value in (("method", model_file.method), ("preset", model_file.preset)):
        if found.get(key) != value:
            raise DataError(
                f"{name}: its {key} is {found.get(key)}, the model's is {value}; measure this model"
            )
    of = found.get(rate)
    calibrations = [each.calibration for each in model_file.products] or [model_file.calibration]
    own = [None if of is None or c is None or of < c.lowest_rate else c.threshold(of) for c in calibrations]
    if found.get("threshold") not in own:
        raise DataError(
            f"{name}: its threshold is {found.get('threshold')}, the model's is "
            f"{' or '.join(map(str, own))}; measure this model"
        )
