"""The world of the memory driver: targets, what stands on them, and the record of every effect. It outlives drivers."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from heapq import heappop, heappush
from math import inf
from typing import Final, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from desired_state.model import Placement
from drivers.errors import Conflict, Refused, StaleFence, Unreachable
from drivers.memory.faults import Crossing, Fault, Nemesis, Trouble
from drivers.memory.scripts import HEALTHY, Behaviour, Script
from stickers.names import ActionKey, Artifact, Digest, PlacementId, TargetId
from stickers.observation import (
    Health,
    HealthState,
    Observation,
    Standing,
    Unmanaged,
    Workload,
    WorkloadState,
    Worn,
)

T = TypeVar("T")

LINES: Final = 1_000  # of each workload's log
PAST: Final = 16  # stickers of a placement that a hand may replay
EFFECTS: Final = 100_000
A_MOMENT: Final = 0.001  # seconds: sums of ages and times are not exact
HAND: Final = "hand"


class Deed(StrEnum):
    """What was done to a target."""

    BROUGHT = "brought"  # the bytes of an artifact
    MARKED = "marked"  # a sticker in transit
    MADE = "made"
    STARTED = "started"
    STOPPED = "stopped"
    SWITCHED = "switched"
    LABELLED = "labelled"  # a proven sticker
    BARED = "bared"
    COLLECTED = "collected"
    MEDDLED = "meddled"  # by hand, in any other way


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One change of one target, when it happened and by whom. `at` is in seconds of the event loop."""

    number: int
    at: float
    who: str
    deed: Deed
    target: TargetId
    id: PlacementId | None = None
    step: str = ""
    key: ActionKey | None = None
    fence: int = 0
    artifact: Digest | None = None
    instance: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who changes something: a driver on behalf of an action, or a hand."""

    who: str
    key: ActionKey | None = None
    fence: int = 0


BY_HAND: Final = Actor(who=HAND)


@dataclass(slots=True, kw_only=True, eq=False)
class Thing:
    """Something that runs on a target, or did. `owner` None: not ours. `proven`: it came to the end of a deploy."""

    instance: str
    name: str
    artifact: Artifact
    configuration: Digest | None
    script: Script
    owner: PlacementId | None = None
    key: ActionKey | None = None
    ports: tuple[tuple[str, int], ...] = ()
    proven: bool = False
    on: bool = False
    since: float = 0.0
    started_at: datetime | None = None
    lines: tuple[str, ...] = ()

    @property
    def content(self) -> tuple[Digest, Digest | None]:
        return self.artifact.digest, self.configuration

    def behaviour(self, now: float) -> Behaviour:
        if not self.on:
            return _OFF
        return self.script.at(now - self.since)

    def up(self, now: float) -> bool:
        return self.on and self.behaviour(now).state is not WorkloadState.STOPPED

    def workload(self, now: float, *, asked: bool, at: datetime | None = None) -> Workload:
        """As the runtime tells it; `asked`: a health check is declared and was asked."""
        seen = self.behaviour(now)
        health = Health(state=HealthState.UNCHECKED)
        if asked:
            state = seen.health if seen.state is WorkloadState.RUNNING else HealthState.UNKNOWN
            health = Health(state=state, detail=seen.detail, checked_at=at)
        return Workload(
            instance=self.instance,
            artifact=self.artifact.digest,
            configuration=self.configuration,
            state=seen.state,
            health=health,
            key=self.key,
            started_at=self.started_at,
            restarts=seen.restarts,
            exit_code=seen.exit_code,
            differences=() if self.configuration else ("its configuration is not recorded",),
        )


_OFF: Final = Behaviour(state=WorkloadState.STOPPED, health=HealthState.UNKNOWN)


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """One placement on one target: what stands for it, which of it gets the traffic, and the sticker it wears."""

    id: PlacementId
    things: dict[str, Thing] = field(default_factory=dict)  # by instance, oldest first
    serving: str | None = None
    worn: Worn | None = None
    past: tuple[str, ...] = ()  # the stickers properly worn here, the last one last
    fence: int = 0  # outlives everything else of the placement

    @property
    def served(self) -> Thing | None:
        return self.things.get(self.serving) if self.serving is not None else None

    @property
    def kept(self) -> list[Thing]:
        """Proven predecessors, newest first."""
        return [one for one in reversed(self.things.values()) if one.proven and one.instance != self.serving]

    @property
    def debris(self) -> list[Thing]:
        return [one for one in self.things.values() if not one.proven and one.instance != self.serving]

    @property
    def empty(self) -> bool:
        return not self.things and self.worn is None

    def standing(self, now: float, *, asked: bool) -> Standing:
        served = self.served
        return Standing(
            component=self.id.component,
            slot=self.id.slot,
            worn=self.worn,
            workload=served.workload(now, asked=asked) if served else None,
            kept=tuple((one.artifact.digest, one.configuration) for one in self.kept if one.configuration),
            debris=tuple(one.name for one in self.debris),
            fence=self.fence,
        )


class Host:
    """One target. Its methods named for hands change it as people do, behind Holdfast's back."""

    def __init__(self, world: World, target: TargetId) -> None:
        self.world, self.target = world, target
        self.places: dict[PlacementId, Place] = {}
        self.foreign: dict[str, Thing] = {}
        self.artifacts: set[Digest] = set()
        self.faults: list[Fault] = []
        self._asks: frozenset[PlacementId] = frozenset()
        self._asked_for: tuple[Placement, ...] | None = None
        self._seen: tuple[tuple[Standing, ...], tuple[Unmanaged, ...]] | None = None
        self._until = 0.0

    # -- looking ----------------------------------------------------------------------------------------------------

    def observation(self, placements: tuple[Placement, ...], now: float, at: datetime) -> Observation:
        """What is seen at this time. Nothing is built anew but the time as long as nothing has changed."""
        if placements is not self._asked_for:
            self._ask_for(placements)
        if self._seen is None or now >= self._until:
            self._see(now)
        assert self._seen is not None
        return Observation(target=self.target, at=at, standings=self._seen[0], unmanaged=self._seen[1])

    def _ask_for(self, placements: tuple[Placement, ...]) -> None:
        asks = frozenset(placement.id for placement in placements if placement.health is not None)
        if asks != self._asks:
            self._asks, self._seen = asks, None
        self._asked_for = placements

    def _see(self, now: float) -> None:
        places = sorted((place for place in self.places.values() if not place.empty), key=lambda place: place.id)
        standings = tuple(place.standing(now, asked=place.id in self._asks) for place in places)
        unmanaged = tuple(_unmanaged(thing, now) for _, thing in sorted(self.foreign.items()))
        self._seen = standings, unmanaged
        self._until = min((one.since + one.behaviour(now).until for one in self.things if one.on), default=inf)

    @property
    def things(self) -> Iterator[Thing]:
        yield from self.foreign.values()
        for place in self.places.values():
            yield from place.things.values()

    def place(self, id: PlacementId) -> Place:
        if id not in self.places:
            self.places[id] = Place(id=id)
        return self.places[id]

    def thing(self, instance: str) -> Thing | None:
        return next((one for one in self.things if one.instance == instance), None)

    # -- effects ----------------------------------------------------------------------------------------------------

    def changed(self, deed: Deed, actor: Actor, *, step: str = "", thing: Thing | None = None, **more: object) -> None:
        """Whatever changes ends here: the record is written, the next look sees it, and watchers are told."""
        self._seen = None
        if thing is not None:
            more = {"id": thing.owner, "artifact": thing.artifact.digest, "instance": thing.instance} | more
        self.world.record(
            Effect(
                number=self.world.next_number(),
                at=self.world.clock(),
                who=actor.who,
                key=actor.key,
                fence=actor.fence,
                deed=deed,
                target=self.target,
                step=step,
                **more,  # type: ignore[arg-type]
            )
        )

    def guard(self, id: PlacementId, fence: int) -> Place:
        """The placement, for somebody who may change it under this fence; from now on nobody with a lower one may."""
        place = self.place(id)
        if place.fence > fence:
            raise StaleFence(f"{id} was changed under fence {place.fence}, this action holds {fence}")
        place.fence = fence
        return place

    def start(self, thing: Thing, actor: Actor, step: str) -> None:
        """Up and running; nothing happens where it is already. A port that somebody holds is refused."""
        now = self.world.clock()
        if thing.up(now):
            return
        if thing.ports:
            self._take_ports(thing, now)
        thing.on, thing.since, thing.started_at = True, now, self.world.now()
        self.say(thing, f"{thing.name} started")
        self.world.expect(self.target, thing)
        self.changed(Deed.STARTED, actor, step=step, thing=thing)

    def _take_ports(self, thing: Thing, now: float) -> None:
        for other in self.things:
            taken = set(other.ports) & set(thing.ports)
            if taken and other is not thing and other.up(now):
                raise Refused(f"port {min(taken)[1]} of {self.target} is held by {other.name}")

    def stop(self, thing: Thing, actor: Actor, step: str) -> None:
        if thing.on:
            thing.on = False
            self.say(thing, f"{thing.name} stopped")
            self.changed(Deed.STOPPED, actor, step=step, thing=thing)

    def say(self, thing: Thing, line: str) -> None:
        thing.lines = (*thing.lines[1 - LINES :], line)
        self.world.printed(thing.instance, line)

    def collect(self) -> None:
        """The bytes that nothing here refers to any more."""
        self.artifacts &= {one.artifact.digest for one in self.things}

    # -- hands ------------------------------------------------------------------------------------------------------

    def stand(self, placement: Placement, *, running: bool = True) -> Thing:
        """Put the placement's workload there as it should be, wearing nothing."""
        thing = self.make(placement.artifact, placement.configuration_digest, placement.id)
        thing.proven, thing.ports = True, fixed_ports(placement)
        place = self.place(placement.id)
        place.things[thing.instance], place.serving = thing, thing.instance
        self.artifacts.add(placement.artifact.digest)
        if running:
            self.start(thing, BY_HAND, HAND)
        self.changed(Deed.MEDDLED, BY_HAND, thing=thing)
        return thing

    def kill(self, id: PlacementId) -> None:
        """Stop what serves."""
        self.stop(self._served(id), BY_HAND, HAND)

    def swap(self, id: PlacementId, artifact: Artifact) -> Thing:
        """Something else runs in place of what served, and nothing else tells."""
        was, place = self._served(id), self.place(id)
        thing = self.make(artifact, was.configuration, id)
        thing.key, thing.ports, thing.proven = was.key, was.ports, True
        was.on = False
        del place.things[was.instance]
        place.things[thing.instance], place.serving = thing, thing.instance
        self.start(thing, BY_HAND, HAND)
        return thing

    def configure(self, id: PlacementId, configuration: Digest | None) -> None:
        """What serves runs with another configuration than the recorded one."""
        thing = self._served(id)
        thing.configuration = configuration
        self.changed(Deed.MEDDLED, BY_HAND, thing=thing)

    def remove(self, id: PlacementId) -> None:
        """What serves is gone."""
        thing, place = self._served(id), self.place(id)
        thing.on, place.serving = False, None
        del place.things[thing.instance]
        self.changed(Deed.MEDDLED, BY_HAND, thing=thing)

    def peel(self, id: PlacementId) -> None:
        """The sticker is gone."""
        self.put_sticker(id, None)

    def forge(self, id: PlacementId) -> None:
        """Somebody writes what they like into the sticker and cannot sign it."""
        worn = self.place(id).worn
        if worn is None or worn.envelope is None:
            raise Conflict(f"{id} wears no sticker to be forged")
        self.put_sticker(id, Worn(envelope=tampered(worn.envelope)))

    def replay(self, id: PlacementId, back: int = 1) -> None:
        """Put on a sticker that was worn here before: `back` proper ones ago."""
        place = self.place(id)
        if len(place.past) <= back:
            raise Conflict(f"{id} has worn only {len(place.past)} stickers")
        self.put_sticker(id, Worn(envelope=place.past[-1 - back]))

    def garble(self, id: PlacementId) -> None:
        """The sticker is there and nobody can read it."""
        self.put_sticker(id, Worn(envelope=None, problem="not a sticker file: JSONDecodeError"))

    def put_sticker(self, id: PlacementId, worn: Worn | None) -> None:
        self.place(id).worn = worn
        self.changed(Deed.MEDDLED, BY_HAND, id=id)

    def intrude(self, name: str, artifact: Artifact, *, configuration: Digest | None = None) -> Thing:
        """Somebody runs something of their own here."""
        thing = self.make(artifact, configuration, None)
        thing.name = name
        self.foreign[name] = thing
        self.start(thing, BY_HAND, HAND)
        return thing

    def make(self, artifact: Artifact, configuration: Digest | None, owner: PlacementId | None) -> Thing:
        """A new thing of this target; it is nowhere yet."""
        instance = self.world.next_instance()
        return Thing(
            instance=instance,
            name=f"{owner.component}-{instance}" if owner else instance,
            artifact=artifact,
            configuration=configuration,
            script=self.world.scripts.get(artifact.digest, HEALTHY),
            owner=owner,
        )

    def behave(self, id: PlacementId, script: Script) -> None:
        """What serves behaves like this from now on, as if it had just been started."""
        thing = self._served(id)
        thing.script, thing.since = script, self.world.clock()
        self.world.expect(self.target, thing)
        self.changed(Deed.MEDDLED, BY_HAND, thing=thing)

    def _served(self, id: PlacementId) -> Thing:
        served = self.place(id).served
        if served is None:
            raise Conflict(f"nothing stands for {id}")
        return served

    # -- faults -----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Unreachable until it is mended."""
        self.faults.insert(0, Fault(trouble=Trouble.UNREACHABLE, times=None))

    def mend(self) -> None:
        self.faults.clear()

    def take_fault(self, crossing: Crossing) -> Fault | None:
        for place, fault in enumerate(self.faults):
            if fault.fits(crossing):
                self._use_up(place, fault)
                return fault
        return None

    def _use_up(self, place: int, fault: Fault) -> None:
        if fault.times is None:
            return
        if fault.times <= 1:
            del self.faults[place]
        else:
            self.faults[place] = replace(fault, times=fault.times - 1)


