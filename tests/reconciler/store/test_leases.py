"""One holder per environment, and a former holder that can do no harm."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, exists, literal, select, text, update
from sqlalchemy.exc import OperationalError

from reconciler.core.machine import JobEvent
from reconciler.store import engines, environments, jobs, leases
from reconciler.store.errors import LostLease, Stale
from reconciler.store.records import Lease
from reconciler.store.store import Store
from reconciler.store.tables import environment as environment_table
from reconciler.store.tables import lease as lease_table
from stickers.names import EnvironmentId, ReleaseName
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import TTL, held, settled, working

OTHER = EnvironmentId("default/staging")
RELEASE = ReleaseName("shop@2.0.0")
LONG_AGO = NOW - timedelta(days=3650)  # by any clock, also the database's own


async def _acquired(store: Store, holder: str, *, later: timedelta = timedelta(0)) -> Lease | None:
    return await store.write(lambda c: leases.acquire(c, PROD, holder, now=NOW + later, ttl=TTL))


async def _taken_over(store: Store) -> tuple[Lease, Lease]:
    """A lease that was lost, and the one that followed it."""
    first = await settled(store)
    await store.write(lambda c: c.execute(update(lease_table).values(until=LONG_AGO)))
    second = await _acquired(store, "two")
    assert second is not None
    return first, second


async def test_the_first_to_come_gets_the_lease_and_the_second_does_not(store: Store) -> None:
    first = await _acquired(store, "one")
    assert first is not None
    assert (first.environment, first.holder, first.token) == (PROD, "one", 1)
    assert await _acquired(store, "two") is None


async def test_environments_are_leased_apart(store: Store) -> None:
    assert await _acquired(store, "one")
    assert await store.write(lambda c: leases.acquire(c, OTHER, "two", now=NOW, ttl=TTL))


async def test_the_holder_keeps_its_token_when_it_asks_again(store: Store) -> None:
    first, again = await _acquired(store, "one"), await _acquired(store, "one")
    assert first is not None
    assert again is not None
    assert again.token == first.token


async def test_an_expired_lease_goes_to_the_next_with_a_higher_token(store: Store) -> None:
    first, second = await _taken_over(store)
    assert second.token == first.token + 1


async def test_who_has_let_it_expire_gets_another_token(store: Store) -> None:
    first = await settled(store)
    await store.write(lambda c: c.execute(update(lease_table).values(until=LONG_AGO)))
    again = await _acquired(store, first.holder)
    assert again is not None
    assert again.token == first.token + 1


async def test_a_released_lease_is_free_at_once_and_its_token_is_not_given_again(store: Store) -> None:
    first = await settled(store)
    await store.write(lambda c: leases.release(c, first))
    assert await store.read(lambda c: leases.load(c, PROD)) is None
    second = await _acquired(store, "two")
    assert second is not None
    assert second.token == first.token + 1


async def test_to_release_what_is_another_s_by_now_does_nothing(store: Store) -> None:
    first, second = await _taken_over(store)
    await store.write(lambda c: leases.release(c, first))
    kept = await store.read(lambda c: leases.load(c, PROD))
    assert kept is not None
    assert kept.token == second.token


async def test_renewal_lengthens_and_fails_once_another_holds_it(store: Store) -> None:
    lease = await settled(store)
    renewed = await store.write(lambda c: leases.renew(c, lease, now=NOW, ttl=2 * TTL))
    assert renewed.until > lease.until
    assert renewed.token == lease.token
    await store.write(lambda c: c.execute(update(lease_table).values(until=LONG_AGO)))
    await _acquired(store, "two")
    with pytest.raises(LostLease, match="default/prod with token 1 is not one's any more"):
        await store.write(lambda c: leases.renew(c, lease, now=NOW, ttl=TTL))


async def test_check_tells_an_expired_lease_and_a_lost_one(store: Store) -> None:
    lease = await settled(store)
    await store.read(lambda c: leases.check(c, lease, NOW))
    await store.write(lambda c: c.execute(update(lease_table).values(until=LONG_AGO)))
    with pytest.raises(LostLease):
        await store.read(lambda c: leases.check(c, lease, NOW))


async def test_expiry_is_told_by_the_store_s_clock_on_sqlite(sqlite: str) -> None:
    store = await Store.open(sqlite)
    await _acquired(store, "one")
    assert await _acquired(store, "two", later=TTL - timedelta(seconds=1)) is None
    assert await _acquired(store, "two", later=TTL) is not None
    await store.aclose()


async def test_expiry_is_told_by_the_database_s_clock_on_postgresql(postgresql: str) -> None:
    store = await Store.open(postgresql)
    await _acquired(store, "one")
    assert await _acquired(store, "two", later=timedelta(days=365)) is None  # a caller whose clock runs ahead
    await store.aclose()


async def test_a_former_holder_writes_nothing_and_is_told_so(store: Store) -> None:
    first = await settled(store)
    job = await working(store, first)
    await store.write(lambda c: c.execute(update(lease_table).values(until=LONG_AGO)))
    second = await _acquired(store, "two")
    assert second is not None
    with pytest.raises(LostLease):
        await store.write(lambda c: jobs.advance(c, job, JobEvent.PREPARE, first, NOW))
    with pytest.raises(LostLease):
        await store.write(lambda c: environments.attempted(c, PROD, RELEASE, first))
    with pytest.raises(LostLease):
        await store.write(lambda c: leases.hold(c, first))
    kept = await store.write(lambda c: jobs.advance(c, job, JobEvent.PREPARE, second, NOW))
    assert (kept.fence, kept.version) == (second.token, 1)


async def test_the_holder_is_told_that_the_row_has_changed_and_not_that_it_lost(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    await store.write(lambda c: jobs.advance(c, job, JobEvent.PREPARE, lease, NOW))
    with pytest.raises(Stale, match="has changed since version 0"):
        await store.write(lambda c: jobs.advance(c, job, JobEvent.PREPARE, lease, NOW))


async def test_a_lease_covers_its_own_environment_only(store: Store) -> None:
    await settled(store)
    other = await store.write(lambda c: leases.acquire(c, OTHER, "one", now=NOW, ttl=TTL))
    assert other is not None
    with pytest.raises(ValueError, match="does not cover"):
        await store.write(lambda c: environments.attempted(c, PROD, RELEASE, other))


class _Race:
    """A holder writes under its lease and has not committed yet; another then tries to take the lease over."""

    def __init__(self, address: str) -> None:
        self.slow, self.quick = engines.writer(address), engines.writer(address)
        with self.slow.begin() as c:
            environments.accept(c, fleet(1), now=NOW)
            self.lease = held(c)
            c.execute(update(lease_table).values(until=LONG_AGO))

    def taken_before_the_commit(self, fenced: bool) -> bool:
        with self.slow.begin() as c:
            c.execute(update(environment_table).where(self._fence(fenced)).values(last_attempted=RELEASE))
            return self._takes_over(self.quick)

    def _fence(self, locked: bool) -> object:
        if locked:
            return leases.fence(self.lease, PROD)
        return exists(select(literal(1)).where(lease_table.c.token == self.lease.token))

    def _takes_over(self, engine: Engine) -> bool:
        taken: list[bool] = []
        worker = threading.Thread(target=lambda: taken.append(self._tried(engine)))
        worker.start()
        worker.join()
        return taken[0]

    def _tried(self, engine: Engine) -> bool:
        with engine.connect() as c:
            return self._acquires(c)

    def _acquires(self, c: Connection) -> bool:
        c.execute(text("set lock_timeout = 200"))
        try:
            return leases.acquire(c, PROD, "two", now=NOW, ttl=TTL) is not None
        except OperationalError:
            return False

    def close(self) -> None:
        self.slow.dispose()
        self.quick.dispose()


def test_a_lease_is_not_taken_over_between_a_fenced_write_and_its_commit(postgresql: str) -> None:
    race = _Race(postgresql)
    assert not race.taken_before_the_commit(fenced=True)
    assert race.taken_before_the_commit(fenced=False)  # what the locked row is for
    race.close()
