"""Requests that wait for a detector: decoded side by side, scored in batches, recorded together.

    submit -> decode (pool) -> ready -> score (2 threads) -> write (pool) -> written -> record (1 thread)

At most `capacity` requests, and files of `max_bytes`, are between the first step and the last; one more is
refused at once, so that nothing grows. An answer is given when its image, its map and its row are on disk.
What waits when a step begins is taken together. The network waits for the images that are being decoded, a
moment at most: in a larger batch an image costs less. The rows of a batch are recorded in one transaction.

What waits is small: the file, and the image at the network's size. Large images are decoded one at a time.
Of images in tiles nothing is made in advance; a thread that scores takes one through all the steps.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from blemish.core.errors import ImageError
from blemish.core.types import Prediction
from blemish.images.decode import decode
from blemish.images.draw import encode_map
from blemish.images.limits import MAX_PIXELS, TooLarge, limit_pixels
from blemish.images.preprocess import LARGE_PIXELS
from blemish.images.sources import Frame
from blemish.record.identifiers import new_id, utc_now
from blemish.station.engine_jobs import ONE_LARGE, Job, Model, Upload, inspection_of
from blemish.station.waiting_room import MAX_WAITING_BYTES, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from blemish.inference.detector import Detector
    from blemish.record.archive import Archive
    from blemish.record.store import Inspection
    from blemish.station.engine_jobs import Recorder

    _Written = tuple[Job, Inspection]

T = TypeVar("T")
SCORERS = 2
"""Threads that score: one runs the network while the other makes results of its batch's maps."""
WRITERS = 8
"""Threads that write files; most of the time they wait for the disk."""
MAX_WAIT_S = 0.1
"""Seconds that the network waits at most for what is being decoded."""
MAX_BATCHES = 16
"""Batches in a transaction at most."""


