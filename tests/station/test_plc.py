"""What a PLC reads, by clients of the same libraries; one server of each kind for the whole module."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cameras import wait_for
from processes import free_port

if find_spec("asyncua") is None:  # half a second to import, and each worker imports this file
    pytest.skip("blemish[plc] is not installed", allow_module_level=True)
pytest.importorskip("pymodbus", reason="blemish[plc] is not installed")

from pymodbus.client import ModbusTcpClient

from blemish.core.errors import UsageError
from blemish.record.identifiers import new_id
from blemish.record.labels import Labelling, Labels
from blemish.record.rows import Recorded
from blemish.station import plc as plc_module
from blemish.station.plc import LineState, Plc, registers

pytestmark = pytest.mark.heavy  # both servers take seconds to start


class FakeStation:
    """As much of a station as a PLC asks for."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.drifts = {"0" * 64: SimpleNamespace(alarm=False)}
        self.following = SimpleNamespace(listeners=[], drifts=self.drifts)
        self.labelling = Labelling(Labels(station="east"))
        self.engines = {"0" * 64: None}

    def problem(self) -> str | None:
        return self.trouble


def recorded(decision: Any, **given: Any) -> Recorded:
    now = datetime.now(UTC)
    names = {"number": 1, "id": new_id(now), "time": now, "model": "0" * 64, "seconds": 0.1, "sample": None}
    return Recorded(**names | {"decision": decision, "score": 0.25, "part": "P-1", "station": "east"} | given)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeStation, Plc, str, int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plc_module, "BEAT", 0.05)
        station, url, port = FakeStation(), f"opc.tcp://127.0.0.1:{free_port()}", free_port()
        plc = Plc(station, opcua=url, modbus=f"127.0.0.1:{port}")  # type: ignore[arg-type]
        yield station, plc, url, port
        plc.close()


@pytest.fixture
def modbus(served: tuple[FakeStation, Plc, str, int]) -> Iterator[ModbusTcpClient]:
    client = ModbusTcpClient("127.0.0.1", port=served[3], timeout=60)
    assert client.connect()
    yield client
    client.close()


def test_modbus_reads_decisions_counters_and_a_heartbeat_that_counts(served, modbus: ModbusTcpClient):
    station, plc, _, _ = served

    def read() -> list[int]:
        return modbus.read_input_registers(0, count=18).registers

    def counters(of: list[int]) -> np.ndarray:
        return np.array(struct.unpack(">5I", struct.pack(">10H", *of[6:16])))

    before = read()
    plc.count([recorded("accepted"), recorded("rejected", score=0.75), recorded("failed", station="west")])
    now = read()
    assert now[0] == 1
    assert now[3] == 2
    assert now[4] == before[4] + 2
    # the part of another station is not counted
    assert (counters(now) - counters(before)).tolist() == [2, 1, 1, 0, 0]
    assert struct.unpack(">f", struct.pack(">2H", *now[16:18])) == (0.75,)
    wait_for(lambda: read()[1] > now[1] and read()[2] == 1)
    station.trouble, station.drifts["0" * 64].alarm = "the disk is full", True
    wait_for(lambda: read()[2] == 0 and read()[5] == 1)
    station.trouble = None
    wait_for(lambda: read()[2] == 1)


def test_modbus_takes_no_writing(served, modbus: ModbusTcpClient):
    for answer in (modbus.write_register(2, 1), modbus.write_coil(0, True)):
        assert answer.isError()


def test_opc_ua_reads_the_same_and_takes_no_writing(served):
    from asyncua import Client, ua

    _, plc, url, _ = served
    plc.count([recorded("rejected", part="Teil-Ä", score=0.5)])

    async def look() -> None:
        async with Client(url, timeout=60) as client:
            space = await client.get_namespace_index(plc_module.NAMESPACE)
            node = {name: client.get_node(ua.NodeId(name, space)) for name in vars(LineState())}
            async with asyncio.timeout(60):
                while await node["sequence"].read_value() != plc.state.sequence:
                    await asyncio.sleep(0.01)
            assert await node["part"].read_value() == "Teil-Ä"
            assert await node["decision"].read_value() == 2
            assert await node["score"].read_value() == 0.5
            assert await node["inspected"].read_value() == plc.state.inspected
            first = await node["heartbeat"].read_value()
            async with asyncio.timeout(60):
                while await node["heartbeat"].read_value() == first:
                    await asyncio.sleep(0.01)
            with pytest.raises(ua.UaStatusCodeError):
                await node["ready"].write_value(True)

    asyncio.run(look())


def test_counters_wrap():
    state = replace(LineState(), heartbeat=2**16, sequence=2**16 + 3, inspected=2**32 + 5, ready=True)
    assert registers(state)[:8] == [1, 0, 1, 0, 3, 0, 0, 5]
    assert len(registers(state)) == 20
    assert registers(replace(state, review=2**16 + 7))[18:] == [1, 7]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"opcua": "http://127.0.0.1:4840"}, "--opcua http.*: must be opc.tcp://HOST:PORT"),
        ({"modbus": "5020"}, "--modbus 5020: must be HOST:PORT"),
    ],
)
def test_addresses_of_another_form_are_refused(given: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        Plc(FakeStation(), **given)  # type: ignore[arg-type]


def test_a_port_in_use_is_refused(served):
    with pytest.raises(UsageError, match=r"--modbus .*: cannot listen there"):
        Plc(FakeStation(), modbus=f"127.0.0.1:{served[3]}")  # type: ignore[arg-type]
