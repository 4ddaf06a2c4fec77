"""The reconciler as a whole: the queue with its turns, what asks for them, and the commands of people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from secrets import token_hex
from typing import Final

import anyio
from anyio.abc import TaskStatus
from sqlalchemy import Connection

from desired_state.model import Target
from drivers.contract import Driver, Tools
from reconciler import accept, commands, events, execute, forward, loop, reconcile
from reconciler.accept import Load
from reconciler.bell import EVERYTHING, Bell
from reconciler.commands import Person, Tell
from reconciler.core.intent import Grant, Plan
from reconciler.core.machine import IllegalTransition
from reconciler.events import Sink, nowhere
from reconciler.fenced import Fenced
from reconciler.following import Following
from reconciler.leases import TTL, HeldElsewhere, Leases
from reconciler.loop import SWEEP, Key, Pace, Queue, Wheel
from reconciler.means import Limits, Means
from reconciler.observe import Eyes, Sight
from reconciler.seats import Seats
from reconciler.sources import Followed, Reading
from reconciler.spread import POLL, SINGLE, Spread, Told
from reconciler.store import environments, jobs, memories, replicas
from reconciler.store.answers import Ticket
from reconciler.store.errors import Corrupt, NewerSchema, StoreError, Violated
from reconciler.store.records import Command, Job, Replica, Role
from reconciler.store.store import Store
from reconciler.triggers import Ask, Runtimes
from stickers import names
from stickers.names import EnvironmentId, JobId, KeyId, TargetId
from stickers.signature import Keyring

READS_AGAIN: Final = 5.0  # seconds after a read that was not taken over; twice as many after each that follows
SWEEPS: Final = 30.0  # seconds between two looks for what nobody has asked for
BUSY: Final = 2.0  # seconds between two looks that events ask for while a job is at work
SHARE: Final = 10  # times as long as the last one took: a large fleet must not be looked at all the while it changes
SPREAD: Final = "spread"  # the word that there is something to take, or somebody to share with
ASKS: Final = "asks"  # the kind of word by which a replica asks for a read, and waits: who asks, the source
READ: Final = "was-read"  # the kind of word that a source was read: who asked
READS_IN: Final = 5.0  # seconds that who asks for a read of a source waits for whoever reads it
FAREWELL: Final = 5.0  # seconds for giving the leases back

_TERMINAL: Final = (Corrupt, NewerSchema, Violated, IllegalTransition, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a reconciler is built of. `holder` names this place, where no second process lives at the same time: what an
    earlier one left held is taken over at once. `load` is what a tree of documents means.

    With a `bell` other replicas may work on the same database; `version` and `key`, the id of the key that signs, are
    told to them, and `keys_again` reads the keyring again when one of them signs with a key that is not in it. `tell`
    is what is kept as the answer to a request that is to take effect once. `overheard` is called with every word of the
    bell, for parts that are no business of the reconciler. `agents` is the address at which agents reach this process.
    """

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
    role: Role = Role.BOTH
    bell: Bell | None = None
    tell: Tell = commands.named
    version: str = ""
    key: str = ""
    keys_again: Callable[[], Keyring] | None = None
    overheard: Callable[[str], None] = lambda word: None
    agents: str = ""


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
        self._reads: dict[str, anyio.Event] = {}  # who waits until another replica has read a source
        # Source -> those elsewhere that wait for a read that begins from now on.
        self._asking: dict[str, list[str]] = {}
        self._running = False
        self._others: tuple[Replica, ...] = ()
        self._doubted: set[str] = set()
        self._spread = self._sharing()
        if parts.bell is not None:
            parts.bell.heard = self._heard
        self._following = Following(
            parts.sources,
            lambda name: self._queue.request(loop.read(name)),
            Ask(environment=lambda *_: None, sink=parts.sink, random=parts.random),
            parts.store.now(),
        )
        self._sources = self._following.readings
        self.misdeclared: str | None = None  # why the sources that are declared now are not those that are followed
        self._means = self._at_hand()
        self._runtimes = Runtimes(
            parts.drivers,
            Ask(
                environment=self._happened,
                sink=parts.sink,
                random=parts.random,
            ),
        )

    def _sharing(self) -> Spread:
        parts = self._parts
        return Spread(
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

    def _at_hand(self) -> Means:
        parts = self._parts
        return Means(
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
            seats=Seats(parts.limits.actions),
            tell_of=parts.tell,
            sources=self._sources,
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
                group.start_soon(self._following.run, name="sources")
                for name in self._sources:
                    self._queue.request(loop.read(name))
            self._queue.request(SWEEP)
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

    def follow(self, sources: Mapping[str, Followed]) -> None:
        """Follow these sources from now on; one that is the same object as before goes on undisturbed."""
        for name in self._sources.keys() - sources.keys():
            self._queue.forget(loop.read(name))
        self._following.become(sources, self._parts.store.now())
        self.misdeclared = None

    def request(self, key: Key) -> None:
        """Ask for a turn, wherever it is done; equal requests merge."""
        if self._is_ours(key):
            self._queue.request(key)
        if key.wheel in (Wheel.READ, Wheel.SWEEP) or not self._is_ours(key):
            self._ring(str(key))

    def _is_ours(self, key: Key) -> bool:
        """Whether a turn of this key has a place here; which replica reads the documents is settled by a lease."""
        if key.wheel in (Wheel.READ, Wheel.SWEEP):
            return key.wheel is Wheel.SWEEP or self._leases.takes
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
        """Without `run`: take over what an earlier process held, and what the sources say, once. Where replicas are at
        work, they do that, and are asked for everything else."""
        now = self._parts.tools.now()
        live = await self._parts.store.read(lambda c: replicas.live(c, now)) if self._parts.bell else ()
        if any(each.role is not Role.API for each in live):
            self._leases.takes, self._running = False, True
            await accept.hear(self._means)
            return
        await self._leases.inherit()
        async with anyio.create_task_group() as group:
            for name in self._sources:
                group.start_soon(self._accept, name, self._means)

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
        """Why what the sources say is not taken over; None when it is."""
        faults = {name: reading.fault.message for name, reading in self._sources.items() if reading.fault}
        if len(self._sources) == 1:
            told = list(faults.values())
        else:
            told = [f"{name}: {message}" for name, message in faults.items()]
        return "; ".join(([self.misdeclared] if self.misdeclared else []) + told) or None

    @property
    def sources(self) -> Mapping[str, Reading]:
        """What this process knows of each source."""
        return self._sources

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
        ticket: Ticket | None = None,
    ) -> Job | None:
        """Under a `ticket` the answer is kept in the transaction that makes the job, here and in the others, whatever
        replica makes it."""
        person = self._person(actor, reason, ticket)
        if self._together:
            return await self._ask(forward.sync(environment, grant, person, plan_hash))
        return await commands.sync(self._means, environment, grant, person, plan_hash=plan_hash)

    async def rollback(
        self, environment: EnvironmentId, *, actor: str, reason: str, ticket: Ticket | None = None
    ) -> Job | None:
        person = self._person(actor, reason, ticket)
        if self._together:
            return await self._ask(forward.rollback(environment, person))
        return await commands.rollback(self._means, environment, person)

    async def adopt(
        self,
        environment: EnvironmentId,
        targets: frozenset[TargetId] | None,
        *,
        actor: str,
        ticket: Ticket | None = None,
    ) -> Job | None:
        person = self._person(actor, "asked to take over what runs", ticket)
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

    def _person(self, actor: str, reason: str, ticket: Ticket | None) -> Person:
        return Person(actor=actor, reason=reason, also=commands.keeps(self._parts.tell, ticket), ticket=ticket)

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
            agents=parts.agents,
            until=parts.tools.now(),
        )

    def _heard(self, word: str) -> None:
        """A word of any replica, this one's own among them."""
        self._parts.overheard(word)
        kind, _, id = word.partition(":")
        key = loop.parsed(word)
        if kind == "answer" and id in self._answers:
            self._answers[id].set()
        elif kind == READ:
            self._reads.pop(id, anyio.Event()).set()
        elif kind == ASKS and self.single:
            self._asked_to_read(*id.split(":", 1))
        elif word in (SPREAD, EVERYTHING):
            self._spread.nudge()
        elif key is not None and self._is_ours(key):
            self._queue.request(key)

    def _asked_to_read(self, who: str, name: str) -> None:
        self._asking.setdefault(name, []).append(who)
        self._queue.request(loop.read(name))

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

    def believe(self, keyring: Keyring) -> None:
        """Other keys are in the keyring by now: what was seen is read anew."""
        self._means.eyes.believe(keyring)

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
                return await self._read(key.id)
            case Wheel.SWEEP:
                return await self._sweep()
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

    async def _read(self, name: str) -> float | None:
        """Read a source, if this is the one replica that does, and ask for the environments that it changed."""
        if name not in self._sources:
            return None
        await self._leases.inherit()
        reading, asking = self._sources[name], self._asking.pop(name, [])
        try:
            await self._read_alone(name)
        except HeldElsewhere as held:
            return held.again * self._parts.random.uniform(0.9, 1.1)
        for who in asking:
            self._ring(f"{READ}:{who}")
        sooner = READS_AGAIN * 2.0 ** min(reading.refusals - 1, 20)
        pause = reading.followed.poll if reading.fault is None else min(reading.followed.poll, sooner)
        return pause * self._parts.random.uniform(0.9, 1.1)

    async def read(self, name: str) -> Reading:
        """Read a source now, whatever its interval is; what is known of it then. Where another replica reads it, that
        one is asked and waited for a while, and this is what it has written down."""
        try:
            await self._read_alone(name)
        except HeldElsewhere:
            await self._read_elsewhere(name)
            await accept.hear(self._means)
        return self._sources[name]

    async def _read_elsewhere(self, name: str) -> None:
        """An older replica reads too, and says nothing."""
        who = token_hex(8)
        read = self._reads[who] = anyio.Event()
        self._ring(f"{ASKS}:{who}:{name}")
        self._ring(str(loop.read(name)))
        with anyio.move_on_after(READS_IN if self._together else 0):
            await read.wait()
        self._reads.pop(who, None)

    async def _read_alone(self, name: str) -> None:
        """Under the lease of the one that reads. Whoever does not hold it forgets what it has read: another goes on
        from there, and this one would begin anew."""
        reading = self._sources[name]
        try:
            async with self._leases.under(SINGLE) as lease:
                fault = reading.fault
                await self._accept(name, replace(self._means, store=Fenced(self._parts.store, lease)))
        except HeldElsewhere:
            reading.content, reading.refusals = None, 0
            raise
        if reading.fault != fault:
            self._ring(str(SWEEP))

    async def _accept(self, name: str, means: Means) -> None:
        if self._parts.load is None:
            return
        taken = await accept.accept(means, name, self._parts.load)
        for environment in (*taken.changed, *taken.undeclared):
            self.request(loop.reconcile(environment))
        if taken.changed or taken.undeclared or SWEEP in self._queue.failures:  # other targets may be to watch now
            self._queue.request(SWEEP)
        if taken.changed:
            self._spread.nudge()
            self._ring(SPREAD)

    async def _sweep(self) -> float:
        """Ask for every environment that is held, and its job, that nobody has asked for: a lost request costs one
        interval. What is watched are the targets of what is held."""
        await accept.hear(self._means)
        held = self.held
        active, targets = await self._parts.store.read(lambda c: _everything(c, held))
        for key in (*map(loop.reconcile, held), *map(loop.execute, active)):
            if self._queue.due(key) is None and not self._queue.running(key):
                self._queue.request(key)
        self._runtimes.watch(targets)
        if self.single:
            await self._spread.sweep()
        return SWEEPS * self._parts.random.uniform(0.9, 1.1)


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
