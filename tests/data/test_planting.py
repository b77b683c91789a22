"""Planted defects: places and shapes against loops, each kind by hand, and what planting promises."""

import math

import numpy as np
import pytest
import reference_planting as reference
import torch
from scipy.ndimage import uniform_filter

from blemish.data import planting
from blemish.data.planting import FAMILIES, KINDS, Places, Window
from blemish.data.poisson import solve_poisson

pytestmark = pytest.mark.usefixtures("single_thread")


def windows(K=4, channels=3, size=(40, 48), seed=0):
    """Textured windows between 0.2 and 0.8."""
    g = torch.Generator().manual_seed(seed)
    wave = 0.5 + 0.15 * torch.sin(torch.arange(size[1]) / 2.0)
    shift = 0.1 * torch.rand(K, channels, 1, 1, generator=g)
    return wave + shift + 0.05 * torch.rand(K, channels, *size, generator=g)


def places(*each):
    """Of (centre, half size, angle) each."""
    centre, half, angle = zip(*each, strict=True)
    return Places(
        centre=torch.tensor(centre, dtype=torch.float32),
        half=torch.tensor(half, dtype=torch.float32),
        angle=torch.tensor(angle, dtype=torch.float32),
    )


MIDDLE = ((20.0, 24.0), (8.0, 10.0), 0.4)


def window(good, other=None, shape=None, contrast=1.0, background=None):
    K, C, h, w = good.shape
    return Window(
        good=good,
        other=good.flip(3) if other is None else other,
        shape=torch.ones(K, 1, h, w) if shape is None else shape,
        contrast=torch.full((K, 1, 1, 1), contrast),
        background=torch.full((C,), 0.1) if background is None else background,
    )


def fixed(*values):
    """In the place of `uniform`: these values in turn, whatever the range."""
    left = list(values)
    return lambda low, high, *shape: torch.full(shape, float(left.pop(0)))


# --- places ---


def test_uniform_draws_between_its_ends():
    torch.manual_seed(0)
    drawn = planting.uniform(-2, 3, 4000)
    assert (drawn.min().item(), drawn.max().item()) == pytest.approx((-2, 3), abs=0.01)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.1)
    assert planting.uniform(0, 1, 2, 3).shape == (2, 3)


def test_a_turned_frame_equals_loops():
    each = (((3.0, 4.5), (2.0, 5.0), 0.7), ((0.0, 9.0), (1.0, 1.0), 2.5))
    down, right = places(*each).frame(6, 10)
    for i, (centre, half, angle) in enumerate(each):
        expected = reference.in_frame((6, 10), centre, half, angle)
        np.testing.assert_allclose(down[i], expected[0], atol=1e-5)
        np.testing.assert_allclose(right[i], expected[1], atol=1e-5)


def test_places_are_in_range():
    torch.manual_seed(0)
    drawn = planting.draw_places(4000, 40, 60, side=200)
    assert (drawn.centre.amin(dim=0) >= 0).all()
    assert drawn.centre.amax(dim=0).tolist() == pytest.approx([39, 59], abs=0.2)
    assert (drawn.angle.min().item(), drawn.angle.max().item()) == pytest.approx((0, math.pi), abs=0.01)
    # half sizes: 0.01 to 0.25 of the side, stretched by √3 at most
    mean = drawn.half.prod(dim=1).sqrt()
    assert mean.min() >= 0.01 * 200 - 1e-4
    assert mean.max().item() == pytest.approx(0.25 * 200, abs=1e-3)
    ratio = drawn.half[:, 0] / drawn.half[:, 1]
    assert (ratio.min().item(), ratio.max().item()) == pytest.approx((1 / 3, 3), rel=0.02)
    # 0.01 and Gamma(2, 0.05), whose median is 1.678 of its scale
    assert mean.median().item() / 200 == pytest.approx(0.01 + 1.678 * 0.05, abs=0.004)


def test_a_place_is_no_narrower_than_two_pixels():
    torch.manual_seed(0)
    assert planting.draw_places(2000, 40, 40, side=32).half.min() == 1


# --- shapes ---


def test_a_box_equals_loops():
    mask = planting.box(places(MIDDLE), 40, 48)[0, 0]
    down, right = reference.in_frame((40, 48), *MIDDLE)
    off = np.maximum((np.abs(down) - 1) * 8, (np.abs(right) - 1) * 10)  # pixels beyond the nearer edge
    np.testing.assert_allclose(mask, np.clip(0.5 - off, 0, 1), atol=1e-4)
    assert mask.sum().item() == pytest.approx(16 * 20, rel=0.02)


def test_a_cloud_equals_loops_and_is_strongest_in_the_middle():
    mask = planting.cloud(places(MIDDLE), 40, 48)[0, 0]
    down, right = reference.in_frame((40, 48), *MIDDLE)
    np.testing.assert_allclose(mask, np.clip(1 - (down**2 + right**2) / 2, 0, None) ** 2, atol=1e-5)
    assert divmod(int(mask.argmax()), 48) == (20, 24)


