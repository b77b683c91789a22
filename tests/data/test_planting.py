"""Planted defects: each kind by hand, and what planting promises."""

import math

import numpy as np
import pytest
import torch
from drawn import MIDDLE, fixed, places
from scipy.ndimage import uniform_filter

from blemish.data import planting
from blemish.data.planting import FAMILIES, KINDS, Window
from blemish.data.poisson import solve_poisson
from blemish.data.shapes import box, dots, line

pytestmark = pytest.mark.usefixtures("single_thread")


def windows(K=4, channels=3, size=(40, 48), seed=0):
    """Textured windows between 0.2 and 0.8."""
    g = torch.Generator().manual_seed(seed)
    wave = 0.5 + 0.15 * torch.sin(torch.arange(size[1]) / 2.0)
    shift = 0.1 * torch.rand(K, channels, 1, 1, generator=g)
    return wave + shift + 0.05 * torch.rand(K, channels, *size, generator=g)


def window(good, other=None, shape=None, contrast=1.0, background=None):
    K, C, h, w = good.shape
    return Window(
        good=good,
        other=good.flip(3) if other is None else other,
        shape=torch.ones(K, 1, h, w) if shape is None else shape,
        contrast=torch.full((K, 1, 1, 1), contrast),
        background=torch.full((C,), 0.1) if background is None else background,
    )


# --- what stands there ---


def test_paste_is_the_other_image():
    good, other = windows(), windows(seed=1)
    assert torch.equal(planting.paste(window(good, other)), other)


def test_paste_in_light_keeps_its_detail_and_takes_our_light():
    detail = 0.1 * torch.tensor([[1.0, -1], [-1, 1]]).repeat(12, 12)[None, None]
    good, other = torch.full((1, 1, 24, 24), 0.3), 0.7 + detail
    torch.testing.assert_close(planting.paste_in_light(window(good, other)), 0.3 + detail)
    # light that changes across the window: means of 8×8 pixels, interpolated between their middles
    ramp = torch.linspace(0, 1, 24).expand(1, 1, 24, 24)
    found = planting.paste_in_light(window(ramp, other))[0, 0] - detail[0, 0]
    means = [ramp[0, 0, 0, 8 * i : 8 * i + 8].mean().item() for i in range(3)]
    np.testing.assert_allclose(found[5], np.interp(np.arange(24), [3.5, 11.5, 19.5], means), atol=1e-5)


def test_blend_fills_the_rectangle_around_the_place():
    good, other = windows(2), windows(2, seed=1)
    shape = torch.zeros(2, 1, 40, 48)
    shape[0, 0, 10:20, 15] = shape[0, 0, 12, 8:30] = 1  # rows 10 to 19, columns 8 to 29
    shape[1, 0, 5:7, 5:30] = 1  # two rows: nothing lies inside
    found = planting.blend(window(good, other, shape))
    expected = solve_poisson(good[0, :, 10:20, 8:30], other[0, :, 10:20, 8:30])
    torch.testing.assert_close(found[0, :, 10:20, 8:30], expected)
    found[0, :, 10:20, 8:30] = good[0, :, 10:20, 8:30]
    assert torch.equal(found, good)
    nothing = planting.blend(window(good, other, torch.zeros(2, 1, 40, 48)))
    assert torch.equal(nothing, good)


def test_tint_adds_one_colour_of_bounded_strength():
    torch.manual_seed(0)
    good = windows(300, 3, (2, 2))
    change = planting.tint(window(good)) - good
    assert (change - change[..., :1, :1]).abs().max() < 1e-6
    strongest = change[..., 0, 0].abs().amax(dim=1)
    assert (strongest.min().item(), strongest.max().item()) == pytest.approx((0.05, 0.3), abs=0.01)
    grey = (change[:, 0, 0, 0] - change[:, 1, 0, 0]).abs() < 1e-6
    assert 0.35 < grey.float().mean() < 0.65
    assert 0.35 < (change[grey, 0, 0, 0] > 0).float().mean() < 0.65


