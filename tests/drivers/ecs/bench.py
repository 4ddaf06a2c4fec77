"""The bench of the ECS driver: one service in a fake ECS of our own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from desired_state.health import Health
from desired_state.model import Configuration, Target
from drivers.conformance import Bench, Power, Raw, Version
from drivers.contract import Driver
from drivers.ecs import look, tags
from drivers.ecs.driver import EcsDriver
from stickers.names import Artifact, Digest, PlacementId
from stickers.signature import Envelope
from tests.drivers.ecs import yard as yards
from tests.drivers.ecs.yard import Yard


class EcsBench(Bench):
    """`connection`: what the target says otherwise. `made`: the driver, or a broken one that is to be found out."""

    def __init__(self, yard: Yard, connection: dict[str, Any] | None = None, made: type[EcsDriver] = EcsDriver) -> None:
        super().__init__(yard.tools)
        self.yard, self.connection, self._made = yard, connection or {}, made

    @property
    def powers(self) -> frozenset[Power]:
        return frozenset((Power.SWAPS, Power.UNREACHABLE, Power.INTRUDES))

    @property
    def target(self) -> Target:
        return self.yard.target(**self.connection)

    def driver(self) -> Driver:
        return self._made(self.tools)

    def artifact(self, version: Version) -> Artifact:
        return yards.artifact(version)

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        return self.yard.configuration(component)

    def health(self, component: str, *, fixed: bool) -> Health:
        return yards.health(component, deadline=timedelta(seconds=2))

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        view = self.yard.view
        seen = look.workload(view, id.component, id.component)
        if seen is None:
            return ()
        image = self.yard.images[id.component]
        running = self.yard.running > 0
        return (Raw(instance=seen.instance, artifact=Digest(image.partition("@")[2]), running=running, key=seen.key),)

    async def stop(self, id: PlacementId) -> None:
        self.yard.stop()

    async def remove(self, id: PlacementId) -> None:
        self.yard.update(self.yard.bootstrap, desiredCount=0)

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        self.yard.wear(id.component, tags.sticker_tags(id.component, envelope) if envelope else None)

    async def garble(self, id: PlacementId) -> None:
        key = tags.chunk_keys(self.yard.service.tags, id.component)[0]
        self.yard.wear(id.component, {key: "nobody.knows/v9"})

    async def swap(self, id: PlacementId, version: Version) -> None:
        self.yard.swap(id.component, version)

    async def intrude(self, name: str) -> None:
        self.yard.stranger(name)

    async def intruders(self) -> frozenset[str]:
        others = [one for (_, name), one in self.yard.ecs.services.items() if name != "shop"]
        return frozenset(
            f"{one.name} {one.deployments[0].id} {one.desired} {sorted(one.tags)}"
            for one in others
            if one.cluster == self.yard.cluster
        )

    def unreachable(self) -> Target:
        return self.yard.target("far", endpoint="http://127.0.0.1:9")
