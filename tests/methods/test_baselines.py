"""PCA, KDE and the variation model against hand arithmetic, loops, scikit-learn and scipy.

What all methods without a training loop share is here too; texture inspection has a file of its own.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA as SklearnPca  # noqa: N811
from sklearn.neighbors import KernelDensity

from blemish.core.errors import UsageError
from blemish.data.dataset import open_dataset
from blemish.images.preprocess import load
from blemish.inference import load as opening
from blemish.inference import postprocess
from blemish.inference.model_file import MODEL_NAME
from blemish.methods.baselines import kde, pca, variation
from blemish.methods.baselines.texture_inspection import TextureInspectionConfig
from blemish.methods.components.functional import grey
from blemish.methods.registry import METHODS
from blemish.metrics.roc import Roc
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SIZE = (16, 24)
SMALL = {
    "pca": pca.PcaConfig(image_size=SIZE, components=3, smoothing=1.0),
    "kde": kde.KdeConfig(image_size=SIZE),
    "variation": variation.VariationConfig(image_size=SIZE),
    "texture-inspection": TextureInspectionConfig(
        image_size=SIZE, levels=2, patch_size=3, components=2, patches=500
    ),
}


def images(n=6, channels=2, size=SIZE, seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def fitted(method, x, **changes):
    """A network that has seen images x, in batches of four."""
    network = METHODS[method](replace(SMALL[method], **changes), x.shape[1])
    torch.manual_seed(0)
    network.fit(lambda: x.split(4))
    return network.eval()


@torch.no_grad()
def maps(network, x):
    return network(x).numpy()


# --- PCA ---


def test_principal_axes_by_hand():
    # mean (1, 1); centred (-1, -1), (0, 0), (1, 1): all variance lies along (1, 1) / √2
    mean, axes = pca.principal_axes(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), 1)
    assert mean.tolist() == [1.0, 1.0]
    assert axes.abs()[0].tolist() == pytest.approx([0.70711, 0.70711], abs=1e-5)
    assert axes[0, 0] * axes[0, 1] > 0


@pytest.mark.parametrize("k", [1, 4, 7])
def test_principal_axes_equal_scikit_learn(k):
    x = torch.rand(8, 40, generator=torch.Generator().manual_seed(1))
    mean, axes = pca.principal_axes(x, k)
    theirs = SklearnPca(k, svd_solver="full").fit(x.double().numpy())
    np.testing.assert_allclose(mean.numpy(), theirs.mean_, atol=1e-6)
    signs = np.sign(
        (axes.numpy() * theirs.components_).sum(axis=1, keepdims=True)
    )  # an axis has no direction
    np.testing.assert_allclose(axes.numpy(), signs * theirs.components_, atol=1e-5)


def test_pca_map_is_the_smoothed_residual_of_scikit_learn():
    x, new = images(8), images(3, seed=1)
    theirs = SklearnPca(3, svd_solver="full").fit(x.flatten(1).numpy())
    flat = new.flatten(1).numpy()
    residual = (flat - theirs.inverse_transform(theirs.transform(flat))).reshape(new.shape)
    expected = [gaussian_filter(r, 1.0, radius=4) for r in (residual**2).sum(axis=1)]
    np.testing.assert_allclose(maps(fitted("pca", x), new), expected, atol=1e-5)


def test_pca_keeps_no_more_axes_than_images_span():
    x = torch.rand(5, 30, generator=torch.Generator().manual_seed(2))
    assert pca.principal_axes(x, 60)[1].shape == (4, 30)
    assert pca.principal_axes(x[:1], 60)[1].shape == (0, 30)
    twice = pca.principal_axes(torch.cat([x[:2], x[:2]]), 3)[1]  # two different images span one axis
    assert twice.norm(dim=1).tolist() == pytest.approx([1, 0, 0], abs=1e-6)


def test_pca_reconstructs_what_its_axes_span():
    x = images(5, channels=1)
    network = fitted("pca", x, components=4, smoothing=0)
    between = 0.3 * x[:1] + 0.7 * x[1:2]
    assert maps(network, torch.cat([x, between])).max() < 1e-9
    assert maps(network, 1 - x).mean() > 0.01


# --- KDE ---


def test_outlier_score_by_hand():
    # γ = 0.5, |x - x_j|² = 2 and 4: -log((e⁻¹ + e⁻²) / 2) = -log(0.251607) = 1.379886
    score = kde.outlier_score(torch.tensor([2.0, 4.0]), torch.tensor(0.5))
    assert score.item() == pytest.approx(1.379886, abs=1e-5)
    assert kde.outlier_score(torch.zeros(3), torch.tensor(0.5)).item() == pytest.approx(0, abs=1e-6)


def test_outlier_score_is_scikit_learns_density():
    x, new = images(7).flatten(1), images(3, seed=1).flatten(1)
    h = 2.5  # a kernel exp(-d² / 2h²) over (2πh²)^(D/2)
    theirs = KernelDensity(bandwidth=h).fit(x.numpy()).score_samples(new.numpy())
    scale = x.shape[1] / 2 * np.log(2 * np.pi * h**2)
    ours = kde.outlier_score(torch.cdist(new, x).square(), torch.tensor(1 / (2 * h**2)))
    np.testing.assert_allclose(-ours.numpy() - scale, theirs, rtol=1e-5)


def test_inverse_width_is_the_quantile_of_squared_distances():
    # points 0, 1, 3 on a line: squared distances 1, 4, 9
    x = torch.tensor([[0.0], [1.0], [3.0]])
    found = [kde.inverse_width(x, q).item() for q in (0.3, 0.5, 1.0)]
    assert found == pytest.approx([1, 1 / 4, 1 / 9])
    # one image, and equal images: one grey step in each of D = 4 values
    for equal in (torch.ones(1, 4), torch.ones(3, 4)):
        assert kde.inverse_width(equal, 0.5).item() == pytest.approx(255**2 / 4)


def test_relevance_equals_loops():
    x, good, gamma = images(1)[0].flatten(), images(5, seed=1).flatten(1), 0.02
    d2 = [sum((a - b) ** 2 for a, b in zip(x.tolist(), g.tolist(), strict=True)) for g in good]
    total = sum(np.exp(-gamma * d) for d in d2)
    expected = np.zeros(x.numel())
    for g, d in zip(good, d2, strict=True):
        expected += np.exp(-gamma * d) / total * ((x - g) ** 2).numpy() / d
    ours = kde.relevance((x - good).square(), torch.tensor(gamma))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4)
    assert ours.sum().item() == pytest.approx(1, abs=1e-6)


def test_an_equal_image_explains_evenly():
    # the image itself, and one so far away that it has no weight
    squares = torch.tensor([[0.0, 0.0, 0.0, 0.0], [900.0, 0.0, 0.0, 0.0]])
    assert kde.relevance(squares, torch.tensor(1.0)).tolist() == pytest.approx([0.25] * 4)


def test_mean_of_the_kde_map_is_the_outlier_score():
    x, new = images(6), images(4, seed=1)
    network = fitted("kde", x)
    scores = kde.outlier_score(torch.cdist(new.flatten(1), x.flatten(1)).square(), network.gamma)
    found = maps(network, new)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), scores.numpy(), rtol=1e-4)
    assert found.min() >= 0
    assert SMALL["kde"].image_score == "mean"


def test_kde_map_of_a_single_image_is_the_squared_difference():
    # n = 1: o(x) = γ |x - x₁|², so that a pixel's part is γ (x_i - x_1i)², channels summed, times H·W
    x, new = images(1), images(1, seed=1)
    network = fitted("kde", x)
    expected = network.gamma * (new - x)[0].square().sum(dim=0) * 16 * 24
    np.testing.assert_allclose(maps(network, new)[0], expected.numpy(), rtol=1e-4)


# --- variation model ---


def test_deviation_by_hand():
    # spreads 0.1, and 0.001 raised to 0.02: |0.8 - 0.5| / 0.1 = 3, |0.4 - 0.5| / 0.02 = 5
    c, i, v = torch.tensor([0.8, 0.4]), torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.001])
    assert variation.deviation(c, i, v, 0.02).tolist() == pytest.approx([3, 5])


def test_deviation_above_b_is_the_rule_of_two_thresholds():
    c, i, v = images(1)[0], images(1, seed=1)[0], 0.2 * images(1, seed=2)[0]
    a, b = 0.2, 2.0
    rejected = (c - i).abs() > torch.maximum(torch.tensor(a), b * v)
    assert torch.equal(variation.deviation(c, i, v, a / b) > b, rejected)
    assert 0 < rejected.float().mean() < 1


def test_variation_map_equals_numpy():
    x, new = images(9), images(2, seed=1)
    good = x.double().numpy()
    spread = np.maximum(good.std(axis=0), 5 / 255)
    expected = (np.abs(new.numpy() - good.mean(axis=0)) / spread).max(axis=1)
    np.testing.assert_allclose(maps(fitted("variation", x), new), expected, rtol=1e-4, atol=1e-4)


# --- what they share ---


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_blemish_lights_up_whatever_the_channels(method, channels):
    x = 0.5 + 0.05 * images(8, channels)
    bad = x[:1].clone()
    bad[:, :, 9:13, 15:19] = 1.0
    found = maps(fitted(method, x), bad)
    assert found.shape == (1, *SIZE)
    y, x_ = divmod(int(found[0].argmax()), SIZE[1])
    assert 8 <= y < 14
    assert 14 <= x_ < 20


@pytest.mark.parametrize("method", ["pca", "variation", "texture-inspection"])
def test_rgb_is_seen_as_grey(method):
    x, new = images(6, 3), images(2, 3, seed=1)
    np.testing.assert_allclose(
        maps(fitted(method, x), new), maps(fitted(method, grey(x)), grey(new)), rtol=1e-4, atol=1e-4
    )


def test_kde_sees_colour():
    x = images(6, 3)
    swapped = x[:, [2, 1, 0]]
    assert maps(fitted("kde", x), swapped[:1]).mean() > maps(fitted("kde", x), x[:1]).mean() + 0.1


@pytest.mark.parametrize("method", SMALL)
def test_equal_and_constant_images_give_finite_maps(method):
    flat = torch.full((5, 3, *SIZE), 0.5)
    for x in (flat, flat[:1], images(1).expand(5, -1, -1, -1)):
        network = fitted(method, x)
        good, bad = maps(network, x[:1]), maps(network, 1.5 * x[:1])
        assert np.isfinite(good).all()
        assert np.isfinite(bad).all()
        assert bad.mean() > good.mean()


@pytest.mark.parametrize("method", SMALL)
def test_fit_saves_a_model_that_scores_alike(method, tiny_category, tmp_path):
    config = replace(SMALL[method], calibration_fraction=0.0)
    runs = [tmp_path / "one", tmp_path / "two"]
    first, _ = (fit.fit(tiny_category, method=method, config=config, out=run, device="cpu") for run in runs)
    assert (runs[0] / MODEL_NAME).read_bytes() == (runs[1] / MODEL_NAME).read_bytes()
    test = open_dataset(tiny_category).test
    again = opening.load(runs[0], device="cpu")
    scores = [first.predict(s.path).score for s in test]
    assert scores == [again.predict(s.path).score for s in test]
    good, bad = ([v for v, s in zip(scores, test, strict=True) if s.is_defect == d] for d in (False, True))
    assert np.mean(bad) > np.mean(good)


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        (pca.PcaConfig, {"components": 0}, "--components 0: must be 1 or larger"),
        (pca.PcaConfig, {"smoothing": -1.0}, "--smoothing -1.0: must be a finite number, 0 or larger"),
        (pca.PcaConfig, {"smoothing": float("inf")}, "--smoothing inf"),
        (kde.KdeConfig, {"quantile": 0.0}, "--quantile 0.0: must be above 0 and at most 1"),
        (kde.KdeConfig, {"image_size": 0}, "--image-size 0"),
        (variation.VariationConfig, {"floor": 0.0}, "--floor 0.0: must be a finite number above 0"),
        (variation.VariationConfig, {"floor": float("nan")}, "--floor nan"),
    ],
)
def test_wrong_options_are_refused_in_one_line(config, changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        config(**changes)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_size_is_refused():
    saved = fitted("kde", images(4)).state_dict()
    room = kde.Kde(replace(SMALL["kde"], image_size=8), 2)
    with pytest.raises(RuntimeError, match="images"):
        room.load_state_dict(saved)


@pytest.mark.data
@pytest.mark.slow
def test_pca_on_bottle(data_root):
    """The line that other methods are held against, maps and masks at 128×128, within 0.01."""
    category = data_root / "mvtec" / "bottle"
    if not category.is_dir():
        pytest.skip(f"{category} is absent")
    config = pca.PcaConfig(calibration_fraction=0.0)
    detector = fit.fit(category, method="pca", config=config, device="cpu")
    test = open_dataset(category, need_train=False).test
    found, masks = np.zeros((2, len(test), 128, 128))
    for i, sample in enumerate(test):
        small, _ = load(sample.path, detector.model_file.image_format, config.size)
        found[i] = detector.backend.run(small[None]).maps[0]
        if sample.mask is not None:
            with Image.open(sample.mask) as mask:
                masks[i] = mask.convert("L").resize((128, 128), Image.Resampling.NEAREST)
    defective = np.array([s.is_defect for s in test])
    for how, expected in (("max", 0.979), ("mean", 0.983)):
        scores = np.array([postprocess.image_score(m, how) for m in found])
        assert Roc.of(scores[~defective], scores[defective]).auroc() == pytest.approx(expected, abs=0.01)
    roc = Roc.of(found[masks == 0], found[masks > 0])
    assert roc.auroc() == pytest.approx(0.943, abs=0.01)
    assert roc.normalised_auroc(0.3) == pytest.approx(0.831, abs=0.01)
