"""One holder per environment: leases taken, renewed, and the moment after which nothing more may be started.

A lease ends for its holder at two thirds of its time, by the holder's own monotonic clock, counted from before it was
asked for. Whatever runs under it is cancelled then, so that it is quiet when the database gives the lease to another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from secrets import token_hex
from typing import Final

import anyio
from sqlalchemy import Connection

from reconciler import events
from reconciler.events import Sink
from reconciler.failpoints import reached
from reconciler.store import leases, replicas
from reconciler.store.errors import LostLease, StoreError
from reconciler.store.records import Lease
from reconciler.store.store import Store
from stickers.names import EnvironmentId

TTL: Final = timedelta(seconds=30)


class HeldElsewhere(Exception):
    """Another reconciler holds the environment; try again in `again` seconds."""

    def __init__(self, environment: EnvironmentId, again: float) -> None:
        super().__init__(f"{environment} is held by another reconciler")
        self.again = again


@dataclass(slots=True, kw_only=True, eq=False)
class _Held:
    """A lease of ours, the loop's time until which it may be used, and what runs under it."""

    lease: Lease
    deadline: float
    scopes: list[anyio.CancelScope] = field(default_factory=list)

    def extend(self, lease: Lease, deadline: float) -> None:
        self.lease, self.deadline = lease, deadline
        for scope in self.scopes:
            scope.deadline = deadline

    def end(self) -> None:
        for scope in self.scopes:
            scope.cancel()


