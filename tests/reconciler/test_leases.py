"""Leases of one process: one holder, a token that rises, and an end that comes before the database's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from reconciler.events import Event, LeaseLost, LeaseTaken
from reconciler.leases import HeldElsewhere, Leases
from reconciler.store import environments
from reconciler.store import leases as rows
from reconciler.store.errors import LostLease, Unavailable
from reconciler.store.store import Store
from tests.harness import virtual_time
from tests.reconciler.rig import PROD, declared
from tests.reconciler.stores import fresh_store

anyio_backend = virtual_time.backend()

TTL = timedelta(seconds=30)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = fresh_store(virtual_time.now)
    await store.write(lambda c: environments.accept(c, declared("1.0.0"), now=virtual_time.now()))
    yield store
    await store.aclose()


def leases(store: Any, place: str = "here", said: list[Event] | None = None) -> Leases:
    sink = said.append if said is not None else lambda event: None
    return Leases(store, place, now=virtual_time.now, sink=sink, ttl=TTL)


class Flaky:
    """A store that fails while the test says so."""

    def __init__(self, store: Store) -> None:
        self.store, self.down = store, False

    async def write(self, query: Any) -> Any:
        if self.down:
            raise Unavailable("down")
        return await self.store.write(query)


async def test_one_holds_and_the_other_is_told_to_come_again(store: Store) -> None:
    mine, theirs = leases(store, "a"), leases(store, "b")
    async with mine.under(PROD):
        with pytest.raises(HeldElsewhere) as refused:
            async with theirs.under(PROD):
                pytest.fail("two hold it")
        assert refused.value.again == pytest.approx(10)


async def test_it_stays_held_between_turns_and_its_token_stays(store: Store) -> None:
    said: list[Event] = []
    mine = leases(store, said=said)
    async with mine.under(PROD) as first:
        pass
    async with mine.under(PROD) as second:
        assert second == first
    assert said == [LeaseTaken(environment=PROD, token=1)]


async def test_the_token_rises_with_every_holder(store: Store) -> None:
    tokens = []
    for place in ("a", "b", "c"):
        mine = leases(store, place)
        async with mine.under(PROD) as lease:
            tokens.append(lease.token)
        await mine.release_all()
    assert tokens == [1, 2, 3]


async def test_a_successor_in_the_same_place_need_not_wait_and_has_another_token(store: Store) -> None:
    dead = leases(store)
    async with dead.under(PROD) as before:
        pass
    heir = leases(store)
    with pytest.raises(HeldElsewhere):
        async with heir.under(PROD):
            pytest.fail("held by the dead one still")
    await heir.inherit()
    async with heir.under(PROD) as after:
        assert after.token == before.token + 1


async def test_nobody_inherits_from_another_place(store: Store) -> None:
    async with leases(store, "here").under(PROD):
        stranger = leases(store, "elsewhere")
        await stranger.inherit()
        with pytest.raises(HeldElsewhere):
            async with stranger.under(PROD):
                pytest.fail("inherited from a living one")


async def test_renewing_keeps_what_runs_alive(store: Store) -> None:
    mine = leases(store)
    async with anyio.create_task_group() as group:
        group.start_soon(mine.renew_for_ever)
        async with mine.under(PROD) as lease:
            await anyio.sleep(300)
        async with mine.under(PROD) as again:
            assert again.token == lease.token
        group.cancel_scope.cancel()


async def test_unrenewed_it_ends_at_two_thirds_by_its_own_clock(store: Store) -> None:
    said: list[Event] = []
    flaky = Flaky(store)
    mine = leases(flaky, said=said)

    async def works() -> None:
        async with mine.under(PROD):
            flaky.down = True
            await anyio.sleep(300)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(mine.renew_for_ever)
        with pytest.raises(LostLease):
            await works()
        assert anyio.current_time() - began == pytest.approx(20)
        group.cancel_scope.cancel()
    assert isinstance(said[-1], LeaseLost)


async def test_a_failed_renewal_is_tried_again_in_time(store: Store) -> None:
    flaky = Flaky(store)
    mine = leases(flaky)
    async with anyio.create_task_group() as group:
        group.start_soon(mine.renew_for_ever)
        async with mine.under(PROD):
            await anyio.sleep(8)
            flaky.down = True
            await anyio.sleep(4)  # the renewal at 10 s fails, that at 20 s comes too late
            flaky.down = False
            await anyio.sleep(7)
        group.cancel_scope.cancel()


async def test_a_fenced_write_that_is_refused_ends_the_lease(store: Store) -> None:
    said: list[Event] = []
    mine = leases(store, said=said)

    async def writes_too_late() -> None:
        async with mine.under(PROD) as lease:
            await store.write(lambda c: rows.release(c, lease))
            await store.write(lambda c: environments.attempted(c, PROD, declared("1.0.0").release.name, lease))

    with pytest.raises(LostLease):
        await writes_too_late()
    assert [type(event) for event in said] == [LeaseTaken, LeaseLost]
    async with mine.under(PROD) as fresh:
        assert fresh.token == 2


async def test_a_lost_lease_inside_a_group_of_tasks_is_a_lost_lease(store: Store) -> None:
    async def fails() -> None:
        raise LostLease("taken")

    with pytest.raises(LostLease):
        async with leases(store).under(PROD), anyio.create_task_group() as group:
            group.start_soon(fails)


async def test_other_errors_pass_and_the_lease_is_kept(store: Store) -> None:
    mine = leases(store)
    with pytest.raises(ValueError, match="mine"):
        async with mine.under(PROD):
            raise ValueError("mine")
    async with mine.under(PROD) as lease:
        assert lease.token == 1


async def test_releasing_frees_for_the_next_at_once(store: Store) -> None:
    mine = leases(store, "a")
    async with mine.under(PROD):
        pass
    await mine.release_all()
    async with leases(store, "b").under(PROD) as lease:
        assert lease.token == 2
