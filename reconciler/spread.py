"""Which environments this replica holds: its fair share of all, taken as soon as nobody holds them.

Every replica writes a row while it lives, and holds as many environments as its rank among the living says; the shares
add up to all. Above its share it gives away what is at rest. A round costs one transaction, and rounds follow each
other so that a lease that is not renewed any more is taken within a moment of its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import anyio
from sqlalchemy import Connection, func, select

from reconciler import events
from reconciler.events import Sink
from reconciler.failpoints import reached
from reconciler.leases import Leases
from reconciler.loop import plain, sentence
from reconciler.store import commands, jobs, leases, replicas
from reconciler.store.errors import StoreError
from reconciler.store.records import Job, Lease, Replica, Role
from reconciler.store.store import Store
from reconciler.store.tables import environment
from stickers.names import EnvironmentId

SINGLE: Final = EnvironmentId("documents")  # no environment: the lease of the one replica that reads the documents
POLL: Final = 2.0  # seconds between two rounds where others may work on the same database
BELIEVED: Final = 0.6  # of a lease's time a replica is believed alive: it must be known dead before its leases end
EPSILON: Final = 0.05  # seconds after the end of a lease, by which it has ended by any reading of the clock
AGAIN: Final = 0.5  # seconds after a round that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round found: what was claimed and what of it has work under way, who lives, how many environments this
    replica should hold, what is asked of those it holds, and in how many seconds a lease of another may end."""

    claimed: tuple[Lease, ...]
    active: tuple[Job, ...]
    live: tuple[Replica, ...]
    share: int
    asked: tuple[EnvironmentId, ...]
    next_end: float | None


@dataclass(frozen=True, kw_only=True)
class Told:
    """Whom a round tells: of environments that are held from now on with their active jobs, of commands that wait, of
    those that live, and whether an environment is at rest and may be given away."""

    gained: Callable[[Sequence[EnvironmentId], Sequence[Job]], None]
    asked: Callable[[Sequence[EnvironmentId]], None]
    living: Callable[[Sequence[Replica]], None]
    at_rest: Callable[[EnvironmentId], bool]
    shed: Callable[[EnvironmentId], None]


class Spread:
    """The rounds of one replica. `me` is asked anew each time: its row tells how much it holds."""

    def __init__(
        self,
        store: Store,
        held: Leases,
        me: Replica,
        told: Told,
        *,
        now: Callable[[], datetime],
        sink: Sink,
        poll: float | None = None,
    ) -> None:
        self._store, self._leases, self._now, self._sink, self._poll = store, held, now, sink, poll
        self._me, self._told = me, told
        self._nudged = anyio.Event()
        self._known: dict[str, Replica] = {}

    def nudge(self) -> None:
        """A round now."""
        self._nudged.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._nudged = anyio.Event()
            pause = await self._tried()
            with anyio.move_on_after(pause):
                await self._nudged.wait()

    async def _tried(self) -> float:
        try:
            return await self.round()
        except StoreError as error:
            self._sink(events.RoundFailed(error=sentence(plain(error)), again=AGAIN))
            return AGAIN

    async def round(self) -> float:
        """Answers in how many seconds the next is due."""
        await self._leases.inherit()
        began, now = anyio.current_time(), self._now()
        held = self._environments()
        me = replace(self._me, environments=len(held))
        found = await self._store.write(lambda c: self._asked(c, me, held, now))
        if found.claimed:
            reached("after_lease")
        self._leases.enter(found.claimed, began)
        self._tell(found)
        for given in self._above(found.share):
            self._told.shed(given)
            await self._leases.shed(given)
        return self._pause(found)

    def _asked(self, c: Connection, me: Replica, held: Sequence[EnvironmentId], now: datetime) -> Round:
        ttl = self._leases.ttl
        replicas.beat(c, me, now=now, ttl=ttl * BELIEVED)
        live = replicas.live(c, now)
        share = self._share(c, live)
        room = share - len(held) if self._leases.takes else 0
        claimed = leases.claim(c, self._leases.holder, room, now=now, ttl=ttl) if room > 0 else ()
        wanted = {lease.environment for lease in claimed}
        return Round(
            claimed=claimed,
            active=tuple(job for job in jobs.all_active(c) if job.environment in wanted) if wanted else (),
            live=live,
            share=share,
            asked=commands.wanted(c, [*held, *wanted]),
            next_end=leases.next_end(c, now, self._leases.holder),
        )

    def _share(self, c: Connection, live: Sequence[Replica]) -> int:
        """By rank: the first few take one more where it does not come out even. Who holds more goes first, so that
        nothing moves without need."""
        everything = c.execute(select(func.count()).select_from(environment)).scalar_one()
        ranked = sorted(live, key=lambda each: (-each.environments, each.id))
        able = [each.id for each in ranked if each.role is not Role.API]
        if self._me.id not in able:
            return 0
        even, more = divmod(everything, len(able))
        return even + (able.index(self._me.id) < more)

    def _tell(self, found: Round) -> None:
        self._told_of_others(found.live)
        self._told.living(found.live)
        if found.claimed:
            self._told.gained([lease.environment for lease in found.claimed], found.active)
        if found.asked:
            self._told.asked(found.asked)

    def _told_of_others(self, live: Sequence[Replica]) -> None:
        now = {each.id: each for each in live if each.id != self._me.id}
        for id in sorted(now.keys() - self._known.keys()):
            self._sink(events.ReplicaSeen(replica=now[id].place, role=now[id].role, version=now[id].version))
        for id in sorted(self._known.keys() - now.keys()):
            self._sink(events.ReplicaGone(replica=self._known[id].place))
        self._known = now

    def _environments(self) -> list[EnvironmentId]:
        return [each for each in self._leases.held if each != SINGLE]

    def _above(self, share: int) -> list[EnvironmentId]:
        """What is given away: of those at rest, as many as are too many."""
        held = self._environments()
        many = len(held) - share
        return [each for each in held if self._told.at_rest(each)][-many:] if many > 0 else []

    def _pause(self, found: Round) -> float:
        regular = self._leases.ttl.total_seconds() / 3
        if self._poll is not None:
            regular = min(regular, self._poll)
        if found.next_end is None:
            return regular
        return min(regular, max(found.next_end, 0.0) + EPSILON) if found.next_end > -1 else regular

    async def leave(self) -> None:
        """Live no more, so that the others share what was held at once."""
        await self._store.write(lambda c: replicas.leave(c, self._me.id))

    async def sweep(self) -> None:
        now = self._now()

        def old(c: Connection) -> None:
            replicas.sweep(c, now)
            commands.sweep(c, now)

        await self._store.write(old)
