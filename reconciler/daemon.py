"""The reconciler as a whole: the queue with its turns, what asks for them, and the commands of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Final

import anyio
from anyio.abc import TaskStatus
from sqlalchemy import Connection

from desired_state.model import Target
from drivers.contract import Driver, Tools
from reconciler import accept, commands, events, execute, loop, reconcile
from reconciler.accept import Load
from reconciler.commands import Person
from reconciler.core.intent import Grant, Plan
from reconciler.core.machine import IllegalTransition
from reconciler.events import Sink, nowhere
from reconciler.leases import TTL, Leases
from reconciler.loop import SWEEP, Key, Pace, Queue, Wheel
from reconciler.means import Limits, Means
from reconciler.observe import Eyes, Sight
from reconciler.reconcile import Also, nothing_more
from reconciler.sources import Followed, Reading
from reconciler.store import environments, jobs, memories
from reconciler.store.errors import Corrupt, NewerSchema, Violated
from reconciler.store.records import Job
from reconciler.store.store import Store
from reconciler.triggers import Ask, Runtimes, follow
from stickers.names import EnvironmentId, JobId, TargetId
from stickers.signature import Keyring

READS_AGAIN: Final = 5.0  # seconds after a read that was not taken over; twice as many after each that follows
SWEEPS: Final = 30.0  # seconds between two looks for what nobody has asked for
BUSY: Final = 2.0  # seconds between two looks that events ask for while a job is at work
SHARE: Final = 10  # times as long as the last one took: a large fleet must not be looked at all the while it changes
FAREWELL: Final = 5.0  # seconds for giving the leases back

_TERMINAL: Final = (Corrupt, NewerSchema, Violated, IllegalTransition, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a reconciler is built of. `holder` names this place, where no second process lives at the same time: what an
    earlier one left held is taken over at once. `load` is what a tree of documents means."""

    store: Store
    drivers: Mapping[str, Driver]
    tools: Tools
    keyring: Keyring
    holder: str
    sources: Mapping[str, Followed] = field(default_factory=dict)
    load: Load | None = None
    sink: Sink = nowhere
    random: Random = field(default_factory=Random)
    limits: Limits = field(default_factory=Limits)
    pace: Pace = field(default_factory=Pace)
    sight: Sight = field(default_factory=Sight)
    ttl: timedelta = TTL


