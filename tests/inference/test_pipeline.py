"""What goes through the pipeline: everything, in order, and never much of it at once."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import fake_detector, grey

from blemish.inference.pipeline import run_pipeline
from blemish.inference.predict_folder import predict_to_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def double(image: object) -> int:
    assert isinstance(image, int)
    return 2 * image


def pairs(loaded: Sequence[tuple[object, int]]) -> list[Callable[[], tuple[object, int]]]:
    return [partial(tuple, pair) for pair in loaded]


@pytest.mark.parametrize(("n", "sizes"), [(0, []), (3, [3]), (10, [3, 3, 3, 1])])
def test_each_image_comes_in_its_place_and_batches_are_full_but_the_last(n: int, sizes: list[int]):
    seen = []

    def score(loaded: Sequence[tuple[object, int]]) -> list[Callable[[], tuple[object, int]]]:
        seen.append(len(loaded))
        return pairs(loaded)

    found = list(run_pipeline(iter(range(n)), double, score, batch_size=3, threads=2))
    assert found == [(i, 2 * i) for i in range(n)]
    assert seen == sizes


def test_two_batches_at_most_are_under_way():
    taken = 0

    def images() -> Iterator[int]:
        nonlocal taken
        for i in range(100):
            taken = i + 1
            yield i

    for done, _ in enumerate(run_pipeline(images(), double, pairs, batch_size=4, threads=2), start=1):
        assert taken - done < 2 * 4


def test_what_fails_in_a_thread_is_raised_where_its_image_is():
    def finish(image: object) -> object:
        if image == 5:
            raise ValueError("the sixth")
        return image

    results = run_pipeline(
        iter(range(9)),
        double,
        lambda loaded: [partial(finish, i) for i, _ in loaded],
        batch_size=2,
        threads=1,
    )
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(results)


def threads_of_pools() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("ThreadPoolExecutor")}


def test_an_error_that_is_kept_keeps_no_threads(tmp_path: Path):
    """Else the search for garbage ends them later, wherever it comes, and may wait there for ever."""

    def fail(_row: dict[str, Any]) -> None:
        raise OSError("no room")

    inputs = [(grey(tmp_path / "in" / f"{i}.png", 20), Path(f"{i}")) for i in range(4)]
    before = threads_of_pools()
    with pytest.raises(OSError, match="no room") as kept:
        predict_to_folder(fake_detector(), inputs, tmp_path / "out", on_row=fail)
    assert kept.tb  # and with it all that it went through
    assert threads_of_pools() <= before