def test_stain_draws_towards_a_dark_or_bright_colour():
    torch.manual_seed(0)
    good = torch.full((400, 3, 8, 8), 0.5)
    change = planting.stain(window(good)) - good
    towards = change.mean(dim=(1, 2, 3))
    assert 0.35 < (towards > 0).float().mean() < 0.65
    # colour at most 0.5 away, opacity from 0.15·0.4 to 0.7
    assert change.abs().max() <= 0.35 + 1e-6
    assert change.abs().mean() > 0.05
    assert change.std(dim=(2, 3)).mean() > 0.005  # patchy


def test_mark_is_clearly_darker_or_brighter(monkeypatch):
    torch.manual_seed(0)
    good = windows(500, 3, (2, 2))
    change = planting.mark(window(good)) - good
    assert (change - change[..., :1, :1]).abs().max() < 1e-6
    assert 0.4 < (change.mean(dim=(1, 2, 3)) > 0).float().mean() < 0.6
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.zeros(shape))
    change = (planting.mark(window(good)) - good)[:, 0, 0, 0].abs()
    assert (change.min().item(), change.max().item()) == pytest.approx((0.08, 0.5), abs=0.01)


def test_missing_shows_what_surrounds_the_part():
    torch.manual_seed(0)
    found = planting.missing(window(windows(400, 3, (6, 6)), background=torch.tensor([0.2, 0.4, 0.8])))
    assert found.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.2, 0.4, 0.8], rel=0.02)
    assert found.std(dim=(2, 3)).mean().item() == pytest.approx(0.01, rel=0.1)  # grain
    assert found.mean(dim=(2, 3))[:, 1].std().item() == pytest.approx(0.04, rel=0.2)  # a tenth of shade


def test_blur_is_two_means_of_five_by_five():
    good = windows(2)
    expected = good.double().numpy()
    for _ in range(2):
        expected = np.array([[uniform_filter(c, 5, mode="nearest") for c in image] for image in expected])
    # scipy's second pass goes on beyond the border with the blurred pixels, as ours
    np.testing.assert_allclose(planting.blur(window(good)), expected, atol=1e-5)


def test_grain_has_no_mean_and_is_fine_or_coarse():
    torch.manual_seed(0)
    good = torch.full((200, 1, 24, 24), 0.5)
    noise = planting.grain(window(good)) - good
    assert noise.mean().abs() < 0.005
    spread = noise.std(dim=(1, 2, 3))
    assert spread.min() > 0.02
    assert spread.max() < 0.22
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2, 3)) / spread**2
    assert 0.35 < (neighbours > 0.3).float().mean() < 0.65


def test_shift_moves_the_surface(monkeypatch):
    good = windows(2)
    monkeypatch.setattr(planting, "uniform", fixed(0, 5, 0))  # to the right end of the image, by 5
    torch.testing.assert_close(planting.shift(window(good))[..., :-5], good[..., 5:], rtol=0, atol=1e-4)
    monkeypatch.setattr(planting, "uniform", fixed(math.pi / 2, 4, 0))
    torch.testing.assert_close(planting.shift(window(good))[..., :-4, :], good[..., 4:, :], rtol=0, atol=1e-4)


def test_shift_moves_by_three_to_twelve_pixels(monkeypatch):
    asked = []
    monkeypatch.setattr(
        planting, "uniform", lambda low, high, *s: asked.append((low, high)) or torch.zeros(s)
    )
    planting.shift(window(windows(1)))
    assert asked == [(0, 2 * math.pi), (3, 12), (-0.3, 0.3)]


# --- planting ---


