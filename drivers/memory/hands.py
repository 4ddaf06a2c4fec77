"""The steps of one action on a target in memory, each crossed by whatever goes wrong before and after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from desired_state.health import Health
from desired_state.model import Placement
from drivers.contract import Action, Deploy
from drivers.errors import Conflict
from drivers.memory.faults import Crossing, When
from drivers.memory.scripts import Script
from drivers.memory.world import PAST, Actor, Deed, Place, Thing, World, fixed_ports
from drivers.sequence import Started
from stickers.names import Digest, PlacementId
from stickers.observation import Standing, Workload, WorkloadState, Worn
from stickers.signature import Envelope
from stickers.sticker import Phase, Sticker


class MemoryHands:
    """The hands of one driver on one target for one action. `scripts`: how artifacts behave, by the target's own
    connection."""

    def __init__(self, world: World, action: Action, who: str, scripts: dict[Digest, Script]) -> None:
        self.world, self.action, self.who, self.scripts = world, action, who, scripts
        self.host = world.host(action.target.id)
        self.actor = Actor(who=who, key=action.key, fence=action.fence)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        async with self._step("look", id):
            standing = self.host.place(id).standing(self.world.clock(), asked=False)
            if standing.workload is None and adopts is not None:
                return self._as_ours(standing, adopts)
            return standing

    def _as_ours(self, standing: Standing, adopts: str) -> Standing:
        thing = self._foreign(adopts)
        workload = thing.workload(self.world.clock(), asked=False) if thing else None
        return Standing(component=standing.component, slot=standing.slot, worn=standing.worn, workload=workload)

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        async with self._step("workload", id):
            thing = self.host.place(id).things.get(instance) or self._foreign(instance)
            if thing is None:
                return None
            return thing.workload(self.world.clock(), asked=health is not None, at=self.world.now())

    # -- deploying --------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        async with self._step("prepare", deploy.id):
            artifact = deploy.placement.artifact.digest
            if artifact not in self.host.artifacts:
                self.world.bring(self.host, artifact)
                self.host.changed(Deed.BROUGHT, self.actor, step="prepare", id=deploy.id, artifact=artifact)

    async def start(self, deploy: Deploy) -> Started:
        async with self._step("start", deploy.id):
            placement, place = deploy.placement, self._guarded(deploy.id)
            new = self._begun(place, placement)
            if new is not None and new is place.served:
                self._run(new, placement)
                return Started(instance=new.instance, beside=False)
            others = [one for one in place.things.values() if one.on and one is not new]
            if self._fits_beside(place, placement, new):
                new = new or self._make(place, placement)
                self.host.start(new, self.actor, "start")
                return Started(instance=new.instance, beside=True)
            for one in others:
                self.host.stop(one, self.actor, "start")
            await self._cross("start", deploy.id, When.BETWEEN)
            place = self._guarded(deploy.id)
            new = new or self._make(place, placement)
            self._run(new, placement)
            self._serve(place, new, "start")
            return Started(instance=new.instance, beside=False)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        async with self._step("switch", deploy.id):
            place = self._guarded(deploy.id)
            self._serve(place, self._own(place, instance), "switch")

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        async with self._step("put_back", deploy.id):
            place = self._guarded(deploy.id)
            back = self._before(place, deploy, standing)
            for one in [one for one in place.things.values() if one is not back]:
                if one.key == self.action.key or not one.proven:
                    self._drop(place, one, "put_back")
            if back is None:
                for one in place.things.values():
                    self.host.stop(one, self.actor, "put_back")
                place.serving = None
                return None
            if _should_run(back, deploy, standing):
                self.host.start(back, self.actor, "put_back")
            self._serve(place, back, "put_back")
            return back.instance

    async def settle(self, deploy: Deploy, instance: str) -> None:
        async with self._step("settle", deploy.id):
            place = self._guarded(deploy.id)
            self._take_over(place, instance)
            own = self._own(place, instance)
            own.proven = True
            self._serve(place, own, "settle")
            for one in [one for one in place.things.values() if one is not own]:
                self.host.stop(one, self.actor, "settle")
            for one in [*place.debris, *_surplus(place, deploy)]:
                self._drop(place, one, "settle")
            self.host.collect()

    # -- restarting, removing, labelling ----------------------------------------------------------------------------

    async def restart(self, id: PlacementId, instance: str) -> str:
        async with self._step("restart", id):
            thing = self._own(self._guarded(id), instance)
            self.host.stop(thing, self.actor, "restart")
            await self._cross("restart", id, When.BETWEEN)
            self._guarded(id)
            self.host.start(thing, self.actor, "restart")
            return thing.instance

    async def remove(self, id: PlacementId) -> None:
        async with self._step("remove", id):
            place = self._guarded(id)
            for thing in list(place.things.values()):
                self._drop(place, thing, "remove")
            place.serving = None
            self.host.collect()

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        async with self._step("wear", id):
            place = self._guarded(id)
            place.worn = Worn(envelope=str(envelope))
            place.past = (*place.past[1 - PAST :], str(envelope))
            deed = Deed.LABELLED if sticker.phase is Phase.PROVEN else Deed.MARKED
            self.host.changed(deed, self.actor, step="wear", id=id, artifact=sticker.claim.artifact)

    async def bare(self, id: PlacementId) -> None:
        async with self._step("bare", id):
            place = self._guarded(id)
            if place.worn is not None:
                place.worn = None
                self.host.changed(Deed.BARED, self.actor, step="bare", id=id)

    # -- the parts of steps -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _step(self, step: str, id: PlacementId) -> AsyncIterator[None]:
        await self._cross(step, id, When.BEFORE)
        yield
        await self._cross(step, id, When.AFTER)

    async def _cross(self, step: str, id: PlacementId, when: When) -> None:
        crossing = Crossing(who=self.who, target=self.host.target, step=step, when=when, id=id, key=self.action.key)
        await self.world.cross(crossing)

    def _guarded(self, id: PlacementId) -> Place:
        return self.host.guard(id, self.action.fence)

    def _begun(self, place: Place, placement: Placement) -> Thing | None:
        """What an earlier try of this action made."""
        for thing in place.things.values():
            if thing.key == self.action.key and thing.content == placement.content:
                return thing
        return None

    def _fits_beside(self, place: Place, placement: Placement, new: Thing | None) -> bool:
        served = place.served
        if served is None or served is new or not served.up(self.world.clock()):
            return False
        return placement.running and not fixed_ports(placement)

    def _run(self, thing: Thing, placement: Placement) -> None:
        if placement.running:
            self.host.start(thing, self.actor, "start")

    def _make(self, place: Place, placement: Placement) -> Thing:
        thing = self.host.make(placement.artifact, placement.configuration_digest, place.id)
        thing.key, thing.ports = self.action.key, fixed_ports(placement)
        thing.script = self.scripts.get(placement.artifact.digest, thing.script)
        place.things[thing.instance] = thing
        self.host.changed(Deed.MADE, self.actor, step="start", thing=thing)
        return thing

    def _serve(self, place: Place, thing: Thing, step: str) -> None:
        if place.serving != thing.instance:
            place.serving = thing.instance
            self.host.changed(Deed.SWITCHED, self.actor, step=step, thing=thing)

    def _own(self, place: Place, instance: str) -> Thing:
        if instance not in place.things:
            raise Conflict(f"{place.id}: {instance} is gone")
        return place.things[instance]

    def _before(self, place: Place, deploy: Deploy, standing: Standing) -> Thing | None:
        """What is to serve again: last good where it is still here, else what stood, unless that is what failed."""
        stood = place.things.get(standing.workload.instance) if standing.workload else None
        before = [one for one in (stood, *place.kept) if one and one.key != self.action.key]
        good = deploy.predecessor.content if deploy.predecessor else None
        return next((one for one in before if one.content == good), stood if stood in before else None)

    def _foreign(self, name: str) -> Thing | None:
        return next((one for one in self.host.foreign.values() if name in (one.name, one.instance)), None)

    def _take_over(self, place: Place, instance: str) -> None:
        """What is adopted is ours from now on."""
        thing = self._foreign(instance)
        if thing is not None:
            del self.host.foreign[thing.name]
            thing.owner = place.id
            place.things[thing.instance] = thing

    def _drop(self, place: Place, thing: Thing, step: str) -> None:
        self.host.stop(thing, self.actor, step)
        del place.things[thing.instance]
        self.host.changed(Deed.COLLECTED, self.actor, step=step, thing=thing)


def _should_run(back: Thing, deploy: Deploy, standing: Standing) -> bool:
    """As it is declared; for what nobody ever proved, as it was found."""
    if deploy.predecessor is not None and back.content == deploy.predecessor.content:
        return deploy.predecessor.running
    return standing.workload is not None and standing.workload.state is not WorkloadState.STOPPED


def _surplus(place: Place, deploy: Deploy) -> list[Thing]:
    """Kept predecessors beyond `deploy.keep`, and those like what serves; last good stays in any case."""
    good = deploy.predecessor.content if deploy.predecessor else None
    kept = [one for one in place.kept if one.content != deploy.placement.content]
    spared = {one.instance for one in kept[: deploy.keep]}
    spared |= {one.instance for one in kept if one.content == good}
    return [one for one in place.kept if one.instance not in spared]
