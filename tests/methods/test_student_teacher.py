"""Student-teacher: its equations by hand, its dense networks, its phases, and the method as it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from resumed import stopped_and_resumed, trained

from blemish.core.errors import TrainingError, UsageError
from blemish.inference import load
from blemish.methods.baselines import student_teacher_equations
from blemish.methods.baselines.student_teacher import StudentTeacher, StudentTeacherConfig
from blemish.methods.baselines.student_teacher_network import PLANS, PatchNetwork

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = StudentTeacherConfig(
    image_size=(40, 48),
    strides=(4, 8),
    steps=9,
    batch_size=4,
    patches=2,
    crop_size=36,
    width=2,
    description=3,
    students=2,
    calibration_fraction=0.2,
)


def images(n: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, 40, 48, generator=torch.Generator().manual_seed(seed))


def a_network(config: StudentTeacherConfig = SMALL, channels: int = 3) -> StudentTeacher:
    torch.manual_seed(0)
    network, x = StudentTeacher(config, channels), images(5, channels)
    network.prepare(lambda: x.split(2))
    network.begin_phase("students", lambda: x.split(2))
    return network


def test_losses_of_the_teacher_by_hand():
    said, features = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    # squares 0, 4, 4, 0
    assert student_teacher_equations.distillation_loss(said, features).item() == 2


def test_compactness_is_the_mean_of_numpys_correlations():
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    others = ~np.eye(4, dtype=bool)
    expected = np.abs(np.corrcoef(z.T.numpy())[others]).mean()
    assert student_teacher_equations.compactness(z).item() == pytest.approx(expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert student_teacher_equations.compactness(z).item() == pytest.approx(expected)
    assert student_teacher_equations.compactness(torch.ones(5, 3)).item() == 0
    assert student_teacher_equations.compactness(z[:, :1]).item() == 0


def test_students_by_hand():
    # two students of one place and two numbers say (1, 0) and (3, 2); the teacher (1, 1)
    said = torch.tensor([[1.0, 0.0], [3.0, 2.0]]).view(2, 1, 2, 1, 1)
    target = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    # squares 0, 1, 4, 1
    assert student_teacher_equations.student_loss(said, target).item() == 1.5
    # their mean is (2, 1): an error of 1
    assert student_teacher_equations.errors(said, target).tolist() == [[[1.0]]]
    # squared lengths 1 and 13, the mean 7, less that of the mean, 5
    assert student_teacher_equations.differences(said).tolist() == [[[2.0]]]


@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("patch", PLANS)
@torch.no_grad()
def test_dense_descriptions_are_those_of_each_patch_alone(patch: int, stride: int):
    torch.manual_seed(0)
    network = PatchNetwork(patch, 2, 3, stride)
    alone = PatchNetwork(patch, 2, 3, 8)  # whose poolings all halve
    alone.load_state_dict(network.state_dict())
    assert patch - 5 <= network.reach == alone.reach <= patch
    H, W = network.reach + 2 * stride, network.reach + stride + stride // 2
    x = torch.randn(1, 3, H, W)
    found = network(x)
    assert found.shape == (1, 3, 3, 2)
    for i, j in ((0, 0), (1, 1), (2, 0)):
        top, left = i * stride, j * stride
        own = alone(x[:, :, top : top + network.reach, left : left + network.reach])
        torch.testing.assert_close(found[:, :, i, j], own[:, :, 0, 0])


@pytest.mark.parametrize("size", [(40, 48), (41, 46)])
def test_a_whole_image_has_a_place_at_every_stride(size):
    network = PatchNetwork(33, 2, 3, 4)
    x = torch.randn(1, 3, *size)
    found = network.whole(x)
    assert found.shape == (1, 3, -(-size[0] // 4), -(-size[1] // 4))
    # the place (4, 4) has its middle at pixel 17.5, so it begins 14 pixels before 16
    torch.testing.assert_close(found[:, :, 4, 4], network(x[:, :, 2:34, 2:34])[:, :, 0, 0])


def test_each_phase_moves_its_own_networks():
    network, x = a_network(), images(3)
    for phase, parts in zip(network.phases(), ({"teachers", "decoders"}, {"students"}), strict=True):
        (turn,) = phase.turns
        network.zero_grad()
        for p in network.parameters():
            p.requires_grad_(False)
        for p in turn.parameters:
            p.requires_grad_(True)
        network.loss_of_turn(x, turn.name).backward()
        moved = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
        assert moved == parts
    assert [phase.share for phase in network.phases()] == [0.4, 0.6]


@pytest.mark.parametrize("by_place", [True, False])
@torch.no_grad()
def test_the_map_is_the_mean_of_standardised_scores(by_place: bool):
    config = replace(SMALL, patch_sizes=(17, 33), smoothing=0.0, place_statistics=by_place)
    network, x = a_network(config).eval(), images(5)
    network.finish(lambda: x.split(2))
    scores = [torch.cat(parts) for parts in zip(*(network._scores(one) for one in x.split(1)), strict=True)]
    total = torch.zeros(5, 10, 12)
    for both in scores:
        for s in both.unbind(1):
            spread = s.std(dim=0, correction=0) if by_place else s.std(correction=0)
            # half of what is usual is added, as a place may never vary
            spread = spread + 0.5 * spread.median() + 1e-6 if by_place else spread
            total += (s - (s.mean(dim=0) if by_place else s.mean())) / spread / 2
    maps = network(x)
    assert maps.shape == (5, 40, 48)
    # at corners nothing is interpolated
    torch.testing.assert_close(maps[:, 0, 0], total[:, 0, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(maps[:, -1, -1], total[:, -1, -1], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_teachers_say_is_standardised():
    network, x = a_network(), images(5)
    seen = network.backbone.normalised(x)
    _, target = network._said(0, lambda net: net.whole(seen))  # type: ignore[operator]  a PatchNetwork
    std, mean = torch.std_mean(target.transpose(0, 1).flatten(1), dim=1, correction=0)
    assert mean.abs().max() < 1e-3
    torch.testing.assert_close(std, torch.ones(3), rtol=1e-3, atol=1e-3)


def test_a_teacher_that_says_the_same_of_all_is_not_saved():
    network, x = a_network().eval(), images(4)
    for p in network.teachers.parameters():
        torch.nn.init.zeros_(p)
    with pytest.raises(TrainingError, match=r"^--method student-teacher: the network says the same of all"):
        network.finish(lambda: [x])


@pytest.mark.heavy
def test_trainings_stopped_in_either_phase_give_the_same_bytes(tiny_category, tmp_path):
    config = replace(SMALL, image_size=40, steps=6)
    whole = trained("student-teacher", config, tiny_category, tmp_path / "whole")
    for at in (1, 4):
        folder = tmp_path / str(at)
        assert stopped_and_resumed("student-teacher", config, tiny_category, folder, at) == whole
    detector = load.load(tmp_path / "whole", device="cpu")
    prediction = detector.predict(next((tiny_category / "test" / "hole").iterdir()))
    assert prediction.anomaly_map.shape == (64, 64)


def test_papers_preset_has_the_parameters_of_its_networks():
    paper = StudentTeacher.presets["paper"]
    assert (paper.patch_sizes, paper.students, paper.description) == ((17, 33, 65), 3, 128)
    with torch.device("meta"):
        network = StudentTeacher(paper, 3)
    # a convolution has k² · inputs · outputs weights and as many biases as outputs
    small = 36 * 3 * 128 + 128 + 25 * 128 * 256 + 256 + 25 * 256 * 256 + 256 + 16 * 256 * 128 + 128
    middle = 25 * 3 * 128 + 128 + 25 * 128 * 256 + 256 + 4 * 256 * 256 + 256 + 16 * 256 * 128 + 128
    large = 25 * 3 * 128 + 128 + 2 * (25 * 128 * 128 + 128) + 16 * 128 * 256 + 256 + 256 * 128 + 128
    learnt = [*network.teachers.parameters(), *network.students.parameters()]
    assert sum(p.numel() for p in learnt) == 4 * (small + middle + large)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_sizes": (33, 17)}, "--patch-sizes 33 17: must be some of 17, 33 and 65, ascending"),
        ({"patch_sizes": ()}, "--patch-sizes : must be some of 17, 33 and 65"),
        ({"patch_sizes": (65,)}, "--image-size 40: must be the largest of --patch-sizes or more, 65"),
        ({"crop_size": 20}, "--crop-size 20: must be the largest of --patch-sizes or more, 33"),
        ({"teacher_share": 1.0}, "--teacher-share 1.0: must lie between 0 and 1"),
        *(({name: 0}, f"--{name} 0: must be 1 or larger") for name in ("students", "patches", "width")),
        ({"smoothing": -1.0}, "--smoothing -1.0: must be a finite number, 0 or larger"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict, said: str):
    with pytest.raises(UsageError, match=said) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)
