"""The docker driver: looks at engines, acts on them, listens to their events and shows logs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio

from desired_state.model import Target
from drivers import sequence
from drivers.contract import Action, Against, Capabilities, Diagnosis, Look, Receipt, Report, Tools, Unit, Verified
from drivers.docker import events, examine, look, render
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine
from drivers.docker.eyes import Eyes
from drivers.docker.feed import Feed, Hold
from drivers.docker.hands import DockerHands
from drivers.errors import Busy, DriverError, Refused
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

if TYPE_CHECKING:
    from drivers.docker.tunnel import Tunnel
    from drivers.ssh.pool import Pool

WITHIN: Final = 20.0  # seconds for one look at one engine


LINE: Final = 64 * 1024  # bytes; what is longer is shown in pieces


class Host:
    """One engine, and what is remembered of it."""

    def __init__(self, engine: Engine, tools: Tools, tunnel: Tunnel | None = None) -> None:
        self.engine, self._tunnel = engine, tunnel
        self.eyes = Eyes(engine, tools.installation, tools.now)

    async def reached(self) -> None:
        """The way there stands, or a `DriverError` says why not."""
        if self._tunnel is not None:
            await self._tunnel.stand()

    async def aclose(self) -> None:
        await self.engine.aclose()
        if self._tunnel is not None:
            await self._tunnel.aclose()


class DockerDriver:
    """One placement is one container; each has its sticker in the labels of a container that is never started."""

    kind: ClassVar[str] = "docker"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT, events=True, logs=True, adopts=True)
    verified: ClassVar[Verified] = Verified(against=Against.REAL, by="Docker engines, over sockets, TLS and OpenSSH")

    def __init__(self, tools: Tools, engines: Callable[[Connection], Engine] = Engine) -> None:
        self._tools, self._engines = tools, engines
        self._hosts: dict[Connection, Host] = {}
        self._ways: dict[TargetId, tuple[Mapping[str, Any], Host]] = {}  # as each target's connection was last read
        self._active: set[PlacementId] = set()
        self._pool: Pool | None = None  # of SSH connections

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        by_host: dict[Host, list[Look]] = {}
        for one in looks:
            by_host.setdefault(self._host(one.target), []).append(one)
        observations: dict[TargetId, Observation] = {}
        async with anyio.create_task_group() as tasks:
            for host, together in by_host.items():
                tasks.start_soon(self._observe, host, together, observations)
        return observations

    async def _observe(self, host: Host, looks: Sequence[Look], into: dict[TargetId, Observation]) -> None:
        reason = f"the engine did not answer within {WITHIN:g} s"
        with anyio.move_on_after(WITHIN):
            try:
                await host.reached()
                into.update(await host.eyes.look(looks))
                return
            except DriverError as error:
                reason = str(error)
        at = self._tools.now()
        into.update({one.target.id: Observation(target=one.target.id, at=at, unseen=reason) for one in looks})

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        host = self._host(action.target)
        with self._held({change.id for change in action.changes}):
            try:
                await host.reached()
                hands = DockerHands(host.engine, action, self._tools)
                return await sequence.carry_out(action, hands, self._tools, report=report, marks_first=False)
            finally:
                host.eyes.forget_target(action.target.id)

    @contextlib.contextmanager
    def _held(self, ids: set[PlacementId]) -> Iterator[None]:
        """`Busy` while another action of this process is at one of the placements."""
        if taken := ids & self._active:
            raise Busy(f"{min(taken)} is being acted upon")
        self._active |= ids
        try:
            yield
        finally:
            self._active -= ids

    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        watched = {target.id for target in targets}
        hosts = {self._host(target) for target in targets}
        for host in hosts:
            await host.reached()
        async with Feed(*(partial(_events_of, host) for host in hosts)) as feed:
            async for host, event in feed:
                id = events.container_of(event)
                target = events.target_of(event, self._tools.installation) or host.eyes.target_of(id)
                host.eyes.forget(id)
                if target in watched:
                    yield target

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        await self._host(target).reached()
        engine = self._host(target).engine
        instance = await self._instance(engine, id)
        rest = b""
        async with Feed(lambda hold: engine.logs(instance, tail=tail, follow=follow, hold=hold)) as feed:
            async for piece in feed:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

    async def _instance(self, engine: Engine, id: PlacementId) -> str:
        """The container that serves, or else the newest."""
        labels = [f"{name}={value}" for name, value in render.placement_labels(self._tools.installation, id).items()]
        found = look.group(id, [look.listed(entry) for entry in await engine.containers({"label": labels})])
        if found.holder is not None and found.holder.adopts:
            return found.holder.instance
        newest = next((one.id for one in (*look.candidates(found), *found.workloads)), None)
        if newest is None:
            raise Refused(f"no container stands for {id}")
        return newest

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        return await examine.examine(self._host(look.target).engine, look, self._tools)

    async def aclose(self) -> None:
        for host in self._hosts.values():
            await host.aclose()
        self._hosts.clear()
        self._ways.clear()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.leave()

    def _host(self, target: Target) -> Host:
        told, host = self._ways.get(target.id, (None, None))
        if host is None or told is not target.connection:
            connection = Connection.model_validate(dict(target.connection))
            if connection not in self._hosts:
                self._hosts[connection] = self._made(connection)
            host = self._hosts[connection]
            self._ways[target.id] = target.connection, host
        return host

    def _made(self, connection: Connection) -> Host:
        if connection.ssh is None:
            return Host(self._engines(connection), self._tools)
        from drivers.docker.tunnel import Tunnel  # asyncssh, only where a host is reached over it
        from drivers.ssh.pool import shared

        if self._pool is None:
            self._pool = shared(self._tools)
        tunnel = Tunnel(self._pool[connection.ssh], connection.engine.removeprefix("unix://"))
        engine = self._engines(Connection(engine=f"unix://{tunnel.path}", address=connection.address))
        engine.connected = tunnel.host.connected
        return Host(engine, self._tools, tunnel)


def _events_of(host: Host, hold: Hold) -> Iterator[tuple[Host, dict[str, Any]]]:
    return ((host, event) for event in host.engine.events(events.FILTERS, hold))
