"""Known defects beside planted ones: they choose, and are never learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import refused
from conftest import save, tiny_defect, tiny_image

from blemish.core.errors import ImageError, UsageError
from blemish.data.known_defects import read_known_defects
from blemish.images.preprocess import ImageFormat
from blemish.images.regions import Regions
from blemish.images.roi import roi_of
from blemish.methods.auto import AutoConfig
from blemish.metrics.roc import Roc
from blemish.training import candidates, choice, costs
from blemish.training.choice import Row, Trial, choose, compare, image_scores
from blemish.training.fit import fit
from blemish.training.known_defects import ENTRY, with_known

pytestmark = pytest.mark.usefixtures("single_thread")
RGB8 = ImageFormat(dtype="uint8", channels=3, value_range=(0.0, 255.0))
IMAGES: Any = SimpleNamespace(image_format=RGB8, allow=frozenset(), regions=Regions())


def trial(*, good: int = 8, planted: int = 6, known: int = 0, side: int = 8) -> Trial:
    """A trial whose images are empty: maps are made up."""
    masks = np.zeros((planted + known, side, side), bool)
    masks[:, 2:4, 2:4] = True
    empty = torch.zeros(1, 1, 1, 1)
    kinds = ["spot"] * planted
    return Trial(
        good=empty.expand(good, -1, -1, -1),
        planted=empty,
        masks=masks,
        kinds=kinds,
        origin=[0] * planted,
        known=known,
    )


def maps(found: Trial, *, planted: float, known: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise on which marked pixels of planted and of known defects stand out by so much."""
    rng = np.random.default_rng(0)
    made = len(found.masks) - found.known
    strength = np.array([planted] * made + [known] * found.known)[:, None, None]
    good, bad = (rng.normal(size=(n, *found.masks.shape[1:])) for n in (len(found.good), len(found.masks)))
    return good, bad + strength * found.masks


def folder_of(root: Path, n: int = 2, *, masks: bool = True) -> Path:
    for i in range(n):
        image, mask = tiny_defect("hole", i)
        save(root / f"{i}.png", image)
        if masks:
            save(root / f"{i}_mask.png", mask)
    return root


def test_areas_of_planted_and_of_known_defects_are_apart():
    found = trial(known=3)
    good, bad = maps(found, planted=2.0, known=0.7)
    row = compare(("a",), good, bad, found)
    without = compare(("a",), good, bad[:6], trial())
    assert (row.image_auroc, row.pixel_auroc, row.pixel_ap) == (
        without.image_auroc,
        without.pixel_auroc,
        without.pixel_ap,
    )
    assert row.known_image_auroc == Roc.of(image_scores(good), image_scores(bad[6:])).auroc()
    marked = found.masks[6:]
    expected = Roc.of(np.concatenate([good.ravel(), bad[6:][~marked]]), bad[6:][marked]).auroc()
    assert row.known_pixel_auroc == expected
    assert without.known_image_auroc is None


def test_more_known_defects_outvote_planted_ones():
    kept = []
    for known in (0, 1, 20):
        found = trial(known=known)
        candidates = {
            "a": maps(found, planted=3.0, known=0.0),
            "a:other": maps(found, planted=1.6, known=3.0),  # of one method, as two have a bonus together
        }
        rows = [compare((name,), *candidates[name], found) for name in candidates]
        kept.append(max(rows, key=lambda row: choice._goodness(row, found.known)).members[0])
        assert choose(rows, candidates, found).rows[:2] == rows
    assert kept == ["a", "a", "a:other"]


def test_known_defects_without_masks_count_by_their_images():
    row = Row(members=("a",), image_auroc=0.8, pixel_auroc=0.9, known_image_auroc=0.6)
    assert choice._goodness(row, 5) == pytest.approx((0.85 + 0.6) / 2)
    masked = Row(
        members=("a",), image_auroc=0.8, pixel_auroc=0.9, known_image_auroc=0.6, known_pixel_auroc=1.0
    )
    assert choice._goodness(masked, 5) == pytest.approx((0.85 + 0.8) / 2)
    assert choice._goodness(Row(members=("a",), image_auroc=0.8, pixel_auroc=0.9), 0) == pytest.approx(0.85)


