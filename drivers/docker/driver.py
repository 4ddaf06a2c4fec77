"""The docker driver: looks at engines, acts on them, listens to their events and shows logs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import anyio

from desired_state.model import Placement, Target
from drivers import diagnosis, sequence
from drivers.active import Active
from drivers.contract import (
    Action,
    Against,
    Capabilities,
    Diagnosis,
    Look,
    Receipt,
    Rendered,
    RenderedKind,
    Report,
    Tools,
    Unit,
    Verified,
)
from drivers.docker import examine, look, render
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine
from drivers.docker.hands import DockerHands
from drivers.docker.hosts import Host, Hosts, watch
from drivers.errors import DriverError, Refused
from drivers.rendered import env_files
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

WITHIN: Final = 20.0  # seconds for one look at one engine


class DockerDriver:
    """One placement is one container; each has its sticker in the labels of a container that is never started."""

    kind: ClassVar[str] = "docker"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT, events=True, logs=True, adopts=True)
    verified: ClassVar[Verified] = Verified(against=Against.REAL, by="Docker engines, over sockets, TLS and OpenSSH")
    deploys: ClassVar[frozenset[RenderedKind]] = frozenset()  # the specification beside a container is what it was

    def __init__(self, tools: Tools, engines: Callable[[Connection], Engine] = Engine) -> None:
        self._tools, self._hosts = tools, Hosts(tools, engines)
        self._ways: dict[TargetId, tuple[Mapping[str, Any], Host]] = {}  # as each target's connection was last read
        self._active = Active()

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
        with self._active.at({change.id for change in action.changes}):
            try:
                await host.reached()
                hands = DockerHands(host.engine, action, self._tools)
                return await sequence.carry_out(action, hands, self._tools, report=report, marks_first=False)
            finally:
                host.eyes.forget_target(action.target.id)

    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        hosts = {self._host(target) for target in targets}
        told = watch(hosts, {target.id for target in targets}, self._tools.installation)
        async with contextlib.aclosing(told):
            async for target in told:
                yield target

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        await self._host(target).reached()
        instance = await self._instance(self._host(target).engine, id)
        async with contextlib.aclosing(self._host(target).logs(instance, tail=tail, follow=follow)) as lines:
            async for line in lines:
                yield line

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

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        return env_files(placements)

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        host = self._host(look.target)
        try:
            await host.reached()
        except DriverError as error:
            return (diagnosis.unknown("host", str(error)),)
        return await examine.examine(host.engine, look, self._tools, host.declared)

    async def aclose(self) -> None:
        await self._hosts.aclose()
        self._ways.clear()

    def _host(self, target: Target) -> Host:
        told, host = self._ways.get(target.id, (None, None))
        if host is None or told is not target.connection:
            connection = Connection.model_validate(dict(target.connection))
            host = self._hosts[connection]
            self._ways[target.id] = target.connection, host
        return host
