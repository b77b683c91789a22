"""What CutPaste pastes: by hand, against loops, and against the paper's ranges."""

import colorsys
import math

import numpy as np
import pytest
import torch

from blemish.methods.baselines import cutpaste_augment
from blemish.methods.baselines.cutpaste_augment import Pieces


def images(n=2, channels=3, size=(32, 48), seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def piece(size, source, target, angle=0.0):
    tensors = (torch.tensor([value], dtype=torch.float32) for value in (size, source, target))
    return Pieces(
        **dict(zip(("size", "source", "target"), tensors, strict=True)), angle=torch.tensor([angle])
    )


def test_an_upright_piece_is_a_copy():
    # rows 0 to 1 and columns 1 to 3, whose middle is (1, 2.5), go to rows 3 to 4 and columns 2 to 4: (4, 3.5)
    x = torch.arange(36.0).view(1, 1, 6, 6)
    moved, inside = cutpaste_augment.cut(x, piece((2, 3), (1, 2.5), (4, 3.5)))
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[3:5, 2:5] = True
    assert torch.equal(inside[0, 0], expected)
    assert moved[inside].tolist() == [1, 2, 3, 7, 8, 9]


def test_a_turned_piece_by_hand():
    # A line of three pixels, 1 2 3 from left to right, turned by 90°: right (0, 1) becomes R(90°)(0, 1).
    # With (rows, cols) and R = [[cos, sin], [-sin, cos]] that is (1, 0), down: 1 2 3 from top to bottom.
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 1, 1:4] = torch.tensor([1.0, 2, 3])
    moved, inside = cutpaste_augment.cut(x, piece((1, 3), (1.5, 2.5), (2.5, 0.5), math.pi / 2))
    assert inside[0, 0].nonzero().tolist() == [[1, 0], [2, 0], [3, 0]]
    assert moved[inside].tolist() == [1, 2, 3]


def test_cut_equals_loops():
    torch.manual_seed(3)
    x = images(6, 2, (20, 24))
    pieces = cutpaste_augment.draw_scars(6, 20, 24)
    moved, inside = cutpaste_augment.cut(x, pieces)
    for b, i, j in np.ndindex(6, 20, 24):
        (h, w), angle = pieces.size[b].tolist(), pieces.angle[b].item()
        dy, dx = (np.array([i, j]) + 0.5 - pieces.target[b].numpy()).tolist()
        u = math.cos(angle) * dy - math.sin(angle) * dx
        v = math.sin(angle) * dy + math.cos(angle) * dx
        if abs(abs(u) - h / 2) < 1e-4 or abs(abs(v) - w / 2) < 1e-4:
            continue  # on the edge, where rounding decides
        within = abs(u) < h / 2 and abs(v) < w / 2
        assert inside[b, 0, i, j].item() == within
        row, col = u + pieces.source[b, 0].item(), v + pieces.source[b, 1].item()
        if within and min(abs(row - round(row)), abs(col - round(col))) > 1e-4:
            assert torch.equal(moved[b, :, i, j], x[b, :, math.floor(row), math.floor(col)])


