"""The kit's stage, in the words that tests of the ECS driver use: versions instead of wishes, and a target that may be
said otherwise in the middle of a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from desired_state.model import Placement
from drivers.conformance.stage import Stage
from drivers.contract import Action, Deploy, Driver, Outcome, Receipt, Remove, Restart, Stamp, Step, claim_of
from drivers.ecs import tags
from stickers.names import ComponentName, PlacementId
from stickers.observation import Workload
from stickers.signature import Envelope
from stickers.sticker import Phase
from tests.drivers.ecs.bench import EcsBench
from tests.drivers.ecs.yard import Yard


class EcsStage:
    def __init__(self, yard: Yard, **connection: Any) -> None:
        self.yard, self._calls = yard, len(yard.ecs.calls)
        self._bench = EcsBench(yard, connection)
        self._stage = Stage(self._bench)

    async def __aenter__(self) -> EcsStage:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._stage.aclose()
        self.yard.close()

    @property
    def connection(self) -> dict[str, Any]:
        """What the target says otherwise."""
        return self._bench.connection

    @connection.setter
    def connection(self, said: dict[str, Any]) -> None:
        self._bench.connection = said

    @property
    def driver(self) -> Driver:
        return self._stage.driver

    @property
    def told(self) -> list[str]:
        """What the last action said about its progress."""
        return [progress.message for progress in self._stage.said]

    def calls(self, operation: str) -> list[dict[str, Any]]:
        """The calls of this stage."""
        return [said for name, said in self.yard.ecs.calls[self._calls :] if name == operation]

    # -- acting -------------------------------------------------------------------------------------------------------

    async def change(
        self, version: str, *, component: str = "api", before: Placement | None = None, **changed: Any
    ) -> Deploy:
        placement = self.yard.placement(version, component, **changed)
        return Deploy(
            placement=placement,
            replaces=await self._stage.footing(placement.id),
            stamp=await self._stage.stamp(placement.id),
            predecessor=before,
        )

    async def deploy(
        self, version: str, *, component: str = "api", before: Placement | None = None, **changed: Any
    ) -> Outcome:
        return await self._stage.one(await self.change(version, component=component, before=before, **changed))

    async def deployed(
        self, version: str, *, component: str = "api", before: Placement | None = None, **changed: Any
    ) -> Placement:
        change = await self.change(version, component=component, before=before, **changed)
        outcome = await self._stage.one(change)
        assert outcome.as_wanted, f"{outcome.result}: {outcome.detail}"
        return change.placement

    async def removal(self, placement: Placement) -> Remove:
        return await self._stage.removal(placement)

    async def restart(self, placement: Placement) -> Restart:
        return await self._stage.restart(placement)

    async def one(self, change: Deploy | Remove) -> Outcome:
        return await self._stage.one(change)

    def action(self, *changes: Deploy | Restart | Remove) -> Action:
        return self._stage.action(*changes)

    async def apply(self, action: Action) -> Receipt:
        return await self._stage.apply(action)

    async def crash(self, action: Action, step: Step, *, visit: int = 1) -> bool:
        return await self._stage.crash(action, step, visit=visit)

    async def begin_again(self) -> None:
        """As after a start of the daemon."""
        await self._stage.begin_again()

    # -- seeing -------------------------------------------------------------------------------------------------------

    async def stamp(self, component: str = "api") -> Stamp:
        return await self._stage.stamp(self._id(component))

    async def workload(self, component: str = "api", *, asked: Placement | None = None) -> Workload:
        standing = await self._stage.standing(self._id(component), asked=asked)
        assert standing is not None
        assert standing.workload is not None
        return standing.workload

    async def worn(self, component: str = "api") -> Envelope | None:
        return await self._stage.envelope(self._id(component))

    def phases(self, *components: str) -> list[str]:
        """Of the stickers worn, read around the driver."""
        found = []
        for component in components:
            worn = tags.worn(self.yard.service.tags, ComponentName(component))
            sticker = self.yard.tools.read(Envelope(worn.envelope)) if worn and worn.envelope else None
            found.append(str(sticker.phase) if sticker else "none")
        return found

    async def until(self, holds: Callable[[Workload], bool]) -> Workload:
        with anyio.fail_after(30):
            while True:
                seen = await self.workload()
                if holds(seen):
                    return seen
                await anyio.sleep(0.02)

    async def stands(self, placement: Placement) -> None:
        """It runs, proven and labelled."""
        seen = await self.workload(placement.id.component)
        assert ((seen.artifact, seen.configuration), seen.state) == (placement.content, "running")
        sticker = await self._stage.sticker(placement.id)
        assert sticker is not None
        assert (sticker.phase, sticker.claim) == (Phase.PROVEN, claim_of(placement, self.yard.tools.installation))

    def _id(self, component: str) -> PlacementId:
        return PlacementId(self.yard.target().id, ComponentName(component))
