"""AnoGAN, f-AnoGAN and OCGAN: their equations by hand, their turns, their collapse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from resumed import stopped_and_resumed, trained

from blemish.core.errors import ModelError, TrainingError, UsageError
from blemish.export.onnx import export
from blemish.methods.baselines import gan
from blemish.methods.baselines.anogan import AnoGan, AnoGanConfig, mapping_loss, search
from blemish.methods.baselines.f_anogan import FAnoGan, FAnoGanConfig, anomaly_score
from blemish.methods.baselines.gan_networks import Down, ResidualDown, ResidualUp, Up
from blemish.methods.baselines.ocgan import OcGanConfig, mined, squared_error
from blemish.methods.registry import METHODS
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

TINY = {
    "f-anogan": FAnoGanConfig(
        image_size=16, width=2, latent=4, steps=12, batch_size=4, calibration_fraction=0.2
    ),
    "anogan": AnoGanConfig(
        image_size=16, width=2, latent=4, steps=6, batch_size=4, search_steps=3, calibration_fraction=0.2
    ),
    "ocgan": OcGanConfig(
        image_size=16,
        width=2,
        discriminator_width=2,
        latent=4,
        steps=6,
        mining_from=2,
        batch_size=4,
        calibration_fraction=0.2,
    ),
}


def near(value: float) -> object:
    return pytest.approx(value, abs=1e-5)


# --- the equations ---


def test_losses_of_a_gan_by_hand():
    # D = 3/4 for good and 1/4 for drawn images: logits log 3 and -log 3; both terms are -log(3/4)
    real, drawn = torch.tensor([math.log(3)] * 2), torch.tensor([-math.log(3)] * 2)
    assert gan.discriminator_loss(real, drawn) == near(-math.log(0.75))
    assert gan.generator_loss(drawn) == near(-math.log(0.25))
    assert gan.discriminator_loss(torch.zeros(3), torch.zeros(3)) == near(math.log(2))


def test_critics_loss_by_hand():
    # Means 2 and 5: 2 - 5 + 10 · 0.3 = 0
    loss = gan.critic_loss(torch.tensor([4.0, 6.0]), torch.tensor([1.0, 3.0]), torch.tensor(0.3), 10.0)
    assert loss == near(0)


def test_gradient_penalty_by_hand():
    # D(x) = Σ a x² / 2 has the slope a x: for images of four pixels of value v, |∇| = 2 a v.
    a = torch.tensor(3.0, requires_grad=True)
    real, drawn = torch.full((2, 1, 2, 2), 1.0), torch.zeros(2, 1, 2, 2)
    mix = torch.tensor([0.5, 1.0])  # v = 0.5 and 1, slopes 3 and 6, penalties 4 and 25
    penalty = gan.gradient_penalty(lambda x: a * x.square().flatten(1).sum(1) / 2, real, drawn, mix)
    assert penalty.item() == near(14.5)
    penalty.backward()  # 2 (2av - 1) 2v: 2·2·1 and 2·5·2, the mean 12
    assert a.grad is not None
    assert a.grad.item() == near(12)


def test_residual_map_by_hand():
    x, y = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 0.0]], [[-3.0, 1.0]]]])
    assert gan.residual_map(x, y).tolist() == [[[2.0, 0.5]]]


def test_anomaly_score_of_f_anogan_by_hand():
    x, x_hat = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    f, f_hat = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 4.0]])
    # (1 + 4) / 2 + 0.5 (0 + 9) / 2
    assert anomaly_score(x, x_hat, f, f_hat, 0.5).tolist() == [4.75]


def test_mapping_loss_of_anogan_by_hand():
    x, x_hat = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    f, f_hat = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 4.0]])
    # 0.9 (1 + 2) / 2 + 0.1 (0 + 3) / 2
    assert mapping_loss(x, x_hat, f, f_hat, 0.1)[0] == near(1.5)


@pytest.mark.heavy
def test_search_takes_torchs_steps_of_adam_each_image_by_itself():
    goal = torch.tensor([[1.0, -2.0], [3.0, 0.5]])

    def loss(z: torch.Tensor) -> torch.Tensor:
        return (z - goal[: len(z)]).pow(4).sum(dim=1)

    ours = search(loss, torch.zeros(2, 2), steps=7, rate=0.1)
    z = torch.zeros(2, 2, requires_grad=True)
    theirs = torch.optim.Adam([z], lr=0.1)
    for _ in range(7):
        theirs.zero_grad()
        loss(z).sum().backward()
        theirs.step()
    assert torch.allclose(ours, z, atol=1e-6)
    assert torch.equal(search(loss, torch.zeros(1, 2), steps=7, rate=0.1), ours[:1])


def test_squared_error_by_hand():
    x, y = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 0.0]], [[-3.0, 1.0]]]])
    assert squared_error(x, y).tolist() == [[[5.0, 0.5]]]


def test_informative_negatives_by_hand():
    u, a = torch.tensor([[0.3, -0.2], [0.0, 0.5]]), torch.tensor([2.0, -1.0])

    def good(s: torch.Tensor) -> torch.Tensor:
        return s @ a

    # ∂/∂u_i softplus(a · tanh u) = σ(a · tanh u) a_i (1 - tanh² u_i), each code by itself
    s = u.tanh()
    slope = torch.sigmoid(good(s))[:, None] * a * (1 - s.square())
    found = mined(good, u, 0.7)
    assert torch.allclose(found, (u - 0.7 * slope).tanh(), atol=1e-6)
    assert (good(found) < good(s)).all()  # less good, by the classifier
    with torch.no_grad():
        assert torch.equal(mined(good, u, 0.7), found)


# --- the networks ---


@pytest.mark.parametrize(("up", "down"), [(Up, Down), (ResidualUp, ResidualDown)])
def test_networks_have_images_and_answers_of_every_size(up, down):
    images = up(5, 3, 2, (32, 48))(torch.randn(2, 5))
    assert images.shape == (2, 3, 32, 48)
    assert 0 <= images.min() <= images.max() <= 1
    network = down(3, 7, 2, (32, 48))
    assert network(images).shape == (2, 7)
    assert network.features(images).shape == (2, 16 * 2 * 3)


def test_a_critic_answers_each_image_by_itself():
    torch.manual_seed(0)
    critic, x = ResidualDown(1, 1, 2, (16, 16)), torch.rand(3, 1, 16, 16)
    assert torch.allclose(critic(x)[:1], critic(x[:1]), atol=1e-6)  # while it learns, too


def test_f_anogan_has_as_many_numbers_as_table_6_says():
    config = FAnoGan.presets["paper"]
    with torch.device("meta"):
        network = FAnoGan(config, 3)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 24.6


# --- training ---


def a_network(method: str, channels: int = 1):
    torch.manual_seed(0)
    return METHODS[method](TINY[method], channels)


def test_turns_hold_what_is_trained():
    gans, encoder = a_network("f-anogan").phases()
    assert [(t.name, t.every) for t in gans.turns] == [("critic", 1), ("generator", 3)]
    assert (gans.share, encoder.share, [t.name for t in encoder.turns]) == (2.0, 1.0, ["encoder"])
    (phase,) = a_network("anogan").phases()
    assert [t.name for t in phase.turns] == ["discriminator", "generator"]
    network = a_network("ocgan")
    (phase,) = network.phases()
    turns = {t.name: [id(p) for p in t.parameters] for t in phase.turns}
    assert list(turns) == ["autoencoder", "discriminators", "classifier"]
    held = [p for part in turns.values() for p in part]
    assert sorted(held) == sorted(id(p) for p in network.parameters())  # each in one turn


@pytest.mark.parametrize("method", TINY)
def test_each_turns_loss_moves_its_own_network(method: str):
    network, x = a_network(method), torch.rand(3, 1, 16, 16)
    for phase in network.phases():
        for turn in phase.turns:
            network.zero_grad()
            own = list(turn.parameters)
            network.loss_of_turn(x, turn.name).backward()
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in own), turn.name


def test_critic_and_discriminator_learn_nothing_of_the_generator_that_draws():
    turns = {
        "f-anogan": ["critic"],
        "anogan": ["discriminator"],
        "ocgan": ["discriminators", "classifier"],
    }
    for method in TINY:
        for turn in turns[method]:
            network = a_network(method)
            network.loss_of_turn(torch.rand(3, 1, 16, 16), turn).backward()
            assert all(p.grad is None for p in network.generator.parameters())


def test_losses_of_ocgan_by_hand(monkeypatch):
    network, x = a_network("ocgan").eval(), torch.rand(3, 1, 16, 16)
    z, s = torch.full((3, 4), 0.5), torch.full((3, 4), -0.5)
    again, drawn = torch.full((3, 1, 16, 16), 0.25), torch.zeros(3, 1, 16, 16)
    monkeypatch.setattr(network, "encode", lambda _: z)
    monkeypatch.setattr(network, "codes", lambda *_: s)
    monkeypatch.setattr(network.generator, "forward", lambda c: again if c is z else drawn)
    log3 = math.log(3)
    # D_v: 3/4 of x and 1/4 of De(s); C: 3/4 of De(z), 1/4 of De(s); D_l: 3/4 of s, 1/4 of z
    for part in (network.discriminator, network.classifier):
        monkeypatch.setattr(part, "forward", lambda c: torch.full((3, 1), -log3 if c is drawn else log3))
    monkeypatch.setattr(
        network.latent_discriminator, "forward", lambda c: torch.full((3, 1), log3 if c is s else -log3)
    )
    assert network.loss_of_turn(x, "discriminators") == near(-2 * math.log(0.75))
    assert network.loss_of_turn(x, "classifier") == near(-math.log(0.75))
    # 1000 mean (x - 1/4)², 10 · -log 1/4, -log 1/4
    expected = 1000 * (x - 0.25).square().mean().item() + 11 * math.log(4)
    assert network.loss_of_turn(x, "autoencoder").item() == pytest.approx(expected, rel=1e-5)
    assert network.steps_taken == 1


def test_one_image_is_a_batch_of_ocgan_as_well():
    network, x = a_network("ocgan").train(), torch.rand(1, 1, 16, 16)
    for turn in ("autoencoder", "discriminators", "classifier"):
        assert network.loss_of_turn(x, turn).isfinite()


def test_ocgan_mines_once_it_has_taken_its_steps(monkeypatch):
    network, x, mined_at = a_network("ocgan"), torch.rand(4, 1, 16, 16), []
    monkeypatch.setattr(network, "_mined", lambda u: mined_at.append(int(network.steps_taken)) or u)
    for _ in range(4):
        network.loss_of_turn(x, "autoencoder")
    assert mined_at == [2, 3]


def test_ocgan_draws_codes_in_a_box_and_adds_noise_while_it_learns():
    network, x = a_network("ocgan"), torch.rand(4, 1, 16, 16)
    s = network.codes(1000, x)
    assert -1 < s.min() < -0.99 < 0.99 < s.max() < 1
    assert not torch.equal(network.encode(x), network.encode(x))
    network.eval()
    assert torch.equal(network.encode(x), network.encode(x))
    assert network.encode(x).abs().max() < 1


@pytest.mark.heavy
@pytest.mark.parametrize(("method", "stops"), [("f-anogan", (3, 10)), ("anogan", (3,)), ("ocgan", (3,))])
def test_a_gan_stopped_and_resumed_gives_the_same_bytes(method, stops, tiny_category, tmp_path):
    whole = trained(method, TINY[method], tiny_category, tmp_path / "whole")
    for at in stops:
        folder = tmp_path / str(at)
        assert stopped_and_resumed(method, TINY[method], tiny_category, folder, at) == whole


def test_anogan_scores_alike_in_any_company_and_is_not_exported(tiny_category, tmp_path):
    out = tmp_path / "run"
    detector = fit.fit(tiny_category, method="anogan", config=TINY["anogan"], out=out, device="cpu")
    paths = sorted((tiny_category / "test" / "hole").iterdir())
    alone = [detector.predict(path).score for path in paths]
    assert [p.score for p in detector.predict_many(paths)] == pytest.approx(alone, rel=1e-5)
    assert len(set(alone)) == len(alone)
    with pytest.raises(ModelError, match=r"^.*run: a model of anogan cannot be exported: it searches"):
        export(out, tmp_path / "model.onnx")


@torch.no_grad()
def test_own_score_or_the_maps():
    x = torch.rand(2, 1, 16, 16)
    for method in ("anogan", "f-anogan"):
        network = METHODS[method](replace(TINY[method], image_score="max"), 1).eval()
        assert network(x).shape == (2, 16, 16)
        maps, scores = a_network(method).eval()(x)
        assert (maps.shape, scores.shape) == ((2, 16, 16), (2,))


# --- collapse and refusals ---


def test_collapse_is_one_line():
    drawn, answers = torch.rand(4, 1, 2, 2), torch.tensor([0.0, 1.0, 2.0])
    gan.refuse_collapse("x", drawn, answers)
    with pytest.raises(TrainingError, match=r"^--method x: the generator draws the same image of every code"):
        gan.refuse_collapse("x", drawn[:1].expand(4, -1, -1, -1), answers)
    for same in (torch.full((3,), 0.7), torch.full((3,), math.nan)):
        with pytest.raises(TrainingError, match=r"^--method x: the discriminator says the same of every"):
            gan.refuse_collapse("x", drawn, same)


@pytest.mark.parametrize("kind", [FAnoGan, AnoGan])
def test_a_collapsed_gan_is_not_finished(kind):
    method = "f-anogan" if kind is FAnoGan else "anogan"
    network = a_network(method).eval()
    x = torch.rand(4, 1, 16, 16)
    network.finish(lambda: [x])
    torch.nn.init.zeros_(network.generator.first.weight)
    with pytest.raises(TrainingError, match=rf"^--method {method}: the generator draws the same image"):
        network.finish(lambda: [x])


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("generator.first", "the generator draws the same image of every code"),
        ("discriminator.last", "the discriminator says the same of every image"),
        ("latent_discriminator.6", "the discriminator of codes says the same of every code"),
        ("encoder.last", "the autoencoder draws the same image of every image"),
    ],
)
def test_each_collapse_of_ocgan_is_one_line(part: str, said: str):
    network, x = a_network("ocgan").eval(), torch.rand(4, 1, 16, 16)
    network.encoder.last.weight.data *= 1000  # so that codes lie apart, as when it has learnt
    network.finish(lambda: [x])
    torch.nn.init.zeros_(network.get_submodule(part).weight)
    with pytest.raises(TrainingError, match=rf"^--method ocgan: {said}; nothing was saved"):
        network.finish(lambda: [x])


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (FAnoGanConfig, {"image_size": 40}, "--image-size 40x40: f-anogan halves it 4 times"),
        (FAnoGanConfig, {"penalty": -1.0}, "--penalty -1.0: must be a finite number, 0 or larger"),
        (FAnoGanConfig, {"critic_steps": 0}, "--critic-steps 0: must be 1 or larger"),
        (AnoGanConfig, {"feature_weight": 1.5}, r"--feature-weight 1.5: must be in \[0, 1\]"),
        (AnoGanConfig, {"search_rate": 0.0}, "--search-rate 0.0: must be a finite number above 0"),
        (AnoGanConfig, {"validation_fraction": 0.1}, "--validation-fraction 0.1: no loss of anogan says"),
        (OcGanConfig, {"validation_fraction": 0.1}, "--validation-fraction 0.1: no loss of ocgan says"),
        (OcGanConfig, {"image_size": 40}, "--image-size 40x40: ocgan halves it 4 times"),
        (OcGanConfig, {"noise": math.nan}, "--noise nan: must be a finite number, 0 or larger"),
        (OcGanConfig, {"mining_from": -1}, "--mining-from -1: must be a finite number, 0 or larger"),
    ],
)
def test_options_are_refused_in_one_line(kind, options, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        kind(**options)
