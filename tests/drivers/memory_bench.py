"""The bench of the memory driver: the conformance kit on a world in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import anyio

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Placement, Port, Target
from drivers.conformance import Bench, Power, Raw, Version, proper_tools
from drivers.contract import Driver, Tools
from drivers.memory import Fault, MemoryDriver, Trouble, When, World, scripts
from stickers import digest, names
from stickers.names import Artifact, EnvironmentId, PlacementId
from stickers.observation import Worn
from stickers.signature import Envelope
from tests.harness import virtual_time

MakeDriver = Callable[[Tools, World], Driver]


class MemoryBench(Bench):
    """`make` makes the driver: another one where a broken driver is to be found out."""

    patience = timedelta(hours=1)

    def __init__(self, make: MakeDriver = MemoryDriver) -> None:
        super().__init__(replace(proper_tools(), now=virtual_time.now))
        self.world, self._make = World(now=virtual_time.now), make
        self.host = self.world.host(self.target.id)
        self.world.scripts[self.artifact(Version.BAD).digest] = scripts.NEVER
        slow = Fault(trouble=Trouble.SLOW, step="start", when=When.BETWEEN, times=None, seconds=0.1)
        self.host.faults.append(slow)  # a gap between stop and start takes time, or nobody could see it

    @property
    def powers(self) -> frozenset[Power]:
        return frozenset(Power)

    @property
    def target(self) -> Target:
        return Target(id=names.target_id("default", "m1"), environment=EnvironmentId("default/kit"), driver="memory")

    def driver(self) -> Driver:
        return self._make(self.tools, self.world)

    def artifact(self, version: Version) -> Artifact:
        return Artifact("registry.example.com/kit", digest.of_bytes(version.encode()))

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        port = Port(container=8080, host=9000 + len(component) if fixed else None)
        return Configuration(ports=(port,))

    def health(self, component: str, *, fixed: bool) -> Health:
        return Health(
            check=HttpCheck(port=8080),
            interval=timedelta(milliseconds=200),
            timeout=timedelta(seconds=1),
            successes=2,
            deadline=timedelta(seconds=3),
        )

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        now = anyio.current_time()
        return tuple(
            Raw(instance=one.instance, artifact=one.artifact.digest, running=one.up(now), key=one.key)
            for one in self.host.place(id).things.values()
        )

    async def answering(self, id: PlacementId) -> Version | None:
        found = self.world.answering(id)
        return next((version for version in Version if self.artifact(version).digest == found), None)

    async def stop(self, id: PlacementId) -> None:
        self.host.kill(id)

    async def remove(self, id: PlacementId) -> None:
        self.host.remove(id)

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        self.host.put_sticker(id, None if envelope is None else Worn(envelope=envelope))

    async def garble(self, id: PlacementId) -> None:
        self.host.garble(id)

    async def swap(self, id: PlacementId, version: Version) -> None:
        self.host.swap(id, self.artifact(version))

    async def intrude(self, name: str) -> None:
        self.host.intrude(name, self.artifact(Version.ONE))

    async def intruders(self) -> frozenset[str]:
        return frozenset(
            f"{one.instance} since {one.since}" for one in self.host.foreign.values() if one.up(anyio.current_time())
        )

    async def adoptable(self, placement: Placement) -> str:
        return self.host.intrude("by-hand", placement.artifact, configuration=placement.configuration_digest).name

    async def lose_source(self) -> None:
        self.world.source_down = True

    def unreachable(self) -> Target:
        far = replace(self.target, id=names.target_id("default", "far"))
        self.world.host(far.id).cut()
        return far