def planted(kind, good, *, seed=0, contrast=1.0, shape=None, monkeypatch=None, where=MIDDLE):
    if monkeypatch is not None:
        monkeypatch.setitem(KINDS, kind, ((lambda *_: shape,), KINDS[kind][1]))
    torch.manual_seed(seed)
    return planting.plant(
        good,
        good.flip(0, 3),
        kinds=[kind] * len(good),
        side=100,
        background=torch.full((good.shape[1],), 0.1),
        places=places(*[where] * len(good)),
        contrast=torch.full((len(good),), contrast),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_each_kind_changes_what_lies_inside_its_mask_and_nothing_else(kind, channels, monkeypatch):
    good = windows(6, channels)
    mask = torch.zeros(6, 1, 40, 48)
    mask[:, :, 12:28, 14:34] = 1
    mask[:, :, 12:28, 34] = 0.5
    found = planted(kind, good, shape=mask, monkeypatch=monkeypatch)
    change = (found - good).abs()
    assert not change[(mask == 0).expand_as(change)].any()
    assert change[..., 12:28, 14:34].mean() * 255 > 1
    assert (change[..., 12:28, 14:34].amax(dim=(1, 2, 3)) > 0).all()
    # half inside: half of the change
    monkeypatch.undo()
    mask[:, :, 12:28, 34] = 1
    whole = planted(kind, good, shape=mask, monkeypatch=monkeypatch) - good
    torch.testing.assert_close((found - good)[..., 34], whole[..., 34] / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_stays_in_the_range_of_images(kind):
    good = windows(8)
    bright, float_image = good / good.max(), 6 * good - 3  # the latter from -2 to 2
    for x in (bright, 1 - bright):
        found = planted(kind, x)
        assert found.min() >= 0
        assert found.max() <= 1
    found = planted(kind, float_image)
    assert found.min() >= float_image.min()
    assert found.max() <= float_image.max()
    assert (found != float_image).any()
    assert found.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_plants_the_same_bits(kind):
    good = windows(3)
    kept = good.clone()
    first, again, other = (
        (torch.manual_seed(seed), planting.plant(
            good, good.flip(0), kinds=[kind] * 3, side=60, background=torch.zeros(3)))[1]
        for seed in (5, 5, 6)
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(good, kept)


@pytest.mark.parametrize("where", [((0.0, 0.0), (8.0, 4.0), 0.3), ((39.0, 47.0), (30.0, 30.0), 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_place_may_reach_beyond_the_window(kind, where):
    found = planted(kind, windows(2), where=where)
    assert found.shape == (2, 3, 40, 48)
    assert found.isfinite().all()


def unclipped():
    """Windows whose brightest and darkest pixels lie so far apart that nothing is clipped."""
    good = windows(4)
    good[0, 0, 0, :2] = torch.tensor([-4.0, 5.0])
    return good


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_kinds_that_show_another_image(kind):
    def made(other):
        torch.manual_seed(0)
        return planting.plant(windows(2), other, kinds=[kind] * 2, side=40, background=torch.full((3,), 0.1))

    assert torch.equal(made(windows(2, seed=1)), made(windows(2, seed=2))) == (kind not in planting.PIECES)


@pytest.mark.parametrize("kind", ["tint", "stain", "grain"])
def test_contrast_scales_the_change(kind):
    good = unclipped()
    full, half = (planted(kind, good, contrast=c) - good for c in (1.0, 0.5))
    assert full.abs().max() > 0.02
    torch.testing.assert_close(half, full / 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["scratch", "specks"])
def test_contrast_scales_a_mark_but_for_its_tint(kind, monkeypatch):
    good, drawn = unclipped(), torch.randn
    # colours without their tint; paths and places as they are
    monkeypatch.setattr(torch, "randn", lambda *s: torch.zeros(s) if len(s) == 4 else drawn(*s))
    full, half = (planted(kind, good, contrast=c) - good for c in (1.0, 0.5))
    assert full.abs().max() > 0.02
    torch.testing.assert_close(half, full / 2, rtol=1e-3, atol=1e-5)


def test_contrast_is_drawn_from_15_percent_on(monkeypatch):
    seen = []
    monkeypatch.setitem(
        KINDS, "tint", (KINDS["tint"][0], lambda w: seen.append(w.contrast.flatten()) or w.good)
    )
    torch.manual_seed(0)
    good = windows(500, 1, (2, 2))
    planting.plant(good, good, kinds=["tint"] * 500, side=10, background=torch.zeros(1))
    (drawn,) = seen
    assert (drawn.min().item(), drawn.max().item()) == pytest.approx((0.15, 1), abs=0.01)
    assert drawn.log().mean().item() == pytest.approx(math.log(0.15) / 2, abs=0.1)


def test_each_window_gets_its_own_kind_place_and_background(monkeypatch):
    for kind, level in (("paste", 0.25), ("blur", 0.75)):
        monkeypatch.setitem(KINDS, kind, ((box,), lambda w, level=level: torch.full_like(w.good, level)))
    good = torch.full((4, 1, 40, 48), 0.5)
    centres = [(10.0, 10.0), (10.0, 38.0), (30.0, 10.0), (30.0, 38.0)]
    found = planting.plant(
        good,
        good,
        kinds=["blur", "paste", "missing", "paste"],
        side=40,
        background=torch.tensor([0.0]),
        places=places(*[(centre, (5.0, 5.0), 0.0) for centre in centres]),
    )
    at = [found[i, 0, int(r), int(c)].item() for i, (r, c) in enumerate(centres)]
    assert at[:2] == pytest.approx([0.75, 0.25])
    assert at[3] == pytest.approx(0.25)
    assert at[2] < 0.05  # black, and clipped there
    for i, (row, col) in enumerate(centres):
        change = (found[i, 0] - 0.5).abs() > 0.01
        rows, cols = change.nonzero().float().mean(dim=0).tolist()
        assert (rows, cols) == pytest.approx((row, col), abs=1.5)


def test_shapes_of_a_kind_are_drawn_evenly(monkeypatch):
    small, large = torch.zeros(300, 1, 4, 4), torch.ones(300, 1, 4, 4)
    filling = lambda w: torch.ones_like(w.good)  # noqa: E731
    monkeypatch.setitem(KINDS, "paste", ((lambda *_: small, lambda *_: large), filling))
    torch.manual_seed(0)
    good = torch.zeros(300, 1, 4, 4)
    found = planting.plant(good, good, kinds=["paste"] * 300, side=4, background=torch.zeros(1))
    assert set(found.mean(dim=(1, 2, 3)).tolist()) == {0.0, 1.0}
    assert 0.4 < found.mean() < 0.6


def test_two_families_have_no_kind_in_common_and_are_all_kinds():
    first, second = (set(family) for family in FAMILIES)
    assert not first & second
    assert first | second == set(KINDS)
    assert len(first) + len(second) == sum(len(family) for family in FAMILIES)
    shapes = [{shape for name in family for shape in KINDS[name][0]} for family in FAMILIES]
    assert line in shapes[0] - shapes[1]  # thin lines are for the one, specks for the other
    assert dots in shapes[1] - shapes[0]


# --- looking, and what changed ---


def test_sample_of_the_identity_is_the_image():
    x = windows(2)
    same = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, -1, -1)
    torch.testing.assert_close(planting.sample(x, same, (40, 48)), x, rtol=0, atol=1e-5)


def test_sample_is_as_exact_in_a_training_at_lower_precision():
    x = windows(2)
    turned = torch.tensor([[[0.4, 0.1, 0.3], [-0.1, 0.4, 0.5]]]).expand(2, 2, 3)
    exact = planting.sample(x, turned, (32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(planting.sample(x, turned, (32, 32)), exact)


def test_sample_is_mirrored_beyond_the_border():
    x = torch.arange(4.0).view(1, 1, 1, 4)
    right = torch.tensor([[[1.0, 0, 1.0], [0, 1, 0]]])  # by half of the width: two pixels
    assert planting.sample(x, right, (1, 4))[0, 0, 0].tolist() == pytest.approx([2, 3, 3, 2], abs=1e-5)


def test_changed_by_hand():
    # two channels, 0.3 and 0.1 in one pixel: 0.2 · 255 = 51 grey levels over nine pixels, 51 / 9
    good = torch.full((1, 2, 5, 6), 0.5)
    bad = good.clone()
    bad[0, 0, 2, 3] += 0.3
    bad[0, 1, 2, 3] -= 0.1
    found = planting.changed(good, bad)
    expected = torch.zeros(1, 5, 6)
    expected[0, 1:4, 2:5] = 51 / 9
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert not planting.changed(good, good).any()


def test_changed_goes_on_beyond_the_border():
    difference = windows(2, 1, (5, 6))
    found = planting.changed(torch.zeros(2, 1, 5, 6), difference)
    levels = 255 * difference[:, 0].double().numpy()
    expected = np.array([uniform_filter(image, 3, mode="nearest") for image in levels])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