class World:
    """All targets, the source of artifacts, and what ever happened. `now` is the targets' wall clock; `nemesis` may
    strike at every crossing; `on_effect` is called after each effect, with the world as it then is."""

    def __init__(self, *, now: Callable[[], datetime], clock: Callable[[], float] = anyio.current_time) -> None:
        self.now, self.clock = now, clock
        self.hosts: dict[TargetId, Host] = {}
        self.effects: deque[Effect] = deque(maxlen=EFFECTS)
        self.scripts: dict[Digest, Script] = {}  # how an artifact behaves wherever it runs; healthy where not named
        self.withheld: set[Digest] = set()  # artifacts that the source does not have
        self.source_down = False
        self.nemesis: Nemesis | None = None
        self.on_effect: Callable[[Effect], None] | None = None
        self._instances = self._numbers = self._turned = 0
        self._turns: list[tuple[float, int, TargetId, Thing, float]] = []
        self._watchers: list[MemoryObjectSendStream[TargetId]] = []
        self._readers: dict[str, list[MemoryObjectSendStream[str]]] = {}

    def host(self, target: TargetId) -> Host:
        """The target; an empty one where nobody has been yet."""
        if target not in self.hosts:
            self.hosts[target] = Host(self, target)
        return self.hosts[target]

    def answering(self, id: PlacementId) -> Digest | None:
        """The artifact that answers the placement's traffic now; None where nothing does."""
        host = self.hosts.get(id.target)
        served = host.places[id].served if host and id in host.places else None
        if served is None or served.behaviour(self.clock()).state is not WorkloadState.RUNNING:
            return None
        return served.artifact.digest

    def bring(self, host: Host, artifact: Digest) -> None:
        """Fetch the bytes, unless they are there."""
        if artifact in host.artifacts:
            return
        if self.source_down:
            raise Unreachable("the artifact source does not answer")
        if artifact in self.withheld:
            raise Refused(f"the artifact source does not have {artifact[7:19]}")
        host.artifacts.add(artifact)

    async def cross(self, crossing: Crossing) -> None:
        """One border between a driver and a target. Others may act here, and a fault may strike."""
        await anyio.lowlevel.checkpoint()
        fault = self.host(crossing.target).take_fault(crossing)
        if fault is not None:
            await fault.strike(crossing)
        fault = self.nemesis(crossing) if self.nemesis is not None else None
        if fault is not None:
            await fault.strike(crossing)

    # -- what happened ----------------------------------------------------------------------------------------------

    def record(self, effect: Effect) -> None:
        self.effects.append(effect)
        self._tell(effect.target)
        if self.on_effect is not None:
            self.on_effect(effect)

    def printed(self, instance: str, line: str) -> None:
        for stream in list(self._readers.get(instance, ())):
            _offer(stream, line, self._readers[instance])

    def watch(self, stream: MemoryObjectSendStream[TargetId]) -> None:
        """Every target that changes goes into the stream; it is closed when it is full or events are lost."""
        self._watchers.append(stream)

    async def told(self, stream: MemoryObjectReceiveStream[TargetId]) -> TargetId | None:
        """What the stream of a watcher says next. Who waits here also sees to it that what a script changes by itself
        is told when it does. None when events were lost."""
        while True:
            with anyio.move_on_after(self._told_by_scripts()):
                try:
                    return await stream.receive()
                except anyio.EndOfStream:
                    return None

    def expect(self, target: TargetId, thing: Thing) -> None:
        """The thing begins to behave by its script: each turn that takes by itself is to be told."""
        now = self.clock()
        until = thing.behaviour(now).until
        if until != inf:
            self._turned += 1
            at = max(thing.since + until, now + A_MOMENT)
            heappush(self._turns, (at, self._turned, target, thing, thing.since))

    def _told_by_scripts(self) -> float:
        """Tell what has changed by itself until now; answers in how many seconds something will again."""
        while self._turns and self._turns[0][0] <= self.clock():
            _, _, target, thing, since = heappop(self._turns)
            if thing.on and thing.since == since:
                self._tell(target)
                self.expect(target, thing)
        return self._turns[0][0] - self.clock() if self._turns else inf

    def _tell(self, target: TargetId) -> None:
        for stream in list(self._watchers):
            _offer(stream, target, self._watchers)

    def read(self, instance: str, stream: MemoryObjectSendStream[str]) -> None:
        self._readers.setdefault(instance, []).append(stream)

    def lose_events(self) -> None:
        """The connections that carry events break."""
        while self._watchers:
            self._watchers.pop().close()

    def next_instance(self) -> str:
        self._instances += 1
        return f"m{self._instances}"

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers


def fixed_ports(placement: Placement) -> tuple[tuple[str, int], ...]:
    ports = placement.configuration.ports
    return tuple((port.protocol, port.host) for port in ports if port.host is not None)


def _offer(stream: MemoryObjectSendStream[T], item: T, streams: list[MemoryObjectSendStream[T]]) -> None:
    """Without waiting; whoever does not keep up, or has left, is cut off."""
    try:
        stream.send_nowait(item)
    except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
        stream.close()
        streams.remove(stream)


def _unmanaged(thing: Thing, now: float) -> Unmanaged:
    return Unmanaged(
        name=thing.name,
        instance=thing.instance,
        artifact=str(thing.artifact),
        state=thing.behaviour(now).state,
        digests=(thing.artifact.digest,),
    )


def tampered(envelope: str) -> str:
    """The envelope with another content under the old signature; what is no signed envelope is only spoilt."""
    try:
        body = json.loads(envelope)
        content = json.loads(base64.b64decode(body["payload"]))
        content["sticker"]["revision"] = "forged"
        body["payload"] = base64.b64encode(json.dumps(content).encode()).decode()
        return json.dumps(body, separators=(",", ":"), sort_keys=True)
    except (ValueError, TypeError, KeyError):
        return envelope[:-1] + ("0" if envelope[-1:] != "0" else "1")