class Engine:
    """The queue of uploads before a detector. `submit` is thread-safe; `close` answers those that wait."""

    def __init__(
        self,
        model: Model,
        store: Recorder,
        archive: Archive,
        *,
        capacity: int = 64,
        max_bytes: int = MAX_WAITING_BYTES,
        max_pixels: int = MAX_PIXELS,
        on_recorded: Callable[[Sequence[Inspection]], None] = lambda _: None,
        on_failed: Callable[[BaseException], None] = lambda _: None,
        make_id: Callable[[datetime], str] = new_id,
    ) -> None:
        """Start the threads. `on_recorded` gets rows that are on disk, in order, `on_failed` what an upload
        ended with that was not recorded; both must be quick.
        """
        self.model, self.store, self.archive = model, store, archive
        self.room, self.max_pixels = WaitingRoom(capacity, max_bytes), max_pixels
        self.on_recorded, self.on_failed, self.make_id = on_recorded, on_failed, make_id
        self._open: dict[str, Job] = {}
        self._decoding: set[Future[None]] = set()
        self._ready: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._scored: queue.SimpleQueue[list[Future[_Written | None]] | None] = queue.SimpleQueue()
        self._decoders = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="decode")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="write")
        # while the network runs the next batch grows; a larger one costs less an image
        self._network = threading.Lock()
        self._scorers = [threading.Thread(target=_repeat, args=(self._score,)) for _ in range(SCORERS)]
        self._recorder = threading.Thread(target=_repeat, args=(self._record,))
        for thread in (*self._scorers, self._recorder):
            thread.daemon = True
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that have no answer yet."""
        return self.room.waiting

    @property
    def product(self) -> str | None:
        """The product that it inspects, of a model of several; None: the model has but one."""
        product = self.model.detector.model_file.product
        return None if product is None else product.name

    def submit(self, upload: Upload) -> Future[Inspection]:
        """Queue an upload; its answer may raise what went wrong. Raises Busy when there is no room."""
        return self.begin(upload).answer

    def begin(self, upload: Upload) -> Job:
        """Queue an upload as `submit` does; returns the job, which has its identifier already."""
        size, now = len(upload.data), utc_now()
        self.room.enter(size)
        job = Job(self.make_id(now), now, upload, Future(), time.monotonic(), self.model)
        self._open[job.id] = job
        # an answer keeps its callbacks: one that held the job would keep the image until garbage is collected
        job.answer.add_done_callback(partial(self._leave, job.id, size))
        if _is_tiled(job.model):  # its own: the engine's may be another one by now
            self._ready.put(job)
        else:
            decoding = self._decoders.submit(self._decode, job)
            self._decoding.add(decoding)
            decoding.add_done_callback(self._decoding.discard)
        return job

    def has_open(self, id: str) -> bool:
        """Whether an upload of that identifier waits for its answer."""
        return id in self._open

    def close(self) -> None:
        """Answer the uploads that wait, then end the threads. Nothing may be submitted any more."""
        while self.waiting:
            time.sleep(0.01)
        for _ in self._scorers:
            self._ready.put(None)
        self._scored.put(None)
        for thread in (*self._scorers, self._recorder):
            thread.join()
        self._decoders.shutdown()
        self._writers.shutdown()

    def _leave(self, id: str, size: int, answer: Future[Inspection]) -> None:
        self._open.pop(id, None)
        self.room.leave(size)
        error = None if answer.cancelled() else answer.exception()
        if error is not None:
            self.on_failed(error)

    def _decode(self, job: Job) -> None:
        detector = job.model.detector
        try:
            job.prepared = self._with_image(job, detector.prepare)
            self._ready.put(job)
        except ImageError as error:
            self._read_off(deque([job]), [error])
        except Exception as error:
            job.answer.set_exception(error)

    def _with_image(self, job: Job, use: Callable[[Frame], T]) -> T:
        """Decode an image for one use; of large ones, which take gigabytes, one at a time."""

        def decoded() -> T:
            image = decode(job.upload.data, name=job.name)
            job.size = image.shape[0], image.shape[1]
            return use(Frame(path=job.name, image=image))

        try:
            with limit_pixels(min(LARGE_PIXELS, self.max_pixels)):
                return decoded()
        except TooLarge:
            if self.max_pixels <= LARGE_PIXELS:
                raise
        with ONE_LARGE, limit_pixels(self.max_pixels):
            return decoded()

    def _score(self) -> bool:
        with self._network:
            now = self.model  # taken once: another version may take its place
            most = 1 if _is_tiled(now) else now.detector.batch_size
            jobs = _take_batch(self._ready, most, partial(self._await_decoding, most))
            if jobs is None:
                return False
            models = {job.model.digest: job.model for job in jobs}.values()
            batches = [(model, deque(job for job in jobs if job.model is model)) for model in models]
            scored = [_run(model.detector, left) for model, left in batches if not _is_tiled(model)]
        for model, left in batches:
            if _is_tiled(model):
                for job in left:
                    self._score_tiled(job)
            else:
                self._read_off(left, scored.pop(0))
        return True

    def _await_decoding(self, most: int) -> None:
        """Unless a batch is full, wait for the images that are being decoded, or are to be."""
        if self._ready.qsize() + 1 < most:
            wait(tuple(self._decoding), MAX_WAIT_S)

    def _read_off(self, left: deque[Job], results: Iterable[Prediction | ImageError]) -> None:
        """Make results of a batch's maps, hand each to who writes it, and then all to who records them."""
        batch = []
        try:
            for result in results:
                batch.append(self._writers.submit(self._write_files, left.popleft(), result))
        except Exception as error:
            _fail(left, error)
        self._scored.put(batch)

    def _score_tiled(self, job: Job) -> None:
        try:
            self._read_off(deque([job]), [self._with_image(job, job.model.detector.predict)])
        except ImageError as error:
            self._read_off(deque([job]), [error])
        except Exception as error:
            job.answer.set_exception(error)

    def _write_files(self, job: Job, result: Prediction | ImageError) -> _Written | None:
        """Put image and map into the archive and return the row; None: the disk refused."""
        try:
            image_hash = map_hash = None
            if isinstance(result, Prediction):  # what is no image is not kept
                assert result.coarse_map is not None
                image_hash = self.archive.put(job.upload.data, "image")
                map_hash = self.archive.put(encode_map(result.coarse_map), "map")
            return job, inspection_of(job, result, image_hash, map_hash)
        except Exception as error:
            job.answer.set_exception(error)
            return None

    def _record(self) -> bool:
        batches = _take_batch(self._scored, MAX_BATCHES)
        if batches is None:
            return False
        kept = [one for batch in batches for written in batch if (one := written.result()) is not None]
        if not kept:
            return True
        inspections = [inspection for _, inspection in kept]
        try:
            self.store.record(inspections)
        except Exception as error:
            _fail([job for job, _ in kept], error)
            return True
        for job, inspection in kept:
            job.answer.set_result(inspection)
        try:
            self.on_recorded(inspections)
        except Exception:  # whoever listens, the rows are recorded, and the next ones must be
            logging.getLogger(__name__).exception("what follows a record failed")
        return True


def _is_tiled(model: Model) -> bool:
    return model.detector.model_file.tiling is not None


def _run(detector: Detector, jobs: Iterable[Job]) -> Iterable[Prediction | ImageError]:
    """Run the network over a batch; its results are made one by one as they are taken."""
    try:
        loaded = [(Path(job.name), job.prepared) for job in jobs if job.prepared]
        return replace(detector, maps=False).predict_prepared(loaded)
    except Exception as error:
        _fail(jobs, error)
        return ()


def _repeat(step: Callable[[], bool]) -> None:
    """Repeat a step until it returns False. While one waits, the memory of the one before is free."""
    while step():
        pass


def _take_batch(
    waiting: queue.SimpleQueue[T | None], most: int, before_rest: Callable[[], None] = lambda: None
) -> list[T] | None:
    """Wait for the first item, then take those that are there already; None at the end."""
    first = waiting.get()
    if first is None:
        return None
    before_rest()
    taken = [first]
    while len(taken) < most:
        try:
            item = waiting.get_nowait()
        except queue.Empty:
            break
        if item is None:
            waiting.put(None)
            break
        taken.append(item)
    return taken


def _fail(jobs: Iterable[Job], error: Exception) -> None:
    for job in jobs:
        job.answer.set_exception(error)