def test_they_join_the_trial_resized_with_their_masks(tmp_path: Path):
    pictures = np.stack([tiny_image(i) for i in range(8)]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    planted = choice.plant_trial(torch.from_numpy(pictures[:3]), torch.from_numpy(pictures[3:]), 0)
    found = with_known(planted, read_known_defects(folder_of(tmp_path / "k")), IMAGES, (64, 64))
    assert (found.known, len(found.planted)) == (2, len(planted.planted) + 2)
    image, mask = tiny_defect("hole", 1)
    np.testing.assert_allclose(found.planted[-1], image.transpose(2, 0, 1) / 255, atol=1e-6)
    np.testing.assert_array_equal(found.masks[-1], mask.reshape(32, 2, 32, 2).any(axis=(1, 3)))
    assert found.kinds == planted.kinds  # the picture of the choice shows planted ones alone
    bare = with_known(
        planted, read_known_defects(folder_of(tmp_path / "bare", masks=False)), IMAGES, (64, 64)
    )
    assert not bare.masks[-2:].any()
    assert with_known(planted, [], IMAGES, (64, 64)) is planted
    save(tmp_path / "grey" / "a.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(ImageError, match="has 1 channels"):
        with_known(planted, read_known_defects(tmp_path / "grey"), IMAGES, (64, 64))


def test_what_lies_outside_of_the_region_is_covered_and_not_marked(tmp_path: Path):
    mask, inside = np.zeros((64, 64), np.uint8), np.zeros((64, 64), bool)
    inside[:, :32], mask[:4] = True, 255
    save(tmp_path / "a.png", np.full((64, 64, 3), 255, np.uint8))
    save(tmp_path / "a_mask.png", mask)
    empty = replace(trial(side=32), planted=torch.zeros(6, 3, 64, 64))
    images: Any = SimpleNamespace(**vars(IMAGES) | {"regions": Regions(common=roi_of(inside))})
    found = with_known(empty, read_known_defects(tmp_path), images, (64, 64))
    np.testing.assert_allclose(found.planted[-1, :, :, :32], 1.0)
    np.testing.assert_allclose(found.planted[-1, :, :, 32:], 127 / 255, atol=1e-6)
    assert np.argwhere(found.masks[-1]).max(axis=0).tolist() == [1, 15]


def test_a_thin_defect_keeps_its_mask_when_it_is_resized(tmp_path: Path):
    save(tmp_path / "a.png", np.zeros((512, 512, 3), np.uint8))
    mask = np.zeros((512, 512), np.uint8)
    mask[300, 100:400] = 255
    save(tmp_path / "a_mask.png", mask)
    empty = replace(trial(side=32), planted=torch.zeros(6, 3, 64, 64))
    small = with_known(empty, read_known_defects(tmp_path), IMAGES, (64, 64)).masks[-1]
    assert 15 <= small.sum() <= 60
    assert small[18].sum() >= 15


@pytest.mark.heavy
def test_auto_is_told_and_the_model_says_so(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(costs, "LEAST_STEPS", 2)
    monkeypatch.setattr(candidates, "candidates", lambda *_args, **_options: (["pca", "variation"], 2))
    known = folder_of(tmp_path / "known")
    config = AutoConfig(image_size=64, minutes=0.01, calibration_fraction=0.25, validation_fraction=0.25)
    options: dict[str, Any] = {"config": config, "device": "cpu", "precision": "fp32", "known_defects": known}
    detector = fit(tiny_category, out=tmp_path / "run", **options)
    told = detector.model_file.provenance[ENTRY]
    assert (told["images"], told["masks"], sorted(told["digests"].values())) == (2, True, ["0.png", "1.png"])
    rows = json.loads((tmp_path / "run" / "choice.json").read_text())["candidates"]
    assert all({"known_image_auroc", "known_pixel_auroc"} <= row.keys() for row in rows)
    learnt = detector.model_file.provenance["training_digests"]
    assert not learnt.keys() & told["digests"].keys()
    fit(tiny_category, out=tmp_path / "run", resume=True, **options)
    with pytest.raises(UsageError, match="known defects"):
        fit(tiny_category, out=tmp_path / "run", resume=True, **options | {"known_defects": None})


def test_where_nothing_is_chosen_they_are_refused(
    tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    known = folder_of(tmp_path / "known")
    words = ("train", "--data", tiny_category, "--out", tmp_path / "run", "--known-defects", known)
    assert "--method pca has none" in refused(capsys, *words, "--method", "pca")
    assert "has none" in refused(capsys, *words, "--method", "pca+filters")
    assert "cannot be shown in tiles" in refused(capsys, *words, "--tile-size", 32)
    assert not (tmp_path / "run").exists()
