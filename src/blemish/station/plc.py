"""The state of a station for a PLC: an OPC UA server and a Modbus TCP server that say the same.

Everything is read only, and means one thing (`docs/how-to/plc.md` is the contract): a PLC lets a part pass
only while the heartbeat counts, `ready` is 1, and a new decision says accepted.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from asyncua.server.server import Server

    from blemish.record.rows import Decision, Recorded
    from blemish.station.station import Station

CONTRACT = 1
"""The number of the meaning of what follows; another one means that a PLC's program must be looked at."""
CODES: dict[Decision, int] = {"accepted": 1, "rejected": 2, "unjudged": 3, "failed": 4, "review": 5}
"""0: no part yet."""
NAMESPACE = "urn:blemish:station"
_READ_REGISTERS = (3, 4)  # the functions of Modbus that read holding and input registers
BEAT = 1.0
"""Seconds between two beats."""
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class LineState:
    """What a PLC reads, in the order of the registers."""

    contract: int = CONTRACT
    heartbeat: int = 0
    """One more each second, while the station can inspect or can say that it cannot."""
    ready: bool = False
    """Whether a part could be inspected now."""
    decision: int = 0
    """The last one, as CODES."""
    sequence: int = 0
    """One more with each decision."""
    drift: bool = False
    """Whether a model in use has alarmed for drift."""
    inspected: int = 0
    accepted: int = 0
    rejected: int = 0
    unjudged: int = 0
    failed: int = 0
    score: float = 0.0
    review: int = 0
    part: str = ""
    id: str = ""


SHORT = ("contract", "heartbeat", "ready", "decision", "sequence", "drift")
"""One register each, modulo 65,536."""
COUNTERS = ("inspected", "accepted", "rejected", "unjudged", "failed")
"""Two registers each, modulo 2³², the high half first; `review` as well, after the score."""


def registers(state: LineState) -> list[int]:
    """Return the 20 input registers of a state; the score is a float32 in two."""
    short = [int(getattr(state, name)) % 2**16 for name in SHORT]
    long = struct.pack(">5I", *(getattr(state, name) % 2**32 for name in COUNTERS))
    return short + list(struct.unpack(">14H", long + struct.pack(">fI", state.score, state.review % 2**32)))


