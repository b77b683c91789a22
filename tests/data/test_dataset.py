from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import mask_of, picture, refusal
from PIL import Image

from blemish.core.errors import DataError, ImageError, UsageError
from blemish.core.types import Sample
from blemish.data.dataset import Dataset, find_leakage, open_dataset
from blemish.data.hashing import file_digest, fingerprint
from blemish.data.masks import read_mask
from blemish.data.split import split_good

# --- masks


def dented(mask: Path | None) -> Sample:
    return Sample(path=Path("dent.png"), split="test", label="dent", mask=mask)


@pytest.mark.parametrize("top", [1, 255])
def test_mask_values(tmp_path: Path, top: int):
    array = np.zeros((16, 20), dtype=np.uint8)
    array[2, 3] = array[15, 19] = top
    Image.fromarray(array).save(tmp_path / "m.png")
    mask = read_mask(dented(tmp_path / "m.png"), (16, 20))
    assert mask.dtype == bool
    assert mask.shape == (16, 20)
    assert np.argwhere(mask).tolist() == [[2, 3], [15, 19]]


def test_one_bit_and_empty_masks(tmp_path: Path):
    Image.fromarray(np.eye(16, dtype=bool)).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_mask(dented(tmp_path / "bit.png"), (16, 16)), np.eye(16, dtype=bool))
    assert not read_mask(dented(mask_of(tmp_path / "none.png", (0,))), (16, 16)).any()
    assert read_mask(dented(mask_of(tmp_path / "all.png", (255,))), (16, 16)).all()


def test_a_good_image_needs_no_mask_file():
    mask = read_mask(Sample(path=Path("nowhere.png"), split="test"), (4, 5))
    assert mask.shape == (4, 5)
    assert mask.dtype == bool
    assert not mask.any()


@pytest.mark.parametrize(
    ("values", "shape", "text"),
    [
        ((0, 255), (16, 17), "17x16 px but dent.png is 16x16"),
        ((0, 255), (16, 16, 3), "3 channels"),
        ((0, 128, 255), (16, 16), "value 128"),
        ((0, 1, 255), (16, 16), "value 1;"),
        ((0, 2), (16, 16), "value 2"),
    ],
)
def test_refused_masks(tmp_path: Path, values: tuple[int, ...], shape: tuple[int, ...], text: str):
    path = mask_of(tmp_path / "m.png", values, shape=shape)
    with pytest.raises(DataError) as error:
        read_mask(dented(path), (16, 16))
    assert str(path) in str(error.value)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


LOSSY = {"JPEG": {"quality": 90}, "WEBP": {"quality": 50}}


@pytest.mark.parametrize("name", ["m.jpg", "m.png"])
@pytest.mark.parametrize("kind", LOSSY)
def test_a_mask_that_a_lossy_format_has_shaded_is_told_so(tmp_path: Path, kind: str, name: str):
    mask = np.zeros((16, 16), np.uint8)
    mask[5:11, 3:9] = 255
    grey = Image.fromarray(mask)
    (grey if kind == "JPEG" else grey.convert("RGB")).save(tmp_path / name, kind, **LOSSY[kind])
    with pytest.raises(DataError) as error:
        read_mask(dented(tmp_path / name), (16, 16))
    text = str(error.value)
    if kind == "WEBP":  # has no grey images
        assert "3 channels, a mask has 1; save it as a grey PNG" in text
        return
    value = int(text.split(": value ")[1].split(";")[0])
    assert value not in (0, 1, 255)  # those may be in a mask, and are not what is wrong
    assert "a mask has only 0 and 1, or 0 and 255 (JPEG turns edges into shades)" in text
    assert text.endswith("set what is defective to 255 and all else to 0, and save it as a PNG of 8 bits")


@pytest.mark.parametrize("values", [(0, 1, 255), (0, 128, 255), (0, 1, 2), (0, 65535), (0.0, 0.5, 1.0)])
def test_the_cure_for_a_mask_of_other_values_works(tmp_path: Path, values: tuple[float, ...]):
    kind = np.float32 if 0.5 in values else np.uint16 if max(values) > 255 else np.uint8
    array = np.resize(np.array(values, kind), (16, 16))
    path = tmp_path / "m.tiff"
    Image.fromarray(array).save(path)
    with pytest.raises(
        DataError, match="set what is defective to 255 and all else to 0, and save it as a PNG"
    ):
        read_mask(dented(path), (16, 16))
    Image.fromarray(np.where(array > 0, 255, 0).astype(np.uint8)).save(tmp_path / "cured.png")
    assert (read_mask(dented(tmp_path / "cured.png"), (16, 16)) == (array > 0)).all()


