"""The reconciler as a whole: the queue with its turns, what asks for them, and the commands of people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus
from sqlalchemy import Connection

from desired_state.model import Target
from desired_state.sources.base import Source
from drivers.contract import Driver, Tools
from reconciler import accept, commands, events, execute, forward, loop, reconcile
from reconciler.accept import Load
from reconciler.bell import EVERYTHING, Bell
from reconciler.commands import Person
from reconciler.core.conditions import SourceFault
from reconciler.core.intent import Grant, Plan
from reconciler.core.machine import IllegalTransition
from reconciler.events import Sink, nowhere
from reconciler.fenced import Fenced
from reconciler.leases import TTL, HeldElsewhere, Leases
from reconciler.loop import DOCUMENTS, Key, Pace, Queue, Wheel
from reconciler.means import Limits, Means
from reconciler.observe import Eyes, Sight
from reconciler.spread import POLL, SINGLE, Spread, Told
from reconciler.store import environments, jobs, memories, replicas
from reconciler.store.errors import Corrupt, NewerSchema, StoreError, Violated
from reconciler.store.records import Command, Job, Lease, Replica, Role
from reconciler.store.store import Store
from reconciler.triggers import Ask, Runtimes, follow
from stickers import names
from stickers.names import EnvironmentId, JobId, KeyId, TargetId
from stickers.signature import Keyring

READS: Final = 30.0  # seconds between two reads of the documents that nothing asked for
READS_AGAIN: Final = 5.0  # after one that was not taken over
BUSY: Final = 2.0  # seconds between two looks that events ask for while a job is at work
SHARE: Final = 10  # times as long as the last one took: a large fleet must not be looked at all the while it changes
SWEEP: Final = Key(Wheel.READ, "held")
SPREAD: Final = "spread"  # the word that there is something to take, or somebody to share with
FAREWELL: Final = 5.0  # seconds for giving the leases back

_TERMINAL: Final = (Corrupt, NewerSchema, Violated, IllegalTransition, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a reconciler is built of. `holder` names this place, where no second process lives at the same time: what an
    earlier one left held is taken over at once. `load` is what a tree of documents means.

    With a `bell` other replicas may work on the same database; `version` and `key`, the id of the key that signs, are
    told to them, and `keys_again` reads the keyring again when one of them signs with a key that is not in it.
    """

    store: Store
    drivers: Mapping[str, Driver]
    tools: Tools
    keyring: Keyring
    holder: str
    source: Source | None = None
    load: Load | None = None
    sink: Sink = nowhere
    random: Random = field(default_factory=Random)
    limits: Limits = field(default_factory=Limits)
    pace: Pace = field(default_factory=Pace)
    sight: Sight = field(default_factory=Sight)
    ttl: timedelta = TTL
    role: Role = Role.BOTH
    bell: Bell | None = None
    version: str = ""
    key: str = ""
    keys_again: Callable[[], Keyring] | None = None


