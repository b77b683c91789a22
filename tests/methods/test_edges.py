"""Where rules begin and end: the smallest sizes, floors that keep a division finite, first values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from blemish.core.errors import UsageError
from blemish.methods.components import functional, statistics
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.cpc_ad_config import CpcAdConfig
from blemish.methods.metal import Metal
from blemish.methods.metal_config import MetalConfig

METAL = MetalConfig(image_size=32, patch_size=8, embedding=8, hidden=16, heads=2)
CPC_AD = CpcAdConfig(image_size=64, patch_size=32, sub_patch_size=8, steps_ahead=2)


pytestmark = pytest.mark.usefixtures("single_thread")


# --- MeTAL's options ---


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (16, 16)},  # two patches of 8 each way: each has another in its row and column
        {"image_size": (16, 24), "masking": "strict"},
        {"image_size": 11, "patch_size": 11, "masking": "paper"},  # SSIM's window, to the pixel
        {"image_size": (11, 22), "patch_size": 11, "masking": "none"},  # one row: nothing is masked
        {"error": "squared", "smoothing": (4.0,), "place_statistics": False},
        {"error": "squared", "smoothing": (2.0, 8.0), "place_statistics": True},
        {"error": "combined", "smoothing": (2.0,), "place_statistics": True},
        {"error": "joint", "smoothing": (2.0,), "place_statistics": False},
    ],
)
def test_sizes_and_options_that_just_fit(changes):
    network = Metal(replace(METAL, **changes), channels=1)
    with torch.no_grad():
        assert network(torch.rand(1, 1, *network.config.size)).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": (8, 16)}, "strict masking needs two"),
        ({"image_size": (16, 8)}, "strict masking needs two"),
        ({"image_size": (10, 20), "patch_size": 10, "masking": "paper"}, "under SSIM's window of 11"),
        ({"image_size": (32, 36)}, "cannot be cut into patches of 8"),
        ({"image_size": (36, 32)}, "cannot be cut into patches of 8"),
        ({"error": "squared", "smoothing": (2.0, 8.0), "place_statistics": False}, "needs --error joint"),
        ({"error": "combined", "smoothing": (2.0,), "place_statistics": False}, "needs --error joint"),
        *(({name: 0}, f"--{name.replace('_', '-')}") for name in
          ("patch_size", "embedding", "hidden", "heads", "blocks")),
    ],
)  # fmt: skip
def test_sizes_and_options_that_just_do_not_fit(changes, said):
    with pytest.raises(UsageError, match=said):
        replace(METAL, **changes)


def test_positions_start_small_and_everywhere_different():
    torch.manual_seed(0)
    network = Metal(MetalConfig(), channels=1)
    for encoder in network.encoders.values():
        # 64 x 128 or 8 x 1,024 normal values; their standard deviation is known to 1 / sqrt(2 n) = 0.8 %
        assert encoder.position.std().item() == pytest.approx(0.02, rel=0.04)
        assert abs(encoder.position.mean().item()) < 0.001


def test_an_untrained_map_is_its_error_as_it_is():
    """Before `finish` the statistics are 0 and 1; before `prepare` mean image and range are neutral."""
    torch.manual_seed(0)
    network, x = Metal(METAL, channels=2), torch.rand(1, 2, 32, 32)
    combined = Metal(replace(METAL, error="combined"), channels=2)
    plain = Metal(replace(METAL, center=False, bounded_context=False, exposure=False), channels=2)
    plain.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        places = torch.nn.functional.avg_pool2d(network.errors(x).flatten(1, 2), 2)
        assert torch.allclose(network(x), places.square().sum(dim=1).log1p())
        assert torch.equal(combined(x), combined.errors(x).mean(dim=2).amax(dim=1))
        assert torch.equal(network.reconstruct(x), plain.reconstruct(x))
        white = statistics.white_point(x).item()
        torch.testing.assert_close(network.expose(x), x / white)  # its brightest tenth becomes 1


# --- CPC-AD's options ---


@pytest.mark.parametrize(
    "changes",
    [{"crop": 0.1}, {"crop": 1.0}, {"skip": 0}, {"image_size": (32, 64)}, {"patch_size": 16, "skip": 0}],
)
def test_cpc_ad_options_that_just_fit(changes):
    assert replace(CPC_AD, **changes).grid[0] >= 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": 0.099}, "--crop"),
        ({"crop": 1.001}, "--crop"),
        ({"skip": -1}, "--skip -1"),
        ({"sub_patch_size": 4}, "power of 2"),
        ({"sub_patch_size": 24}, "power of 2"),
        ({"patch_size": 8}, "twice it at least"),
        ({"image_size": (16, 64)}, "overlap by half"),
        ({"image_size": (64, 16)}, "overlap by half"),
        ({"image_size": (64, 72)}, "overlap by half"),
        ({"image_size": (72, 64)}, "overlap by half"),
        ({"window": "image", "image_size": (64, 66)}, "overlap by half"),
        ({"window": "image", "image_size": (66, 64)}, "overlap by half"),
        ({"place_statistics": False}, "--no-place-density"),
        *(({name: 0}, f"--{name.replace('_', '-')}") for name in
          ("patch_size", "width", "steps_ahead", "negatives", "bank")),
    ],
)  # fmt: skip
def test_cpc_ad_options_that_just_do_not_fit(changes, said):
    with pytest.raises(UsageError, match=said):
        replace(CPC_AD, **changes)


def test_images_are_kept_so_much_larger_that_the_smallest_crop_has_the_size():
    assert replace(CPC_AD, image_size=(64, 96), crop=0.7).loading_size == (92, 138)  # 91.4 and 137.1
    assert replace(CPC_AD, crop=1.0).loading_size == (64, 64)


# --- what several methods share ---


def test_exposure_by_hand():
    x = torch.tensor([0.2, 0.4]).view(1, 1, 1, 2)
    ours = functional.expose(x, torch.tensor(0.8)).flatten().tolist()
    assert ours == pytest.approx([0.4, 0.8])  # 0.4 becomes 0.8
    dark = functional.expose(x / 100, torch.tensor(0.8)).flatten().tolist()
    assert dark == pytest.approx([0.02, 0.04])  # ten times 0.002 and 0.004, not two hundred times
    black = functional.expose(torch.zeros(1, 1, 2, 2), torch.tensor(0.0))
    assert not black.any()  # and is a number


def test_no_smoothing_is_the_identity_and_any_reaches_four_sigma():
    assert torch.equal(functional.smoothing_matrix(7, 0.0), torch.eye(7))
    matrix = functional.smoothing_matrix(41, 1.1)
    # ceil(4.4) = 5 pixels to either side of the middle one
    assert (matrix[20] > 0).nonzero().flatten().tolist() == list(range(15, 26))
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(41))


def test_images_come_in_the_portions_of_scoring():
    x = torch.arange(5.0)[:, None, None, None].expand(5, 1, 32, 32)
    for network, sizes in ((Metal(METAL, channels=1), [3, 2]), (CpcAd(CPC_AD, channels=1), [1] * 5)):
        parts = list(network.as_scored(lambda: x.split(3)))
        assert [len(part) for part in parts] == sizes
        assert torch.equal(torch.cat(parts), x)
