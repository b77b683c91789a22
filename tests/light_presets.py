"""Presets with hardly any training, each on real images, for exports that have to answer alike.

Each preset is exported once, and in both colours where a method's only preset has code for one of them.

Left out, and what shows it instead:
- `paper` of `cpc-ad`, `cutpaste` and `distaug`: their ResNet-18 takes minutes for the crops of each image;
- `paper` of the autoencoders and `quick` of `planted`: trained otherwise, the same networks;
- `paper` of `nsa`, the same network but wider, and `paper-object` of `metal`: `paper-texture` with one block;
- `filters` of one density and one light: each density and each light is in one of its presets or in `auto`;
- `paper` of the methods on pre-trained features, whose weights no package carries (networks of a file:
  `tests/methods/test_patchcore.py` and its neighbours).
"""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
from parity import assert_same_answers

from blemish.export.onnx import export
from blemish.methods.config import DetectorConfig
from blemish.methods.registry import METHODS
from blemish.training import fit

SETS = {"bottle": ("mvtec", "bottle", "broken_small"), "tile": ("mtd", "magnetic_tile", "crack")}
"""Name: folder, category, defect. Bottles are RGB and square; tiles are grey, of all sizes, none square."""
BOTH = {"pca", "kde", "variation", "texture-inspection", "patchcore"}
"""Methods whose only preset makes grey of RGB, or RGB of grey, and one that takes a second."""
ON_TILES = {("auto", "default"), ("metal", "paper-texture"), ("filters", "shared"), ("planted", "anywhere")}
ON_TILES |= {("ae-l2", "paper-object"), ("ae-ssim", "paper-object")}
"""Presets on grey instead of RGB, which others of their methods take. Sizes of `auto` follow the images'."""
AUTO = {"members": ("filters", "variation"), "validation_fraction": 0.3}
"""Auto has nothing to choose then, and images that set its members' scales."""
LEFT_OUT = {("cpc-ad", "paper"), ("cutpaste", "paper"), ("ae-l2", "paper"), ("ae-ssim", "paper")}
LEFT_OUT |= {("padim", "paper"), ("padim", "paper-wide"), ("patchcore", "paper")}
LEFT_OUT |= {("f-anogan", "paper"), ("gt", "paper"), ("distaug", "paper"), ("lsa", "paper")}
LEFT_OUT |= {("ocgan", "paper"), ("vt-adl", "paper"), ("metal", "paper-object")}
LEFT_OUT |= {
    ("feature-dictionary", "paper"),
    ("fcdd", "paper"),
    ("mkd", "paper"),
    ("student-teacher", "paper"),
}
LEFT_OUT |= {("planted", "quick"), ("nsa", "paper")}
LEFT_OUT |= {("filters", preset) for preset in ("default", "position-rel", "neighbours", "shared-rel")}
LIGHT = {"steps": 2, "epochs": None, "batch_size": 4, "min_epochs": 0, "patience": None}
LIGHT |= {"iterations": 5}  # of EM, in texture inspection
LIGHT |= {"validation_fraction": 0.0, "calibration_fraction": 0.3}
SHALLOW = {"image_size": 96, "strides": (4, 8), "grid_stride": 8}
SMALLER = {
    # networks that neither know nor keep a size, on fewer of the layers that `padim` exports as well
    **dict.fromkeys(("fcdd", "feature-dictionary", "mkd", "patchcore", "student-teacher"), SHALLOW),
    # one or two of what is repeated show what many would
    "metal": {"blocks": 1},
    "filters": {"gaussians": 2},
    "f-anogan": {"image_size": 32},
    "gt": {"image_size": 32},
    "lsa": {"estimator_layers": 2, "image_size": 32},
    "nsa": {"image_size": 64},
    "padim": {"image_size": 128},
    "texture-inspection": {"levels": 2, "components": 2, "patches": 1000},
    "vt-adl": {"blocks": 2},
    "auto": AUTO,
}
CASES = [
    (method, preset, data)
    for method, kind in METHODS.items()
    for preset in kind.presets
    for data in (SETS if method in BOTH else ("tile",) if (method, preset) in ON_TILES else ("bottle",))
    if (method, preset) not in LEFT_OUT and kind.not_exported is None
]


def light(method: str, preset: str) -> DetectorConfig:
    """A preset with hardly any training, and with images held out for a threshold."""
    config = METHODS[method].presets[preset]
    changes = LIGHT | SMALLER.get(method, {})
    return replace(config, **{k: v for k, v in changes.items() if k in {f.name for f in fields(config)}})


def cases(*, baselines: bool) -> list[tuple[str, str, str]]:
    """Of the methods in `methods/baselines`, or of all others: each half has a file, for a process."""
    return [
        case
        for case in CASES
        if METHODS[case[0]].__module__.startswith("blemish.methods.baselines.") == baselines
    ]


def good_and_new(found: Path, data: str, folder: Path) -> tuple[Path, list[Path]]:
    """Twelve good images in a folder of their own, and two test images, a good one and another."""
    root, category, defect = SETS[data]
    place = found / root / category
    if not place.is_dir():
        pytest.skip(f"no {place}")
    good = folder / "good"
    good.mkdir()
    for path in sorted((place / "train" / "good").iterdir())[:12]:
        shutil.copy(path, good)
    return good, [p for kind in ("good", defect) for p in sorted((place / "test" / kind).iterdir())[:1]]


def check_answers(method: str, preset: str, data: str, found: Path, folder: Path) -> None:
    """Train a preset on images in `found`, export it, and ask both models."""
    good, new = good_and_new(found, data, folder)
    run = folder / "run"
    fit.fit(good, method=method, config=light(method, preset), out=run, device="cpu", precision="fp32")
    export(run, folder / "model.onnx")
    assert_same_answers(run, folder / "model.onnx", new)
