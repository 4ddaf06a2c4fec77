"""A line between a process and its database that a test can cut, make swallow everything, or rob of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

COMMIT = b"COMMIT\0"  # as it is sent by itself


class Link:
    """Listens on loopback, and hands on to a PostgreSQL on a Unix socket. It lives in a thread of its own."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._socket = Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432"
        self._database = parts.path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._swallows = False
        self._robs = 0
        self.robbed = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = self._here(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}{self._database}"

    # -- what the test does -----------------------------------------------------------------------------------------

    def swallow(self) -> None:
        """Nothing comes through any more, and nobody is told: connections stay open."""
        self._swallows = True

    def heal(self) -> None:
        """What connects from now on comes through; what was lost stays lost."""
        self.reset()
        self._swallows = False

    def reset(self) -> None:
        """Every connection ends."""
        self._here(self._reset())

    def rob(self, answers: int) -> None:
        """The answers to so many commits, each of them carried out, are lost together with their connection."""
        self._robs = answers

    def close(self) -> None:
        self._here(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _here(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # -- the line ---------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._socket))
            self._writers |= {writer, far_writer}
            stolen = asyncio.Event()
            there = asyncio.create_task(self._there(reader, far_writer, stolen))
            back = asyncio.create_task(self._back(far_reader, writer, stolen))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            for task in (there, back):
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            far_writer.close()
        writer.close()

    async def _there(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, stolen: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if COMMIT in data and self._robs > 0:
                self._robs -= 1
                self.robbed += 1
                stolen.set()
            if not self._swallows:
                far.write(data)
                await far.drain()

    async def _back(self, far: asyncio.StreamReader, writer: asyncio.StreamWriter, stolen: asyncio.Event) -> None:
        while data := await far.read(65536):
            if stolen.is_set():
                return  # it is committed, and who asked will not learn of it
            if not self._swallows:
                writer.write(data)
                await writer.drain()

    async def _reset(self) -> None:
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()

    async def _ended(self) -> None:
        self._server.close()
        await self._reset()
        await asyncio.sleep(0.05)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def link(address: str) -> Iterator[Link]:
    made = Link(address)
    try:
        yield made
    finally:
        made.close()
