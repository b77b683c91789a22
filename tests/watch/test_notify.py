"""Notifications of rejects: in order, tried again, and never in the way of the inspection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hooked import SOON, row, rows, tell_all

from blemish.watch import notify
from blemish.watch.notify import Hook

pytestmark = pytest.mark.usefixtures("quick_hooks")


def test_rows_are_handed_over_in_order_and_close_waits_for_them():
    sent: list[dict[str, Any]] = []
    hook = Hook("x", sent.append, pytest.fail)
    tell_all(hook, rows(50))
    assert hook.close(SOON) == 0
    assert sent == rows(50)
    assert not hook.thread.is_alive()


def test_a_hook_that_hangs_does_not_hold_up_who_tells_it():
    entered, release = threading.Event(), threading.Event()
    sent: list[dict[str, Any]] = []

    def hang(one: dict[str, Any]) -> None:
        entered.set()
        assert release.wait(SOON)
        sent.append(one)

    hook = Hook("x", hang, pytest.fail)
    hook.enqueue(row(1))
    assert entered.wait(SOON)
    tell_all(hook, rows(50)[1:])  # returns, though the first is still being sent
    assert sent == []
    release.set()
    assert hook.close(SOON) == 0
    assert sent == rows(50)


def test_two_hooks_do_not_hold_up_each_other():
    release, sent = threading.Event(), []
    stuck, free = (
        Hook("stuck", lambda _: release.wait(SOON) and None, pytest.fail),
        Hook("x", sent.append, print),
    )
    for one in rows(3):
        stuck.enqueue(one)
        free.enqueue(one)
    assert free.close(SOON) == 0
    assert sent == rows(3)
    assert stuck.close(0) == 3
    release.set()
    stuck.thread.join(SOON)


def test_what_fails_is_tried_again_before_the_next_and_said_once():
    tried: list[str] = []
    said: list[str] = []

    def third_time_lucky(one: dict[str, Any]) -> None:
        tried.append(one["path"])
        if tried.count(one["path"]) < 3:
            raise OSError("line\n one")

    hook = Hook("x", third_time_lucky, said.append)
    tell_all(hook, rows(2))
    assert hook.close(SOON) == 0
    assert tried == ["1.png"] * 3 + ["2.png"] * 3
    assert said == ["x: line one; trying again", "x: works again"] * 2


def test_the_wait_is_doubled_up_to_the_longest(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    enough = threading.Event()

    def fail(_: dict[str, Any]) -> None:
        if len(waits) < 4:
            raise OSError("no")
        enough.set()

    hook = Hook("x", fail, lambda _: None)
    monkeypatch.setattr(hook.changed, "wait_for", lambda _predicate, wait: waits.append(wait))
    hook.enqueue(row(1))
    assert enough.wait(SOON)
    assert hook.close(SOON) == 0
    assert waits == [0.01, 0.02, 0.04, 0.04]  # doubled, doubled, and at the longest


def test_new_rows_do_not_cut_the_wait_short_but_the_end_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notify, "FIRST_RETRY_S", 1000.0)
    monkeypatch.setattr(notify, "LONGEST_RETRY_S", 1000.0)
    tried: list[str] = []
    looks = threading.Semaphore(0)

    def fail(one: dict[str, Any]) -> None:
        tried.append(one["path"])
        raise OSError("no")

    hook = Hook("x", fail, lambda _: None)
    wait = hook.changed.wait_for

    def watched(predicate: Callable[[], bool], seconds: float) -> bool:
        def look() -> bool:  # at the beginning of a wait, and whenever it is woken
            looks.release()
            return predicate()

        return wait(look, seconds)

    monkeypatch.setattr(hook.changed, "wait_for", watched)
    hook.enqueue(row(1))
    assert looks.acquire(timeout=SOON)
    for one in rows(4)[1:]:
        hook.enqueue(one)
        assert looks.acquire(timeout=SOON)
    assert hook.close(0) == 4
    assert looks.acquire(timeout=SOON)
    assert looks.acquire(timeout=SOON)  # the wait after one last try
    assert tried == ["1.png"] * 2


def test_what_was_not_delivered_is_named_by_its_kind():
    working = threading.Event()
    hook = Hook("x", lambda _: working.wait(SOON) and None, lambda _: None)
    tell_all(hook, [{"event": kind, "id": "7"} for kind in ("review", "alarm", "review")] + [row(1)])
    assert hook.close(0) == 4
    assert hook.waiting_said() == "2 reviews and 1 alarms and 1 rejects"
    working.set()
    hook.thread.join(SOON)


def test_what_does_not_fit_the_queue_is_dropped_the_oldest_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notify, "QUEUE_SIZE", 3)
    works, tried = threading.Event(), threading.Event()
    sent: list[str] = []
    said: list[str] = []

    def send(one: dict[str, Any]) -> None:
        tried.set()
        assert works.wait(SOON)
        sent.append(one["path"])

    hook = Hook("x", send, said.append)
    hook.enqueue(row(1))
    assert tried.wait(SOON)
    tell_all(hook, rows(6)[1:])  # 1, 2 and 3 make room for 4, 5 and 6
    works.set()
    assert hook.close(SOON) == 0
    assert said == [f"x: too many rejects wait, {i}.png is dropped" for i in (1, 2, 3)]
    assert sent == ["1.png", "4.png", "5.png", "6.png"]  # 1 was being sent when it was dropped


def test_close_counts_what_was_not_delivered():
    def fail(_: dict[str, Any]) -> None:
        raise OSError("no")

    hook = Hook("x", fail, lambda _: None)
    tell_all(hook, rows(7))
    assert hook.close(0.05) == 7
