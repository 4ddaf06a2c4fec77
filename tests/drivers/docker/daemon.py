"""The daemon as the docker tests play it: declares placements, plans against what it sees, sends actions."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread

from desired_state.health import CommandCheck, Health, HttpCheck, TcpCheck
from desired_state.model import Configuration, Placement, Target
from drivers.contract import (
    Action,
    Change,
    Deploy,
    Footing,
    Look,
    Outcome,
    Progress,
    Remove,
    Restart,
    Stamp,
    claim_of,
)
from drivers.docker.connection import Connection
from drivers.docker.driver import DockerDriver
from drivers.docker.engine import Engine
from drivers.feed import Closeable, Hold
from stickers import names
from stickers.names import ActionKey, ComponentName, EnvironmentId, JobId, PlacementId, ReleaseName, TargetId
from stickers.observation import Observation, Standing, Workload
from stickers.signature import Envelope
from stickers.sticker import Sticker
from tests.drivers.docker.yard import Yard
from tests.harness.images import App

ENVIRONMENT = EnvironmentId("default/kit")


def health(check: HttpCheck | TcpCheck | CommandCheck | None = None, *, seconds: float = 30) -> Health:
    return Health(
        check=check or HttpCheck(port=8080, path="/cgi-bin/health"),
        interval=timedelta(milliseconds=50),
        timeout=timedelta(seconds=2),
        successes=2,
        deadline=timedelta(seconds=seconds),
    )


class Daemon:
    """One driver and what it needs. `target` is the yard's own, unless another is given."""

    def __init__(
        self, yard: Yard, *, target: Target | None = None, engines: Callable[[Connection], Engine] = Engine
    ) -> None:
        self.yard, self.target = yard, target or yard.target
        self.driver = DockerDriver(yard.tools, engines)
        self.said: list[Progress] = []
        self._keys = 0

    async def aclose(self) -> None:
        await self.driver.aclose()

    async def __aenter__(self) -> Daemon:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- what is declared -------------------------------------------------------------------------------------------

    def id(self, component: str = "api") -> PlacementId:
        return PlacementId(self.target.id, ComponentName(component))

    def placement(self, app: App, component: str = "api", **configuration: Any) -> Placement:
        """On the yard's network unless ports or networks are declared."""
        if not {"networks", "ports"} & configuration.keys():
            configuration["networks"] = (self.yard.network,)
        return Placement(
            id=self.id(component),
            environment=ENVIRONMENT,
            release=ReleaseName(f"kit@{app.version}"),
            artifact=self.yard.artifact(app),
            configuration=Configuration(**({"stop_grace": timedelta(seconds=2)} | configuration)),
            health=health(),
        )

    # -- actions ----------------------------------------------------------------------------------------------------

    def key(self) -> ActionKey:
        self._keys += 1
        return ActionKey(hashlib.sha256(f"{self.yard.mark} {id(self)} {self._keys}".encode()).hexdigest())

    def action(self, *changes: Change, key: ActionKey | None = None, fence: int = 1) -> Action:
        return Action(
            key=key or self.key(),
            fence=fence,
            environment=ENVIRONMENT,
            job=JobId(f"{ENVIRONMENT}:1"),
            revision="test",
            target=self.target,
            changes=changes,
            deadline=timedelta(seconds=60),
        )

    async def change(self, placement: Placement, before: Placement | None = None, **more: Any) -> Deploy:
        standing = await self.standing(placement.id)
        return Deploy(
            placement=placement,
            replaces=_footing(standing),
            stamp=self._stamp(standing),
            **({"predecessor": before} | more),
        )

    async def deploy(self, placement: Placement, before: Placement | None = None, **more: Any) -> Outcome:
        return await self.apply(self.action(await self.change(placement, before, **more)))

    async def deployed(self, placement: Placement, before: Placement | None = None, **more: Any) -> Placement:
        outcome = await self.deploy(placement, before, **more)
        assert outcome.as_wanted, outcome
        return placement

    async def restart(self, placement: Placement) -> Outcome:
        standing = await self.standing(placement.id)
        footing = _footing(standing)
        assert footing is not None
        return await self.apply(
            self.action(Restart(placement=placement, replaces=footing, stamp=self._stamp(standing)))
        )

    async def remove(self, placement: Placement) -> Outcome:
        standing = await self.standing(placement.id)
        claim = claim_of(placement, self.yard.tools.installation)
        change = Remove(id=placement.id, claim=claim, replaces=_footing(standing), stamp=self._stamp(standing))
        return await self.apply(self.action(change))

    async def apply(self, action: Action) -> Outcome:
        self.said = []
        return (await self.driver.apply(action, report=self.said.append)).outcomes[0]

    # -- events -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Callable[[float], Awaitable[TargetId | None]]]:
        """The watcher at work, once its engine is listened to. Asked, it answers the first target that was told of, in
        so many seconds."""
        heard, told, first = self._heard(), [], anyio.Event()

        async def watch() -> None:
            async for id in self.driver.watch([self.target]):
                told.append(id)
                first.set()

        async def answer(within: float) -> TargetId | None:
            with anyio.move_on_after(within):
                await first.wait()
            return told[0] if told else None

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            assert await anyio.to_thread.run_sync(heard.wait, 20)
            yield answer
            tasks.cancel_scope.cancel()

    def _heard(self) -> threading.Event:
        """Set when the engine has begun to tell its events; it tells of what happened since it was asked."""
        (host,) = self.driver._hosts._hosts.values()
        heard, events = threading.Event(), host.engine.events

        def listening(filters: Any, hold: Hold) -> Any:
            def held(stream: Closeable) -> None:
                hold(stream)
                heard.set()

            return events(filters, held)

        host.engine.events = listening  # type: ignore[method-assign]
        return heard

    def _stamp(self, standing: Standing | None) -> Stamp:
        worn = self.read(standing)
        return Stamp(sequence=worn.sequence + 1 if worn else 1, previous=worn.digest if worn else None)

    # -- looks ------------------------------------------------------------------------------------------------------

    async def observe(self, *placements: Placement) -> Observation:
        look = Look(target=self.target, placements=placements)
        return (await self.driver.observe([look]))[self.target.id]

    async def standing(self, id: PlacementId | None = None, *asked: Placement) -> Standing | None:
        id = id or self.id()
        seen = await self.observe(*asked)
        assert seen.unseen is None, seen.unseen
        return seen.standing(id.component, id.slot)

    async def workload(self, placement: Placement) -> Workload:
        """What stands for the placement, its health asked as declared."""
        standing = await self.standing(placement.id, placement)
        assert standing is not None
        assert standing.workload is not None
        return standing.workload

    async def worn(self, id: PlacementId | None = None) -> Sticker | None:
        return self.read(await self.standing(id))

    def read(self, standing: Standing | None) -> Sticker | None:
        if standing is None or standing.worn is None or standing.worn.envelope is None:
            return None
        return self.yard.tools.read(Envelope(standing.worn.envelope))


def elsewhere(yard: Yard, name: str, **connection: Any) -> Target:
    """Another target on the same engine, reached in another way if that is said."""
    own = yard.target
    return replace(
        own, id=names.target_id("default", f"{name}-{yard.mark}"), connection={**own.connection, **connection}
    )


def _footing(standing: Standing | None) -> Footing | None:
    if standing is None or standing.workload is None:
        return None
    seen = standing.workload
    return Footing(instance=seen.instance, artifact=seen.artifact, configuration=seen.configuration)
