"""The other side of a driver, as the kit plays it: declares placements, sends actions, looks, and crashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import anyio

from desired_state.health import Health
from desired_state.model import Placement, Target
from drivers.conformance.bench import Bench, Raw, Version
from drivers.contract import (
    Action,
    Change,
    Deploy,
    Driver,
    Footing,
    Look,
    Outcome,
    Progress,
    Receipt,
    Remove,
    Restart,
    Stamp,
    Step,
    claim_of,
)
from drivers.errors import Retryable
from stickers.names import ActionKey, ComponentName, EnvironmentId, JobId, PlacementId, ReleaseName
from stickers.observation import Observation, Standing
from stickers.signature import Envelope
from stickers.sticker import Phase, Sticker

ENVIRONMENT: Final = EnvironmentId("default/kit")
AMPLE: Final = timedelta(seconds=60)  # for one action
TRIES: Final = 100  # of an action that something retryable keeps from being done


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted, in the kit's few words. `colour` changes the configuration and nothing else."""

    version: Version = Version.ONE
    component: str = "api"
    fixed: bool = False
    running: bool = True
    colour: str = "grey"
    release: str | None = None


class Stage:
    """One bench in use. `driver` is the daemon's; `crash` drops it in the middle of an action and makes another."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.driver: Driver = bench.driver()
        self.said: list[Progress] = []
        self._keys = 0

    async def aclose(self) -> None:
        await self.driver.aclose()

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def placement(self, wish: Wish) -> Placement:
        configuration = self.bench.configuration(wish.component, fixed=wish.fixed)
        environment = tuple(sorted((*configuration.environment, ("KIT_COLOUR", wish.colour))))
        return Placement(
            id=self.id(wish.component),
            environment=ENVIRONMENT,
            release=ReleaseName(wish.release or f"kit@{wish.version}-{wish.colour}"),
            artifact=self.bench.artifact(wish.version),
            configuration=replace(configuration, environment=environment),
            health=self._health(wish),
            running=wish.running,
        )

    def _health(self, wish: Wish) -> Health:
        health = self.bench.health(wish.component, fixed=wish.fixed)
        doomed = self.bench.doomed if wish.version is Version.BAD else None
        return replace(health, deadline=doomed) if doomed else health

    def id(self, component: str = "api") -> PlacementId:
        return PlacementId(self.bench.target.id, ComponentName(component))

    def key(self) -> ActionKey:
        self._keys += 1
        return ActionKey(hashlib.sha256(f"key {self._keys}".encode()).hexdigest())

    # -- actions ----------------------------------------------------------------------------------------------------

    async def deploy(
        self,
        wish: Wish,
        *,
        before: Placement | None = None,
        keep: int = 2,
        replaces: Footing | None = None,
        adopts: str | None = None,
    ) -> Deploy:
        """The change that replaces what is seen now, unless it is said what it replaces."""
        placement = self.placement(wish)
        return Deploy(
            placement=placement,
            replaces=replaces or await self.footing(placement.id),
            stamp=await self.stamp(placement.id),
            predecessor=before,
            keep=keep,
            adopts=adopts,
        )

    async def restart(self, placement: Placement) -> Restart:
        footing = await self.footing(placement.id)
        if footing is None:
            raise AssertionError(f"nothing stands for {placement.id}, so nothing can be restarted")
        return Restart(placement=placement, replaces=footing, stamp=await self.stamp(placement.id))

    async def removal(self, placement: Placement) -> Remove:
        return Remove(
            id=placement.id,
            claim=claim_of(placement, self.bench.tools.installation),
            replaces=await self.footing(placement.id),
            stamp=await self.stamp(placement.id),
        )

    def action(
        self, *changes: Change, key: ActionKey | None = None, fence: int = 1, deadline: timedelta = AMPLE
    ) -> Action:
        return Action(
            key=key or self.key(),
            fence=fence,
            environment=ENVIRONMENT,
            job=JobId(f"{ENVIRONMENT}:1"),
            revision="kit",
            target=self.bench.target,
            changes=changes,
            deadline=deadline,
        )

    async def apply(self, action: Action) -> Receipt:
        self.said = []
        return await self.driver.apply(action, report=self.said.append)

    async def one(self, change: Change, *, fence: int = 1) -> Outcome:
        """The outcome of an action of one change."""
        return (await self.apply(self.action(change, fence=fence))).outcomes[0]

    async def deployed(self, wish: Wish, *, before: Placement | None = None, keep: int = 2) -> Placement:
        """The wish, fulfilled; what a clause begins with."""
        outcome = await self.one(await self.deploy(wish, before=before, keep=keep))
        if not outcome.as_wanted:
            raise AssertionError(f"a deploy of version {wish.version} ended {outcome.result}: {outcome.detail}")
        return self.placement(wish)

    async def persist(self, action: Action) -> Receipt:
        """The same action again and again, as a reconciler would, while what keeps it from being done is retryable."""
        for _ in range(TRIES):
            try:
                return await self.apply(action)
            except Retryable as error:
                last = error
                await anyio.sleep(0.1)
        raise AssertionError(f"still not done after {TRIES} tries: {last}")

    # -- crashes ----------------------------------------------------------------------------------------------------

    async def crash(self, action: Action, step: Step, *, visit: int = 1) -> bool:
        """Apply the action and be gone as soon as it says that it begins the step for the `visit`th time. False when it
        never came there: then it was carried out."""
        visits = 0

        def report(progress: Progress) -> None:
            nonlocal visits
            visits += progress.step is step
            if visits >= visit and progress.step is step:
                scope.cancel()

        with anyio.CancelScope() as scope:
            await self.driver.apply(action, report=report)
        await self.begin_again()
        return scope.cancelled_caught

    async def crash_after(self, action: Action, seconds: float) -> None:
        """Apply the action and be gone after so many seconds, wherever it is."""
        with anyio.move_on_after(seconds):
            await self.driver.apply(action, report=lambda progress: None)
        await self.begin_again()

    async def begin_again(self) -> None:
        await self.driver.aclose()
        self.driver = self.bench.driver()

    # -- looks ------------------------------------------------------------------------------------------------------

    async def observe(self, *placements: Placement, target: Target | None = None) -> Observation:
        target = target or self.bench.target
        return (await self.driver.observe([Look(target=target, placements=placements)]))[target.id]

    async def standing(self, id: PlacementId | None = None, *, asked: Placement | None = None) -> Standing | None:
        id = id or self.id()
        seen = await self.observe(*([asked] if asked else []))
        if seen.unseen is not None:
            raise AssertionError(f"{id.target} cannot be seen: {seen.unseen}")
        return seen.standing(id.component, id.slot)

    async def footing(self, id: PlacementId) -> Footing | None:
        standing = await self.standing(id)
        if standing is None or standing.workload is None:
            return None
        seen = standing.workload
        return Footing(instance=seen.instance, artifact=seen.artifact, configuration=seen.configuration)

    async def stamp(self, id: PlacementId) -> Stamp:
        worn = await self.sticker(id)
        return Stamp(sequence=worn.sequence + 1 if worn else 1, previous=worn.digest if worn else None)

    async def envelope(self, id: PlacementId | None = None) -> Envelope | None:
        standing = await self.standing(id)
        if standing is None or standing.worn is None or standing.worn.envelope is None:
            return None
        return Envelope(standing.worn.envelope)

    async def sticker(self, id: PlacementId | None = None) -> Sticker | None:
        """The sticker worn, where its signature is valid."""
        envelope = await self.envelope(id)
        return self.bench.tools.read(envelope) if envelope else None

    async def raw(self, id: PlacementId | None = None) -> tuple[Raw, ...]:
        return tuple(sorted(await self.bench.raw(id or self.id()), key=lambda one: one.instance))

    async def run(self, id: PlacementId | None = None) -> object:
        """What tells one run of what serves from another."""
        standing = await self.standing(id)
        workload = standing.workload if standing else None
        return (workload.instance, workload.started_at) if workload else None

    async def until(self, holds: Callable[[Standing | None], bool], what: str, *, asked: Placement) -> Standing | None:
        """Look until it holds: what is done by hand may take the runtime a moment."""
        seen: Standing | None = None
        for _ in range(TRIES):
            seen = await self.standing(asked=asked)
            if holds(seen):
                return seen
            await anyio.sleep(0.1)
        raise AssertionError(f"not seen: {what}; last seen: {seen}")

    # -- what must be so --------------------------------------------------------------------------------------------

    async def must_stand(self, placement: Placement) -> None:
        """The placement runs as one workload, proven and labelled, and nothing else of it runs."""
        running = [one for one in await self.raw(placement.id) if one.running]
        expected = 1 if placement.running else 0
        if len(running) != expected or any(one.artifact != placement.artifact.digest for one in running):
            raise AssertionError(f"expected {expected} of {placement.release} to run, the runtime says {running}")
        standing = await self.standing(placement.id, asked=placement)
        workload = standing.workload if standing else None
        if workload is None or (workload.artifact, workload.configuration) != placement.content:
            raise AssertionError(f"expected {placement.release} to stand, seen was {workload}")
        sticker = await self.sticker(placement.id)
        claim = claim_of(placement, self.bench.tools.installation)
        if sticker is None or sticker.phase is not Phase.PROVEN or sticker.claim != claim:
            raise AssertionError(f"expected a proven sticker of {placement.release}, worn is {sticker}")

    async def must_be_untouched(self, before: Scene, id: PlacementId | None = None) -> None:
        now = await self.scene(id)
        if now != before:
            raise AssertionError(f"something was touched: before {before}, after {now}")

    async def scene(self, id: PlacementId | None = None) -> Scene:
        return Scene(raw=await self.raw(id), envelope=await self.envelope(id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything of a placement that an action can touch."""

    raw: tuple[Raw, ...]
    envelope: Envelope | None
