from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import save, tiny_image
from fakes import FLOAT, fake_detector, grey, mean_of_channels
from PIL import Image

from blemish.core.errors import ImageError, UsageError
from blemish.core.types import Prediction, Region
from blemish.images import preprocess
from blemish.inference import load as opening
from blemish.inference.detector import Detector


@pytest.fixture(scope="module")
def detector(tiny_model: Path) -> Detector:

    return opening.load(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def test_files(tiny_category: Path) -> list[Path]:
    return sorted((tiny_category / "test").rglob("*.png"))


def ok(result: Prediction | ImageError) -> Prediction:
    assert isinstance(result, Prediction)
    return result


# --- one inference path ---


def test_a_path_an_array_a_picture_and_a_batch_give_the_same(detector: Detector, test_files: list[Path]):
    one_by_one = replace(detector, batch_size=1).predict_many(test_files)
    for path, of_many in zip(test_files, one_by_one, strict=True):
        of_path = detector.predict(path)
        pixels = np.asarray(Image.open(path))
        others = [
            detector.predict(str(path)),
            detector.predict(pixels),
            detector.predict(Image.open(path)),
            ok(of_many),
        ]
        for other in others:
            assert replace(other, path=None, anomaly_map=0) == replace(of_path, path=None, anomaly_map=0)
            np.testing.assert_array_equal(other.anomaly_map, of_path.anomaly_map)
        assert [o.path for o in (of_path, *others)] == [str(path), str(path), None, None, str(path)]
        assert of_path.anomaly_map.shape == pixels.shape[:2]
        assert of_path.anomaly_map.dtype == np.float32


def test_the_tiny_model_finds_its_defects(detector: Detector, test_files: list[Path]):
    for path, result in zip(test_files, detector.predict_many(test_files), strict=True):
        is_defect = path.parent.name != "good"
        assert ok(result).anomalous == is_defect
        assert bool(ok(result).regions) == is_defect


def test_the_batch_size_changes_nothing(detector: Detector, test_files: list[Path]):
    alone = [ok(r) for r in replace(detector, batch_size=1).predict_many(test_files)]
    together = [ok(r) for r in replace(detector, batch_size=16).predict_many(test_files)]
    # scores count spreads of good images: measured over three seeds, rounding moves them by 2e-5 at most
    scores, other_scores = [p.score for p in alone], [p.score for p in together]
    np.testing.assert_allclose(scores, other_scores, rtol=1e-5, atol=5e-5)
    for one, other in zip(alone, together, strict=True):
        # the map counts spreads of good images: a ten-thousandth of one is float32's rounding
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, rtol=1e-5, atol=1e-4)
        assert one.anomalous == other.anomalous


def test_the_map_is_the_network_s_at_the_size_of_the_image(tmp_path: Path):
    # 64 x 96 pixels, the left half black, the right half white, halved by the resize to 32 x 32: away from
    # the seam the map is 0 on the left and 1 on the right, and has the shape of the image.
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 48:] = 255
    prediction = fake_detector().predict(save(tmp_path / "half.png", picture))
    assert prediction.anomaly_map.shape == (64, 96)
    assert (prediction.anomaly_map[:, :40] == 0).all()
    assert (prediction.anomaly_map[:, 56:] == 1).all()
    assert prediction.score == 1.0


# --- many files ---