def test_no_mask_and_unreadable_mask(tmp_path: Path):
    with pytest.raises(DataError, match=r"dent\.png: 'dent' has no mask"):
        read_mask(dented(None), (16, 16))
    (tmp_path / "m.png").write_text("text")
    with pytest.raises(ImageError, match=r"m\.png"):
        read_mask(dented(tmp_path / "m.png"), (16, 16))


# --- digests


def test_file_digest(tmp_path: Path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-4, the example of SHA-256 for "abc"
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ImageError, match=r"nowhere: cannot be read"):
        file_digest(tmp_path / "nowhere")


def test_fingerprint_depends_on_content_and_multiplicity_alone():
    a, b = (hashlib.sha256(x).hexdigest() for x in (b"a", b"b"))
    low, high = sorted((a, b))
    expected = hashlib.sha256(f"{low}\n{high}".encode()).hexdigest()
    assert fingerprint([a, b]) == fingerprint([b, a]) == expected
    assert len({fingerprint(x) for x in ([], [a], [b], [a, a], [a, b], [a, a, b], [a, b, b])}) == 7


def test_leakage_finds_copies_under_other_names(tmp_path: Path):
    train = {file_digest(picture(tmp_path / "train" / f"{i}.png", i)): f"{i}.png" for i in range(3)}
    test = [picture(tmp_path / "test" / f"{i}.png", v) for i, v in enumerate((7, 2, 8, 0, 2))]
    samples = [Sample(path=p, split="test") for p in test]
    assert find_leakage(train, samples) == [
        ("2.png", str(test[1])),
        ("0.png", str(test[3])),
        ("2.png", str(test[4])),
    ]
    assert find_leakage(train, [samples[0], samples[2]]) == []


# --- the split of the good images


def shelf_of(folder: Path, contents: list[int], calibration: list[int] | None = None) -> Dataset:
    """A data set of small files, image i holding `contents[i]` (the split never decodes)."""

    def samples(split: str, values: list[int]) -> list[Sample]:
        (folder / split).mkdir(parents=True, exist_ok=True)
        paths = [folder / split / f"{i:03d}.png" for i in range(len(values))]
        for path, value in zip(paths, values, strict=True):
            path.write_bytes(str(value).encode())
        return [Sample(path=p, split=split) for p in paths]  # pyright: ignore[reportArgumentType]

    train = samples("train", contents)
    held = samples("calibration", calibration or [])
    return Dataset(name="x", root=folder, train=train, calibration=held, test=[], has_masks=False)


def sizes(data: Dataset, validation: float, calibration: float, seed: int = 0) -> tuple[int, int, int]:
    split = split_good(data, validation_fraction=validation, calibration_fraction=calibration, seed=seed)
    return len(split.train), len(split.validation), len(split.calibration)


@pytest.mark.parametrize(
    ("n", "validation", "calibration", "expected"),
    [
        (20, 0.1, 0.1, (16, 2, 2)),
        (10, 0.25, 0.0, (7, 3, 0)),  # 2.5 is rounded up
        (10, 0.24, 0.16, (6, 2, 2)),  # 2.4 -> 2, 1.6 -> 2
        (5, 0.01, 0.0, (4, 1, 0)),  # 0.05 -> at least 1
        (3, 0.1, 0.1, (1, 1, 1)),
        (7, 0.0, 0.0, (7, 0, 0)),
    ],
)
def test_split_sizes(tmp_path: Path, n: int, validation: float, calibration: float, expected: tuple):
    assert sizes(shelf_of(tmp_path, list(range(n))), validation, calibration) == expected


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    contents=st.lists(st.integers(0, 9), min_size=1, max_size=24),
    validation=st.sampled_from([0.0, 0.1, 0.3]),
    calibration=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 1000),
)
def test_split_is_a_partition_that_keeps_copies_together(
    tmp_path: Path, contents: list[int], validation: float, calibration: float, seed: int
):
    data = shelf_of(tmp_path, contents)
    try:
        split = split_good(data, validation_fraction=validation, calibration_fraction=calibration, seed=seed)
    except DataError:
        # Refused only if the copies cannot leave a training image: few different ones, or big groups.
        biggest = max(contents.count(c) for c in contents)
        wanted = sum(max(1, round(f * len(contents))) for f in (validation, calibration) if f)
        assert len(contents) <= wanted + 2 * biggest
        return
    parts = [split.train, split.validation, split.calibration]
    paths = [s.path for part in parts for s in part]
    assert sorted(paths) == sorted(s.path for s in data.train)  # a cover, and nothing twice
    values = [{s.path.read_bytes() for s in part} for part in parts]
    assert not (values[0] & values[1] or values[0] & values[2] or values[1] & values[2])
    assert split.train
    assert bool(split.validation) == (validation > 0)
    assert bool(split.calibration) == (calibration > 0)
    assert all(part == sorted(part, key=lambda s: s.path.as_posix()) for part in parts)
    assert {s.split for s in split.train + split.validation} == {"train"}
    assert {s.split for s in split.calibration} <= {"calibration"}


