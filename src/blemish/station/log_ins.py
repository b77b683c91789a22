"""Log-ins that are under way at the provider: few of each address, few in all, each for some minutes.

Anyone may begin one, so whoever begins many must not end or hold up those of others.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.station.security import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_IN_S = 600.0
"""Seconds that a person has for the log-in at the provider."""
MOST_BEGUN, MOST_OF_ONE = 1000, 20
"""Log-ins that may be under way at a time: in all, and of one address. One more ends an older one."""
AT_A_TIME, AT_A_TIME_OF_ONE = 4, 2
"""Questions to the provider that may be open at a time: one that hangs keeps no others waiting."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A log-in that is under way: what its answer must fit, and who began it."""

    nonce: str
    verifier: str
    redirect: str
    address: str
    until: float
    """On the monotonic clock, in s."""


class LogIns:
    """What is kept from the beginning of a log-in to its end, by its secret state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[str, Begun] = {}  # the oldest first
        self._asking: Counter[str] = Counter()

    def add(self, state: str, *, nonce: str, verifier: str, redirect: str, address: str) -> None:
        """Keep a log-in. When there is no room, the oldest one goes of the address that has the most."""
        now, of = time.monotonic(), network_of(address)
        made = Begun(nonce=nonce, verifier=verifier, redirect=redirect, address=of, until=now + LOG_IN_S)
        with self._lock:
            self._begun = {each: begun for each, begun in self._begun.items() if begun.until > now}
            counts = Counter(begun.address for begun in self._begun.values())
            if counts[of] >= MOST_OF_ONE:
                self._end_oldest(of)
            elif counts.total() >= MOST_BEGUN:
                self._end_oldest(counts.most_common(1)[0][0])
            self._begun[state] = made

    def _end_oldest(self, address: str) -> None:
        del self._begun[next(state for state, begun in self._begun.items() if begun.address == address)]

    def take(self, state: str) -> Begun:
        """Return a log-in, which ends here. Raises Unauthorized for one that is not under way."""
        with self._lock:
            begun = self._begun.pop(state, None)
        if begun is None or begun.until < time.monotonic():
            raise Unauthorized("this log-in was not begun here, or took too long; log in again")
        return begun

    @contextmanager
    def turn(self, address: str) -> Iterator[None]:
        """Let a question to the provider pass. Raises Unauthorized, at once, when too many are open."""
        of = network_of(address)
        with self._lock:
            if self._asking.total() >= AT_A_TIME or self._asking[of] >= AT_A_TIME_OF_ONE:
                raise Unauthorized("many log in at once; try again in some seconds")
            self._asking[of] += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking[of] -= 1
                self._asking += Counter()  # which forgets those at 0


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the network of 64 bits of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a socket of the machine's own has no address
        return address
    return str(found) if found.version == 4 else str(ipaddress.ip_network(f"{found}/64", strict=False))
