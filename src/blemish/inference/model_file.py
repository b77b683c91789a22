"""The model file: everything inference needs, in one `model.safetensors` that loads without pickle.

The tensors are the network's own, plus the calibration's scores. All else is one JSON text in the file's
metadata under the key `blemish`. Nothing in it depends on the clock or the place, so that the same training
gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.core.errors import BlemishError, ModelError, UsageError, one_line
from blemish.core.files import write_whole
from blemish.images.preprocess import ImageFormat
from blemish.inference.calibration import Calibration, calibrate
from blemish.inference.counting import Counting
from blemish.inference.products import Product, ProductCalibration, choose
from blemish.methods.config import DetectorConfig

if TYPE_CHECKING:
    import numpy as np

    from blemish.core.types import Tiling
    from blemish.inference.postprocess import PatchMap

FORMAT_VERSION = 3
"""Raised when an older blemish could misread a newer file: one with products is of version 3, one that says
what counts is of version 2, and all others are of version 1."""

MODEL_NAME = "model.safetensors"
_SCORES, _MAXIMA = "calibration.scores", "calibration.map_maxima"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A trained model, free of any network library.

    `config` holds the method's options, `counting` what of a map counts, `display_range` the map values at
    the two ends of an overlay's colours, `provenance` what an auditor asks for (data set, content
    fingerprint, training images' digests, seed, versions). `tensors` are the network's, by name.

    A model of several `products` has a calibration for each and none for all: it decides nothing before one
    of them is chosen (`of_product`), which is then its `product`.
    """

    method: str
    preset: str
    config: dict[str, Any]
    image_format: ImageFormat
    allow: frozenset[str] = frozenset()
    display_range: tuple[float, float]
    calibration: Calibration | None = None
    counting: Counting = field(default_factory=Counting)
    products: tuple[ProductCalibration, ...] = ()
    product: Product | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @cached_property
    def common(self) -> DetectorConfig:
        """The options that every method has. Raises TypeError or UsageError when they are damaged."""
        names = {f.name for f in fields(DetectorConfig)}
        return DetectorConfig(**{name: v for name, v in options_of(self).items() if name in names})

    def of_product(self, name: str | None) -> ModelFile:
        """Return the same model for parts of one product; None: there is but one.

        Raises UsageError for a product that it does not have, and for None where it has several.
        """
        if self.products:
            chosen = choose(self.products, name)
            return replace(
                self,
                calibration=chosen.calibration,
                display_range=chosen.display_range,
                product=chosen.product,
                products=(),
            )
        own = self.product and self.product.name
        if name not in (None, own):
            known = "has no products; leave it out" if own is None else f"is of {own}"
            raise UsageError(f"product {name!r}: this model {known}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the resized image, in pixels."""
        return self.common.size

    @property
    def tiling(self) -> Tiling | None:
        """How images are cut into tiles; None: they are not."""
        return self.common.tiling

    @property
    def patch_map(self) -> PatchMap | None:
        """How scores of half-overlapping patches become a map; None: the network scores pixels.

        Methods that score patches have the option `interpolation`, and no others do. Of parts that are turned
        the map comes at the size of the image.
        """
        return None if self.config.get("aligned") else self.config.get("interpolation")


def options_of(model_file: ModelFile) -> dict[str, Any]:
    """Return a model file's options as the method's config has them: JSON knows no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in model_file.config.items()}


def find_model(path: Path) -> Path:
    """Return the model file of a run folder, or the file itself. Raises ModelError when there is none."""
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        cure = (
            "train one, or finish it with --resume" if path.is_dir() else "name a run folder or a model file"
        )
        raise ModelError(f"{file}: there is no model here; {cure}")
    return file


def calibration_tensors(model_file: ModelFile) -> dict[str, np.ndarray]:
    """Return the calibration's scores and map maxima, float64 (n,) each, by the name they have in a file.

    Those of a product have its name at the end, after a slash.
    """
    known = [("", model_file.calibration)]
    known += [(f"/{each.product.name}", each.calibration) for each in model_file.products]
    found = {}
    for end, calibration in known:
        if calibration is not None:
            found |= {_SCORES + end: calibration.scores, _MAXIMA + end: calibration.map_maxima}
    return found


def describe(model_file: ModelFile) -> str:
    """Write all of a model file but its tensors and calibration as JSON, for a model file's metadata."""
    counts, products = model_file.counting.as_fields(), _products_as_fields(model_file)
    header = {
        "format_version": 3 if products or "inner" in counts else 2 if counts else 1,
        "method": model_file.method,
        "preset": model_file.preset,
        "config": model_file.config,
        "image_format": asdict(model_file.image_format),
        "allow": sorted(model_file.allow),
        "size": model_file.size,
        "image_score": model_file.common.image_score,
        "patch_map": model_file.patch_map,
        "tiling": None if model_file.tiling is None else asdict(model_file.tiling),
        "display_range": model_file.display_range,
        "provenance": model_file.provenance,
        **({"counting": counts} if counts else {}),
        **products,
    }
    return json.dumps(header, sort_keys=True)


def _products_as_fields(model_file: ModelFile) -> dict[str, Any]:
    """Return what the description says of products; nothing for a model without."""
    if model_file.product is not None:
        return {"product": model_file.product.as_fields()}
    each = [p.product.as_fields() | {"display_range": p.display_range} for p in model_file.products]
    return {"products": each} if each else {}


def _products_of(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> tuple[ProductCalibration, ...]:
    """Make the products of a description, and take their calibrations out of the tensors."""
    found = []
    for each in header.get("products", []):
        (low, high), named = each["display_range"], {k: v for k, v in each.items() if k != "display_range"}
        product = Product(**named)
        calibration = _take_calibration(tensors, f"/{product.name}")
        found.append(ProductCalibration(product=product, calibration=calibration, display_range=(low, high)))
    return tuple(found)


def _take_calibration(tensors: dict[str, np.ndarray], end: str = "") -> Calibration | None:
    scores, maxima = tensors.pop(_SCORES + end, None), tensors.pop(_MAXIMA + end, None)
    return None if scores is None or maxima is None else calibrate(scores, maxima)


def save_model_file(path: Path, model_file: ModelFile) -> None:
    """Write the model file, whole or not at all, and force it to disk."""
    write_whole(path, model_file_bytes(model_file), durable=True)


def model_file_bytes(model_file: ModelFile) -> bytes:
    """Return the content of a model file: safetensors, with its description as metadata."""
    from safetensors.numpy import save

    tensors = model_file.tensors | calibration_tensors(model_file)
    return save(tensors, metadata={"blemish": describe(model_file)})


def load_model_file(path: Path) -> ModelFile:
    """Read a model file or a run folder's. Raises ModelError, one line, on anything that is not one."""
    from safetensors import SafetensorError, safe_open

    file = find_model(Path(path))
    try:
        with safe_open(str(file), framework="numpy") as opened:
            text = (opened.metadata() or {}).get("blemish")
            names = [] if text is None else opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: not a whole safetensors file ({one_line(error)}); copy or train it again"
        ) from error
    if text is None:
        raise ModelError(
            f"{file}: a safetensors file, but not a blemish model; train one with `blemish train`"
        )
    return model_file_of(file, text, tensors)


def model_file_of(file: Path, description: str, tensors: dict[str, np.ndarray]) -> ModelFile:
    """Make a model file of what `describe` wrote into `file` and of its tensors, calibration scores included.

    Raises ModelError, one line, for a description that is damaged or newer than this blemish.
    """
    return _model_file_of(file, _header_of(file, description), tensors)


def _header_of(file: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
        version = int(header["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damage_error(file, error) from error
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{file}: model format {version} is newer than this blemish reads "
            f"({FORMAT_VERSION}); upgrade blemish"
        )
    return header


def _model_file_of(file: Path, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> ModelFile:
    try:
        products = _products_of(header, tensors)
        image_format = dict(header["image_format"])
        image_format["value_range"] = tuple(image_format["value_range"])
        model_file = ModelFile(
            method=header["method"],
            preset=header["preset"],
            config=header["config"],
            image_format=ImageFormat(**image_format),
            allow=frozenset(header["allow"]),
            display_range=(header["display_range"][0], header["display_range"][1]),
            calibration=_take_calibration(tensors),
            counting=Counting.of_fields(header.get("counting", {})),
            products=products,
            product=Product(**header["product"]) if "product" in header else None,
            provenance=header["provenance"],
            tensors=tensors,
        )
        for low, high in (model_file.display_range, *(each.display_range for each in products)):
            if not (isfinite(low) and isfinite(high)):
                raise ValueError(f"display range {[low, high]} is not of two numbers")
        if list(model_file.size) != list(header["size"]):
            raise ValueError(f"size {header['size']} is not its option's, {list(model_file.size)}")
        return model_file
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, BlemishError) as error:
        raise _damage_error(file, error) from error


def _damage_error(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file}: its description is damaged ({one_line(error)}); train it again")
