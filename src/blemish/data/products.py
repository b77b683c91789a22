"""Several products in one data set: a folder or a data set for each, put together under their names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.core.errors import DataError, UsageError
from blemish.core.spelling import nfc
from blemish.data.dataset import Dataset, open_dataset
from blemish.data.manifest import check_product
from blemish.images.folders import LeftOut

if TYPE_CHECKING:
    from blemish.core.types import Sample
    from blemish.data.part_names import PartNames

LONGEST_NAME = 100
"""Letters of the name of what was put together, at most."""


def open_products(
    folders: Mapping[str, Path], *, need_train: bool = True, layout: str = "auto"
) -> dict[str, Dataset]:
    """Open the data set of each product, as `open_dataset` does, and label its samples with its name.

    Raises DataError for what `open_dataset` refuses, and for one that holds several products itself.
    """
    found = {}
    for name, path in folders.items():
        dataset = open_dataset(path, need_train=need_train, layout=layout)
        if dataset.products:
            raise DataError(f"product {name}: {path} has products itself; give it as --data")
        found[name] = label(dataset, name)
    return found


def open_together(
    data: str | Path | Mapping[str, str | Path],
    *,
    need_train: bool = True,
    layout: str = "auto",
    names: PartNames | None = None,
) -> Dataset:
    """Open a data set as `open_dataset` does, or those of several products, which are put together."""
    if not isinstance(data, Mapping):
        return open_dataset(Path(data), need_train=need_train, layout=layout, names=names)
    each = open_each(data, need_train=need_train, layout=layout, names=names)
    return put_together({str(name): dataset for name, dataset in each.items()})


def open_each(
    data: str | Path | Mapping[str, str | Path],
    *,
    need_train: bool = True,
    layout: str = "auto",
    names: PartNames | None = None,
) -> dict[str | None, Dataset]:
    """Open what `open_together` does, each product by itself; by None what has no products."""
    if not isinstance(data, Mapping):
        dataset = open_dataset(Path(data), need_train=need_train, layout=layout, names=names)
        return {**split_by_product(dataset)} or {None: dataset}
    if names is not None:
        raise UsageError(
            f"--part-pattern {names.part}: several products have no parts of views; train each alone"
        )
    folders = {check_product(nfc(name), "--products"): Path(path) for name, path in data.items()}
    return {**open_products(folders, need_train=need_train, layout=layout)}


def label(dataset: Dataset, product: str) -> Dataset:
    """Return a data set of which all images show one product."""
    given = {"train": dataset.train, "calibration": dataset.calibration, "test": dataset.test}
    parts = {name: [replace(each, product=product) for each in part] for name, part in given.items()}
    return replace(dataset, **parts)


def split_by_product(dataset: Dataset) -> dict[str, Dataset]:
    """Return what there is of each product; empty for a data set of one."""
    return {name: dataset.of_product(name) for name in dataset.products}


def put_together(products: Mapping[str, Dataset]) -> Dataset:
    """Make one data set of the good images of several products, with their test images.

    Raises DataError for one image file under two names.
    """
    owners: dict[Path, str] = {}
    for name, dataset in products.items():
        for sample in (*dataset.train, *dataset.calibration, *dataset.test):
            path = sample.path.resolve()
            if owners.setdefault(path, name) != name:
                raise DataError(f"{sample.path}: is of product {owners[path]} and of {name}; give it once")
    each = list(products.values())
    masks = [s.mask is not None for one in each for s in one.test if s.is_defect]
    left_out = LeftOut(
        by_suffix=sum((one.left_out.by_suffix for one in each), Counter()),
        parts=sum(one.left_out.parts for one in each),
    )
    return Dataset(
        name="+".join(sorted(products))[:LONGEST_NAME],
        root=Path(os.path.commonpath([one.root.resolve() for one in each])),
        train=_in_order([s for one in each for s in one.train]),
        calibration=_in_order([s for one in each for s in one.calibration]),
        test=_in_order([s for one in each for s in one.test]),
        has_masks=bool(masks) and all(masks),
        left_out=left_out,
        n_set_aside=sum(one.n_set_aside for one in each),
    )


def _in_order(samples: list[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.path.as_posix())
