"""Uploads with a key of their sender: each is recorded once, however often it is sent, over a crash too."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from blemish.core.errors import ConflictError

if TYPE_CHECKING:
    from blemish.record.store import Inspection, Store
    from blemish.station.engine_jobs import Job, Upload


class Taker(Protocol):
    """What takes images: an engine, or the line of a model's parts."""

    def begin(self, upload: Upload) -> Job:
        """Queue an image."""
        ...


@dataclass(frozen=True)
class Delivery:
    """An upload that was taken: its identifier, and its answer to come."""

    id: str
    answer: Future[Inspection]


class Deliveries:
    """Hands uploads to their takers; one whose key is known is the earlier one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._open: dict[str, Job] = {}

    def submit(self, taker: Taker, upload: Upload) -> Delivery:
        """Queue an upload, or find the earlier one. May wait for the record where it has a key.

        Raises what `begin` does, such as Busy, and ConflictError for a key that came with another image.
        """
        if upload.key is None:
            job = taker.begin(upload)
            return Delivery(job.id, job.answer)
        with self._lock:
            return self._once(taker, upload, upload.key)

    def _once(self, taker: Taker, upload: Upload, key: str) -> Delivery:
        job = self._open.get(key)
        if job is not None:
            _check_same(key, upload, _digest(job.upload))
            return Delivery(job.id, job.answer)
        found = self.store.with_key(key)  # what is no more open is on record, or came to nothing
        if found is not None:
            _check_same(key, upload, self.store.image_with_key(key))
            answer: Future[Inspection] = Future()
            answer.set_result(found)
            return Delivery(found.id, answer)
        job = self._open[key] = taker.begin(upload)
        job.answer.add_done_callback(lambda _: self._open.pop(key, None))
        return Delivery(job.id, job.answer)


def _digest(upload: Upload) -> str:
    return hashlib.sha256(upload.data).hexdigest()


def _check_same(key: str, upload: Upload, digest: str | None) -> None:
    """Refuse another image under a key in use; None: what was no image, and was not kept."""
    if digest is not None and digest != _digest(upload):
        raise ConflictError(f"key {key}: came with another image; give each image a key of its own")