def test_split_depends_on_the_seed_and_not_on_order_or_place(tmp_path: Path):
    here, there = (shelf_of(tmp_path / d, list(range(30))) for d in ("a", "z/deeper"))
    random.Random(0).shuffle(there.train)

    def names(data: Dataset, seed: int) -> list[list[str]]:
        split = split_good(data, validation_fraction=0.2, calibration_fraction=0.2, seed=seed)
        return [[s.path.name for s in p] for p in (split.train, split.validation, split.calibration)]

    assert names(here, 3) == names(there, 3)
    assert names(here, 3) != names(here, 4)
    # 30 images, 6 held out for each: the first 6 of numpy's permutation calibrate, the next 6 validate.
    order = np.random.Generator(np.random.PCG64(3)).permutation(30)
    assert names(here, 3)[2] == [f"{i:03d}.png" for i in sorted(order[:6])]
    assert names(here, 3)[1] == [f"{i:03d}.png" for i in sorted(order[6:12])]


def test_given_calibration_is_used_as_it_is(tmp_path: Path):
    data = shelf_of(tmp_path, list(range(10)), calibration=[100, 101])
    assert sizes(data, 0.1, 0.5) == (9, 1, 2)
    split = split_good(data, validation_fraction=0.1, calibration_fraction=0.0, seed=0)
    assert split.calibration == data.calibration


def test_given_calibration_must_not_copy_training(tmp_path: Path):
    data = shelf_of(tmp_path, list(range(10)), calibration=[100, 7])
    with pytest.raises(DataError) as error:
        sizes(data, 0.1, 0.0)
    assert str(data.calibration[1].path) in str(error.value)
    assert str(data.train[7].path) in str(error.value)


@pytest.mark.parametrize("contents", [[0, 1], [5, 5, 5, 5]])
def test_no_training_image_left(tmp_path: Path, contents: list[int]):
    with pytest.raises(DataError, match="no training image left") as error:
        sizes(shelf_of(tmp_path, contents), 0.1, 0.1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("validation", "calibration", "seed"),
    [(-0.1, 0, 0), (1.0, 0, 0), (0, 1.5, 0), (float("nan"), 0, 0), (0.5, 0.5, 0), (0.1, 0.1, -1)],
)
def test_bad_fractions_and_seeds(tmp_path: Path, validation: float, calibration: float, seed: int):
    with pytest.raises(UsageError):
        sizes(shelf_of(tmp_path, list(range(9))), validation, calibration, seed)


# --- the real sets


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "train", "good", "defects", "masks"),
    [
        ("mvtec/bottle", 209, 20, 63, True),
        ("mtd/magnetic_tile", 761, 191, 388, True),
        ("head_ct/head_ct", 80, 20, 100, False),
        ("piped/pa_brg02_rl", 32, 12, 48, True),
        ("piped/pa_gla01_tl", 34, 12, 48, True),
        ("piped/pa_bft01_tl", 32, 12, 48, True),
    ],
)
def test_real_sets(data_root: Path, name: str, train: int, good: int, defects: int, masks: bool):
    if not (data_root / name).is_dir():
        pytest.skip(f"no {name} in {data_root}")
    data = open_dataset(data_root / name)
    assert data.name == name.split("/")[1]
    found = [s.is_defect for s in data.test]
    assert (len(data.train), found.count(False), found.count(True)) == (train, good, defects)
    assert data.has_masks == masks
    if masks:
        sample = next(s for s in data.test if s.is_defect)
        with Image.open(sample.path) as image:
            assert read_mask(sample, (image.height, image.width)).any()


@pytest.mark.data
def test_real_root_names_its_categories(data_root: Path):
    assert str(data_root / "mvtec" / "bottle") in refusal(data_root)