class Leases:
    """The leases this process holds. `place` names where it lives; no two processes live in one place at the same
    time. Every process is another holder, so that the token rises when one follows another."""

    def __init__(
        self, store: Store, place: str, *, now: Callable[[], datetime], sink: Sink, ttl: timedelta = TTL
    ) -> None:
        self._store, self._place, self._now, self._sink, self.ttl = store, place, now, sink, ttl
        self.holder = f"{place}#{token_hex(4)}"
        self.takes = True  # False: another process of ours takes them
        self._held: dict[EnvironmentId, _Held] = {}
        self._taking: dict[EnvironmentId, anyio.Lock] = {}
        self._inherited = False
        self.lost: Callable[[EnvironmentId], None] = lambda environment: None  # called with what is held no more

    # -- what is held -----------------------------------------------------------------------------------------------

    def holds(self, environment: EnvironmentId) -> bool:
        """Held, and not past its end by our own clock."""
        held = self._held.get(environment)
        return held is not None and anyio.current_time() < held.deadline

    @property
    def held(self) -> tuple[EnvironmentId, ...]:
        return tuple(sorted(environment for environment in self._held if self.holds(environment)))

    def insist(self, lease: Lease) -> None:
        """`LostLease` unless it may still be used. For the moment before an effect: a process that was halted and goes
        on has not been told yet that its time is over."""
        held = self._held.get(lease.environment)
        if held is None or held.lease.token != lease.token or anyio.current_time() >= held.deadline:
            raise LostLease(f"the lease of {lease.environment} ended before this was begun")

    @asynccontextmanager
    async def under(self, environment: EnvironmentId) -> AsyncIterator[Lease]:
        """Run under the environment's lease, taking it where it is not held.

        Raises `HeldElsewhere` when another holds it, and `LostLease` when it ends before the body does; the body is
        cancelled then.
        """
        held = await self._hold(environment)
        scope = anyio.CancelScope(deadline=held.deadline)
        held.scopes.append(scope)
        try:
            with scope:
                yield held.lease
        except Exception as error:
            if lost := _lease_lost(error):
                self._drop(environment, held, str(lost))
                raise lost from None
            raise
        finally:
            held.scopes.remove(scope)
        if scope.cancelled_caught:
            self._drop(environment, held, "it could not be renewed in time")
            raise LostLease(f"the lease of {environment} ended while a turn ran under it")

    async def inherit(self) -> None:
        """Free what an earlier process of this place left held: it is dead, and need not be waited for. Once."""
        if not self._inherited and self.takes:
            await self._store.write(self._freed)
            self._inherited = True

    def _freed(self, c: Connection) -> None:
        leases.free_all(c, f"{self._place}#")
        replicas.forget(c, f"{self._place}#", but=self.holder)

    def enter(self, claimed: Iterable[Lease], began: float) -> None:
        """Hold what was claimed in a transaction that was asked for at `began`."""
        for lease in claimed:
            self._entered(lease, began)

    def _entered(self, lease: Lease, began: float) -> _Held:
        held = self._held[lease.environment] = _Held(lease=lease, deadline=began + self._usable)
        self._sink(events.LeaseTaken(environment=lease.environment, token=lease.token))
        return held

    async def shed(self, environment: EnvironmentId) -> None:
        """Give one back, so that another takes it at once."""
        held = self._held.pop(environment, None)
        if held is not None:
            held.end()
            self._sink(events.LeaseLost(environment=environment, token=held.lease.token, reason="given to another"))
            await self._store.write(lambda c: leases.release(c, held.lease))

    async def _hold(self, environment: EnvironmentId) -> _Held:
        async with self._taking.setdefault(environment, anyio.Lock()):
            held = self._held.get(environment)
            if held is not None and anyio.current_time() < held.deadline:
                return held
            if held is not None:
                self._drop(environment, held, "it could not be renewed in time")
            return await self._take(environment)

    async def _take(self, environment: EnvironmentId) -> _Held:
        again = self.ttl.total_seconds() / 3
        if not self.takes:
            raise HeldElsewhere(environment, again)
        reached("before_lease")
        began, now = anyio.current_time(), self._now()
        lease = await self._store.write(lambda c: leases.acquire(c, environment, self.holder, now=now, ttl=self.ttl))
        if lease is None:
            raise HeldElsewhere(environment, again)
        reached("after_lease")
        return self._entered(lease, began)

    @property
    def _usable(self) -> float:
        return self.ttl.total_seconds() * 2 / 3

    def _drop(self, environment: EnvironmentId, held: _Held, reason: str) -> None:
        """Forget the lease, once, and end what runs under it."""
        if self._held.get(environment) is held:
            del self._held[environment]
            self._sink(events.LeaseLost(environment=environment, token=held.lease.token, reason=reason))
            self.lost(environment)
        held.end()

    async def renew_for_ever(self) -> None:
        """Renew everything held at a third of its time, until cancelled."""
        while True:
            await anyio.sleep(self.ttl.total_seconds() / 3)
            await self._renew_all()

    async def _renew_all(self) -> None:
        """In one statement. What cannot be renewed now keeps its deadline, and the next third tries again."""
        before, began, now = dict(self._held), anyio.current_time(), self._now()
        if not before:
            return
        try:
            renewed = await self._store.write(lambda c: leases.renew_all(c, self.holder, before, now=now, ttl=self.ttl))
        except StoreError:
            return
        found = {lease.environment: lease for lease in renewed}
        for environment, held in before.items():
            lease = found.get(environment)
            if self._held.get(environment) is not held:
                continue
            if lease is None or lease.token != held.lease.token:
                self._drop(environment, held, str(leases.lost(held.lease)))
            else:
                held.extend(lease, began + self._usable)

    async def release_all(self) -> None:
        """Give everything back, so that the next holder need not wait. What cannot be given back expires."""
        for held in [self._held[environment] for environment in sorted(self._held)]:
            held.end()
            try:
                await self._store.write(partial(leases.release, lease=held.lease))
            except StoreError:
                continue
        self._held.clear()


def _lease_lost(error: BaseException) -> LostLease | None:
    """The lost lease that the error is, or that a group of errors holds."""
    if isinstance(error, BaseExceptionGroup):
        return next((lost for inner in error.exceptions if (lost := _lease_lost(inner))), None)
    return error if isinstance(error, LostLease) else None
