"""The simulated world: the fleet and the database, which outlive every reconciler, and the reconcilers, which do
not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

import anyio
import psycopg
from sqlalchemy import Connection, literal

from desired_state.resolve import Resolved
from desired_state.sources.base import NOTHING, InForce, SourceUnavailable, Tree
from drivers.memory import Crashed, Crossing, Fault, MemoryDriver, Trouble, When, World
from reconciler.daemon import Parts, Reconciler
from reconciler.events import Event, Progressed, TurnFailed
from reconciler.leases import Leases
from reconciler.loop import Pace
from reconciler.means import Limits
from reconciler.observe import Sight
from reconciler.sources import Followed
from reconciler.store import engines, jobs, leases
from reconciler.store.columns import Instant
from reconciler.store.errors import CommitUnknown, JobOver, Unavailable, Violated
from reconciler.store.records import Wish
from reconciler.store.store import Query, Store
from stickers.names import JobId
from tests.harness import virtual_time
from tests.reconciler import rig
from tests.reconciler.stores import fresh_store, raw
from tests.simulation.scenario import Author, Scenario

T = TypeVar("T")

TTL: Final = timedelta(seconds=15)
LIMITS: Final = Limits(
    action=timedelta(seconds=40), patience=timedelta(seconds=60), grace=timedelta(seconds=5), actions=16
)
TRACED: Final = 100_000


class Gone(BaseException):
    """This reconciler was killed; whatever it still tries has no effect."""


class Documents:
    """The source: what people have written, and whether it can be read."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.resolved = Resolved(revision="none")
        self.broken: str | None = None
        self.valid: list[Resolved] = []  # everything that was ever written and means something
        self._commits = 0
        self._changed = anyio.Event()

    def write(self, resolved: Resolved, what: str) -> None:
        self._commits += 1
        self.resolved = replace(resolved, revision=f"commit-{self._commits}")
        if resolved.environments and not resolved.findings:
            self.valid.append(self.resolved)
        self.sim.say("author", what)
        self._changed.set()
        self._changed = anyio.Event()

    async def read(self, in_force: InForce = NOTHING) -> Tree:
        await anyio.lowlevel.checkpoint()
        if self.broken is not None:
            raise SourceUnavailable(self.broken)
        return Tree(revision=self.resolved.revision)

    async def load(self, tree: Tree) -> Resolved:
        return self.resolved

    async def changes(self) -> Any:
        while True:
            changed = self._changed
            yield
            await changed.wait()


class FaultyStore:
    """The one store as one reconciler reaches it: slow, refusing, or losing the answer after the commit."""

    def __init__(self, sim: Simulation, owner: Incarnation) -> None:
        self._sim, self._owner = sim, owner
        self.now = sim.now

    async def write(self, query: Query[T]) -> T:
        await self._owner.alive()
        fault = self._sim.store_fault()
        if fault == "refused":
            raise Unavailable("simulated: the database does not answer")
        answer = await self._sim.store.write(query)
        self._sim.after_write()
        if fault == "lost":
            raise CommitUnknown("simulated: the answer was lost after the commit")
        await self._owner.alive()
        return answer

    async def read(self, query: Query[T]) -> T:
        await self._owner.alive()
        if self._sim.store_fault() == "refused":
            raise Unavailable("simulated: the database does not answer")
        return await self._sim.store.read(query)


class Stubborn(Leases):
    """The leases of a reconciler whose own clock does not tell it to stop: only fences are left to hold it."""

    @property
    def _usable(self) -> float:
        return 1e6


