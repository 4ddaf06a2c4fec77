"""An agent to be killed: frames as lines over a socket of this machine, the drivers for real.

python -m tests.drivers.agent.drive STATE SOCKET KIND INSTALLATION
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from drivers.agent import protocol
from drivers.agent.channels.channel import Lost
from drivers.agent.duty.agent import Agent, Parts
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.journal import Journal
from drivers.agent.duty.settings import Settings
from drivers.agent.protocol import FromAgent, FromServer, Welcome
from stickers.names import InstallationId
from tests.drivers.agent import striking
from tests.drivers.agent.scene import OWN


class LineChannel:
    server = "https://line"

    def __init__(self, stream: SocketStream) -> None:
        self._stream, self._lines = stream, BufferedByteReceiveStream(stream)

    async def send(self, frame: FromAgent, /) -> None:
        try:
            await self._stream.send(protocol.text(frame).encode() + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise Lost from None

    async def frames(self) -> AsyncIterator[FromServer]:
        while (frame := await self.next()) is not None:
            yield frame

    async def next(self) -> FromServer | None:
        try:
            return protocol.from_server((await self._lines.receive_until(b"\n", protocol.LARGEST_FRAME)).decode())
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            return None


async def main(*arguments: str) -> None:
    state, socket, kind, installation = arguments
    clock = Clock()
    journal = Journal(Path(state))
    parts = Parts(
        own=replace(OWN, installation=InstallationId(installation)),
        settings=Settings(kinds=[kind]),
        journal=journal,
        clock=clock,
        generation=lambda: 1,
        version="1",
    )
    agent = Agent(parts)
    async with anyio.create_task_group() as group:
        group.start_soon(agent.run)
        while True:
            async with await anyio.connect_unix(socket) as stream:
                channel = LineChannel(stream)
                await channel.send(agent.hello())
                welcome = await channel.next()
                if isinstance(welcome, Welcome):
                    await agent.met(channel, welcome)
            await anyio.sleep(0.05)


if __name__ == "__main__":
    striking.arm()
    anyio.run(main, *sys.argv[1:])
