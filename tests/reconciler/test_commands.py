"""What people ask: plan, sync, rollback, adopt."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from desired_state.model import Policy, Sync
from drivers.memory import Fault, Trouble, scripts
from reconciler.commands import Declined
from reconciler.core.intent import Code, Grant, JobKind
from reconciler.core.judge import Verdict
from reconciler.core.machine import JobState
from reconciler.store import environments, memories
from reconciler.store.errors import JobActive
from reconciler.store.records import HandSuspension, Job
from stickers.names import EnvironmentId
from tests.harness import virtual_time
from tests.reconciler.rig import PROD, Rig, artifact, declared, place, rig

anyio_backend = virtual_time.backend()

ASKS = Sync(interval=timedelta(seconds=30), mode=Policy.ASK, heal=Policy.ASK)
ANYTHING = Grant(advance=True, heal=True)


async def ended(made: Rig, job: Job | None) -> JobState:
    assert job is not None

    async def over() -> bool:
        return any(one.id == job.id and one.ended_at is not None for one in await made.jobs())

    await made.until(over)
    return next(one.state for one in await made.jobs() if one.id == job.id)


# -- plan and sync ----------------------------------------------------------------------------------------------------


async def test_a_plan_changes_nothing_and_is_the_same_twice() -> None:
    async with rig(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        effects = len(made.world.effects)
        first, second = await made.reconciler.plan(PROD, ANYTHING), await made.reconciler.plan(PROD, ANYTHING)
        assert first.hash == second.hash
        assert [len(wave.intents) for wave in first.waves] == [1, 1, 1]
        assert len(made.world.effects) == effects
        assert await made.jobs() == []


async def test_what_the_policy_asks_for_waits_and_sync_does_it() -> None:
    async with rig(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(120)
        assert await made.jobs() == []
        plan = await made.reconciler.plan(PROD, ANYTHING)
        job = await made.reconciler.sync(PROD, ANYTHING, actor="ada", plan_hash=plan.hash)
        assert await ended(made, job) is JobState.COMPLETED
        assert job is not None
        assert (job.requested_by, job.plan_hash) == ("ada", plan.hash)
        assert made.runs("1.0.0") == 3


async def test_enough_of_a_hash_names_a_plan_and_too_little_does_not() -> None:
    async with rig(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        digits = (await made.reconciler.plan(PROD, ANYTHING)).hash.removeprefix("sha256:")
        with pytest.raises(Declined):
            await made.reconciler.sync(PROD, ANYTHING, actor="ada", plan_hash=digits[:7])
        assert await made.reconciler.sync(PROD, ANYTHING, actor="ada", plan_hash=digits[:8]) is not None


async def test_sync_refuses_a_plan_that_the_world_has_left_behind() -> None:
    async with rig(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        plan = await made.reconciler.plan(PROD, ANYTHING)
        made.world.host(place(0).target).stand(declared("1.0.0").placements[0])
        with pytest.raises(Declined) as declined:
            await made.reconciler.sync(PROD, ANYTHING, actor="ada", plan_hash=plan.hash)
        assert declined.value.code == "PLAN_MOVED"
        assert await made.jobs() == []


async def test_there_is_nothing_to_sync_where_all_is_as_wanted() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        assert await made.reconciler.sync(PROD, ANYTHING, actor="ada") is None


async def test_sync_passes_a_suspension_once() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        held = HandSuspension(reason="audit", actor="bob", since=virtual_time.now())
        await made.store.write(lambda c: environments.suspend(c, PROD, held))
        made.world.host(place(0).target).remove(place(0))
        await anyio.sleep(60)
        assert made.runs("1.0.0") == 2
        job = await made.reconciler.sync(PROD, ANYTHING, actor="ada")
        assert await ended(made, job) is JobState.COMPLETED
        assert made.runs("1.0.0") == 3


async def test_a_second_sync_is_told_which_job_is_at_work() -> None:
    async with rig(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        job = await made.reconciler.sync(PROD, ANYTHING, actor="ada")
        assert job is not None
        await anyio.sleep(0.5)
        with pytest.raises(JobActive, match=job.id):
            await made.reconciler.sync(PROD, ANYTHING, actor="bob")


async def test_of_many_syncs_at_once_one_makes_a_job() -> None:
    async with rig(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        answers: list[object] = []

        async def press() -> None:
            try:
                answers.append(await made.reconciler.sync(PROD, ANYTHING, actor="ada"))
            except JobActive as busy:
                answers.append(busy)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(press)
        assert sum(isinstance(answer, Job) for answer in answers) == 1
        assert len(await made.jobs()) == 1


async def test_an_environment_that_nobody_declared_is_named() -> None:
    async with rig(declared("1.0.0")) as made:
        with pytest.raises(Declined, match="there is no environment default/nowhere"):
            await made.reconciler.plan(EnvironmentId("default/nowhere"), ANYTHING)


async def test_a_confirmed_removal_is_carried_out_and_another_hash_is_not() -> None:
    sync = Sync(interval=timedelta(seconds=30), prune=True, removal_limit=30)
    async with rig(declared("1.0.0", targets=4, sync=sync)) as made:
        await made.rested("1.0.0", 4)
        made.shelf.put(declared("1.0.0", targets=2, sync=sync))
        await made.until(lambda: _blocked(made))
        plan = await made.reconciler.plan(PROD, ANYTHING)
        assert plan.removal is not None
        with pytest.raises(Declined) as declined:
            await made.reconciler.sync(PROD, Grant(removal="0" * 12), actor="ada")
        assert declined.value.code == "REMOVAL_MOVED"
        assert made.runs("1.0.0") == 4
        job = await made.reconciler.sync(PROD, Grant(removal=plan.removal), actor="ada")
        assert await ended(made, job) is JobState.COMPLETED
        assert made.runs("1.0.0") == 2


async def _blocked(made: Rig) -> bool:
    plan = await made.reconciler.plan(PROD, ANYTHING)
    return any(one.code is Code.REMOVAL_LIMIT for one in plan.blocked)


# -- rollback ---------------------------------------------------------------------------------------------------------


async def test_rollback_returns_to_what_ran_in_health_before_and_stays_there() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.shelf.put(declared("2.0.0"))
        await made.rested("2.0.0")
        job = await made.reconciler.rollback(PROD, actor="ada", reason="checkout is slow")
        assert await ended(made, job) is JobState.COMPLETED
        assert job is not None
        assert job.kind is JobKind.ROLLBACK
        assert made.runs("1.0.0") == 3
        await anyio.sleep(600)
        assert made.runs("1.0.0") == 3
        assert len(await made.jobs()) == 3
        [refused, *_] = await made.store.read(lambda c: memories.refused(c, PROD))
        assert refused.reason == "rolled back by ada: checkout is slow"


async def test_rollback_brings_the_configuration_back_too() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        before = declared("1.0.0").placements[0].content
        made.shelf.put(declared("1.0.0", level="debug"))
        await made.until(lambda: _second_done(made))
        await ended(made, await made.reconciler.rollback(PROD, actor="ada", reason="noise"))
        served = made.world.host(place(0).target).place(place(0)).served
        assert served is not None
        assert served.content == before


async def _second_done(made: Rig) -> bool:
    found = await made.jobs()
    return len(found) == 2 and found[1].ended_at is not None


async def test_drift_after_a_rollback_is_healed_to_where_it_went_back() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.shelf.put(declared("2.0.0"))
        await made.rested("2.0.0")
        await ended(made, await made.reconciler.rollback(PROD, actor="ada", reason="slow"))
        made.world.host(place(1).target).remove(place(1))
        await made.until(lambda: made.runs("1.0.0") == 3)


async def test_a_second_rollback_goes_no_further() -> None:
    async with rig(declared("1.0.0")) as made:
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            made.shelf.put(declared(version))
            await made.rested(version)
        await ended(made, await made.reconciler.rollback(PROD, actor="ada", reason="slow"))
        assert await made.reconciler.rollback(PROD, actor="ada", reason="again") is None
        assert made.runs("2.0.0") == 3


async def test_only_what_changed_goes_back() -> None:
    parts = ("api", "web")
    async with rig(declared("1.0.0", components=parts)) as made:
        await made.until(lambda: made.runs("1.0.0") == 3 and made.runs("1.0.0", "web") == 3)
        state = declared("2.0.0", components=parts)
        kept = {one.id: one.artifact for one in declared("1.0.0", components=parts).placements}
        mixed = replace(
            state,
            placements=tuple(
                replace(one, artifact=kept[one.id]) if one.id.component == "web" else one for one in state.placements
            ),
        )
        made.shelf.put(mixed)
        await made.until(lambda: _second_done(made))
        web = {
            id: place.served.instance
            for host in made.world.hosts.values()
            for id, place in host.places.items()
            if id.component == "web" and place.served
        }
        await ended(made, await made.reconciler.rollback(PROD, actor="ada", reason="slow"))
        assert made.runs("1.0.0") == 3
        for id, instance in web.items():
            served = made.world.host(id.target).places[id].served
            assert served is not None
            assert served.instance == instance


async def test_the_first_release_has_nothing_before_it_and_is_not_taken_away() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        with pytest.raises(Declined) as declined:
            await made.reconciler.rollback(PROD, actor="ada", reason="regret")
        assert declined.value.code == "NOTHING_BEFORE"
        assert made.runs("1.0.0") == 3


async def test_what_cannot_be_reached_goes_back_when_it_returns() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.shelf.put(declared("2.0.0"))
        await made.rested("2.0.0")
        made.world.host(place(0).target).cut()
        await made.until(lambda: _unknown(made))
        await ended(made, await made.reconciler.rollback(PROD, actor="ada", reason="slow"))
        assert (made.runs("1.0.0"), made.runs("2.0.0")) == (2, 1)
        made.world.host(place(0).target).mend()
        await made.until(lambda: made.runs("1.0.0") == 3)


async def _unknown(made: Rig) -> bool:
    return (await made.standings())[place(0)].verdict is Verdict.UNKNOWN


async def test_a_rollback_that_fails_to_prove_what_it_brings_has_failed() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        made.shelf.put(declared("2.0.0", targets=1))
        await made.rested("2.0.0", 1)
        made.world.scripts[artifact("api", "1.0.0").digest] = scripts.NEVER
        made.world.host(place(0).target).places[place(0)].kept[0].script = scripts.NEVER
        state = await ended(made, await made.reconciler.rollback(PROD, actor="ada", reason="slow"))
        assert state is JobState.FAILED


# -- adoption ---------------------------------------------------------------------------------------------------------


async def test_adopt_takes_over_what_runs_as_declared_without_a_restart() -> None:
    state = declared("1.0.0", targets=2, sync=ASKS)
    async with rig(state) as made:
        things = [
            made.world.host(one.id.target).intrude("by-hand", one.artifact, configuration=one.configuration_digest)
            for one in state.placements
        ]
        await anyio.sleep(60)
        job = await made.reconciler.adopt(PROD, frozenset({place(0).target}), actor="ada")
        assert await ended(made, job) is JobState.COMPLETED
        assert job is not None
        assert job.kind is JobKind.ADOPT
        served = made.world.host(place(0).target).place(place(0)).served
        assert served is not None
        assert (served.instance, served.since) == (things[0].instance, things[0].since)
        assert made.world.host(place(1).target).places.get(place(1)) is None or made.runs("1.0.0") == 1


async def test_there_is_nothing_to_adopt_where_nothing_fits() -> None:
    async with rig(declared("1.0.0", targets=1, sync=ASKS)) as made:
        made.world.host(place(0).target).intrude("by-hand", artifact("api", "other"))
        await anyio.sleep(5)
        assert await made.reconciler.adopt(PROD, None, actor="ada") is None


async def test_what_differs_in_configuration_is_a_conflict_and_stays_as_it_is() -> None:
    state = declared("1.0.0", targets=1, sync=ASKS)
    async with rig(state) as made:
        thing = made.world.host(place(0).target).intrude("by-hand", state.placements[0].artifact)
        await anyio.sleep(5)
        job = await made.reconciler.adopt(PROD, None, actor="ada")
        assert await ended(made, job) is JobState.FAILED
        assert thing.on
        assert made.world.host(place(0).target).foreign == {"by-hand": thing}


async def test_a_fault_of_the_target_does_not_reach_who_plans() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.REFUSED, step="observe", times=None))
        plan = await made.reconciler.plan(PROD, ANYTHING)
        assert [(str(one.id), one.code) for one in plan.blocked] == [("default/prod-0/api", Code.UNSEEN)]
