"""AE-L2 and AE-SSIM against hand arithmetic, Table 1, scikit-image and Adam's own weight decay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from blemish.core.errors import TrainingError, UsageError
from blemish.inference import load
from blemish.methods.baselines import ae_l2, autoencoder
from blemish.methods.baselines.ae_l2 import AeL2
from blemish.methods.baselines.ae_ssim import AeSsim
from blemish.methods.baselines.autoencoder import Autoencoder, AutoencoderConfig
from blemish.methods.components.functional import grey
from blemish.methods.registry import METHODS
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = AutoencoderConfig(image_size=(32, 48), latent=8, weight_decay=0.0)


def images(n=2, channels=3, size=(32, 48), seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def small(kind=AeL2, channels=3, **changes):
    torch.manual_seed(0)
    return kind(replace(SMALL, **changes), channels)


def output_sizes(network, x):
    """Channels, height and width after each convolution, as Table 1 lists them."""
    sizes = []
    for part in (*network.encoder, *network.decoder):
        x = part(x)
        if not isinstance(part, torch.nn.LeakyReLU):
            sizes.append((*x.shape[2:], x.shape[1]))
    return sizes


# --- the network (VISAPP paper, Table 1) ---


def test_layers_are_those_of_table_1():
    network = Autoencoder(AutoencoderConfig(), channels=1)
    with torch.no_grad():
        sizes = output_sizes(network, torch.zeros(1, 1, 128, 128))
    encoder = [
        (64, 64, 32), (32, 32, 32), (32, 32, 32), (16, 16, 64), (16, 16, 64), (8, 8, 128), (8, 8, 64),
        (8, 8, 32), (1, 1, 100),
    ]  # fmt: skip
    assert sizes == [*encoder, *encoder[-2::-1], (128, 128, 1)]
    # kernel² · in · out + out: 544 + 16416 + 9248 + 32832 + 36928 + 131200 + 73792 + 18464 + 204900
    assert sum(p.numel() for p in network.encoder.parameters()) == 524_324
    # the mirror has as many weights; its biases are those of 32 + 64 + 128 + 64 + 64 + 32 + 32 + 32 + 1
    # channels instead of 32 + 32 + 32 + 64 + 64 + 128 + 64 + 32 + 100: 99 fewer
    assert sum(p.numel() for p in network.decoder.parameters()) == 524_324 - 99
    slopes = [m.negative_slope for m in network.modules() if isinstance(m, torch.nn.LeakyReLU)]
    assert slopes == [0.2] * 16
    assert not isinstance(network.encoder[-1], torch.nn.LeakyReLU)  # code and image are linear
    assert not isinstance(network.decoder[-1], torch.nn.LeakyReLU)


def test_a_fifth_halving_is_another_first_layer():
    config = AutoencoderConfig(image_size=(64, 96), halvings=5, latent=7)
    with torch.no_grad():
        sizes = output_sizes(Autoencoder(config, channels=2), torch.zeros(1, 2, 64, 96))
    encoder = [
        (32, 48, 32), (16, 24, 32), (8, 12, 32), (8, 12, 32), (4, 6, 64), (4, 6, 64), (2, 3, 128), (2, 3, 64),
        (2, 3, 32), (1, 1, 7),
    ]  # fmt: skip
    assert sizes == [*encoder, *encoder[-2::-1], (64, 96, 2)]


@pytest.mark.parametrize("method", ["ae-l2", "ae-ssim"])
def test_paper_presets_are_the_papers_numbers(method):
    paper, objects = (METHODS[method].presets[name] for name in ("paper", "paper-object"))
    assert (paper.size, paper.latent, paper.halvings) == ((128, 128), 100, 4)
    assert (paper.learning_rate, paper.weight_decay, paper.schedule) == (2e-4, 1e-5, "constant")
    assert paper.steps * paper.batch_size == 200 * 10_000  # 200 passes over 10,000 images
    assert objects == replace(paper, image_size=256, halvings=5)


def test_the_first_weights_carry_the_signal_through_all_layers():
    # torch's own keep (1 + 0.2²) / 2 / 3 = 17 % of its variance in a layer, which leaves nothing after 18;
    # ours keep all of it but for the zeros around the borders
    torch.manual_seed(0)
    network, x = Autoencoder(AutoencoderConfig(), channels=3), images(4, 3, (128, 128))
    with torch.no_grad():
        for part in (*network.encoder, *network.decoder):
            x = part(x)
            if not isinstance(part, torch.nn.LeakyReLU):
                assert 0.1 < x.square().mean() < 2


def test_the_first_weights_have_hes_spread():
    # 2 / (1 + 0.2²) / inputs of an output pixel: 3·4·4; 32·3·3; 32·2·3 (the whole code's image); and of the
    # mirrored ones the code's 8 numbers, then, as a transposed 4×4 kernel of stride 2 has 4 places for each
    # output pixel, 128·4
    network = small(latent=8)
    inputs = {
        network.encoder[0]: 48,
        network.encoder[4]: 288,
        network.encoder[-1]: 192,
        network.decoder[0]: 8,
        network.decoder[6]: 512,
    }
    for layer, count in inputs.items():
        assert layer.weight.std().item() == pytest.approx((2 / 1.04 / count) ** 0.5, rel=0.06)
        assert layer.bias.abs().max() == 0


def test_everything_passes_through_the_code():
    network, x = small(), images()
    with torch.no_grad():
        assert network.encoder(x).shape == (2, 8, 1, 1)
        network.encoder[-1].weight.zero_()
        a, b = network.reconstruct(x)
    assert torch.equal(a, b)  # with a constant code both images become one


# --- the equations ---


def test_squared_residual_by_hand():
    x = torch.tensor([[[[0.0, 0.5]], [[1.0, 0.2]]]])  # two channels of one row of two pixels
    x_hat = torch.tensor([[[[0.5, 0.5]], [[0.0, 0.6]]]])
    # 0.5² + 1² = 1.25; 0² + 0.4² = 0.16
    assert ae_l2.squared_residual(x, x_hat).flatten().tolist() == pytest.approx([1.25, 0.16])


def test_l2_loss_sums_an_image_and_averages_the_batch():
    network, x = small(), images()
    with torch.no_grad():
        ours, x_hat = network.loss(x).item(), network.reconstruct(x)
    sums = [((a - b) ** 2).sum() for a, b in zip(x.numpy(), x_hat.numpy(), strict=True)]
    assert ours == pytest.approx(np.mean(sums), rel=1e-5)


def luma(rgb):
    """ITU-R BT.601: (3, H, W) -> (H, W)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def skimage_ssim(a, b):
    """SSIM at each place."""
    return structural_similarity(
        a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1]


