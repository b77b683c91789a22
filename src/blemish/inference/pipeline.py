"""Decoding ahead, the network, and reading maps off, all at the same time, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Future

P = TypeVar("P")
"""What decoding makes of an image."""
R = TypeVar("R")
"""What is yielded of an image."""


def run_pipeline(
    images: Iterator[object],
    decode: Callable[[object], P],
    score: Callable[[Sequence[tuple[object, P]]], Iterable[Callable[[], R]]],
    *,
    batch_size: int,
    threads: int | None,
) -> Generator[R, None, None]:
    """Yield what becomes of each image, in order.

    `threads` decode, and as many finish what `score`, which sees a batch at a time, leaves to do for each
    image; None: as many as there are cores, two at least. Two batches at most are under way. The threads have
    ended when the last one is taken, or at `close`. Whoever may leave it early and keep it (a traceback does)
    closes it: the search for garbage would wait for the threads in the midst of anything, and may do so
    where a thread begins or ends, which stops both for ever.
    """
    workers = threads or max(2, os.cpu_count() or 2)
    finishing: deque[Future[R]] = deque()
    with _pool(workers) as decoders, _pool(workers) as finishers:
        ahead: deque[tuple[object, Future[P]]] = deque()
        while True:
            room = max(batch_size, 2 * batch_size - len(finishing)) - len(ahead)
            ahead.extend((image, decoders.submit(decode, image)) for image in islice(images, room))
            if not ahead:
                break
            now = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
            for finish in score([(image, future.result()) for image, future in now]):
                finishing.append(finishers.submit(finish))
                if len(finishing) > workers:
                    yield finishing.popleft().result()
        yield from (future.result() for future in finishing)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Open threads that drop what still waits when they are left early, by an error or for good."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
