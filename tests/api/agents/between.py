"""What stands between an agent and its server: an HTTP proxy, and a box in the wire that one can meddle with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Box:
    """Passes bytes on to where it was told. `frozen`, it takes them and passes nothing."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    frozen: bool = False
    came: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def proxy() -> AsyncIterator[Box]:
    """Understands CONNECT, and nothing else."""
    box = Box()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        box.asked.append(head.partition("\r\n")[0])
        host, _, port = head.split()[1].rpartition(":")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _joined(box, reader, writer, host, int(port))

    async with _serving(box, serve):
        yield box


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Box]:
    """A box in the wire to that port of this machine."""
    box = Box()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _joined(box, reader, writer, "127.0.0.1", port)

    async with _serving(box, serve):
        yield box


@asynccontextmanager
async def _serving(
    box: Box, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]
) -> AsyncIterator[None]:
    served: set[asyncio.Task[None]] = set()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        box.came += 1
        box._writers.append(writer)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            await serve(reader, writer)  # type: ignore[misc]
        writer.transport.abort()
        served.discard(task)

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
        for task in list(served):
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def _joined(box: Box, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    there, back = await asyncio.open_connection(host, port)
    box._writers.append(back)

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not box.frozen:
                sink.write(data)

    ways = [asyncio.ensure_future(pass_on(reader, back)), asyncio.ensure_future(pass_on(there, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        back.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
