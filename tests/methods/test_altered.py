"""What both methods have in common that learn from altered images: `planted` and `nsa`."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from blemish.core.errors import Interrupted
from blemish.data.dataset import open_dataset
from blemish.inference import load
from blemish.inference.model_file import MODEL_NAME
from blemish.methods.baselines.nsa import Nsa, NsaConfig
from blemish.methods.components.altered import filled
from blemish.methods.components.distributed import share_of
from blemish.methods.planted import Planted, PlantedConfig
from blemish.training import fit, trainer

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = {
    "planted": PlantedConfig(image_size=(48, 64), crop_size=32, width=0.25, steps=3, batch_size=4),
    "nsa": NsaConfig(image_size=(48, 64), width=4, steps=3, batch_size=4),
}
BOTH = pytest.mark.parametrize("method", SMALL)


def images(n=4, channels=3, size=(48, 64)):
    return 0.3 + 0.4 * torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(0))


def part_on_plain():
    """Four images of a noisy part of 0.6, rows 16 to 31 and columns 24 to 47, on a plain background."""
    x = torch.tensor([0.1, 0.2, 0.3])[None, :, None, None].expand(4, -1, 48, 64).clone()
    x[:, :, 16:32, 24:48] = 0.6
    return x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def prepared(method, x, **changes):
    torch.manual_seed(0)
    config = replace(SMALL[method], image_size=tuple(x.shape[2:]), **changes)
    network = {"planted": Planted, "nsa": Nsa}[method](config, x.shape[1])
    network.prepare(lambda: x.split(3))
    return network


def test_few_images_are_repeated_and_many_are_not():
    x = torch.arange(3)
    assert filled(x, 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert filled(x, 2).tolist() == [0, 1, 2]
    assert filled(x[:1], 1).tolist() == [0, 0]


@pytest.mark.parametrize(("method", "made"), [("planted", "loss_of_crops"), ("nsa", "loss_of_images")])
def test_two_processes_draw_differently_and_each_the_same_again(method, made, monkeypatch):
    x = images(4)
    network, draws = prepared(method, x), []
    monkeypatch.setattr(
        type(network), made, lambda *_: draws.append(torch.rand(3).tolist()) or torch.zeros(())
    )
    for process in (0, 1, 1):
        share = share_of(8, process=process, processes=2)
        assert share is not None
        torch.manual_seed(3)
        network.loss_of_share(x, share)
    assert draws[0] != draws[1] == draws[2]


@BOTH
def test_light_that_fills_a_part_of_the_range_is_light_that_fills_it(method):
    x = part_on_plain()
    bright, dark = prepared(method, x), prepared(method, x / 64)
    losses = []
    for network, seen in ((bright, x), (dark, x / 64)):
        torch.manual_seed(2)
        losses.append(network.loss(seen).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(dark.eval()(x / 64), bright.eval()(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "size", "n", "changes"),
    [
        ("nsa", (32, 32), 1, {}),
        ("nsa", (33, 70), 2, {}),
        ("nsa", (48, 64), 5, {}),
        ("planted", (32, 32), 1, {"crop_size": 96}),
        ("planted", (32, 32), 2, {"crop_size": 32}),
        ("planted", (33, 70), 1, {"crop_size": 48}),
        ("planted", (48, 64), 3, {"crop_size": 32}),
        ("planted", (40, 40), 5, {"crop_size": 96}),
    ],
)
@pytest.mark.parametrize("channels", [1, 5])
def test_few_and_small_images_are_learnt(method, size, n, changes, channels):
    x = images(n, channels, size)
    network = prepared(method, x, **changes)
    if crop := changes.get("crop_size"):
        assert network.crop == (min(crop, size[0]), min(crop, size[1]))
    torch.manual_seed(0)
    loss = network.loss(x)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@BOTH
def test_constant_images_are_learnt(method):
    x = torch.full((3, 1, 48, 64), 0.5)
    network = prepared(method, x)
    assert network.loss(x).isfinite()
    network.eval()
    with torch.no_grad():
        assert network(x).isfinite().all()


@BOTH
def test_a_score_does_not_depend_on_its_company(method):
    x = images(5)
    network = prepared(method, x).eval()
    with torch.no_grad():
        together = network(x)
        for i in range(5):
            torch.testing.assert_close(network(x[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.heavy
@BOTH
def test_a_run_and_a_resumed_one_end_with_the_same_bits(method, tiny_category, tmp_path, monkeypatch):
    config = replace(SMALL[method], image_size=48, epochs=3, calibration_fraction=0.25)

    def learn(name, *, seed=0, resume=False):
        return fit.fit(
            tiny_category, method=method, config=config, out=tmp_path / name, seed=seed, resume=resume,
            device="cpu", precision="fp32",
        )  # fmt: skip

    def losses(name):
        with (tmp_path / name / "log.csv").open(newline="") as file:
            return [row["train_loss"] for row in csv.DictReader(file)]

    whole = learn("whole")
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    step, steps = trainer.Trainer._step, []

    def stopping(self, *of_step):
        step(self, *of_step)
        steps.append(1)
        if len(steps) == 5:  # in the second of three epochs, of three steps each
            self.ask_to_stop()

    monkeypatch.setattr(trainer.Trainer, "_step", stopping)
    with pytest.raises(Interrupted):
        learn("parts")
    learn("parts", resume=True)
    models = [(tmp_path / name / MODEL_NAME).read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]
    assert losses("whole") == losses("parts")
    learn("other", seed=1)
    assert losses("whole") != losses("other")
    loaded = load.load(tmp_path / "whole", device="cpu")
    for sample in open_dataset(tiny_category).test:
        before, after = whole.predict(sample.path), loaded.predict(sample.path)
        assert before.score == after.score
        assert np.array_equal(before.anomaly_map, after.anomaly_map)
