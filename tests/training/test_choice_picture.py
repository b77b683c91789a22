"""The picture of the choice: which examples it has, and what is where on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from conftest import tiny_image
from PIL import Image

from blemish.training import costs
from blemish.training.choice import PLANTED_KINDS, Trial, plant_trial
from blemish.training.choice_picture import CAPTION, FRAME, GAP, WIDTH, draw_choice, two_of_each_kind

pytestmark = pytest.mark.usefixtures("quick_evaluation")


@pytest.fixture(scope="module")
def trial() -> Trial:
    images = np.stack([tiny_image(i) for i in range(24)]).transpose(0, 3, 1, 2)
    tensor = torch.from_numpy(images.astype(np.float32) / 255)
    return plant_trial(tensor[:16], tensor[16:], seed=0)


def maps_of(trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Maps that see just what was planted: 0 and 1 on good images, 3 in the masks."""
    good = np.zeros((len(trial.good), *trial.masks.shape[1:]), np.float32)
    good[:, 0, 0] = 1
    planted = np.where(trial.masks, 3, 0).astype(np.float32)
    return good, planted


def test_there_are_two_of_each_kind_a_smaller_one_first(trial: Trial):
    chosen = two_of_each_kind(trial)
    assert [trial.kinds[i] for i in chosen] == [kind for kind in PLANTED_KINDS for _ in range(2)]
    areas = trial.masks.sum(axis=(1, 2))[chosen]
    assert all(small <= large for small, large in zip(areas[::2], areas[1::2], strict=True))


def test_a_kind_with_one_example_is_shown_once(trial: Trial):
    numbers = [i for i, kind in enumerate(trial.kinds) if kind != "blur"] + [trial.kinds.index("blur")]
    few = replace(
        trial,
        planted=trial.planted[numbers],
        masks=trial.masks[numbers],
        kinds=[trial.kinds[i] for i in numbers],
        origin=[trial.origin[i] for i in numbers],
    )
    assert len(two_of_each_kind(few)) == 11


def test_the_picture_shows_good_planted_and_map_side_by_side(trial: Trial):
    picture = draw_choice(trial, [maps_of(trial)])
    height, width, _ = picture.shape
    assert abs(width - WIDTH) < 60
    side = (width // 2 - GAP) // 3 - GAP
    assert height == 6 * (side + CAPTION + GAP) + GAP
    first = two_of_each_kind(trial)[0]
    panels = [picture[CAPTION : CAPTION + side, GAP + k * (side + GAP) :][:, :side] for k in range(3)]
    mask = np.asarray(Image.fromarray(trial.masks[first]).resize((side, side)))
    inner = mask & ~(panels[0] == FRAME).all(axis=2)
    changed = np.abs(panels[0].astype(int) - panels[1]).sum(axis=2)
    assert changed[inner].mean() > 10 * (changed[~mask].mean() + 0.1)
    heat = np.abs(panels[1].astype(int) - panels[2]).sum(axis=2)
    assert heat[inner].mean() > 20 * heat[~mask].mean()
    for panel, framed in zip(panels, (True, True, False), strict=True):
        assert (panel == FRAME).all(axis=2).any() == framed


def test_the_same_trial_gives_the_same_picture_and_two_members_are_averaged(trial: Trial):
    seeing, blind = maps_of(trial), (maps_of(trial)[0], np.zeros_like(maps_of(trial)[1]))
    one = draw_choice(trial, [seeing])
    assert np.array_equal(one, draw_choice(trial, [seeing, seeing]))
    assert not np.array_equal(one, draw_choice(trial, [seeing, blind]))


@pytest.mark.parametrize(("size", "across"), [((64, 64), 2), ((32, 128), 1), ((128, 32), 2)])
def test_long_images_keep_their_shape(size: tuple[int, int], across: int):
    x = (
        torch.rand(4, 5, *size, generator=torch.Generator().manual_seed(1)) * 0.01
    )  # deep and dark, 5 channels
    trial = plant_trial(x[:2], x[2:], seed=0)
    shown = len(two_of_each_kind(trial))
    good = np.random.default_rng(0).random((2, size[0] // 2, size[1] // 2))
    maps = good.astype(np.float32), np.zeros(trial.masks.shape, np.float32)
    picture = draw_choice(trial, [maps], stretch=True)
    panel = (picture.shape[0] - GAP) // -(-shown // across) - CAPTION - GAP
    assert picture.shape[1] <= WIDTH + 60
    width = ((picture.shape[1] // across) - GAP) // 3 - GAP
    assert width / panel == pytest.approx(size[1] / size[0], rel=0.05)
    assert picture[CAPTION : CAPTION + panel, GAP : GAP + width].std() > 20  # not black


@pytest.mark.heavy
def test_a_run_of_auto_shows_how_it_chose(
    tiny_category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(costs, "COSTS", {"pca": (0.0, 0.0), "variation": (0.0, 0.0)})
    options = ("--image-size", "32", "--device", "cpu", "--precision", "fp32")
    assert run("train", "--data", tiny_category, "--out", tmp_path / "run", *options) == 0
    table = json.loads((tmp_path / "run" / "choice.json").read_text())
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("chosen")]
    (kept,) = [row for row in table["candidates"] if row["members"] == table["members"]]
    figures = f"AUROC of planted images / pixels {kept['image_auroc']:.3f} / {kept['pixel_auroc']:.3f}; "
    assert said.startswith(f"chosen: {' + '.join(table['members'])} ({figures}")
    assert Image.open(tmp_path / "run" / "choice.png").width > 900
    assert run("evaluate", "--model", tmp_path / "run", "--data", tiny_category, "--no-sensitivity") == 0
    page = tmp_path / "run" / "evaluation" / "report.html"
    assert "How the method was chosen" in page.read_text()
    assert '<img src="choice.png"' in page.read_text()
    copied = page.with_name("choice.png").read_bytes()
    assert copied == (tmp_path / "run" / "choice.png").read_bytes()
    assert run("evaluate", "--model", tmp_path / "run" / "model.safetensors", "--data", tiny_category,
               "--no-sensitivity", "--out", tmp_path / "elsewhere") == 0  # fmt: skip
    assert (tmp_path / "elsewhere" / "choice.png").read_bytes() == copied
