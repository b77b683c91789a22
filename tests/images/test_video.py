"""Films as inputs of a prediction."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from commands import refused, run
from fakes import fake_detector, grey
from films import SIDE, arrays, cut, film, level, number_of, write

from blemish.core.errors import ImageError, UsageError
from blemish.images import video
from blemish.images.decode import as_image
from blemish.images.sources import Frame, name_of
from blemish.inference import load, predict_folder
from blemish.inference.inputs import find_inputs
from blemish.inference.predict_folder import predict_to_folder

LEVELS = (51, 102, 153, 204)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def places(*patterns: Path | str) -> dict[str, str]:
    return {Path(path).name: place.as_posix() for path, place in find_inputs([str(p) for p in patterns])}


def images_of(frames: Iterator[Frame]) -> list[np.ndarray]:
    return [as_image(frame) for frame in frames]


# --- the frames ---


@pytest.mark.parametrize(
    ("name", "code"),
    [*((f"a.{x}", "MJPG") for x in ("avi", "mkv")), *((f"a.{x}", "mp4v") for x in ("MP4", "mov", "m4v"))],
)
def test_frames_come_in_order_each_with_its_number(name: str, code: str, tmp_path: Path):
    path = write(tmp_path / name, [level(4 * k) for k in range(20)], code=code)
    assert video.is_film(path)
    assert (video.frame_count(path), video.frame_rate(path)) == (20, 25)
    frames = list(video.frames(path))
    assert [f.path for f in frames] == [f"{path}#{k:06d}" for k in range(20)]
    shown = [as_image(f).mean() for f in frames]
    np.testing.assert_allclose(shown, [12 * k for k in range(20)], atol=4)  # mp4v moves levels by 3.7
    assert [name_of(f) for f in frames[:2]] == [str(f) for f in frames[:2]]


def test_frames_are_rgb_and_8_bits(tmp_path: Path):
    red = np.zeros((SIDE, SIDE, 3), np.uint8)
    red[..., 0] = 200
    (image,) = images_of(video.frames(write(tmp_path / "a.avi", [red])))
    assert (image.dtype, image.shape) == (np.uint8, (SIDE, SIDE, 3))
    np.testing.assert_allclose(image.mean((0, 1)), [200, 0, 0], atol=3)


def test_a_film_that_was_taken_sideways_is_turned_upright(tmp_path: Path):
    def matrix(*rotation: int) -> bytes:
        return struct.pack(">9i", *(x << 16 for x in rotation), 1 << 30)

    top = np.zeros((SIDE, SIDE, 3), np.uint8)
    top[: SIDE // 2] = 200
    path = write(tmp_path / "a.mp4", [top] * 3, code="mp4v")
    data = path.read_bytes()
    as_it_is = matrix(1, 0, 0, 0, 1, 0, 0, 0)
    at = data.index(as_it_is, data.index(b"tkhd"))  # that of the track, not of the whole film
    path.write_bytes(data[:at] + matrix(0, 1, 0, -1, 0, 0, SIDE, 0) + data[at + len(as_it_is) :])
    image = images_of(video.frames(path))[0].astype(int)  # a quarter turn clockwise: the top is on the right
    assert image[:, 3 * SIDE // 4].min() > 150
    assert image[:, SIDE // 4].max() < 50


@pytest.mark.parametrize(("every", "numbers"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3]), (9, [0])])
def test_every_nth_frame_is_the_very_frame_of_that_number(every: int, numbers: list[int], tmp_path: Path):
    path = film(tmp_path / "a.avi", 5)
    whole = arrays(path)
    frames = list(video.frames(path, every))
    assert [int(f.path.rpartition("#")[2]) for f in frames] == numbers
    assert [number_of(as_image(f)) for f in frames] == numbers
    for number, frame in zip(numbers, frames, strict=True):
        np.testing.assert_array_equal(as_image(frame), whole[number])
    assert video.count_images([(path, Path("a")), (tmp_path / "x.png", Path("x"))], every) == len(numbers) + 1


def test_an_every_that_counts_nothing_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="--every 0: must be 1 or larger"):
        video.count_images([], 0)


def test_a_frame_is_held_to_the_rules_of_images():
    with pytest.raises(ImageError, match=r"a\.avi#000003: 8 x 8 px x 3 channels has a side below 16 px"):
        as_image(Frame(path="a.avi#000003", image=np.zeros((8, 8, 3), np.uint8)))


# --- films that are none, or not whole ---


def read_until_error(path: Path, every: int = 1) -> tuple[list[np.ndarray], str]:
    found = []
    with pytest.raises(ImageError) as caught:
        for frame in video.frames(path, every):
            found.append(as_image(frame))
    return found, str(caught.value)


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.webm", "VP80")])
def test_of_a_film_that_was_cut_off_the_frames_before_are_true_and_the_loss_is_said(
    name: str, code: str, tmp_path: Path
):
    path = film(tmp_path / name, 80, code=code)
    whole = arrays(path)
    found, error = read_until_error(cut(path, 0.5))
    assert 5 < len(found) < 50
    for ours, true in zip(found[:-1], whole, strict=False):  # the last one may be cut off itself
        np.testing.assert_array_equal(ours, true)
    assert error.startswith(f"{path}: gave {len(found)} of about 80 frames, the rest is cut off or damaged; ")
    few, error = read_until_error(path, 5)
    assert len(few) == -(-len(found) // 5)
    assert f"gave {len(found)} of about 80" in error


def test_a_film_damaged_midway_is_said(tmp_path: Path):
    path = film(tmp_path / "a.mp4", 80, code="mp4v")
    data = bytearray(path.read_bytes())
    half, length = len(data) // 2, len(data) // 20
    data[half : half + length] = bytes(length)
    path.write_bytes(data)
    assert "of about 80 frames" in read_until_error(path)[1]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.mp4", b"I am no film\n" * 100, "is not a film blemish can read"),  # FFmpeg would draw the text
        ("a.avi", b"", "is not a film blemish can read"),
        ("a.webm", b"\x1aE\xdf\xa3, and no more", "cannot be opened as a film, truncated or damaged"),
        ("a.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "cannot be opened as a film, truncated or damaged"),
    ],
)
def test_what_is_no_film_is_an_error_of_one_line(name: str, data: bytes, told: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError, match=told) as caught:
        next(video.frames(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert video.count_images([(path, Path("a"))], 3) == 1  # the row that says so


def test_a_film_without_frames_and_one_that_is_gone(tmp_path: Path):
    with pytest.raises(ImageError, match=r"empty\.avi: "):
        next(video.frames(write(tmp_path / "empty.avi", [])))
    with pytest.raises(ImageError, match=r"gone\.avi: cannot be read \(No such file"):
        next(video.frames(tmp_path / "gone.avi"))


def test_opencv_and_ffmpeg_say_nothing_themselves(tmp_path: Path):
    path = cut(film(tmp_path / "a.avi", 40), 0.5)
    gone = film(tmp_path / "b.mp4", 40, code="mp4v")
    script = (
        "import sys; from pathlib import Path\n"
        "from blemish.core.errors import ImageError; from blemish.images import video\n"
        "for p in sys.argv[1:]:\n"
        "  try: list(video.frames(Path(p)))\n"
        "  except ImageError as error: print(error)\n"
        "print(video.capture(99).isOpened())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, path, cut(gone, 0.5)], capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    assert len(shown.stdout.splitlines()) == 3


# --- which inputs, and where their pictures go ---


def test_a_folder_is_searched_for_images_only(tmp_path: Path):
    grey(tmp_path / "a.png", 1)
    film(tmp_path / "b.avi", 1)
    assert places(tmp_path) == {"a.png": "a"}
    assert places(tmp_path, tmp_path / "*.avi") == {"a.png": "a", "b.avi": "b"}
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match=r"holds no image but 1 \.avi; give images, films, folders or globs"):
        places(tmp_path)


def test_the_frames_of_a_film_never_meet_other_pictures(tmp_path: Path):
    for name in ("clip.avi", "clip.mov", "alone.avi", "alone/000001.png", "part.avi", "part.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert places(tmp_path / "*.avi", tmp_path / "*.mov", tmp_path / "*.png", tmp_path / "alone") == {
        "alone.avi": "alone.avi",  # beside a folder that may hold its very frames
        "clip.avi": "clip.avi",
        "clip.mov": "clip.mov",
        "part.avi": "part.avi",
        "part.png": "part.png",
        "000001.png": "alone/000001",
    }
    assert places(tmp_path / "alone.avi") == {"alone.avi": "alone"}


# --- prediction ---


def test_a_frame_s_score_is_that_of_its_array_to_the_bit(
    tiny_model: Path, single_thread: None, tmp_path: Path
):
    detector = load.load(tiny_model, device="cpu", batch_size=1)
    path = film(tmp_path / "a.avi", 6)
    results = detector.predict_many(video.frames(path))
    for number, (array, result) in enumerate(zip(arrays(path), results, strict=True)):
        alone = detector.predict(array)
        assert not isinstance(result, ImageError)
        assert (result.score, result.p_value) == (alone.score, alone.p_value)
        np.testing.assert_array_equal(result.anomaly_map, alone.anomaly_map)
        assert (result.path, alone.path) == (f"{path}#{number:06d}", None)
    assert detector.predict(next(video.frames(path))).path == f"{path}#000000"


def test_rows_maps_and_overlays_of_a_film_are_those_of_its_frames(tmp_path: Path):
    detector = fake_detector(grey_levels=LEVELS)
    path, other = film(tmp_path / "in" / "clip.avi", 75), grey(tmp_path / "in" / "z.png", 7)
    inputs = find_inputs([str(path), str(other)])
    counts = predict_to_folder(detector, video.expand_films(inputs, 12), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [r["path"] for r in rows] == [*(f"{path}#{k:06d}" for k in range(0, 75, 12)), str(other)]
    assert (counts.scored, counts.failed, counts.anomalous) == (8, 0, 1)  # only frame 72 is above 204
    for row, array in zip(rows[:-1], arrays(path)[::12], strict=True):
        digits = row["path"].rpartition("#")[2]
        assert (row["map"], row["overlay"]) == (f"maps/clip/{digits}.tiff", f"overlays/clip/{digits}.png")
        alone = detector.predict(array)
        assert (row["score"], row["anomalous"]) == (alone.score, alone.anomalous)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / row["map"]), alone.anomaly_map)
        predict_folder.write_overlay(detector, array, alone, tmp_path / "alone.png")
        assert (tmp_path / "out" / row["overlay"]).read_bytes() == (tmp_path / "alone.png").read_bytes()


def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str | Path) -> list[str | Path]:
    monkeypatch.setattr(load, "load", lambda *_, **__: fake_detector(grey_levels=LEVELS))
    return ["predict", "--model", __file__, "--out", tmp_path / "out", *more]


def test_the_command_scores_every_nth_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = film(tmp_path / "a.avi", 10)
    assert run(*command(tmp_path, monkeypatch, path, "--every", "4")) == 0
    assert [r["path"].rpartition("#")[2] for r in rows_of(tmp_path / "out")] == ["000000", "000004", "000008"]
    assert "--every 0: must be" in refused(capsys, *command(tmp_path, monkeypatch, path, "--every", "0"))


def test_what_is_lost_of_a_film_is_a_row_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    short, no = cut(film(tmp_path / "a.avi", 40), 0.5), tmp_path / "b.mp4"
    no.write_text("I am no film")
    last = film(tmp_path / "c.avi", 3)
    assert run(*command(tmp_path, monkeypatch, short, no, last)) == 1
    rows, errors = rows_of(tmp_path / "out"), capsys.readouterr().err.splitlines()
    failed = [r for r in rows if r["error"]]
    before = rows.index(failed[0])
    assert 5 < before < 30
    assert [r["path"] for r in failed] == [str(short), str(no)]
    assert [r["path"] for r in rows[:before]] == [f"{short}#{k:06d}" for k in range(before)]
    assert [r["path"] for r in rows[before + 2 :]] == [f"{last}#{k:06d}" for k in range(3)]
    assert failed[0]["error"].startswith(f"{short}: gave {before} of about 40 frames")
    assert errors == [f"failed: {r['error']}" for r in failed]


def test_without_opencv_a_film_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = film(tmp_path / "a.avi", 1)
    picture = grey(tmp_path / "b.png", 1)
    monkeypatch.setitem(sys.modules, "cv2", None)
    line = refused(capsys, *command(tmp_path, monkeypatch, path))
    assert line == "blemish predict: films and cameras need OpenCV; pip install 'blemish[video]'"
    assert not (tmp_path / "out").exists()
    assert run(*command(tmp_path, monkeypatch, picture)) == 0  # which needs none


@pytest.mark.slow
def test_frames_in_memory_do_not_grow_with_the_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "long.avi", (level(k % 80) for k in range(2000)))
    detector = fake_detector(grey_levels=LEVELS, batch_size=4)
    monkeypatch.setattr(predict_folder, "write_overlay", lambda *_: None)
    monkeypatch.setattr(predict_folder.draw, "write_map", lambda *_: None)
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    def watched() -> Iterator[tuple[Path | Frame, Path]]:
        nonlocal most
        for frame, place in video.expand_films([(path, Path("long"))], 1):
            assert isinstance(frame, Frame)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame, place

    rows = sum(row["error"] is None for row in predict_folder.inspect(detector, watched(), tmp_path / "out"))
    assert rows == 2000
    # two batches ahead, those whose pictures are being written, and the ones in hand
    assert most <= 2 * detector.batch_size + predict_folder._IN_FLIGHT + 3
