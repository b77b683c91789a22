"""Ctrl-C and SIGTERM ask once; the second one is immediate, and handlers come back."""

from __future__ import annotations

import signal
import threading

import pytest

from blemish.core.stop_signals import StopSignals


def test_the_first_signal_asks_and_the_second_is_immediate():
    before, asked = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(KeyboardInterrupt), StopSignals(lambda: asked.append(1)) as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        signal.raise_signal(signal.SIGINT)
    assert asked == [1]
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_it_changes_no_handler():
    before, found = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with StopSignals():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]
