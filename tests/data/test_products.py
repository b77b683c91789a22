"""Several products in one data set: by a manifest's column, or a folder for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import save

from blemish.core.errors import DataError
from blemish.data.dataset import Dataset, dataset_fingerprint, open_dataset
from blemish.data.products import open_products, open_together, put_together, split_by_product
from blemish.data.split import split_good


def dot(value: int) -> np.ndarray:
    return np.full((2, 2), value, np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of 6 bolts and 4 nuts, each image another one."""
    root = tmp_path_factory.mktemp("products")
    for i in range(6):
        save(root / "bolts" / f"{i}.png", dot(i))
    for i in range(4):
        save(root / "nuts" / f"{i}.png", dot(100 + i))
    return root


def both(root: Path) -> Dataset:
    return put_together(open_products({"bolt": root / "bolts", "nut": root / "nuts"}))


def cut(dataset: Dataset, seed: int = 3) -> dict[str, list[Path]]:
    split = split_good(dataset, validation_fraction=0.2, calibration_fraction=0.3, seed=seed)
    parts = {"train": split.train, "validation": split.validation, "calibration": split.calibration}
    return {name: [sample.path for sample in part] for name, part in parts.items()}


def manifest(folder: Path, *rows: str) -> Path:
    file = folder / "parts.csv"
    file.write_text("\n".join(["path,split,product", *rows]), encoding="utf-8")
    return file


def test_a_folder_for_each_product(root: Path):
    dataset = both(root)
    assert (dataset.name, dataset.products, len(dataset.train)) == ("bolt+nut", ["bolt", "nut"], 10)
    nuts = dataset.of_product("nut")
    assert (nuts.name, [s.path.parent.name for s in nuts.train]) == ("nut", ["nuts"] * 4)
    assert [*split_by_product(dataset)] == ["bolt", "nut"]
    assert split_by_product(open_dataset(root / "nuts")) == {}


def test_a_manifest_says_the_same(root: Path):
    rows = [f"{p.relative_to(root)},train,{p.parent.name[:-1]}" for p in sorted(root.rglob("*.png"))]
    dataset = open_dataset(manifest(root, *rows))
    assert dataset_fingerprint(dataset) == dataset_fingerprint(both(root))
    assert dataset_fingerprint(dataset) != dataset_fingerprint(open_dataset(manifest(root, *rows[:-1])))
    assert cut(dataset) == cut(both(root))


@pytest.mark.parametrize("seed", [0, 3])
def test_each_product_is_cut_as_if_it_were_alone(root: Path, seed: int):
    together = cut(both(root), seed)
    alone = [cut(open_dataset(root / name), seed) for name in ("bolts", "nuts")]
    assert together == {part: sorted([*alone[0][part], *alone[1][part]]) for part in together}
    assert [len(together[part]) for part in ("train", "validation", "calibration")] == [3 + 2, 1 + 1, 2 + 1]


def test_what_contradicts_itself_is_refused(root: Path, tmp_path: Path):
    rows = ["bolts/0.png,train,bolt", "bolts/1.png,train,bolt", "nuts/0.png,train,nut"]
    with pytest.raises(DataError, match=r"parts.csv: product nut: 1 good image\(s\) to train on"):
        open_dataset(manifest(root, *rows))
    with pytest.raises(DataError, match="row 4: rows before it have a product"):
        open_dataset(manifest(root, *rows[:2], "nuts/0.png,train,"))
    with pytest.raises(DataError, match="row 2: product 'a/b': a name has"):
        open_dataset(manifest(root, "bolts/0.png,train,a/b"))
    with pytest.raises(DataError, match=r"product bolt: .*parts.csv has products itself"):
        open_products({"bolt": manifest(root, *rows, "nuts/1.png,train,nut")})
    with pytest.raises(DataError, match=r"0.png: is of product bolt and of nut; give it once"):
        put_together(open_products({"bolt": root / "bolts", "nut": root / "bolts"}))
    for i in range(4):
        save(tmp_path / f"{i}.png", dot(i))
    twice = put_together(open_products({"bolt": root / "bolts", "nut": tmp_path}))
    with pytest.raises(DataError, match=r"same content as .* which is of product bolt, not nut; remove one"):
        cut(twice)
    with pytest.raises(DataError, match="--products: product 'a/b': a name has"):
        open_together({"a/b": root / "bolts"})
