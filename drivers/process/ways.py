"""The ways to hosts: this machine's own, and one to each that is reached over SSH. Whoever acts has a line for that
alone, and goes on when the connection is lost in the middle of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from drivers import probes
from drivers.contract import Action, Receipt, Report, Tools
from drivers.errors import Retryable
from drivers.process import host, journey
from drivers.process.line import Asks, Doors, Line
from drivers.ssh.connection import Ssh
from drivers.ssh.errors import Cut

if TYPE_CHECKING:
    from drivers.process.wired import Station
    from drivers.ssh.pool import Pool

Once = Callable[[Action, Asks], Awaitable[Receipt]]


class Way:
    """To one host: a line for all who look, and a new one for each who acts."""

    def __init__(
        self, line: Callable[[], Asks], station: Station | None = None, connected: probes.Connected | None = None
    ) -> None:
        self._line, self.station, self.connected = line, station, connected
        self.looking = line()

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[Asks]:
        line = self._line()
        try:
            yield line
        finally:
            with anyio.CancelScope(shield=True):
                await line.aclose()

    async def carry(
        self, action: Action, once: Once, report: Report, *, returns_within: float | None = None
    ) -> Receipt:
        """Carry the action out over a line of its own, and over another one after each cut."""

        async def again(action: Action) -> Receipt:
            async with self.acting() as line:
                try:
                    return await once(action, line)
                except Retryable as error:
                    if line.lost and not isinstance(error, Cut):  # what went beside it over the same connection
                        raise Cut(str(error)) from error
                    raise

        if self.station is None:
            return await again(action)
        return await journey.persist(action, again, report, returns_within=returns_within)


class Ways:
    """All that one driver has. `session` is this machine's side, `program` the same as one file for others."""

    def __init__(
        self, kind: str, tools: Tools, session: Callable[[], host.Session], program: Callable[[], bytes]
    ) -> None:
        self._tools, self._program = tools, program
        doors = Doors(kind)
        self.here = Way(lambda: Line(session(), doors))
        self._far: dict[tuple[Ssh, str], Way] = {}
        self._pool: Pool | None = None

    def to(self, ssh: Ssh | None, python: str, root: str) -> Way:
        """The way to a host; `root` is where it may have kept the program."""
        if ssh is None:
            return self.here
        if (ssh, python) not in self._far:
            self._far[ssh, python] = self._reached(ssh, python)
        way = self._far[ssh, python]
        assert way.station is not None
        way.station.knows(root)
        return way

    def _reached(self, ssh: Ssh, python: str) -> Way:
        from drivers.process.wired import FarLine, Station  # asyncssh, only where a host is reached over it
        from drivers.ssh.pool import shared
        from drivers.ssh.transport import Host

        if self._pool is None:
            self._pool = shared(self._tools)
        station = Station(self._pool[ssh], python, self._program())
        return Way(lambda: FarLine(station), station, Host(self._pool[ssh]).connected)

    async def aclose(self) -> None:
        await self.here.looking.aclose()
        far, self._far = list(self._far.values()), {}
        for way in far:
            assert way.station is not None
            await way.station.aclose()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.leave()