def test_dissimilarity_is_one_minus_scikit_images_ssim_of_the_grey_image():
    network, x = small(AeSsim), images()
    with torch.no_grad():
        maps, loss = network(x), network.loss(x).item()
        x_hat = network.reconstruct(grey(x)).numpy()
    assert x_hat.shape == (2, 1, 32, 48)
    means = []  # over all places; scikit-image's own mean leaves the borders out
    for image, drawn, found in zip(x.numpy(), x_hat, maps.numpy(), strict=True):
        ssim = skimage_ssim(luma(image), drawn[0])
        np.testing.assert_allclose(found, 1 - ssim, atol=1e-4)
        means.append(1 - ssim.mean())
    assert loss == pytest.approx(np.mean(means), abs=1e-4)


def test_other_channels_than_rgb_are_averaged():
    network, x = small(AeSsim, channels=2), images(1, 2)
    with torch.no_grad():
        found, x_hat = network(x)[0].numpy(), network.reconstruct(x)[0].numpy()
    kinds = [1 - skimage_ssim(a, b) for a, b in zip(x[0].numpy(), x_hat, strict=True)]
    np.testing.assert_allclose(found, np.mean(kinds, axis=0), atol=1e-4)


def test_weight_penalty_by_hand():
    # λ/2 (1 + 4 + 9) = 0.05 · 14
    weights = [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])]
    assert autoencoder.weight_penalty(weights, 0.1).item() == pytest.approx(0.7)


@pytest.mark.parametrize("kind", [AeL2, AeSsim])
def test_the_penalty_in_the_loss_is_adams_own_weight_decay(kind):
    decay, x = 0.3, images()
    ours, theirs = small(kind, weight_decay=decay), small(kind)
    for network, own in ((ours, 0.0), (theirs, decay)):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=own)
        network.loss(x).backward()
        optimizer.step()
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    # sums in another order, and Adam's first step is the sign of a gradient however small
    close = [torch.isclose(a, b, atol=1e-4).float().mean().item() for a, b in pairs]
    assert min(close) > 0.95
    plain = small(kind)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    plain.loss(x).backward()
    optimizer.step()
    assert not torch.equal(plain.encoder[0].weight, ours.encoder[0].weight)


