"""The socket that the station listens on."""

from __future__ import annotations

import asyncio
import socket

import pytest

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from blemish.cli.commands.serve import _listen
from blemish.core.errors import UsageError


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_small_answer_does_not_wait_for_the_next_one(host: str):
    options: list[int] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            accepted = transport.get_extra_info("socket")
            options.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def serve(listening: socket.socket) -> None:
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listening)
        async with server:
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            await reader.read()
            writer.close()

    try:
        listening = _listen(host, 0)
    except UsageError as error:
        pytest.skip(f"{host} cannot be listened on here: {error}")
    asyncio.run(serve(listening))
    assert options == [1]
