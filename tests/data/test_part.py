"""Where the part is, with a region of interest: a cover is known by its colour, and nothing is put there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blemish.data.part import background_of, cells_of_part, seen_of
from blemish.images.preprocess import ImageFormat, prepare
from blemish.images.roi import roi_of
from blemish.methods.baselines.nsa import Nsa, NsaConfig
from blemish.methods.planted import Planted, PlantedConfig
from blemish.training.choice import plant_trial

pytestmark = pytest.mark.usefixtures("single_thread")
SIDE = 64
LEFT = np.arange(SIDE) < SIDE // 2
FORMATS = {
    "uint8": ImageFormat(dtype="uint8", channels=3, value_range=(0.0, 255.0)),
    "uint16": ImageFormat(dtype="uint16", channels=3, value_range=(0.0, 4095.0)),
    "float32": ImageFormat(dtype="float32", channels=3, value_range=(-1.0, 2.0)),
}


def covered(count: int = 8, kind: str = "uint8", side: int = SIDE) -> torch.Tensor:
    """Noise from 0.3 to 0.7 of which the left half counts, as a model is given it."""
    fmt, rng = FORMATS[kind], np.random.default_rng(0)
    roi = roi_of(np.tile(LEFT, (SIDE, 1)))
    low, high = fmt.value_range
    values = low + (high - low) * rng.uniform(0.3, 0.7, (count, side, side, 3))
    images = [roi.cover(image.astype(kind), fmt) for image in values]
    return torch.from_numpy(np.stack([prepare(image, fmt, (SIDE, SIDE)) for image in images]))


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE, 3 * SIDE // 2])
@pytest.mark.parametrize("kind", list(FORMATS))
def test_what_is_covered_is_known_whatever_the_format_and_size(kind: str, side: int):
    seen = seen_of(covered(2, kind, side))[:, 0]
    assert seen[..., : SIDE // 2].all()
    assert not seen[..., SIDE // 2 + 2 :].any()  # at most the blurred edge
    assert seen_of(torch.rand(2, 3, SIDE, SIDE)).all()


def test_single_pixels_of_that_grey_are_no_cover():
    x = torch.rand(1, 1, SIDE, SIDE)
    x[..., 10:14, 10:14] = 127 / 255
    assert seen_of(x).all()
    x[..., 10:15, 10:15] = 127 / 255
    assert (~seen_of(x)).nonzero()[:, 2:].amin(0).tolist() == [10, 10]
    assert int((~seen_of(x)).sum()) == 25


def test_the_border_tells_the_background_where_enough_of_it_is_seen():
    mean, std = torch.full((1, SIDE, SIDE), 0.9), torch.zeros(1, SIDE, SIDE)
    mean[:, 16:48, 16:48] = 0.2
    seen = torch.ones(SIDE, SIDE, dtype=torch.bool)
    seen[:, :20] = False
    mean[:, ~seen] = 0.5
    colour, apart = background_of(mean, std, seen)
    assert colour.item() == pytest.approx(0.9)
    assert apart > 0
    seen[:] = False
    seen[16:48, 16:48] = True
    colour, apart = background_of(mean, std, seen)  # nothing of the border counts: the region is the part
    assert apart == -1
    assert colour.item() == pytest.approx(mean[:, seen].mean().item())


def test_cells_of_the_part_are_seen_ones():
    x, seen = torch.full((2, 1, 32, 32), 0.1), torch.ones(2, 1, 32, 32, dtype=torch.bool)
    x[0, :, :16], seen[..., 16:] = 0.9, False
    found = cells_of_part(x, torch.tensor([0.1]), torch.tensor(0.08), seen)
    assert found[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert torch.equal(found[1], seen[1, 0, ::8, ::8])  # none shows the part: all that are seen
    seen[0] = False
    seen[0, :, 30:, 30:] = True
    assert cells_of_part(x, torch.tensor([0.1]), torch.tensor(0.08), seen)[0].nonzero().tolist() == [[3, 3]]


def test_the_trial_plants_inside_alone():
    x = covered(12)
    trial = plant_trial(x[:4], x[4:], 0, covered=True)
    assert len(trial.planted) > 50
    inside = seen_of(x[:1])[0, 0]
    good = trial.good[trial.origin]
    assert ((trial.planted - good).abs() > 1e-6).any(dim=1)[:, ~inside].sum() == 0


def test_methods_that_plant_change_nothing_outside():
    x = covered()
    for network in (
        Planted(PlantedConfig(image_size=SIDE, width=0.25, crop_size=SIDE), 3),
        Nsa(NsaConfig(image_size=SIDE, width=4), 3),
    ):
        network.covered = True
        network.prepare(lambda: iter([x]))
        assert network.apart == -1  # half of the border is seen, and is no plain one
        torch.manual_seed(0)
        if isinstance(network, Planted):
            good, bad, _ = network.draw_crops(x / network.white)
            outside = (good != bad)[..., SIDE // 2 + 6 :]  # as crops move a little
        else:
            bad, touched = network.alter(x / network.white)
            good, outside = x / network.white, touched[:, :, SIDE // 2 :]
        assert (good != bad).any()
        assert not outside.any()
        torch.manual_seed(0)
        assert network.loss(x).isfinite()
