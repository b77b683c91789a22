"""Filters: what it learns and scores, whatever the light, the channels and the size; what is kept; runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import reference_density as reference
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from blemish.core.errors import UsageError
from blemish.data.dataset import open_dataset
from blemish.inference import load
from blemish.inference.model_file import MODEL_NAME
from blemish.methods.density import filters
from blemish.methods.density.filters import Filters, FiltersConfig
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = FiltersConfig(image_size=(56, 64), grid=8, smoothing=0, gaussians=3)
DENSITIES = ("position", "neighbours", "shared")


def images(n=8, channels=1, size=(56, 64), seed=0):
    """Stripes under noise, between 0.2 and 0.8."""
    wave = 0.5 + 0.2 * torch.sin(torch.arange(size[1]) / 3.0).expand(n, channels, *size)
    return wave + 0.1 * torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def fitted(x, each=4, **changes):
    """A network that has seen images x, so many at a time."""
    network = Filters(replace(SMALL, image_size=tuple(x.shape[2:]), **changes), x.shape[1])
    network.fit(lambda: x.split(each))
    return network.eval()


@torch.no_grad()
def maps(network, x):
    return network(x).numpy()


# --- what it is ---


def described(network, x):
    """Standardised features of images of one channel by the slow version: (n, h, w, d)."""
    white = np.mean([np.sort(i.ravel())[-(i.size // 10) :].mean() for i in x])
    size = network.config.places
    raw = np.stack([reference.features(i / white, size, directions=6, reach=6) for i in x])
    flat = raw.reshape(-1, raw.shape[-1])
    return (raw - flat.mean(axis=0)) / (flat.std(axis=0) + 1e-4), white


def test_position_is_a_gaussian_at_each_place_of_standardised_features():
    x = images(4)
    network = fitted(x)
    assert network.config.places == (7, 8)
    z, white = described(network, x.double().numpy())
    assert network.white.item() == pytest.approx(white, rel=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(network.describe(x), z, atol=2e-3)
    z = z.reshape(4, 56, 30)
    cov = np.stack([np.cov(z[:, g].T, ddof=0) for g in range(56)])
    cov += 30 / 34 * (cov.mean(axis=0) - cov) + 0.01 * np.eye(30)
    off = z - z.mean(axis=0)
    squared = np.einsum("ngd,ngd->ng", off, np.linalg.solve(cov[None], off[..., None])[..., 0])
    with torch.no_grad():
        found = network.place_scores(network.describe(x))
    np.testing.assert_allclose(found, np.log1p(squared).reshape(4, 7, 8), rtol=5e-3)


def test_neighbours_are_whitened_over_all_places():
    x, new = images(5), images(1, seed=1)
    network = fitted(x, density="neighbours", reach=1)
    with torch.no_grad():
        z, mine = network.describe(x).double().numpy(), network.describe(new).double().numpy()[0]
        found = network.place_scores(network.describe(new))[0]
    flat = z.reshape(-1, 30)
    A = np.linalg.inv(np.linalg.cholesky(flat.T @ flat / len(flat) + 0.01 * np.eye(30)))
    expected = reference.nearest(mine @ A.T, np.moveaxis(z @ A.T, 0, 2), 1)
    np.testing.assert_allclose(found, np.log1p(expected), rtol=5e-3)


def test_shared_is_the_mixture_of_all_places():
    x = images(5)
    network = fitted(x, density="shared")
    with torch.no_grad():
        z = network.describe(x[:1])
        found = network.place_scores(z)[0].flatten()
    covs = torch.linalg.inv(network.whitenings.mT @ network.whitenings).double()
    weights = (network.log_weights.double() + torch.linalg.slogdet(covs)[1] / 2).exp()
    assert weights.sum().item() == pytest.approx(1, abs=1e-3)
    covs = (covs + covs.mT) / 2
    parts = (v.double().numpy() for v in (weights, network.means, covs))
    expected = reference.minus_log_mixture(z.flatten(0, 2).double().numpy(), *parts)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("smoothing", [0.0, 20.0])
def test_the_map_is_interpolated_and_smoothed(smoothing):
    x = images(6)
    network = fitted(x, smoothing=smoothing)
    with torch.no_grad():
        places = network.place_scores(network.describe(x[:1]))[0].double().numpy()
    rows = np.array([reference.interpolated(line, 56) for line in places.T]).T
    expected = np.array([reference.interpolated(line, 64) for line in rows])
    if smoothing:  # σ 20 of a side of 256: 5 pixels of 64
        expected = gaussian_filter(expected, 5.0, mode="reflect", radius=20)
    np.testing.assert_allclose(maps(network, x[:1])[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({}, (64, 64)),
        ({"density": "neighbours"}, (32, 32)),
        ({"image_size": (128, 512)}, (16, 64)),
        ({"image_size": (300, 200), "grid": 10}, (10, 7)),
        ({"image_size": (64, 4096), "grid": 8}, (1, 8)),
    ],
)
def test_the_grid_has_so_many_places_along_its_longer_side(options, places):
    assert FiltersConfig(**options).places == places


# --- what it sees ---


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("light", ["abs", "rel"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_blemish_shows_where_it_is_whatever_the_channels(density, light, channels):
    x = images(10, channels)
    bad = images(1, channels, seed=1)
    bad[:, :, 34:44, 40:52] = 0.5
    found = maps(fitted(x, density=density, light=light), bad)
    assert found.shape == (1, 56, 64)
    row, col = divmod(int(found[0].argmax()), 64)
    assert 28 <= row < 50
    assert 34 <= col < 58


def test_colour_alone_is_seen():
    x = images(10, 3)
    bad = images(1, 3, seed=1)
    bad[:, 0, 20:40, 20:40] += 0.2  # redder, and by so much less green that its brightness stays
    bad[:, 1, 20:40, 20:40] -= 0.2
    found = maps(fitted(x), bad)[0]
    assert found[20:40, 20:40].mean() > found[:, 50:].mean() + 1


def test_rel_does_not_see_light_and_abs_does():
    x, new = images(10), images(2, seed=1)
    for light, sees in (("rel", False), ("abs", True)):
        network = fitted(x, light=light)
        normal, dim = maps(network, new), maps(network, 0.7 * new)
        if sees:
            assert (dim - normal).mean() > 1
        else:
            assert abs((dim - normal).mean()) < 0.1


def test_light_is_what_a_window_of_a_twelfth_of_the_side_sees():
    network = Filters(replace(SMALL, light="rel"), 1)  # 56 rows, 64 columns, σ 21/256 of them
    for matrix, n, sigma in ((network.light_rows, 56, 4.59375), (network.light_cols, 64, 5.25)):
        expected = gaussian_filter1d(np.eye(n), sigma, axis=0, mode="reflect", radius=math.ceil(4 * sigma))
        np.testing.assert_allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0.01, 0.3])
@pytest.mark.parametrize("density", DENSITIES)
def test_images_that_fill_a_hundredth_of_the_range_are_seen_as_well(density, factor):
    """Of 16 bits, a camera of 12 fills a sixteenth, and in the dark less."""
    x, new = images(6), images(2, seed=1)
    found = maps(fitted(factor * x, density=density), factor * new)
    np.testing.assert_allclose(found, maps(fitted(x, density=density), new), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("density", DENSITIES)
def test_equal_and_constant_images_give_finite_maps(density):
    flat = torch.full((4, 3, 56, 64), 0.5)
    for x in (flat, flat[:1], torch.zeros_like(flat), images(1, 3).expand(4, -1, -1, -1)):
        network = fitted(x, density=density)
        good, bad = maps(network, x[:1]), maps(network, x[:1] + 0.3)
        assert np.isfinite(good).all()
        assert np.isfinite(bad).all()
        assert bad.mean() > good.mean()


# --- how it learns ---


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("channels", [3, 5])
def test_how_many_images_come_at_a_time_does_not_matter(density, channels):
    x = images(7, channels)
    one, two = (fitted(x, each=each, density=density).state_dict() for each in (7, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("density", DENSITIES)
def test_the_same_images_and_seed_give_the_same_bits(density):
    x = images(7)
    torch.manual_seed(1)
    first = fitted(x, density=density).state_dict()
    torch.manual_seed(2)  # what was drawn before does not count
    again = fitted(x, density=density).state_dict()
    for name, value in first.items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("kept", "described"), [(7, 7), (3, 11), (0, 14)])
def test_what_was_described_once_is_kept_as_far_as_there_is_room(density, kept, described, monkeypatch):
    x, calls, raw = images(7), [], Filters.raw
    expected = fitted(x, density=density).state_dict()
    monkeypatch.setattr(Filters, "raw", lambda network, image: calls.append(1) or raw(network, image))
    monkeypatch.setattr(filters, "KEPT_BYTES", kept * 7 * 8 * 30 * 4)
    for name, value in fitted(x, density=density).state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert len(calls) == described


def test_learning_leaves_the_callers_draws_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fitted(images(4), density="shared")
    assert torch.equal(torch.rand(3), expected)


def test_the_bank_holds_at_most_so_many_images_and_the_seed_says_which():
    x = images(9)
    whole = fitted(x, density="neighbours").bank
    assert whole.shape == (7, 8, 9, 30)
    kept = [fitted(x, density="neighbours", keep=4, bank_seed=seed).bank for seed in (0, 0, 1)]
    assert kept[0].shape == (7, 8, 4, 30)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    for image in kept[0].unbind(2):  # each is one of all, whole
        assert any(torch.equal(image, one) for one in whole.unbind(2))


def test_a_mixture_of_fewer_features_than_gaussians():
    network = fitted(images(3), density="shared", grid=1, gaussians=8)  # three features
    assert np.isfinite(maps(network, images(1, seed=1))).all()


@pytest.mark.parametrize("density", DENSITIES)
def test_a_score_does_not_depend_on_its_company(density):
    x = images(6)
    network = fitted(x, density=density)
    assert network.scoring_batch == 1
    np.testing.assert_allclose(maps(network, x)[3:4], maps(network, x[3:4]), rtol=1e-3, atol=1e-3)


# --- what is kept ---


def kept_bytes(network, images_of_the_bank=1):
    each = {name: value.nbytes for name, value in network.state_dict().items()}
    return sum(size * (images_of_the_bank if name == "bank" else 1) for name, size in each.items())


@pytest.mark.parametrize("preset", ["default", "neighbours", "shared"])  # light adds nothing
def test_a_model_is_under_20_mb_at_the_default_size(preset):
    config = Filters.presets[preset]
    sizes = [kept_bytes(Filters(config, c), images_of_the_bank=config.keep) for c in (3, 5)]
    assert 1e5 < sizes[0] < sizes[1] < 20e6


def test_presets_are_what_their_names_say():
    assert {name: (c.density, c.light) for name, c in Filters.presets.items()} == {
        "default": ("position", "abs"),
        "position-rel": ("position", "rel"),
        "neighbours": ("neighbours", "abs"),
        "neighbours-rel": ("neighbours", "rel"),
        "shared": ("shared", "abs"),
        "shared-rel": ("shared", "rel"),
    }
    for config in Filters.presets.values():
        assert (config.size, config.smoothing, config.keep, config.reach) == ((256, 256), 4.0, 120, 2)
        assert (config.gaussians, config.image_score) == (16, "top1")


@pytest.mark.parametrize("density", DENSITIES)
def test_a_saved_model_scores_the_same(density, tiny_category, tmp_path):
    config = FiltersConfig(image_size=64, grid=8, density=density, keep=5, calibration_fraction=0.25)
    runs = [tmp_path / "one", tmp_path / "two"]
    first, _ = (fit.fit(tiny_category, method="filters", config=config, out=r, device="cpu") for r in runs)
    assert (runs[0] / MODEL_NAME).read_bytes() == (runs[1] / MODEL_NAME).read_bytes()
    test = open_dataset(tiny_category).test
    again = load.load(runs[0], device="cpu")
    scores = [first.predict(s.path).score for s in test]
    assert scores == [again.predict(s.path).score for s in test]
    good, bad = ([v for v, s in zip(scores, test, strict=True) if s.is_defect == d] for d in (False, True))
    assert min(bad) > max(good)


def test_8_bits_have_nothing_to_speed_up():
    """The export refuses what has no trained layer: pca is refused by the same line."""
    for density in DENSITIES:
        assert not list(Filters(replace(SMALL, density=density), 3).parameters())


def test_it_learns_and_scores_tiles(tiny_category, tmp_path):
    config = FiltersConfig(image_size=56, grid=7, tile_size=40, calibration_fraction=0.25)
    detector = fit.fit(tiny_category, method="filters", config=config, out=tmp_path / "run", device="cpu")
    test = open_dataset(tiny_category).test
    found = [detector.predict(s.path) for s in test]
    assert found[0].anomaly_map.shape == (64, 64)
    good, bad = ([p.score for p, s in zip(found, test, strict=True) if s.is_defect == d] for d in (0, 1))
    assert np.mean(bad) > np.mean(good)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 55}, "--image-size 55: filters needs 56 pixels or more"),
        ({"image_size": (56, 40)}, "--image-size 40: filters needs 56"),
        ({"reach": -1}, "--reach -1: must be 0 or larger"),
        ({"smoothing": -1.0}, "--smoothing -1.0: must be a finite number, 0 or larger"),
        ({"smoothing": float("nan")}, "--smoothing nan"),
        ({"grid": 0}, "--grid 0: must be 1 or larger"),
        ({"keep": 0}, "--keep 0"),
        ({"gaussians": 0}, "--gaussians 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        FiltersConfig(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"image_size": 56}, {"reach": 0}, {"grid": 1}, {"grid": 20}, {"keep": 1}]
)
def test_options_that_just_fit(changes):
    x = images(3, size=(56, 56))
    for density in DENSITIES:
        options = {"image_size": 56, "density": density, "gaussians": 2, "grid": 7} | changes
        network = Filters(FiltersConfig(**options), 1)
        network.fit(lambda: [x])
        assert np.isfinite(maps(network, x[:1])).all()
