"""A Unix socket here that leads to the engine's own on a host behind SSH: the Engine API over the one kept connection,
with nothing of Docker's, and no Python, needed there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from typing import Any, Final

import asyncssh

from drivers.errors import DriverError
from drivers.ssh.pool import Kept
from drivers.ssh.transport import Host

PIECE: Final = 1 << 16


class Tunnel:
    """Each connection to `path` is one to the engine. The socket stays while connections to the host come and go; only
    who we are ourselves may open it."""

    def __init__(self, kept: Kept, engine: str) -> None:
        self.host, self._kept, self._engine = Host(kept), kept, engine
        self._folder = tempfile.mkdtemp(prefix="holdfast-")
        self.path = os.path.join(self._folder, "engine.sock")
        self._listener: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._lines: set[asyncio.Task[None]] = set()
        self._proven = False  # the engine's socket was reached, and nothing has failed since

    async def stand(self) -> None:
        """Raises the `DriverError` that says why the engine cannot be reached."""
        async with self._opening:
            if self._listener is None:
                self._listener = await asyncio.start_unix_server(self._taken, self.path)
        if not (self._proven and self._kept.stands):
            _, line = await self._opened()
            line.close()

    async def _opened(self) -> tuple[Any, Any]:
        self._proven = False
        with self._kept.used():
            found = await self.host.unix(self._engine)
        self._proven = True
        return found

    async def aclose(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            with self._kept.used():
                there = await self._opened()
                await _joined((reader, writer), there)
        except (DriverError, OSError, asyncssh.Error):
            self._proven = False
        except asyncio.CancelledError:
            pass  # closed by us; asyncio would print that this task was
        finally:
            self._lines.discard(task)
            writer.transport.abort()


async def _joined(here: tuple[Any, Any], there: tuple[Any, Any]) -> None:
    """What comes in at one end goes out at the other, until either has ended: HTTP is not spoken half-closed."""
    pumps = [asyncio.create_task(_pump(here[0], there[1])), asyncio.create_task(_pump(there[0], here[1]))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        there[1].close()


async def _pump(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while piece := await source.read(PIECE):
            sink.write(piece)
            await sink.drain()
