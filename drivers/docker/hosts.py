"""Docker engines as drivers share them: each reached once, over its socket, TLS or a tunnel through SSH, with what is
remembered of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from drivers import feed
from drivers.contract import Tools
from drivers.docker import events
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine
from drivers.docker.eyes import Eyes
from drivers.feed import Feed, Hold
from stickers.names import InstallationId, TargetId

if TYPE_CHECKING:
    from drivers.docker.tunnel import Tunnel
    from drivers.ssh.pool import Pool


class Host:
    """One engine, and what is remembered of it."""

    def __init__(self, declared: Connection, engine: Engine, tools: Tools, tunnel: Tunnel | None = None) -> None:
        self.declared, self.engine, self._tunnel = declared, engine, tunnel
        self.eyes = Eyes(engine, tools.installation, tools.now)

    async def reached(self) -> None:
        """The way there stands, or a `DriverError` says why not."""
        if self._tunnel is not None:
            await self._tunnel.stand()

    def logs(self, instance: str, *, tail: int, follow: bool) -> AsyncGenerator[str, None]:
        return feed.lines(lambda hold: self.engine.logs(instance, tail=tail, follow=follow, hold=hold))

    async def aclose(self) -> None:
        await self.engine.aclose()
        if self._tunnel is not None:
            await self._tunnel.aclose()


class Hosts:
    """One host for each connection; those behind SSH share one pool of kept connections with whoever uses it."""

    def __init__(self, tools: Tools, engines: Callable[[Connection], Engine] = Engine) -> None:
        self._tools, self._engines = tools, engines
        self._hosts: dict[Connection, Host] = {}
        self._pool: Pool | None = None

    def __getitem__(self, connection: Connection) -> Host:
        if connection not in self._hosts:
            self._hosts[connection] = self._made(connection)
        return self._hosts[connection]

    @property
    def pool(self) -> Pool:
        """Of SSH connections."""
        if self._pool is None:
            from drivers.ssh.pool import shared  # asyncssh, only where a host is reached over it

            self._pool = shared(self._tools)
        return self._pool

    def _made(self, connection: Connection) -> Host:
        if connection.ssh is None:
            return Host(connection, self._engines(connection), self._tools)
        from drivers.docker.tunnel import Tunnel

        tunnel = Tunnel(self.pool[connection.ssh], connection.engine.removeprefix("unix://"))
        here = Connection(
            engine=f"unix://{tunnel.path}",
            address=connection.address,
            secrets_directory=connection.secrets_directory,
        )
        engine = self._engines(here)
        engine.connected = tunnel.host.connected
        return Host(connection, engine, self._tools, tunnel)

    async def aclose(self) -> None:
        hosts, self._hosts = list(self._hosts.values()), {}
        for host in hosts:
            await host.aclose()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.leave()


async def watch(
    hosts: Iterable[Host], targets: set[TargetId], installation: InstallationId
) -> AsyncGenerator[TargetId, None]:
    """Those of the targets of whose containers the engines tell something; `Unreachable` when events are lost."""
    together = list(hosts)
    for host in together:
        await host.reached()
    async with Feed(*(partial(_events_of, host) for host in together)) as told:
        async for host, event in told:
            id = events.container_of(event)
            target = events.target_of(event, installation) or host.eyes.target_of(id)
            host.eyes.forget(id)
            if target in targets:
                yield target


def _events_of(host: Host, hold: Hold) -> Iterator[tuple[Host, dict[str, Any]]]:
    return ((host, event) for event in host.engine.events(events.FILTERS, hold))