class Reconciler:
    """Holds every declared environment to its release, from `run` until `stop`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._queue = Queue(self._turn, pace=parts.pace, random=parts.random, sink=parts.sink, terminal=_is_terminal)
        self._leases = Leases(parts.store, parts.holder, now=parts.tools.now, sink=parts.sink, ttl=parts.ttl)
        self._stopping = anyio.Event()
        self._inherited, self._inheriting = False, anyio.Lock()
        self._sources = {
            name: Reading(followed=followed, since=parts.store.now()) for name, followed in parts.sources.items()
        }
        self._means = Means(
            store=parts.store,
            drivers=parts.drivers,
            tools=parts.tools,
            eyes=Eyes(parts.drivers, parts.keyring, parts.tools.installation, now=parts.tools.now, sight=parts.sight),
            leases=self._leases,
            limits=parts.limits,
            sink=parts.sink,
            random=parts.random,
            ask=lambda key, after: self._queue.request(key, after=after),
            stopping=self._stopping.is_set,
            seats=anyio.CapacityLimiter(parts.limits.actions),
            sources=self._sources,
        )
        self._runtimes = Runtimes(
            parts.drivers,
            Ask(
                environment=self._happened,
                sink=parts.sink,
                random=parts.random,
            ),
        )

    # -- its life ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`; then give what runs its time, and the leases back."""
        async with anyio.create_task_group() as group:
            await group.start(self._queue.run)
            group.start_soon(self._leases.renew_for_ever, name="leases")
            group.start_soon(self._runtimes.run, name="runtimes")
            for name, reading in self._sources.items():
                group.start_soon(self._follow_source, name, reading.followed, name=f"source {name}")
                self.request(loop.read(name))
            self.request(SWEEP)
            task_status.started()
            await self._stopping.wait()
            await self._drained()
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Start nothing more; `run` ends when what runs has come to a point where it can be gone on from."""
        self._stopping.set()

    def request(self, key: Key) -> None:
        """Ask for a turn; equal requests merge."""
        self._queue.request(key)

    def _happened(self, environment: EnvironmentId, after: float) -> None:
        """Something happened on a target. While a job is at work there, most of it is the job's own doing."""
        note = self._means.note(environment)
        pause = max(after, BUSY, SHARE * note.took) if note.busy else after
        self._queue.request(loop.reconcile(environment), after=pause)

    async def _drained(self) -> None:
        abandoned = await self._queue.drain(self._parts.limits.grace.total_seconds())
        with anyio.move_on_after(FAREWELL):
            await self._leases.release_all()
        self._parts.sink(events.Drained(abandoned=tuple(str(key) for key in abandoned)))

    async def begin_alone(self) -> None:
        """Without `run`: take over what an earlier process held, and what the sources say, once."""
        await self._inherit()
        async with anyio.create_task_group() as group:
            for name in self._sources:
                group.start_soon(self._accept, name)

    async def look(self) -> None:
        """Without `run`: look at every environment once and record what is seen; nothing is changed."""
        known, _, _ = await self._parts.store.read(_everything)
        for environment in known:
            await reconcile.look(self._means, environment)

    async def carry(self, job: JobId) -> None:
        """Without `run`: carry one job until it has ended, or waits for a person. No other environment is touched."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._leases.renew_for_ever, name="leases")
            pause = await execute.turn(self._means, job)
            while pause is not None:
                await anyio.sleep(pause)
                pause = await execute.turn(self._means, job)
            group.cancel_scope.cancel()
        await self._leases.release_all()

    # -- what is shown ----------------------------------------------------------------------------------------------

    @property
    def source_problem(self) -> str | None:
        """Why what the sources say is not taken over; None when it is."""
        faults = {name: reading.fault.message for name, reading in self._sources.items() if reading.fault}
        if len(self._sources) == 1:
            return next(iter(faults.values()), None)
        return "; ".join(f"{name}: {message}" for name, message in faults.items()) or None

    @property
    def sources(self) -> Mapping[str, Reading]:
        """What this process knows of each source."""
        return self._sources

    @property
    def failing(self) -> Mapping[str, int]:
        """Keys whose turns fail, and how often in a row."""
        return {str(key): failures for key, failures in self._queue.failures.items()}

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many turns of each wheel are asked for and have not begun."""
        return {wheel.value: count for wheel, count in self._queue.depth.items()}

    # -- commands ---------------------------------------------------------------------------------------------------

    async def plan(self, environment: EnvironmentId, grant: Grant) -> Plan:
        return await commands.plan(self._means, environment, grant)

    async def sync(
        self,
        environment: EnvironmentId,
        grant: Grant,
        *,
        actor: str,
        plan_hash: str | None = None,
        reason: str = "asked for by a person",
        also: Also = nothing_more,
    ) -> Job | None:
        """`also` is written in the transaction that makes the job, here and in the others."""
        person = Person(actor=actor, reason=reason, also=also)
        return await commands.sync(self._means, environment, grant, person, plan_hash=plan_hash)

    async def rollback(
        self, environment: EnvironmentId, *, actor: str, reason: str, also: Also = nothing_more
    ) -> Job | None:
        return await commands.rollback(self._means, environment, Person(actor=actor, reason=reason, also=also))

    async def adopt(
        self,
        environment: EnvironmentId,
        targets: frozenset[TargetId] | None,
        *,
        actor: str,
        also: Also = nothing_more,
    ) -> Job | None:
        person = Person(actor=actor, reason="asked to take over what runs", also=also)
        return await commands.adopt(self._means, environment, targets, person)

    async def lift_refused(self, environment: EnvironmentId, *, actor: str) -> int:
        """Let what was refused be tried again; how many trials that were."""
        now = self._means.tools.now()
        lifted = await self._parts.store.write(lambda c: memories.lift(c, environment, actor, now))
        self.request(loop.reconcile(environment))
        return lifted

    # -- turns ------------------------------------------------------------------------------------------------------

    async def _turn(self, key: Key) -> float | None:
        match key.wheel:
            case Wheel.READ:
                return await self._read(key.id)
            case Wheel.SWEEP:
                return await self._sweep()
            case Wheel.RECONCILE:
                return await reconcile.turn(self._means, EnvironmentId(key.id))
            case Wheel.EXECUTE:
                return await execute.turn(self._means, JobId(key.id))

    async def _inherit(self) -> None:
        """What an earlier process of this place held is ours, before anything else is done."""
        async with self._inheriting:
            if not self._inherited:
                await self._leases.inherit()
                self._inherited = True

    async def _read(self, name: str) -> float | None:
        """Read a source, and ask for the environments that it changed."""
        if name not in self._sources:
            return None
        await self._inherit()
        await self._accept(name)
        reading = self._sources[name]
        sooner = READS_AGAIN * 2.0 ** min(reading.refusals - 1, 20)
        pause = reading.followed.poll if reading.fault is None else min(reading.followed.poll, sooner)
        return pause * self._parts.random.uniform(0.9, 1.1)

    async def read(self, name: str) -> Reading:
        """Read a source now, whatever its interval is; what is known of it then."""
        await self._accept(name)
        return self._sources[name]

    async def _accept(self, name: str) -> None:
        if self._parts.load is None:
            return
        taken = await accept.accept(self._means, name, self._parts.load)
        for environment in (*taken.changed, *taken.undeclared):
            self.request(loop.reconcile(environment))
        if taken.changed or taken.undeclared or SWEEP in self._queue.failures:  # other targets may be to watch now
            self.request(SWEEP)

    async def _sweep(self) -> float:
        """Ask for every environment and job that nobody has asked for: a lost request costs one interval."""
        await self._inherit()
        await accept.hear(self._means)
        known, active, targets = await self._parts.store.read(_everything)
        for key in (*map(loop.reconcile, known), *map(loop.execute, active)):
            if self._queue.due(key) is None and not self._queue.running(key):
                self.request(key)
        self._runtimes.watch(targets)
        return SWEEPS * self._parts.random.uniform(0.9, 1.1)

    async def _follow_source(self, name: str, followed: Followed) -> None:
        async def told(_: None) -> None:
            self.request(loop.read(name))

        async def lost() -> None:
            self.request(loop.read(name))

        ask = Ask(environment=lambda *_: None, sink=self._parts.sink, random=self._parts.random)
        await follow(name, followed.source.changes, told, lost, ask)


def _everything(c: Connection) -> tuple[list[EnvironmentId], list[JobId], list[Target]]:
    known = [row.id for row in environments.all(c)]
    targets: Iterable[Target] = (
        target for id in known if (desired := environments.desired(c, id)) is not None for target in desired.targets
    )
    return known, [job.id for job in jobs.all_active(c)], list(targets)


def _is_terminal(error: BaseException) -> bool:
    """What trying again is not expected to mend: what is stored cannot be read, or the program is wrong."""
    return isinstance(error, _TERMINAL)