def test_a_blob_without_waves_is_an_ellipse(monkeypatch):
    monkeypatch.setattr(planting, "uniform", fixed(*[0, 0] * 4, 1.0))  # no waves, edges a pixel soft
    mask = planting.blob(places(MIDDLE), 40, 48)[0, 0]
    down, right = reference.in_frame((40, 48), *MIDDLE)
    inside = (1 - np.hypot(down, right)) * 9  # 9 pixels is the mean half size
    np.testing.assert_allclose(mask, np.clip(inside + 0.5, 0, 1), atol=1e-4)
    assert mask.sum().item() == pytest.approx(math.pi * 8 * 10, rel=0.02)


def test_a_wave_moves_the_edge_of_a_blob(monkeypatch):
    # two waves of height 0.3: 1.3 of the half size where 2θ = 0, that is to the right and left, 0.7 across
    monkeypatch.setattr(planting, "uniform", fixed(0.3, 0, *[0, 0] * 3, 1.0))
    mask = planting.blob(places(((40.0, 40.0), (20.0, 20.0), 0.0)), 81, 81)[0, 0]
    assert (mask[40] > 0.49).sum() == 2 * 26 + 1
    assert (mask[:, 40] > 0.49).sum() == 2 * 14 + 1


def test_blobs_lie_at_their_place_and_differ():
    torch.manual_seed(0)
    masks = planting.blob(places(*[((30.0, 30.0), (12.0, 12.0), 0.0)] * 30), 61, 61)[:, 0]
    assert ((masks >= 0) & (masks <= 1)).all()
    rows, cols = torch.meshgrid(torch.arange(61.0) - 30, torch.arange(61.0) - 30, indexing="ij")
    far = (rows**2 + cols**2).sqrt()
    assert (masks[:, far < 0.2 * 12 - 2] == 1).all()
    assert not masks[:, far > 2.1 * 12 + 2].any()
    assert masks.std(dim=0).max() > 0.3


def test_a_line_that_does_not_wander_is_straight(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.zeros(shape))
    monkeypatch.setattr(planting, "uniform", fixed(1.5))  # half as thick in pixels
    mask = planting.line(places(((20.0, 24.0), (6.0, 3.0), math.pi / 6)), 40, 48)[0, 0]
    # twelve points, 4·6/12 = 2 pixels apart, the middle of all at the place: 11 pixels to either side
    step = np.array([math.sin(math.pi / 6), math.cos(math.pi / 6)])
    start, end = (tuple(np.array([20.0, 24.0]) + way * step) for way in (-11, 11))
    distance = reference.distance_to_segment((40, 48), start, end)
    np.testing.assert_allclose(mask, np.clip(1.5 - distance + 0.5, 0, 1), atol=1e-3)


def test_lines_wander_and_are_one_to_four_pixels_wide():
    torch.manual_seed(0)
    masks = planting.line(places(*[((60.0, 60.0), (12.0, 12.0), 0.0)] * 40), 121, 121)[:, 0]
    # a line of 44 pixels, 2·(0.5 to 2) wide and its round ends
    areas = masks.sum(dim=(1, 2))
    assert areas.min() > 44 * 0.9
    assert areas.max() < 44 * 4.2 + 15
    assert areas.max() > 2.5 * areas.min()
    rows = (masks > 0.5).any(dim=2).sum(dim=1)  # straight, each would be as high as it is thick
    assert rows.float().mean() > 6


def test_dots_are_a_first_one_at_the_place_and_some_around_it(monkeypatch):
    torch.manual_seed(0)
    masks = planting.dots(places(*[((30.0, 30.0), (8.0, 8.0), 0.0)] * 60), 61, 61)[:, 0]
    assert (masks[:, 30, 30] == 1).all()
    areas = masks.sum(dim=(1, 2))
    assert areas.min() >= 1
    assert areas.max() < 4 * math.pi * 2.4**2
    assert masks.mean(dim=0)[:20].sum() + masks.mean(dim=0)[41:].sum() > 0.3  # more than a half size away
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.full(shape, 0.7))  # no second one below a half
    monkeypatch.setattr(planting, "uniform", fixed(1.2, 1, 1, 1))
    one = planting.dots(places(((5.0, 6.0), (3.0, 3.0), 0.0)), 11, 13)[0, 0]
    rows, cols = np.mgrid[:11, :13]
    expected = np.clip(1.2 - np.hypot(rows - 5, cols - 6) + 0.5, 0, 1)
    np.testing.assert_allclose(one, expected, atol=1e-5)


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
        monkeypatch.setitem(
            KINDS, kind, ((planting.box,), lambda w, level=level: torch.full_like(w.good, level))
        )
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
    assert planting.line in shapes[0] - shapes[1]  # thin lines are for the one, specks for the other
    assert planting.dots in shapes[1] - shapes[0]


# --- looking, and what changed ---


def test_sample_of_the_identity_is_the_image():
    x = windows(2)
    same = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, -1, -1)
    torch.testing.assert_close(planting.sample(x, same, (40, 48)), x, rtol=0, atol=1e-5)


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