class Incarnation:
    """One reconciler from its start to its death."""

    def __init__(self, sim: Simulation, place: str, number: int) -> None:
        self.sim, self.name, self.place = sim, f"{place}{number}", place
        self.dead = self.clean = False
        self.frozen: anyio.Event | None = None
        self.dies_at: int | None = None  # the failpoint, counted from now, at which it is killed
        self.freezes_at: int | None = None  # likewise, at which it is stopped
        self.scope = anyio.CancelScope()
        tools = replace(rig.tools(), now=sim.now)
        parts = Parts(
            store=FaultyStore(sim, self),  # type: ignore[arg-type]
            drivers={"memory": MemoryDriver(tools, sim.fleet, who=self.name)},
            tools=tools,
            keyring=rig.keyring(),
            holder=place,
            sources={"documents": Followed(source=sim.documents)},
            load=sim.documents.load,
            sink=self._heard,
            random=Random(f"{sim.scenario.seed} {self.name}"),
            limits=LIMITS,
            pace=Pace(parallel=8, first=0.5, limit=20),
            sight=Sight(deadline=8, parallel=8),
            ttl=TTL,
        )
        self.reconciler = Reconciler(parts)
        if "stubborn" in sim.scenario.on:
            self.reconciler._leases.__class__ = Stubborn

    async def alive(self) -> None:
        """Everything that this reconciler does passes here."""
        if self.dead:
            raise Gone
        if self.frozen is not None:
            await self.frozen.wait()
            if self.dead:
                raise Gone

    def kill(self, why: str) -> None:
        if not self.dead:
            self.sim.say(self.name, f"killed: {why}")
            self.dead = True
            self.scope.cancel()

    def reached(self, point: str) -> None:
        if self.dead:
            raise Gone
        if self.dies_at is not None:
            self.dies_at -= 1
            if self.dies_at <= 0:
                self.dies_at = None
                self.kill(f"at {point}")
                raise Gone

        if self.freezes_at is not None and self.frozen is None:
            self.freezes_at -= 1
            if self.freezes_at <= 0:
                self.frozen = anyio.Event()
                self.sim.say(self.name, f"freezes at {point}")

    def _heard(self, event: Event) -> None:
        self.sim.heard(self, event)

    async def live(self) -> None:
        """From start to death; only an accident that nobody planned is an error."""
        WHO.set(self)
        try:
            with self.scope:
                await self.reconciler.run()
                self.clean = True
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            if not is_death(error):
                self.sim.broken(f"{self.name} died of {[repr(leaf) for leaf in _leaves(error)][:3]}")
            self.kill("crashed")
        self.dead = True


WHO: Final[ContextVar[Incarnation | None]] = ContextVar("WHO", default=None)


