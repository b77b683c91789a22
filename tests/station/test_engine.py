"""The engine against the detector it feeds: the same answers, each once, on disk before it is given."""

from __future__ import annotations

import gc
import hashlib
import io
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cameras import wait_for
from fakes import RGB8, fake_detector, with_options
from PIL import Image

pytest.importorskip("sqlalchemy", reason="the station's packages are not installed")

from blemish.inference.detector import Detector
from blemish.record.store import Inspection
from blemish.station.engine import Engine
from blemish.station.engine_jobs import Job, Model, Upload
from blemish.station.render import read_map
from blemish.station.waiting_room import Busy

LEVELS = [100, 120, 140]


class Record:
    """A store that keeps rows in a list; it can be told to wait or to fail."""

    def __init__(self) -> None:
        self.rows: list[Inspection] = []
        self.transactions: list[int] = []
        self.asked, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.in_hand = 0

    def record(self, rows: list[Inspection]) -> None:
        self.in_hand = len(rows)
        self.asked.set()
        assert self.open.wait(60)
        if self.failure is not None:
            raise self.failure
        self.rows += rows
        self.transactions.append(len(rows))


class Files:
    """An archive in memory."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}

    def put(self, data: bytes, kind: str) -> str:
        name = hashlib.sha256(data).hexdigest()
        self.files[kind, name] = data
        return name


@contextmanager
def running(detector: Detector, *, capacity: int = 64, on_recorded=lambda _: None) -> Iterator[Engine]:
    model = Model(digest="d" * 64, detector=detector)
    engine = Engine(model, Record(), Files(), capacity=capacity, on_recorded=on_recorded)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.store.open.set()
        engine.close()


def png(level: int, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def request(level: int, side: int = 32, part: str | None = None) -> Upload:
    return Upload(data=png(level, side), source="api", name=f"{level}.png", part=part)


def answer(future: Future[Inspection]) -> Inspection:
    return future.result(timeout=60)


def test_an_answer_is_the_detector_s(tmp_path: Path):
    detector = fake_detector(grey_levels=LEVELS)
    with running(detector) as engine:
        began = time.monotonic()
        said = answer(engine.submit(request(150, side=48, part="A-7")))
        path = tmp_path / "150.png"
        path.write_bytes(png(150, 48))
        expected = detector.predict(path)
        assert said.score == expected.score
        assert (said.p_value, said.threshold, said.anomalous) == (0.25, expected.threshold, True)
        assert [r.area_px for r in said.regions] == [48 * 48]
        assert (said.path, said.part, said.width, said.height) == ("150.png", "A-7", 48, 48)
        assert (said.model, said.source, said.error) == ("d" * 64, "api", None)
        assert engine.store.rows == [said]
        assert engine.archive.files["image", said.image] == png(150, 48)
        np.testing.assert_array_equal(read_map(engine.archive.files["map", said.map]), expected.coarse_map)
        assert 0 < said.seconds <= time.monotonic() - began


def test_an_image_is_given_up_with_its_answer():
    """Without the garbage collector, which in a station at work comes after hundreds of images."""
    upload = request(150)
    left = weakref.ref(upload)
    with running(fake_detector(grey_levels=LEVELS)) as engine:
        gc.disable()
        try:
            taken = engine.submit(upload)
            answer(taken)
            del upload
            wait_for(lambda: left() is None)  # as the threads go on to what comes next
        finally:
            gc.enable()


def test_no_answer_before_it_is_recorded():
    with running(fake_detector(grey_levels=LEVELS)) as engine:
        engine.store.open.clear()
        waiting = engine.submit(request(90))
        assert engine.store.asked.wait(60)
        time.sleep(0.05)
        assert not waiting.done()
        assert engine.archive.files  # what the row will name is there before the row
        engine.store.open.set()
        assert answer(waiting) in engine.store.rows


def test_what_waits_is_scored_and_recorded_together():
    gate, batches = threading.Event(), []

    def network(x: np.ndarray) -> np.ndarray:
        batches.append(len(x))
        assert gate.wait(60)
        return x.mean(axis=1)

    def read_off(left: deque, results: Iterable) -> None:
        number = len(left)
        original(left, results)
        read.append(number)

    with running(fake_detector(grey_levels=LEVELS, network=network, batch_size=8)) as engine:
        original, read = engine._read_off, []
        engine._read_off = read_off  # type: ignore[method-assign]
        futures = [engine.submit(request(level)) for level in range(60, 90)]
        wait_for(lambda: sum(batches) + engine._ready.qsize() == 30)  # all are decoded
        engine.store.open.clear()
        gate.set()
        wait_for(lambda: sum(read) == 30)  # all are scored
        engine.store.open.set()
        scores = [answer(future).score for future in futures]
    np.testing.assert_allclose(scores, np.arange(60, 90) / 255, rtol=1e-6)
    assert sum(batches) == 30
    assert len(batches) <= 7  # at most one small batch for either thread, then eights
    assert len(engine.store.transactions) <= 2


def holding(engine: Engine, gate: threading.Event) -> None:
    """Let the images that are submitted from now on be decoded when the gate opens."""
    decode = type(engine)._decode
    engine._decode = lambda job: (gate.wait(60), decode(engine, job))  # type: ignore[method-assign]


def test_the_network_waits_for_what_is_being_decoded(monkeypatch: pytest.MonkeyPatch):
    def network(x: np.ndarray) -> np.ndarray:
        batches.append(len(x))
        return x.mean(axis=1)

    monkeypatch.setattr("blemish.station.engine.MAX_WAIT_S", 60)
    gate, batches = threading.Event(), []
    with running(fake_detector(grey_levels=LEVELS, network=network)) as engine:
        holding(engine, gate)
        futures = [engine.submit(request(level)) for level in range(12)]
        gate.set()
        for future in futures:
            answer(future)
    assert batches == [12]


def test_the_rows_of_a_batch_are_recorded_together_but_for_those_that_the_disk_refuses():
    gate, batches, told = threading.Event(), [], []

    def network(x: np.ndarray) -> np.ndarray:
        batches.append(len(x))
        assert gate.wait(60)
        return x.mean(axis=1)

    def put(data: bytes, kind: str) -> str:
        if data == refused.data:
            raise OSError("disk full")
        return original(data, kind)

    with running(fake_detector(grey_levels=LEVELS, network=network), on_recorded=told.append) as engine:
        first, refused = engine.submit(request(80)), request(91)
        original, engine.archive.put = engine.archive.put, put  # type: ignore[method-assign]
        wait_for(lambda: len(batches) == 1)  # while the network has it, others become a batch
        others = [engine.submit(one) for one in (request(90), refused, request(92))]
        wait_for(lambda: engine._ready.qsize() == 3)
        gate.set()
        rows = [answer(future) for future in (first, others[0], others[2])]
        with pytest.raises(OSError, match="disk full"):
            answer(others[1])
        with pytest.raises(OSError, match="disk full"):  # alone: nothing is recorded, and nobody is told
            answer(engine.submit(refused))
    assert batches == [1, 3, 1]
    assert any(set(map(id, rows[1:])) <= set(map(id, those)) for those in told)
    assert all(told)


def test_it_waits_a_moment_at_most():
    gate, later = threading.Event(), threading.Event()
    with running(fake_detector(grey_levels=LEVELS)) as engine:
        holding(engine, gate)
        first = engine.submit(request(80))
        holding(engine, later)
        second = engine.submit(request(90))
        gate.set()
        assert answer(first).error is None
        assert not second.done()
        later.set()
        assert answer(second).error is None


def test_there_is_room_for_so_many_and_no_more():
    with running(fake_detector(grey_levels=LEVELS), capacity=3) as engine:
        engine.store.open.clear()
        futures = [engine.submit(request(90 + i)) for i in range(3)]
        for _ in range(5):
            with pytest.raises(Busy, match="3 images wait already"):
                engine.submit(request(1))
        assert engine.waiting == 3
        engine.store.open.set()
        for future in futures:
            answer(future)
        wait_for(lambda: not engine.waiting)
        assert answer(engine.submit(request(7))).score == pytest.approx(7 / 255)
        assert len(engine.store.rows) == 4


def test_what_is_no_image_is_a_row_with_its_error_and_is_not_kept():
    garbage = Upload(data=b"\x89PNG\r\n\x1a\n" + b"garbage", source="api", name="x.png")
    with running(fake_detector(grey_levels=LEVELS)) as engine:
        said = answer(engine.submit(garbage))
        assert said.error is not None
        assert said.error.startswith("x.png: ")
        assert (said.image, said.map, said.score, said.anomalous) == (None, None, None, None)
        assert said.regions == []
        assert not engine.archive.files
        assert engine.store.rows == [said]


def test_an_image_above_the_limit_is_refused_undecoded():
    model = Model(digest="d" * 64, detector=fake_detector())
    engine = Engine(model, Record(), Files(), max_pixels=1000)  # type: ignore[arg-type]
    said = answer(engine.submit(request(9, side=40)))
    assert said.error == "9.png: 40 x 40 px is more than the 1000 px blemish reads here; cut it into parts"
    assert answer(engine.submit(request(9, side=31))).error is None
    engine.close()


def test_a_failing_step_is_its_request_s_alone():
    def network(x: np.ndarray) -> np.ndarray:
        if (x > 0.99).any():
            raise RuntimeError("out of memory")
        return x.mean(axis=1)

    with running(fake_detector(grey_levels=LEVELS, network=network, batch_size=1)) as engine:
        bad, good = engine.submit(request(255)), engine.submit(request(80))
        with pytest.raises(RuntimeError, match="out of memory"):
            answer(bad)
        assert answer(good).score == pytest.approx(80 / 255)
        engine.store.failure = OSError("disk full")
        with pytest.raises(OSError, match="disk full"):
            answer(engine.submit(request(81)))
        engine.store.failure = None
        assert answer(engine.submit(request(82))).error is None
        wait_for(lambda: not engine.waiting)


def test_files_that_wait_are_bounded_by_their_bytes_too():
    with running(fake_detector(grey_levels=LEVELS)) as engine:
        one = request(90)
        engine.room.max_bytes = 3 * len(one.data)
        engine.store.open.clear()
        futures = [engine.submit(one) for _ in range(3)]
        with pytest.raises(Busy, match="images of 0 MB wait already"):
            engine.submit(one)
        assert engine.waiting == 3
        engine.store.open.set()
        for future in futures:
            answer(future)
        large = Upload(data=png(90) + bytes(4 * len(one.data)), source="api")
        wait_for(lambda: not engine.waiting)
        assert answer(engine.submit(large)).error is None  # one is taken, however large


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    from blemish.station import engine as module

    two, alone = threading.Barrier(2), threading.Lock()

    def decode(data: bytes, *, name: str) -> np.ndarray:
        image = original(data, name=name)
        if len(image) == 40:
            two.wait(60)  # goes on when another one is being decoded
        else:
            assert alone.acquire(blocking=False)
            time.sleep(0.05)
            alone.release()
        return image

    original = module.decode
    monkeypatch.setattr(module, "decode", decode)
    monkeypatch.setattr(module, "LARGE_PIXELS", 40 * 40)
    with running(fake_detector(grey_levels=LEVELS)) as engine:
        for side in (41, 40):
            for future in [engine.submit(request(90, side=side)) for _ in range(6)]:
                assert answer(future).error is None


def test_whole_maps_and_images_do_not_wait_for_the_disk():
    with running(fake_detector(grey_levels=LEVELS)) as engine:
        kept = []
        write = engine._write_files
        engine._write_files = lambda job, result: (kept.append((job, result)), write(job, result))[1]  # type: ignore[method-assign]
        answer(engine.submit(request(90, side=500)))
    ((job, result),) = kept
    assert result.anomaly_map.shape == (32, 32)
    assert not any(isinstance(value, np.ndarray) and value.size > 10_000 for value in vars(job).values())


def test_an_error_between_two_answers_fails_those_that_have_none(monkeypatch: pytest.MonkeyPatch):
    gate, calls = threading.Event(), []

    def network(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        gate.wait(60)
        return x.mean(axis=1)

    def submitted(level: int, there: Callable[[], bool]) -> Future:
        future = engine.submit(request(level))
        for _ in range(6000):
            if there():
                return future
            time.sleep(0.01)
        raise AssertionError("it never came")

    def finish(self: Detector, answer: tuple[np.ndarray, None], *rest: object):
        if answer[0].max() > 0.99:
            raise MemoryError("no room for the map")
        return original(self, answer, *rest)  # type: ignore[arg-type]

    original = Detector._finish
    monkeypatch.setattr(Detector, "_finish", finish)
    with running(fake_detector(grey_levels=LEVELS, network=network, batch_size=8)) as engine:
        first = submitted(10, lambda: len(calls) == 1)  # while the network has it, others become a batch
        ready = engine._ready.qsize
        batch = [submitted(level, lambda n=n: ready() == n) for n, level in enumerate((80, 255, 81), 1)]
        gate.set()
        for future in (first, batch[0]):
            assert answer(future).error is None
        with pytest.raises(MemoryError):
            answer(batch[1])
        assert batch[2].exception(timeout=60) is None or isinstance(batch[2].exception(), MemoryError)
        assert answer(engine.submit(request(82))).score == pytest.approx(82 / 255)


def test_who_listens_cannot_stop_the_record():
    def fail(_: object) -> None:
        raise OSError("the alarm cannot be written")

    with running(fake_detector(grey_levels=LEVELS), on_recorded=fail) as engine:
        for level in (80, 81):
            assert answer(engine.submit(request(level))).error is None


def test_many_senders_get_each_their_own():
    detector = fake_detector(grey_levels=LEVELS, batch_size=4)
    told: list[Inspection] = []
    with running(detector, capacity=1000, on_recorded=told.extend) as engine:
        found: dict[int, Inspection] = {}

        def send(level: int) -> None:
            found[level] = answer(engine.submit(request(level, part=str(level))))

        threads = [threading.Thread(target=send, args=(level,)) for level in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[i].part for i in range(200)] == [str(i) for i in range(200)]
    np.testing.assert_allclose([found[i].score for i in range(200)], np.arange(200) / 255, rtol=1e-6)
    assert len({row.id for row in engine.store.rows}) == 200 == len(engine.store.rows)
    assert told == engine.store.rows


def test_a_job_keeps_its_model_s_tiling_when_another_version_comes(monkeypatch: pytest.MonkeyPatch):
    whole = fake_detector(grey_levels=LEVELS)
    cut = with_options(whole, tile_size=32, tile_overlap=0.25)
    for before, after, size in ((whole, cut, 32), (cut, whole, 70)):
        with running(before) as engine, monkeypatch.context() as patch:

            def make(*given: Any, engine: Engine = engine, after: Detector = after) -> Job:
                job = Job(*given)
                engine.model = Model(digest="e" * 64, detector=after)
                return job

            patch.setattr("blemish.station.engine.Job", make)
            said = answer(engine.submit(request(77, side=size)))
            assert (said.model, said.error) == ("d" * 64, None)
            assert said.score == pytest.approx(77 / 255)


def test_tiles_are_scored_too():
    detector = fake_detector(grey_levels=LEVELS)
    cut = with_options(detector, tile_size=32, tile_overlap=0.25)
    with running(cut) as engine:
        said = answer(engine.submit(request(77, side=70)))
        assert said.score == pytest.approx(77 / 255)
        assert read_map(engine.archive.files["map", said.map]).shape == (70, 70)
        small = answer(engine.submit(request(77, side=20)))
        assert small.error is not None
        assert "smaller than the model's tiles" in small.error
    assert cut.model_file.image_format == RGB8