def test_rectangles_are_the_papers():
    torch.manual_seed(0)
    drawn = cutpaste_augment.draw_rectangles(4000, 256, 256)
    height, width = drawn.size.T
    share, aspect = height * width / 256**2, width / height
    # A.2: area from (0.02, 0.15), uniform: mean 0.085; rounding sides of 20 pixels moves either by up to 5 %
    assert share.min() > 0.019
    assert share.max() < 0.158
    assert share.mean().item() == pytest.approx(0.085, abs=0.003)
    assert 0.28 < aspect.min() < 0.32
    assert 3.1 < aspect.max() < 3.5
    assert (aspect < 1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    # half of them around 0.65, half around 2.15
    assert aspect.mean().item() == pytest.approx(1.4, abs=0.06)
    assert not drawn.angle.any()


def test_scars_are_the_papers_and_follow_the_crop():
    torch.manual_seed(0)
    drawn = cutpaste_augment.draw_scars(4000, 64, 64)
    assert (drawn.size.amin(0).tolist(), drawn.size.amax(0).tolist()) == ([10, 2], [25, 16])
    degrees = drawn.angle.rad2deg()
    assert -45 <= degrees.min() < -44
    assert 44 < degrees.max() <= 45
    half = cutpaste_augment.draw_scars(4000, 32, 32).size
    assert (half.amin(0).tolist(), half.amax(0).tolist()) == ([5, 1], [12, 8])


@pytest.mark.parametrize("draw", [cutpaste_augment.draw_rectangles, cutpaste_augment.draw_scars])
@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_the_whole_piece_lies_inside(draw, size):
    torch.manual_seed(1)
    drawn = draw(500, *size)
    room = torch.tensor(size)
    assert torch.equal(drawn.size, drawn.size.round())
    corner = drawn.source - drawn.size / 2
    assert torch.equal(corner, corner.round())
    assert (corner >= 0).all()
    assert (corner + drawn.size <= room).all()
    height, width = drawn.size.T
    for down, right in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        u, v = down * height / 2, right * width / 2
        y = drawn.target[:, 0] + drawn.angle.cos() * u + drawn.angle.sin() * v
        x = drawn.target[:, 1] - drawn.angle.sin() * u + drawn.angle.cos() * v
        assert min(y.min(), x.min()) > -1e-3
        assert (y < size[0] + 1e-3).all()
        assert (x < size[1] + 1e-3).all()
    # every border is reached
    low, high = drawn.source.amin(0), (room - drawn.source).amin(0)
    assert max(low.max().item(), high.max().item()) < 6


def test_brightness_contrast_and_saturation_by_hand():
    # two channels, two pixels, the second of which is not in the piece: m and g are means over the piece
    x = torch.tensor([0.2, 0.4]).view(1, 2, 1, 1).expand(1, 2, 1, 2).clone()
    x[..., 1] = 0.9
    where = torch.tensor([True, False]).view(1, 1, 1, 2)
    amounts = torch.tensor([[0.1, 0.0, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0], [0.0, 0.0, -0.1, 0.5]])
    # 0.2·1.1 and 0.4·1.1; m = 0.3: 0.3 ∓ 0.1·1.1; g = 0.3: 0.3 ∓ 0.1·0.9, and no hue in two channels
    for amount, expected in zip(amounts, ([0.22, 0.44], [0.19, 0.41], [0.21, 0.39]), strict=True):
        changed = cutpaste_augment.jitter(x, amount[None], where)
        assert changed[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_contrast_is_about_the_mean_of_the_piece():
    # one channel, a piece of 0.2 and 0.6, whose m is 0.4; a pixel of 1.0 outside must not count
    x = torch.tensor([0.2, 0.6, 1.0]).view(1, 1, 1, 3)
    where = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    changed = cutpaste_augment.jitter(x, torch.tensor([[0.0, 0.5, 0.0, 0.0]]), where)
    assert changed[0, 0, 0, :2].tolist() == pytest.approx([0.1, 0.7], abs=1e-6)  # 0.4 ∓ 0.2·1.5


def test_hue_turns_as_the_colour_circle_does():
    # a third of the circle takes red to green and green to blue; a small turn goes the way of colorsys
    x = torch.tensor([0.6, 0.2, 0.3]).view(1, 3, 1, 1)
    where = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    third = cutpaste_augment.jitter(x, torch.tensor([[0.0, 0, 0, 1 / 3]]), where).flatten().tolist()
    assert third == pytest.approx([0.3, 0.6, 0.2], abs=1e-6)
    little = cutpaste_augment.jitter(x, torch.tensor([[0.0, 0, 0, 0.05]]), where).flatten().tolist()
    before, after = colorsys.rgb_to_hsv(0.6, 0.2, 0.3)[0], colorsys.rgb_to_hsv(*little)[0]
    assert (after - before) % 1 == pytest.approx(0.05, abs=0.015)
    grey = torch.full((1, 3, 1, 1), 0.4)
    assert torch.allclose(cutpaste_augment.jitter(grey, torch.tensor([[0.0, 0, 0, 0.1]]), where), grey)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_three_ways_change_what_they_should(channels):
    torch.manual_seed(0)
    x = images(40, channels, (32, 32))
    good, pasted, scarred = cutpaste_augment.three_ways(x).split(40)
    assert torch.equal(good, x)
    for made, low, high in ((pasted, 0.01, 0.18), (scarred, 0.002, 0.12)):
        changed = (made != x).any(dim=1).float().mean(dim=(1, 2))
        assert low < changed.min()
        assert changed.max() < high
        assert made.min() >= 0
        assert made.max() <= 1


def test_crops_are_cut_anywhere():
    torch.manual_seed(0)
    x = torch.arange(6 * 7.0).view(1, 1, 6, 7).repeat(600, 1, 1, 1)
    crops = cutpaste_augment.random_crops(x, 4)
    places = {(int(v) // 7, int(v) % 7) for v in crops[:, 0, 0, 0]}
    assert places == {(i, j) for i in range(3) for j in range(4)}
    i, j = int(crops[0, 0, 0, 0]) // 7, int(crops[0, 0, 0, 0]) % 7
    assert torch.equal(crops[0, 0], x[0, 0, i : i + 4, j : j + 4])


@pytest.mark.parametrize("draw", [cutpaste_augment.draw_rectangles, cutpaste_augment.draw_scars])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_piece_is_put_on_what_counts_where_chance_finds_no_place(draw, side):
    torch.manual_seed(0)
    seen = torch.zeros(300, 1, 32, 32, dtype=torch.bool)
    seen[..., 32 - side :, 32 - side :] = True  # in the corner, where fewest pieces lie
    values = torch.arange(32 * 32.0).view(1, 1, 32, 32).expand(300, 1, 32, 32)  # each pixel is told
    pieces = cutpaste_augment.draw_inside(draw, seen)
    moved, inside = cutpaste_augment.cut(values, pieces)
    comes = seen.flatten(1).gather(1, moved.flatten(1).long()).view_as(seen)
    pasted = inside & comes & seen
    assert pasted.flatten(1).any(dim=1).all()
    if side > 1:  # and other pixels than those that were there
        assert (pasted & (moved != values)).flatten(1).any(dim=1).all()
