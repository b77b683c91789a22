from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import save
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.core.types import Sample
from blemish.evaluation.audit import _findings
from blemish.evaluation.looks import (
    COPY_FLOOR,
    COPY_SHARE,
    Copy,
    Looks,
    find_copies,
    group_copies,
    look_at,
    modified_z,
)


def noise(seed: int, side: int = 96) -> np.ndarray:
    """Smooth noise: what is left of it in a small picture tells images apart."""
    coarse = np.random.default_rng(seed).integers(40, 200, (12, 12, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((side // 12, side // 12, 1), np.uint8))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=9))
def test_modified_z_is_that_of_two_medians(values: list[int]):
    x = np.array(values, dtype=float)
    middle = sorted(values)[len(values) // 2] if len(values) % 2 else float(np.median(x))
    mad = float(np.median([abs(v - middle) for v in values]))
    for value, z in zip(values, modified_z(x, least=0.25), strict=True):
        assert z == pytest.approx(0.6745 * (value - middle) / max(mad, 0.25))


def test_exposure_and_sharpness_follow_the_picture(tmp_path: Path):
    from scipy.ndimage import gaussian_filter

    image = noise(1)
    darker = (image * 0.5).astype(np.uint8)
    blurred = np.stack([gaussian_filter(image[..., c].astype(float), 2) for c in range(3)], axis=2)
    usual, dark, soft = (
        look_at(save(tmp_path / f"{name}.png", picture.astype(np.uint8)))
        for name, picture in (("usual", image), ("dark", darker), ("soft", blurred))
    )
    assert dark.exposure == pytest.approx(usual.exposure / 2, abs=0.01)
    assert soft.sharpness < usual.sharpness - 0.5
    assert usual.small.mean() == pytest.approx(0, abs=1e-4)
    assert np.abs(dark.small - usual.small).max() < 0.1  # darker alone is the same picture
    plain = look_at(save(tmp_path / "plain.png", np.full((32, 32, 3), 9, np.uint8)))
    assert not plain.small.any()


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_exposure_of_deep_images_is_in_their_own_unit(kind: str, tmp_path: Path):
    values = np.random.default_rng(0).integers(1000, 4000, (32, 40, 1)).astype(np.uint16)
    deep = values if kind == "uint16" else (values / 65535).astype(np.float32)
    looks = []
    for name, image in (("full", deep), ("half", (deep // 2 if kind == "uint16" else deep / 2))):
        tifffile.imwrite(tmp_path / f"{name}.tiff", image[..., 0])
        looks.append(look_at(tmp_path / f"{name}.tiff"))
    full, half = looks
    assert full.exposure == pytest.approx(values.mean() / 65535, rel=1e-4)
    assert half.exposure == pytest.approx(full.exposure / 2, rel=1e-3)
    assert full.peak == pytest.approx(values.max() / 65535, rel=1e-6)
    samples = [Sample(path=Path(name), split="train") for name in "ab"]
    found = _findings(samples, ["a", "b"], looks, np.zeros(2, int), np.zeros(2))
    assert found[0].exposure == pytest.approx(values.mean() / values.max(), rel=1e-4)


def test_near_copies_are_found_and_others_are_not(tmp_path: Path):
    images = [noise(seed) for seed in range(8)]
    rng = np.random.default_rng(0)
    images.append(np.clip(images[2] + rng.normal(0, 4, images[2].shape), 0, 255).astype(np.uint8))
    images.append((images[5] * 0.9).astype(np.uint8))
    looks = [look_at(save(tmp_path / f"{i}.png", image)) for i, image in enumerate(images)]
    names, splits = [str(i) for i in range(10)], ["train"] * 9 + ["calibration"]
    copies = find_copies(looks, names, splits)
    assert {(pair.a, pair.b): pair.across for pair in copies} == {("2", "8"): False, ("5", "9"): True}
    assert all(0 <= pair.difference < 0.3 for pair in copies)


def slow_copies(pictures: np.ndarray) -> dict[tuple[str, str], float]:
    """All pairs at once, each difference by its definition."""
    n = len(pictures)
    differences = np.sqrt(((pictures[:, None] - pictures[None]) ** 2).mean(axis=2))
    nearest = [min(differences[i, j] for j in range(n) if j != i) for i in range(n)]
    limit = max(COPY_FLOOR, COPY_SHARE * float(np.median(nearest)))
    return {
        (str(i), str(j)): differences[i, j]
        for i in range(n)
        for j in range(i + 1, n)
        if differences[i, j] <= limit
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 20), rows=st.integers(1, 21))
def test_copies_are_the_same_whatever_number_of_images_is_compared_at_a_time(seed: int, n: int, rows: int):
    rng = np.random.default_rng(seed)
    pictures = rng.normal(size=(n, 16))[rng.integers(0, n, n)]  # some are there several times
    pictures = (pictures + rng.choice([0.0, 0.0, 0.01, 0.3], (n, 1)) * rng.normal(size=(n, 16))).astype(
        np.float32
    )
    looks = [Looks(exposure=0.5, sharpness=0.0, small=picture) for picture in pictures]
    splits = ["calibration" if i % 3 else "train" for i in range(n)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blemish.evaluation.looks.ROWS", rows)
        found = find_copies(looks, [str(i) for i in range(n)], splits)
    expected = slow_copies(pictures.astype(np.float64))
    assert {(pair.a, pair.b): pair.difference for pair in found} == pytest.approx(expected, abs=1e-6)
    assert len(found) == len(expected)
    assert all(pair.across == (splits[int(pair.a)] != splits[int(pair.b)]) for pair in found)
    assert [pair.difference for pair in found] == sorted(pair.difference for pair in found)


def test_memory_of_many_images_is_that_of_some_rows():
    pictures = np.random.default_rng(0).normal(size=(2048, 8)).astype(np.float32)
    looks = [Looks(exposure=0.5, sharpness=0.0, small=picture) for picture in pictures]
    names = [str(i) for i in range(len(looks))]
    tracemalloc.start()
    try:
        find_copies(looks, names, names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(looks) ** 2 * 8 / 2  # bytes: half of what all differences at once would take


def slow_groups(names: list[str], copies: list[Copy]) -> list[list[int]]:
    """Join two groups for each pair, by looking through all of them."""
    groups = [{name} for name in dict.fromkeys(names)]
    for pair in copies:
        hit = [group for group in groups if group & {pair.a, pair.b}]
        groups = [group for group in groups if group not in hit] + [set().union(*hit)]
    return sorted(sorted(i for i, name in enumerate(names) if name in group) for group in groups)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            st.permutations(range(n)), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), max_size=20)
        )
    )
)
def test_groups_are_those_of_joining_pair_by_pair(given_pairs: tuple[list[int], list[tuple[int, int]]]):
    order, pairs = given_pairs
    names = [str(i) for i in order]
    copies = [Copy(a=str(a), b=str(b), difference=0.0, across=False) for a, b in pairs]
    assert group_copies(names, copies) == slow_groups(names, copies)


def test_a_long_chain_of_copies_takes_no_look_through_the_chain_for_each():
    """Each name is looked up a few times, however many copies of copies there are."""
    n, looked_up = 300, 0

    class Name(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal looked_up
            looked_up += 1
            return super().__hash__()

    names = [Name(i) for i in range(n)]
    pairs = [Copy(a=names[i + 1], b=names[i], difference=0.0, across=False) for i in range(n - 1)]
    pairs += [Copy(a=names[0], b=names[i], difference=0.0, across=False) for i in range(n)]
    assert group_copies(names, pairs) == [list(range(n))]
    assert looked_up <= 10 * (n + len(pairs))


def test_copies_of_copies_are_one_group():
    pairs = [Copy(a=a, b=b, difference=0.0, across=False) for a, b in ("ab", "cd", "bd")]
    assert group_copies(list("abcde"), pairs) == [[0, 1, 2, 3], [4]]
    assert group_copies(list("ab"), []) == [[0], [1]]