class Simulation:
    """One seed on its way: everything that outlives the reconcilers, and the record of what happened."""

    def __init__(self, scenario: Scenario, address: str | None = None) -> None:
        self.scenario = scenario
        self.dice = Random(f"nemesis {scenario.seed}")
        self._store_dice = Random(f"store {scenario.seed}")
        self._world_dice = Random(f"fleet {scenario.seed}")
        self.trace: deque[str] = deque(maxlen=TRACED)
        self.offset = timedelta()
        self.fleet = World(now=self.now)
        self.fleet.nemesis = self.strike
        self.store = fresh_store(self.now) if address is None else shared_store(address, self.now)
        self.probe, self._let_go = _probe(self.store, address)
        self.documents = Documents(self)
        self.author = Author(scenario, Random(f"author {scenario.seed}"))
        self.living: list[Incarnation] = []
        self.violation: str | None = None
        self.over = anyio.Event()
        self.chaotic = True
        self.rates: dict[Trouble, float] = {}
        self.after_write: Callable[[], None] = lambda: None
        self.wishes: dict[JobId, Wish] = {}
        self.listeners: list[Callable[[Incarnation, Event], None]] = []

    def now(self) -> datetime:
        return virtual_time.now() + self.offset

    def say(self, who: str, what: str) -> None:
        self.trace.append(f"{anyio.current_time():9.3f}  {who:<9} {what}")

    def broken(self, how: str) -> None:
        """The first invariant that does not hold ends the run."""
        if self.violation is None:
            self.violation = how
            self.say("BROKEN", how)
            self.over.set()

    def heard(self, who: Incarnation, event: Event) -> None:
        if not isinstance(event, Progressed):
            self.say(who.name, _words(event))
        if isinstance(event, TurnFailed) and event.terminal:
            self.broken(f"a turn failed for good: {event.error}")
        for listener in self.listeners:
            listener(who, event)

    def wish(self, job: JobId, wish: Wish) -> bool:
        """What a person wants of a job, written at once; False where it is over."""
        try:
            self.store._written(lambda c: jobs.request(c, job, wish, "ada", self.now()))
        except (JobOver, Violated):
            return False
        self.wishes[job] = wish
        return True

    # -- what goes wrong --------------------------------------------------------------------------------------------

    def store_fault(self) -> str | None:
        if not self.chaotic or "store" not in self.scenario.on:
            return None
        throw = self._store_dice.random()
        return "refused" if throw < 0.015 else "lost" if throw < 0.03 else None

    def strike(self, crossing: Crossing) -> Fault | None:
        """What happens at one border between a driver and a target."""
        owner = next((one for one in self.living if one.name == crossing.who), None)
        if owner is None or owner.dead:
            raise Gone
        if owner.frozen is not None:
            return Fault(trouble=Trouble.SLOW, when=crossing.when, seconds=self._world_dice.uniform(20, 40))
        if not self.chaotic:
            return None
        throw, reached = self._world_dice.random(), 0.0
        for trouble, rate in self.rates.items():
            reached += rate
            if throw < reached:
                return self._fault(trouble, crossing)
        return None

    def _fault(self, trouble: Trouble, crossing: Crossing) -> Fault | None:
        answers = trouble in (Trouble.UNREACHABLE, Trouble.BUSY, Trouble.REFUSED)
        if (trouble is Trouble.LOST) != (crossing.when is When.AFTER) and (trouble is Trouble.LOST or answers):
            return None
        if answers and crossing.when is not When.BEFORE:
            return None
        fault = Fault(trouble=trouble, when=crossing.when, seconds=self._world_dice.uniform(0.2, 4))
        self.say(crossing.who, f"meets {trouble} {crossing.when} {crossing.step} at {crossing.target}")
        return fault

    async def close(self) -> None:
        self._let_go()
        await self.store.aclose()


def _words(event: Event) -> str:
    parts = [f"{name}={getattr(event, name)}" for name in event.__slots__ if name not in ("environment",)]
    return f"{type(event).__name__} {' '.join(parts)}"[:300]


def _leaves(error: BaseException) -> Sequence[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def is_death(error: BaseException) -> bool:
    """Whether it is nothing but a reconciler's planned death."""
    planned = (Gone, Crashed, anyio.get_cancelled_exc_class())
    return all(isinstance(leaf, planned) for leaf in _leaves(error))


# -- the database -----------------------------------------------------------------------------------------------------


def shared_store(address: str, now: Callable[[], datetime]) -> Store:
    """The same on PostgreSQL, carried out where it is asked for, since virtual time waits for no thread."""
    return Store(engines.writer(address), None, lock=None, now=now)


@contextmanager
def leases_by_virtual_time() -> Iterator[None]:
    """On PostgreSQL leases go by the database's clock, which knows nothing of virtual time."""
    clock, said = leases.clock, leases._clock
    leases.clock = lambda c, now: now
    leases._clock = lambda c, now, later=timedelta(0): literal(now + later, Instant)
    try:
        yield
    finally:
        leases.clock, leases._clock = clock, said


Probe = Callable[[str, Sequence[object]], Sequence[Any]]


def _probe(store: Store, address: str | None) -> tuple[Probe, Callable[[], None]]:
    """Looks into the database beside everybody else, and how that is ended."""
    if address is None:
        own = raw(store._writer.raw_connection())
        return lambda statement, values: own.execute(statement, values).fetchall(), lambda: None
    beside = psycopg.connect(address, autocommit=True)
    asks: Any = beside.execute
    return lambda statement, values: asks(statement.replace("?", "%s"), values).fetchall(), beside.close


def asked(sim: Simulation, query: Callable[[Connection], T]) -> T:
    """A look into the database that no fault disturbs and that takes no time."""
    return sim.store._seen_inline(query)


def hook(point: str) -> None:
    """What every failpoint of the code under test calls."""
    incarnation = WHO.get()
    if incarnation is not None:
        incarnation.reached(point)