# --- images in, maps out ---


@pytest.mark.parametrize("kind", [AeL2, AeSsim])
def test_a_perfect_reconstruction_has_an_empty_map(kind, monkeypatch):
    network, x = small(kind), images()
    monkeypatch.setattr(network, "reconstruct", lambda x: x)
    assert network(x).abs().max() < 1e-4


@pytest.mark.parametrize(("kind", "reach"), [(AeL2, 0), (AeSsim, 5)])
def test_what_is_not_reconstructed_lights_up_where_it_is(kind, reach, monkeypatch):
    """`reach`: a window of 11 pixels sees the blot 5 pixels away."""
    network, good = small(kind, channels=1), images(1, 1)
    bad = good.clone()
    bad[:, :, 20:24, 8:12] = 1 - bad[:, :, 20:24, 8:12]
    monkeypatch.setattr(network, "reconstruct", lambda _: good)
    found = network(bad)[0]
    inside = torch.zeros(32, 48, dtype=torch.bool)
    inside[20 - reach : 24 + reach, 8 - reach : 12 + reach] = True
    assert inside.flatten()[found.argmax()]
    assert found.max() > 0.1
    assert found[~inside].abs().max() < 1e-4


@pytest.mark.parametrize("kind", [AeL2, AeSsim])
@pytest.mark.parametrize(("channels", "size"), [(1, (16, 16)), (2, (32, 48)), (3, (48, 16)), (5, (32, 32))])
def test_any_channels_and_any_size_that_halves(kind, channels, size):
    with torch.no_grad():
        found = small(kind, channels, image_size=size)(images(3, channels, size))
    assert found.shape == (3, *size)
    assert found.min() >= -1e-4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 100}, "100x100 cannot be halved 4 times: choose multiples of 16"),
        ({"image_size": (32, 40)}, "32x40 cannot be halved"),
        ({"image_size": 48, "halvings": 5}, "48x48 cannot be halved 5 times: choose multiples of 32"),
        ({"halvings": 3}, "--halvings 3: must be 4 or larger"),
        ({"latent": 0}, "--latent 0"),
        ({"weight_decay": -1e-5}, "--weight-decay -1e-05"),
        ({"weight_decay": float("nan")}, "--weight-decay nan"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)


# --- through the loop, into a file and back ---


def test_an_ae_ssim_that_has_lost_its_way_is_not_saved(tiny_category, tmp_path):
    # at so high a rate x̂ leaves the images for good: SSIM is 0 there, and so is its slope
    config = replace(SMALL, latent=8, steps=8, epochs=None, learning_rate=0.1, calibration_fraction=0.0)
    with pytest.raises(
        TrainingError, match=r"^--method ae-ssim: its map is the same at every place"
    ) as caught:
        fit.fit(tiny_category, method="ae-ssim", config=config, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_perfect_map_is_no_collapse():
    network, x = small(AeSsim), images()
    network.reconstruct = lambda x: x + 1e-5 * torch.rand(x.shape)
    network.finish(lambda: [x])


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["ae-l2", "ae-ssim"])
def test_model_files_are_reproducible_and_score_as_what_was_trained(method, tiny_category, tmp_path):
    config = AutoencoderConfig(image_size=32, latent=8, epochs=4, batch_size=4, calibration_fraction=0.2)
    path = next((tiny_category / "test" / "hole").iterdir())
    files, detectors = [], []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        detectors.append(
            fit.fit(
                tiny_category, method=method, config=config, out=tmp_path / name, seed=seed, device="cpu",
                precision="fp32",
            )
        )  # fmt: skip
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]
    log = (tmp_path / "one" / "log.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in log[1:]]
    assert losses[-1] < 0.9 * losses[0]
    trained = detectors[0].predict(path)
    loaded = load.load(tmp_path / "one", device="cpu").predict(path)
    assert loaded.score == trained.score
    assert np.array_equal(loaded.anomaly_map, trained.anomaly_map)