class Reconciler:
    """Holds every declared environment to its release, from `run` until `stop`; of several replicas each its share."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._queue = Queue(self._turn, pace=parts.pace, random=parts.random, sink=parts.sink, terminal=_is_terminal)
        self._leases = Leases(parts.store, parts.holder, now=parts.tools.now, sink=parts.sink, ttl=parts.ttl)
        self._leases.takes = parts.role is not Role.API
        self._leases.lost = self._lost
        self._stopping = anyio.Event()
        self._answers: forward.Answers = {}
        self._running = False
        self._read_under = 0  # the token under which the documents were last read
        self._others: tuple[Replica, ...] = ()
        self._doubted: set[str] = set()
        self._spread = Spread(
            parts.store,
            self._leases,
            self._me(),
            Told(
                gained=self._gained,
                asked=self._asked,
                living=self._living,
                at_rest=self._at_rest,
                shed=self._shed,
            ),
            now=parts.tools.now,
            sink=parts.sink,
            poll=POLL if parts.bell else None,
        )
        self._spread.documents = self._documents_row
        if parts.bell is not None:
            parts.bell.heard = self._heard
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
        self._running = True
        async with anyio.create_task_group() as group:
            await group.start(self._queue.run)
            group.start_soon(self._keep_share, name="spread")
            if self._parts.bell is not None:
                group.start_soon(self._parts.bell.run, name="bell")
            if self._parts.role is not Role.API:
                group.start_soon(self._leases.renew_for_ever, name="leases")
                group.start_soon(self._runtimes.run, name="runtimes")
                if self._parts.source is not None:
                    group.start_soon(self._follow_documents, self._parts.source, name="documents")
                self._queue.request(DOCUMENTS)
            task_status.started()
            await self._stopping.wait()
            await self._drained()
            group.cancel_scope.cancel()

    async def _keep_share(self) -> None:
        """Until it is told to stop: then nothing more is taken, and the others may share what is given back."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._spread.run)
            await self._stopping.wait()
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Start nothing more; `run` ends when what runs has come to a point where it can be gone on from."""
        self._stopping.set()

    def request(self, key: Key) -> None:
        """Ask for a turn, wherever it is done; equal requests merge."""
        if self._is_ours(key):
            self._queue.request(key)
        if key.wheel is Wheel.READ or not self._is_ours(key):
            self._ring(str(key))

    def _is_ours(self, key: Key) -> bool:
        """Whether a turn of this key has a place here; which replica reads the documents is settled by a lease."""
        if key.wheel is Wheel.READ:
            return self._leases.takes
        return self._leases.holds(_environment(key))

    def _ring(self, word: str) -> None:
        if self._parts.bell is not None:
            self._parts.bell.ring(word)

    def _happened(self, environment: EnvironmentId, after: float) -> None:
        """Something happened on a target. While a job is at work there, most of it is the job's own doing."""
        note = self._means.note(environment)
        pause = max(after, BUSY, SHARE * note.took) if note.busy else after
        self._queue.request(loop.reconcile(environment), after=pause)

    async def _drained(self) -> None:
        with anyio.move_on_after(FAREWELL), suppress(StoreError):
            await self._spread.leave()
        abandoned = await self._queue.drain(self._parts.limits.grace.total_seconds())
        with anyio.move_on_after(FAREWELL):
            await self._leases.release_all()
            await self._told_others()
        self._parts.sink(events.Drained(abandoned=tuple(str(key) for key in abandoned)))

    async def _told_others(self) -> None:
        """That there is something to take."""
        if self._parts.bell is not None:
            self._parts.bell.ring(SPREAD)
            with suppress(StoreError):
                await self._parts.bell.tell_now()

    async def begin_alone(self) -> None:
        """Without `run`: take over what an earlier process held, and what the documents say, once. Where replicas are
        at work, they do that, and are asked for everything else."""
        now = self._parts.tools.now()
        live = await self._parts.store.read(lambda c: replicas.live(c, now)) if self._parts.bell else ()
        if any(each.role is not Role.API for each in live):
            self._leases.takes, self._running = False, True
            return
        await self._leases.inherit()
        if self._parts.source is not None and self._parts.load is not None:
            await accept.accept(self._means, self._parts.source, self._parts.load)

    async def look(self) -> None:
        """Without `run`: look at every environment once and record what is seen; nothing is changed."""
        if not self._leases.takes:
            return  # replicas are at work: what they saw last is shown
        for row in await self._parts.store.read(environments.all):
            await reconcile.look(self._means, row.id)

    async def carry(self, job: JobId) -> None:
        """Without `run`: carry one job until it has ended, or waits for a person. No other environment is touched."""
        if not self._leases.takes:
            return  # replicas are at work: they carry it
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
        """Why the documents are not taken over, by whichever replica reads them; None when they are."""
        fault = self._means.documents.fault
        return fault.message if fault else None

    @property
    def failing(self) -> Mapping[str, int]:
        """Keys whose turns fail, and how often in a row."""
        return {str(key): failures for key, failures in self._queue.failures.items()}

    @property
    def held(self) -> tuple[EnvironmentId, ...]:
        """The environments that this replica holds now."""
        return tuple(each for each in self._leases.held if each != SINGLE)

    @property
    def single(self) -> bool:
        """Whether this is the replica that does what only one does: it reads the documents, and archives."""
        return self._leases.holds(SINGLE)

    @property
    def live(self) -> tuple[Replica, ...]:
        """The replicas that lived at the last round, this one among them."""
        return self._others

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
    ) -> Job | None:
        person = Person(actor=actor, reason=reason)
        if self._together:
            return await self._ask(forward.sync(environment, grant, person, plan_hash))
        return await commands.sync(self._means, environment, grant, person, plan_hash=plan_hash)

    async def rollback(self, environment: EnvironmentId, *, actor: str, reason: str) -> Job | None:
        person = Person(actor=actor, reason=reason)
        if self._together:
            return await self._ask(forward.rollback(environment, person))
        return await commands.rollback(self._means, environment, person)

    async def adopt(self, environment: EnvironmentId, targets: frozenset[TargetId] | None, *, actor: str) -> Job | None:
        person = Person(actor=actor, reason="asked to take over what runs")
        if self._together:
            return await self._ask(forward.adopt(environment, targets, person))
        return await commands.adopt(self._means, environment, targets, person)

    async def lift_refused(self, environment: EnvironmentId, *, actor: str) -> int:
        """Let what was refused be tried again; how many trials that were."""
        now = self._means.tools.now()
        lifted = await self._parts.store.write(lambda c: memories.lift(c, environment, actor, now))
        self.request(loop.reconcile(environment))
        return lifted

    @property
    def _together(self) -> bool:
        """Whether what people ask goes through the database: then it is done once, whoever dies on the way."""
        return self._parts.bell is not None and self._running

    async def _ask(self, command: Command) -> Job | None:
        return await forward.ask(self._means, command, self.request, self._answers)

    # -- other replicas ---------------------------------------------------------------------------------------------

    def _me(self) -> Replica:
        parts = self._parts
        return Replica(
            id=self._leases.holder,
            place=parts.holder,
            role=parts.role,
            version=parts.version,
            key=parts.key,
            until=parts.tools.now(),
        )

    def _heard(self, word: str) -> None:
        """A word of any replica, this one's own among them."""
        kind, _, id = word.partition(":")
        key = loop.parsed(word)
        if kind == "answer" and id in self._answers:
            self._answers[id].set()
        elif word in (SPREAD, EVERYTHING):
            self._spread.nudge()
        elif key is not None and self._is_ours(key):
            self._queue.request(key)

    def _gained(self, environments: Sequence[EnvironmentId], active: Sequence[Job]) -> None:
        """Held from now on: everything is looked at, and what is under way goes on."""
        for environment in environments:
            self._queue.request(loop.reconcile(environment))
        for job in active:
            self._queue.request(loop.execute(job.id))
        self._queue.request(SWEEP)

    def _asked(self, environments: Sequence[EnvironmentId]) -> None:
        for environment in environments:
            self._queue.request(forward.key(environment))

    def _living(self, live: Sequence[Replica]) -> None:
        self._others = tuple(live)
        if not self.single:
            self._hear_of_documents(live)
        for other in live:
            self._believe(other)

    def _believe(self, other: Replica) -> None:
        """A key may have come since this process began: the keyring is read again. What is not in it then is said
        once."""
        keyring = self._parts.keyring
        if not other.key or KeyId(other.key) in keyring.keys or other.id in self._doubted:
            return
        if self._parts.keys_again is not None:
            keyring.keys = self._parts.keys_again().keys
            self._means.eyes.believe(keyring)
        if KeyId(other.key) not in keyring.keys:
            self._doubted.add(other.id)
            self._parts.sink(events.ReplicaDoubted(replica=other.place, key=other.key))

    def _hear_of_documents(self, live: Sequence[Replica]) -> None:
        """What the replica that reads the documents says of them is said here too."""
        said = next((each.documents for each in live if each.documents is not None), None)
        fault = said.get("fault") if said else None
        self._means.documents.fault = SourceFault(**fault) if fault else None

    def _documents_row(self) -> dict[str, Any] | None:
        """What this replica says of the documents, where it is the one that reads them."""
        if not self.single:
            return None
        fault = self._means.documents.fault
        return {"fault": {"reason": fault.reason, "message": fault.message} if fault else None}

    def _lost(self, environment: EnvironmentId) -> None:
        """Whoever is entitled to it takes it, maybe this one again."""
        self._spread.nudge()

    def _at_rest(self, environment: EnvironmentId) -> bool:
        """Nothing runs there, so that nothing is interrupted by giving it away."""
        return not self._means.note(environment).busy and not self._queue.serves(environment)

    def _shed(self, environment: EnvironmentId) -> None:
        self._queue.forget(loop.reconcile(environment))
        self._ring(SPREAD)

    # -- turns ------------------------------------------------------------------------------------------------------

    async def _turn(self, key: Key) -> float | None:
        match key.wheel:
            case Wheel.READ:
                return await self._sweep() if key == SWEEP else await self._read()
            case _ if not self._leases.holds(_environment(key)):
                self._spread.nudge()
                return None  # whoever holds it from now on asks for it again
            case Wheel.RECONCILE:
                return await reconcile.turn(self._means, EnvironmentId(key.id))
            case Wheel.EXECUTE:
                return await execute.turn(self._means, JobId(key.id))
            case Wheel.COMMAND:
                await forward.serve(self._means, EnvironmentId(key.id), self._ring)
                return None

    async def _read(self) -> float:
        """Read the documents, if this is the one replica that does."""
        await self._leases.inherit()
        try:
            async with self._leases.under(SINGLE) as lease:
                await self._accepted(lease)
        except HeldElsewhere as held:
            pause = held.again
        else:
            pause = READS if self._means.documents.fault is None else READS_AGAIN
        self._queue.request(SWEEP)
        return pause * self._parts.random.uniform(0.9, 1.1)

    async def _accepted(self, lease: Lease) -> None:
        parts, means = self._parts, self._means
        if self._read_under != lease.token:  # another may have read something else in between
            self._read_under, means.documents.accepted = lease.token, None
        if parts.source is None or parts.load is None:
            return
        taken = await accept.accept(replace(means, store=Fenced(parts.store, lease)), parts.source, parts.load)
        for environment in (*taken.changed, *taken.undeclared):
            self.request(loop.reconcile(environment))
        if taken.changed:
            self._spread.nudge()
            self._ring(SPREAD)

    async def _sweep(self) -> float:
        """Ask for every environment that is held, and its job, that nobody has asked for: a lost request costs one
        interval. What is watched are the targets of what is held."""
        held = self.held
        active, targets = await self._parts.store.read(lambda c: _everything(c, held))
        for key in (*map(loop.reconcile, held), *map(loop.execute, active)):
            if self._queue.due(key) is None and not self._queue.running(key):
                self._queue.request(key)
        self._runtimes.watch(targets)
        if self.single:
            await self._spread.sweep()
        return READS * self._parts.random.uniform(0.9, 1.1)

    async def _follow_documents(self, source: Source) -> None:
        async def told(_: None) -> None:
            self._queue.request(DOCUMENTS)

        async def lost() -> None:
            self._queue.request(DOCUMENTS)

        ask = Ask(environment=lambda *_: None, sink=self._parts.sink, random=self._parts.random)
        await follow("documents", source.changes, told, lost, ask)


def _everything(c: Connection, held: Sequence[EnvironmentId]) -> tuple[list[JobId], list[Target]]:
    """The active jobs of these environments, and their targets."""
    targets: Iterable[Target] = (
        target for id in held if (desired := environments.desired(c, id)) is not None for target in desired.targets
    )
    mine = frozenset(held)
    return [job.id for job in jobs.all_active(c) if job.environment in mine], list(targets)


def _environment(key: Key) -> EnvironmentId:
    """Whose lease a turn of this key needs."""
    return names.environment_of(JobId(key.id)) if key.wheel is Wheel.EXECUTE else EnvironmentId(key.id)


def _is_terminal(error: BaseException) -> bool:
    """What trying again is not expected to mend: what is stored cannot be read, or the program is wrong."""
    return isinstance(error, _TERMINAL)
