"""The reconciler as a whole: it starts, it is told to stop, it gets over what fails around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest

from desired_state.model import Sync, Target
from drivers.errors import Unreachable
from drivers.memory import Deed, Fault, MemoryDriver, Trouble, World
from reconciler.core.machine import JobState, TaskState
from reconciler.daemon import Parts, Reconciler
from reconciler.events import Drained, TaskMoved, TurnFailed, WatchLost
from reconciler.loop import reconcile
from reconciler.means import Limits
from reconciler.store import leases
from reconciler.store.errors import Corrupt, Unavailable
from reconciler.store.store import Store
from stickers.names import EnvironmentId, TargetId
from tests.harness import virtual_time
from tests.reconciler.rig import PROD, Rig, Shelf, around, declared, place, rig, tools
from tests.reconciler.stores import fresh_store

anyio_backend = virtual_time.backend()

HOURLY = Sync(interval=timedelta(hours=1))


def acting(made: Rig) -> bool:
    return any(isinstance(event, TaskMoved) and event.state is TaskState.RUNNING for event in made.events)


# -- ending -----------------------------------------------------------------------------------------------------------


async def test_stop_lets_the_running_action_finish_and_begins_no_other() -> None:
    async with rig(declared("1.0.0")) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=20))
        await made.until(lambda: acting(made))
        made.reconciler.stop()
        await made.until(lambda: any(isinstance(event, Drained) for event in made.events))
        assert made.runs("1.0.0") == 1
        assert made.events[-1] == Drained(abandoned=())
        [job] = await made.jobs()
        assert job.state is JobState.RUNNING
        assert [task.state for task in await made.tasks(job)] == ["succeeded", "pending", "pending"]


async def test_what_takes_longer_than_the_grace_is_abandoned_and_found_again() -> None:
    store = fresh_store(virtual_time.now)
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0", targets=1))
    world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="switch", seconds=3600))
    world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=3600))
    async with around(world, store, shelf, limits=Limits(grace=timedelta(seconds=10))) as made:
        await made.until(lambda: acting(made))
        made.reconciler.stop()
        began = anyio.current_time()
        await made.until(lambda: any(isinstance(event, Drained) for event in made.events))
        assert anyio.current_time() - began < 11
        assert made.events[-1] == Drained(abandoned=("execute:default/prod:1",))
    async with around(world, store, shelf) as made:
        await made.rested("1.0.0", 1)
        assert [effect.deed for effect in world.effects].count(Deed.MADE) == 1
    await store.aclose()


async def test_the_leases_are_given_back_at_the_end() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.reconciler.stop()
        await made.until(lambda: any(isinstance(event, Drained) for event in made.events))
        assert await made.store.read(lambda c: leases.load(c, PROD)) is None


async def test_a_second_reconciler_waits_and_takes_over_when_the_first_is_gone() -> None:
    store = fresh_store(virtual_time.now)
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0"))
    async with around(world, store, shelf, holder="b") as second:
        async with around(world, store, shelf, holder="a") as first:
            await first.rested("1.0.0")
        shelf.put(declared("1.1.0"))
        await second.rested("1.1.0")
        assert len(await second.jobs()) == 2
    await store.aclose()


# -- getting over what fails ------------------------------------------------------------------------------------------


class Weak:
    """A store that fails by script."""

    def __init__(self, store: Store) -> None:
        self.store, self.now = store, store.now
        self.fault: Exception | None = None

    async def write(self, query: Any) -> Any:
        if self.fault:
            raise self.fault
        return await self.store.write(query)

    async def read(self, query: Any) -> Any:
        if self.fault:
            raise self.fault
        return await self.store.read(query)


@pytest.mark.parametrize("fault", [Unavailable("the database is away"), Corrupt("a row does not read")])
async def test_a_store_that_fails_is_told_and_survived(fault: Exception) -> None:
    store = fresh_store(virtual_time.now)
    weak = Weak(store)
    weak.fault = fault
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0"))
    async with around(world, weak, shelf) as made:  # type: ignore[arg-type]
        await anyio.sleep(120)
        failed = [event for event in made.events if isinstance(event, TurnFailed)]
        assert failed
        assert {event.terminal for event in failed} == {isinstance(fault, Corrupt)}
        assert set(made.reconciler.failing) == {"read:documents", "sweep:all"}
        weak.fault = None
        await made.rested("1.0.0")
        assert made.reconciler.failing == {}
    await store.aclose()


async def test_one_environment_that_fails_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler import reconcile as turns

    staging = EnvironmentId("default/staging")
    survey = turns.survey

    async def ill(means: Any, view: Any) -> Any:
        if view.row.id == PROD:
            raise ValueError("this environment only")
        return await survey(means, view)

    monkeypatch.setattr(turns, "survey", ill)
    async with rig(declared("1.0.0"), declared("1.0.0", environment=staging)) as made:
        await made.rested("1.0.0", 3, staging)
        assert "reconcile:default/prod" in made.reconciler.failing


# -- events of runtimes -----------------------------------------------------------------------------------------------


async def test_lost_events_are_told_looked_after_and_resumed() -> None:
    async with rig(declared("1.0.0", sync=HOURLY)) as made:
        await made.rested("1.0.0")
        made.world.lose_events()
        made.world.host(place(0).target).remove(place(0))
        await made.until(lambda: made.runs("1.0.0") == 3, within=30)
        assert [event.reason for event in made.events if isinstance(event, WatchLost)] == [
            "Unreachable: events were lost"
        ]
        await made.rested("1.0.0")
        made.world.host(place(1).target).remove(place(1))
        await made.until(lambda: made.runs("1.0.0") == 3, within=5)


class Deaf(MemoryDriver):
    """Its events cannot be had, and never will be."""

    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        raise Unreachable("no events here")
        yield


async def test_without_events_the_interval_is_the_net_and_resuming_backs_off() -> None:
    world = World(now=virtual_time.now)
    store = fresh_store(virtual_time.now)
    state = declared("1.0.0", sync=Sync(interval=timedelta(seconds=300)))
    async with around(world, store, Shelf(state), drivers={"memory": Deaf(tools(), world)}) as made:
        await made.rested("1.0.0")
        await anyio.sleep(600)
        lost = [event for event in made.events if isinstance(event, WatchLost)]
        assert 10 <= len(lost) <= 40
        assert lost[-1].again > 25
        world.host(place(0).target).remove(place(0))
        await made.until(lambda: made.runs("1.0.0") == 3, within=330)
    await store.aclose()


async def test_new_targets_are_watched_too() -> None:
    async with rig(declared("1.0.0", targets=1, sync=HOURLY)) as made:
        await made.rested("1.0.0", 1)
        made.shelf.put(declared("1.0.0", targets=2, sync=HOURLY))
        await made.rested("1.0.0", 2)
        await anyio.sleep(40)
        made.world.host(place(1).target).remove(place(1))
        await made.until(lambda: made.runs("1.0.0") == 2, within=5)


# -- nothing is forgotten ---------------------------------------------------------------------------------------------


async def test_a_lost_request_costs_an_interval_and_no_more() -> None:
    async with rig(declared("1.0.0", sync=HOURLY)) as made:
        await made.rested("1.0.0")
        made.reconciler._queue.forget(reconcile(PROD))
        made.world.lose_events()
        made.world.host(place(0).target).remove(place(0))
        await made.until(lambda: made.runs("1.0.0") == 3, within=40)


async def test_without_a_source_what_was_accepted_is_still_held() -> None:
    store = fresh_store(virtual_time.now)
    world = World(now=virtual_time.now)
    async with around(world, store, Shelf(declared("1.0.0"))) as made:
        await made.rested("1.0.0")
    async with around(world, store, Shelf(), sources={}) as made:
        world.host(place(0).target).remove(place(0))
        await made.until(lambda: made.runs("1.0.0") == 3)
    await store.aclose()


async def test_a_reconciler_is_made_of_its_parts_without_a_loop() -> None:
    store = fresh_store(virtual_time.now)
    parts = Parts(store=store, drivers={}, tools=tools(), keyring=None, holder="here")  # type: ignore[arg-type]
    assert Reconciler(parts).source_problem is None
    await store.aclose()