def test_order_is_kept_and_errors_stand_in_their_places(tmp_path: Path):
    levels = [10, 200, 30, None, 77, 5, None, None, None, None, None, 120, 9]
    paths = []
    for i, level in enumerate(levels):
        path = tmp_path / f"{i}.png"
        paths.append(path)
        if level is not None:
            grey(path, level)
        elif i % 2:
            path.write_text("no picture")
    sizes: list[int] = []

    def network(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return mean_of_channels(x)

    results = list(fake_detector(network=network, batch_size=4).predict_many(paths))
    assert len(results) == len(levels)
    for path, level, result in zip(paths, levels, results, strict=True):
        if level is None:
            assert isinstance(result, ImageError)
            assert str(result).startswith(f"{path}: ")
        else:
            assert (ok(result).path, ok(result).score) == (str(path), pytest.approx(level / 255))
    # batches of [10 200 30 -] [77 5 - -] [- - - 120] [9]
    assert sizes == [3, 2, 1, 1]


def test_no_file_and_nothing_readable(tmp_path: Path):
    def never(_: np.ndarray) -> np.ndarray:
        raise AssertionError("the network has nothing to do")

    detector = fake_detector(network=never)
    assert list(detector.predict_many([])) == []
    assert [type(r) for r in detector.predict_many([tmp_path / "a.png"] * 3)] == [ImageError] * 3


@pytest.mark.slow
def test_two_thousand_paths_are_consumed_lazily_and_memory_stays_flat(tmp_path: Path):
    # Maps of 128 x 128 floats: kept, the last 1,700 of them would take 111 MB.
    files = [grey(tmp_path / f"{i}.png", 20 * i, side=128) for i in range(5)]
    consumed = 0

    def paths() -> Iterator[Path]:
        nonlocal consumed
        for path in itertools.islice(itertools.cycle(files), 2000):
            consumed += 1
            yield path

    batch, yielded, early = 8, 0, 0
    for result in fake_detector(batch_size=batch).predict_many(paths()):
        assert ok(result).score == pytest.approx(20 * (yielded % 5) / 255)
        yielded += 1
        assert consumed - yielded < 2 * batch + 1
        if yielded == 300:
            early = resident_kib()
    assert yielded == consumed == 2000
    assert resident_kib() - early < 30_000


def resident_kib() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        pytest.skip("no /proc/self/status on this machine")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def test_stopping_early_reads_no_further(tmp_path: Path):
    file = grey(tmp_path / "a.png", 7)
    endless = itertools.repeat(file)
    results = fake_detector(batch_size=2).predict_many(endless)
    assert ok(next(iter(results))).score == pytest.approx(7 / 255)
    results.close()  # type: ignore[attr-defined]


def test_decoding_overlaps_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # The first file of each later batch is decoded only while the network has the batch before, and the
    # network gives that batch back only when this is done: taking turns, neither would go on.
    paths = [grey(tmp_path / f"{i}.png", i) for i in range(32)]
    begun, decoded = ([threading.Event() for _ in range(8)] for _ in range(2))
    load, batches = preprocess.load, iter(range(8))

    def waiting_load(path: Path, *args, **options):
        batch, first = divmod(paths.index(path), 4)
        if batch and not first:
            assert begun[batch - 1].wait(60), "the network does not run"
        try:
            return load(path, *args, **options)
        finally:
            if not first:
                decoded[batch].set()

    def waiting_network(x: np.ndarray) -> np.ndarray:
        batch = next(batches)
        begun[batch].set()
        assert batch == 7 or decoded[batch + 1].wait(60), "nothing is decoded meanwhile"
        return mean_of_channels(x)

    monkeypatch.setattr(preprocess, "load", waiting_load)
    results = fake_detector(network=waiting_network, batch_size=4).predict_many(paths, threads=2)
    assert [ok(r).path for r in results] == [str(p) for p in paths]
    assert next(batches, None) is None


# --- verdicts ---


def test_the_verdict_by_hand(tmp_path: Path):
    # Calibrated on 4 scores s = 51, 102, 153, 204 (/255); p = (1 + #{s_i >= s}) / 5.
    # Level 203: 1 score is not below it, p = 2/5. 204: a tie, p = 2/5. 205: p = 1/5. 10: p = 5/5.
    # The lowest rate is 1/5: reject when p <= 0.2. At 0.4: reject 203 (> 153) as well, but not 153, p = 3/5.
    at_20 = fake_detector(grey_levels=(51, 102, 153, 204))
    at_40 = at_20.at_rate(0.4)
    assert (at_20.rate, at_40.rate) == (0.2, 0.4)
    assert at_20.threshold == pytest.approx(204 / 255)
    assert at_40.threshold == at_40.pixel_threshold == pytest.approx(153 / 255)
    expected = {10: (1.0, False, False), 153: (0.6, False, False), 203: (0.4, False, True)}
    expected |= {204: (0.4, False, True), 205: (0.2, True, True)}
    for level, (p, rejected_at_20, rejected_at_40) in expected.items():
        path = grey(tmp_path / f"{level}.png", level)
        first, second = at_20.predict(path), at_40.predict(path)
        assert first.p_value == second.p_value == pytest.approx(p)
        assert (first.anomalous, second.anomalous) == (rejected_at_20, rejected_at_40)
        assert (first.threshold, second.threshold) == (at_20.threshold, at_40.threshold)


def test_anomalous_means_a_p_value_not_above_the_rate(tmp_path: Path):
    levels = [3, 7, 7, 50, 90, 90, 90, 120, 200]
    paths = [grey(tmp_path / f"{v}.png", v) for v in sorted({*levels, 1, 8, 89, 91, 119, 201, 255})]
    base = fake_detector(grey_levels=levels)
    verdicts = set()
    for rate in [0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99]:
        for result in base.at_rate(rate).predict_many(paths):
            p = ok(result).p_value
            assert p is not None
            assert ok(result).anomalous == (p <= rate)
            verdicts.add(ok(result).anomalous)
    assert verdicts == {True, False}


def test_regions_by_hand(tmp_path: Path):
    # On a background of 20, two patches: 3 rows x 4 columns of 250 and 2 x 2 of 220. The pixel threshold at
    # the lowest rate, 1/4, is the highest calibration maximum, 210/255.
    picture = np.full((32, 32, 3), 20, np.uint8)
    picture[4:7, 10:14] = 250
    picture[20:22, 1:3] = 220
    picture[25, 25] = 210  # not above the threshold
    prediction = fake_detector(grey_levels=(100, 210, 150)).predict(save(tmp_path / "a.png", picture))
    assert [replace(r, peak=round(r.peak * 255, 3)) for r in prediction.regions] == [
        Region(x0=10, y0=4, x1=14, y1=7, area_px=12, peak=250),
        Region(x0=1, y0=20, x1=3, y1=22, area_px=4, peak=220),
    ]


def test_pixels_have_a_threshold_of_their_own(tmp_path: Path):
    # Scores up to 100/255, map maxima up to 200/255: level 150 is rejected, but shows no region.
    detector = fake_detector(grey_levels=(50, 100), grey_maxima=(60, 200))
    prediction = detector.predict(grey(tmp_path / "a.png", 150))
    assert (detector.threshold, detector.pixel_threshold) == pytest.approx((100 / 255, 200 / 255))
    assert (prediction.anomalous, prediction.regions) == (True, [])


def test_without_calibration_there_is_no_verdict(tmp_path: Path):
    detector = fake_detector()
    prediction = detector.predict(grey(tmp_path / "a.png", 255))
    assert (detector.rate, detector.threshold, detector.pixel_threshold) == (None, None, None)
    assert (prediction.p_value, prediction.threshold, prediction.anomalous) == (None, None, None)
    assert prediction.regions == []
    assert prediction.score == 1.0


@pytest.mark.parametrize(("n", "rate"), [(4, 1 / 5), (9, 0.1), (18, 1 / 19), (19, 0.05), (99, 0.05)])
def test_the_default_rate_is_five_per_cent_or_the_lowest_that_can_be_promised(n: int, rate: float):
    assert fake_detector(grey_levels=range(n)).rate == pytest.approx(rate)


def test_a_rate_that_cannot_be_promised_is_refused_with_the_lowest_one():
    # 4 images promise 1/5 at the lowest; 1 % takes 99.
    with pytest.raises(UsageError, match=r"0\.01: 4 calibration images can promise 0\.2 .* 99 good images"):
        fake_detector(grey_levels=(1, 2, 3, 4), false_alarm_rate=0.01)
    with pytest.raises(UsageError, match="lowest"):
        fake_detector(grey_levels=(1, 2, 3, 4)).at_rate(0.199)


@pytest.mark.parametrize("rate", [0.0, 1.0, 2.0, -0.1, float("nan")])
def test_a_rate_outside_0_1_is_refused(rate: float):
    with pytest.raises(UsageError, match="between 0 and 1"):
        fake_detector(grey_levels=range(20), false_alarm_rate=rate)


def test_without_calibration_an_explicit_rate_is_refused():
    with pytest.raises(UsageError, match=r"0\.05: this model has no calibration images.*calibration/good"):
        fake_detector(false_alarm_rate=0.05)


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(UsageError, match="--batch-size 0"):
        fake_detector(batch_size=0)


# --- images that do not fit ---


def test_conversions_need_permission_from_the_model_or_the_caller(tmp_path: Path):
    path = save(tmp_path / "grey.png", np.full((32, 32), 51, np.uint8))
    detector = fake_detector()
    with pytest.raises(ImageError, match=r"grey\.png: has 1 channels.*--allow channels"):
        detector.predict(path)
    channels = frozenset({"channels"})
    allowed = [replace(detector, allow=channels)]
    allowed.append(replace(detector, model_file=replace(detector.model_file, allow=channels)))
    for each in allowed:
        assert each.predict(path).score == pytest.approx(0.2)


def test_a_map_that_is_not_finite_is_the_image_s_error_alone(tmp_path: Path):
    def square(x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return (x * x).mean(axis=1)

    paths = [tmp_path / f"{i}.tiff" for i in range(3)]
    for path, value in zip(paths, (0.5, 1e30, 0.25), strict=True):  # 1e60 overflows float32
        tifffile.imwrite(path, np.full((32, 32), value, np.float32))
    detector = fake_detector(image_format=FLOAT, network=square)
    first, second, third = detector.predict_many(paths)
    assert (ok(first).score, ok(third).score) == (0.25, 0.0625)
    assert isinstance(second, ImageError)
    assert str(second).startswith(f"{paths[1]}: its anomaly map is not finite")
    with pytest.raises(ImageError, match=r"1\.tiff: its anomaly map is not finite"):
        detector.predict(paths[1])


@pytest.mark.parametrize("make", [str, lambda p: np.asarray(Image.open(p)), Image.open])
def test_a_wrong_image_is_an_error_whatever_it_comes_as(tmp_path: Path, make: Callable[[Path], object]):
    path = save(tmp_path / "deep.png", np.full((32, 32), 999, np.uint16))
    with pytest.raises(ImageError, match="uint16, but the model takes 3-channel uint8"):
        fake_detector().predict(make(path))


def test_a_real_picture_of_the_wrong_depth_leaves_the_real_model_unharmed(detector: Detector, tmp_path: Path):
    good = save(tmp_path / "a.png", tiny_image(5))
    deep = save(tmp_path / "b.png", np.full((64, 64), 999, np.uint16))
    first, second, third = detector.predict_many([good, deep, good])
    assert isinstance(second, ImageError)
    assert ok(first).score == pytest.approx(ok(third).score)
