"""The network of several members: sizes between them, one scale, what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from blemish.core.errors import UsageError
from blemish.images.resize import resize
from blemish.inference.postprocess import pixel_map
from blemish.methods import registry
from blemish.methods.auto import Auto, AutoConfig, member_config
from blemish.methods.components.full_size import resizing_matrix, spreading_matrix
from blemish.methods.registry import METHODS, preset_named

pytestmark = pytest.mark.usefixtures("single_thread")


def images(n: int, channels: int = 3, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("to", [(32, 40), (64, 96), (100, 150)])
def test_resizing_equals_that_of_images_on_disk(to: tuple[int, int]):
    x = images(1)[0].numpy()
    rows, cols = resizing_matrix(64, to[0]).numpy(), resizing_matrix(96, to[1]).numpy()
    np.testing.assert_allclose(rows @ x @ cols.T, resize(x, to), atol=2e-6)


def test_patches_spread_to_blocks_as_in_every_detector():
    scores = images(1, 1, (5, 7))[0, 0].numpy()
    spread = spreading_matrix(5).numpy() @ scores @ spreading_matrix(7).numpy().T
    np.testing.assert_allclose(spread, pixel_map(scores, (12, 16), "linear"), atol=1e-6)


def trained(members: tuple[str, ...], size: tuple[int, int]) -> Auto:
    torch.manual_seed(3)
    network = Auto(AutoConfig(image_size=size, members=members), 3)
    x = images(6, size=size)
    for member in network.each:
        small = torch.from_numpy(np.stack([resize(i, member.network.config.size) for i in x.numpy()]))
        if hasattr(member.network, "loss"):
            member.network.prepare(lambda: iter([small]))  # noqa: B023
            member.network.eval().finish(lambda: iter([small]))  # noqa: B023
        else:
            member.network.fit(lambda: iter([small]))  # noqa: B023
    return network.eval()


@torch.no_grad()
def test_the_map_is_the_mean_of_the_members_maps_on_one_scale():
    size = (64, 96)
    network, x = trained(("pca", "variation"), size), images(2, size=size)
    network.low.copy_(torch.tensor([0.5, -1.0]))
    network.high.copy_(torch.tensor([1.5, 3.0]))
    expected = np.zeros((2, *size))
    for member, low, high in zip(network.each, (0.5, -1.0), (1.5, 3.0), strict=True):
        small = torch.from_numpy(np.stack([resize(i, member.network.config.size) for i in x.numpy()]))
        own = np.stack([resize(m[None], size)[0] for m in member.network(small).numpy()])
        expected += (own - low) / (high - low) / 2
    np.testing.assert_allclose(network(x).numpy(), expected, atol=1e-4)


@torch.no_grad()
def test_a_member_that_scores_patches_has_the_map_of_every_detector():
    size = (192, 192)
    network, x = trained(("cpc-ad",), size), images(1, size=size)
    scores = network.each[0].network(x)[0].numpy()
    expected = resize(pixel_map(scores, size, "linear")[None].astype(np.float32), size)[0]
    np.testing.assert_allclose(network(x)[0].numpy(), expected, atol=1e-4)


def test_members_share_tiles_calibration_and_size():
    like = AutoConfig(image_size=(128, 512), tile_size=300, calibration_fraction=0.3)
    filters, pca = (member_config(name, preset_named, like) for name in ("filters:neighbours", "pca"))
    assert (filters.size, filters.density) == ((128, 512), "neighbours")
    assert pca.size == METHODS["pca"].presets["default"].size
    for config in (filters, pca):
        assert (config.tile_size, config.calibration_fraction) == (300, 0.3)


def test_it_scores_as_few_at_a_time_as_its_most_careful_member():
    assert Auto(AutoConfig(image_size=64, members=("pca", "filters")), 3).scoring_batch == 1
    assert Auto(AutoConfig(image_size=64, members=("pca", "variation")), 3).scoring_batch is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"minutes": 0}, "--minutes 0"),
        ({"minutes": float("inf")}, "--minutes inf"),
        ({"validation_fraction": 1.0}, "--validation-fraction 1.0"),
        ({"members": ("nonsense",)}, "nonsense"),
        ({"members": ("filters:nonsense",)}, "nonsense"),
    ],
)
def test_what_it_refuses(options: dict, named: str):
    with pytest.raises(UsageError, match=named):
        Auto(AutoConfig(image_size=64, **options), 3)


def test_a_plus_is_auto_with_members():
    assert registry.members_of("metal+filters:shared+pca") == ("metal", "filters:shared", "pca")
    assert registry.members_of("metal") == ()
    assert registry.method_named("metal:paper-object+filters") is Auto
    config = registry.preset_named("metal:paper-object+filters", "default")
    assert config == AutoConfig(members=("metal:paper-object", "filters"))
    asked = AutoConfig(minutes=2)
    assert registry.combination("pca+kde", asked) == ("auto", AutoConfig(minutes=2, members=("pca", "kde")))
    assert registry.combination("auto", asked) == ("auto", asked)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("metal+nonsense", "--method metal+nonsense: no such member 'nonsense'; choose from metal, cpc-ad, "),
        ("metal+", "--method metal+: no such member ''; choose from metal"),
        ("auto+pca", "no such member 'auto'; choose from metal"),
        ("pca+filters:odd", "--method pca+filters:odd: filters has no preset odd; choose one of default, "),
        ("pca+kde+pca", "--method pca+kde+pca: names pca twice; leave one out"),
    ],
)
def test_a_member_that_there_is_not_is_named(method: str, said: str):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        registry.preset_named(method, "default")
    assert "\n" not in str(caught.value)


def test_members_are_named_once_and_have_their_own_presets():
    with pytest.raises(UsageError, match=r"--members pca metal: --method pca\+kde names others; leave"):
        registry.combination("pca+kde", AutoConfig(members=("pca", "metal")))
    with pytest.raises(UsageError, match=r"--preset paper: --method pca\+metal has its presets at its"):
        registry.preset_named("pca+metal", "paper")


def test_asking_a_member_for_its_map_changes_nothing_in_it():
    network = Auto(AutoConfig(image_size=32, members=("planted",)), 1)  # to one pixel at the lowest level
    state = network.each[0].network.state_dict()
    means = [values for name, values in state.items() if name.endswith("running_mean")]
    assert means
    assert not any(values.any() for values in means)
    assert network.each[0].network.training