class Plc:
    """The servers, in a thread of their own; `close` ends them."""

    def __init__(self, station: Station, *, opcua: str | None = None, modbus: str | None = None) -> None:
        """Start the servers: `opcua` as opc.tcp://HOST:PORT, `modbus` as HOST:PORT; None: not this one.

        Raises UsageError for an address that cannot be had, and without the packages of `blemish[plc]`.
        """
        self.station, self.state = station, LineState()
        self._name = station.labelling.usual.station
        self._servers = [_opcua(opcua, self)] if opcua else []
        self._servers += [_modbus(modbus, self)] if modbus else []
        self._lock, self._started = threading.Lock(), Future[None]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed, self._ending = asyncio.Event(), asyncio.Event()
        self.write: list[Any] = []  # what takes a new state, of servers that are not asked for it
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="plc", daemon=True)
        self._thread.start()
        self._started.result(START_TIMEOUT_S)
        station.following.listeners.append(self.count)

    def count(self, rows: Sequence[Recorded]) -> None:
        """Take what this station has recorded."""
        mine = [row for row in rows if row.station == self._name]
        with self._lock:
            state = self.state
            for row in mine:
                counted = {name: getattr(state, name) + 1 for name in ("inspected", row.decision, "sequence")}
                state = replace(state, **counted)
            if mine:
                last = mine[-1]
                result = {"decision": CODES[last.decision], "score": last.score or 0.0, "id": last.id}
                self.state = replace(state, part=last.part or "", **result)
        if mine and self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    def close(self) -> None:
        """Stop the servers: a PLC sees that the heartbeat stands still, or no server."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with AsyncExitStack() as stack:
                for server in self._servers:
                    await stack.enter_async_context(server)
                beats = asyncio.create_task(self._beat())
                self._started.set_result(None)
                await self._write_changes()
                beats.cancel()
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _beat(self) -> None:
        while True:
            problem = await asyncio.to_thread(self.station.problem)  # a record that hangs stops the beat
            used = (self.station.following.drifts.get(digest) for digest in self.station.engines)
            drift = any(each.alarm for each in used if each is not None)
            with self._lock:
                heartbeat = self.state.heartbeat + 1
                self.state = replace(self.state, heartbeat=heartbeat, ready=problem is None, drift=drift)
            self._changed.set()
            await asyncio.sleep(BEAT)

    async def _write_changes(self) -> None:
        """Give each change to those who have to be told, until the end."""
        ending = asyncio.create_task(self._ending.wait())
        while not self._ending.is_set():
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([ending, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._changed.clear()
            for write in self.write:
                await write(self.state)


def _refuse(option: str, given: str, error: object) -> UsageError:
    return UsageError(f"{option} {given}: cannot listen there ({error}); choose another address")


@asynccontextmanager
async def _opcua(url: str, plc: Plc) -> AsyncIterator[None]:
    """Serve a state by OPC UA, one variable for each field."""
    parts = urlsplit(url)
    if parts.scheme != "opc.tcp" or not parts.hostname or not parts.port:
        raise UsageError(f"--opcua {url}: must be opc.tcp://HOST:PORT")
    try:
        from asyncua import ua
        from asyncua.server.server import Server
    except ImportError as error:
        raise UsageError("--opcua: asyncua is missing; pip install 'blemish[plc]'") from error
    server = Server()
    await server.init()
    server.set_endpoint(url)
    server.set_server_name("blemish station")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    write = await _add_variables(server, plc.state)
    try:
        await server.start()
    except OSError as error:
        raise _refuse("--opcua", url, error.strerror) from error
    plc.write.append(write)
    try:
        yield
    finally:
        await server.stop()


async def _add_variables(server: Server, state: LineState) -> Callable[[LineState], Awaitable[None]]:
    """Add a variable for each field of a state; returns what writes those that change."""
    from asyncua import ua

    kinds = {bool: ua.VariantType.Boolean, float: ua.VariantType.Double, str: ua.VariantType.String}
    space = await server.register_namespace(NAMESPACE)
    folder = await server.nodes.objects.add_object(f"ns={space};s=station", f"{space}:station")
    nodes, kind_of = {}, {}
    for each in fields(LineState):
        value = getattr(state, each.name)
        kind_of[each.name] = kinds.get(type(value), ua.VariantType.UInt32)
        node, shown = f"ns={space};s={each.name}", f"{space}:{each.name}"
        nodes[each.name] = await folder.add_variable(node, shown, value, kind_of[each.name])
    written = state

    async def write(state: LineState) -> None:
        nonlocal written
        before, written = written, state
        # the sequence last: who sees a new one sees what belongs to it
        for name in sorted(nodes, key=lambda name: name == "sequence"):
            value = getattr(state, name)
            if value != getattr(before, name):
                value = value % 2**32 if kind_of[name] == ua.VariantType.UInt32 else value
                await nodes[name].write_value(value, kind_of[name])

    return write


@asynccontextmanager
async def _modbus(address: str, plc: Plc) -> AsyncIterator[None]:
    """Serve a state by Modbus TCP, as the input registers from 0, which are read only."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"--modbus {address}: must be HOST:PORT, as 127.0.0.1:5020")
    try:
        from pymodbus.constants import ExcCodes
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice
    except ImportError as error:
        raise UsageError("--modbus: pymodbus is missing; pip install 'blemish[plc]'") from error

    async def read(
        code: int, start: int, place: int, count: int, current: list[int], values: Any
    ) -> ExcCodes | None:  # asked for each request: what is read is of one instant
        if code not in _READ_REGISTERS:
            return ExcCodes.ILLEGAL_FUNCTION
        now = registers(plc.state)
        current[: len(now)] = now
        return None

    data = SimData(0, values=registers(plc.state), datatype=DataType.REGISTERS, readonly=True)
    nothing = SimData(0, datatype=DataType.BITS, values=False)
    blocks = ([nothing], [nothing], [replace(data)], [data])
    server = ModbusTcpServer(SimDevice(0, simdata=blocks, action=read), address=(host.strip("[]"), int(port)))
    try:
        await server.serve_forever(background=True)
    except RuntimeError as error:
        raise _refuse("--modbus", address, "in use, or not this machine's") from error
    try:
        yield
    finally:
        await server.shutdown()
