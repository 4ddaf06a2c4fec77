"""Carrying a job: waves, retries, rollback, recovery, and what people ask of it."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from desired_state.model import RollbackPolicy, Strategy, StrategyKind
from drivers.memory import Crossing, Deed, Fault, Trouble, When, World, scripts
from reconciler import act
from reconciler.core.intent import JobKind
from reconciler.core.judge import Verdict
from reconciler.core.machine import JobState, TaskState
from reconciler.events import Event, JobMoved, TaskMoved
from reconciler.loop import execute
from reconciler.means import Limits
from reconciler.store import environments, evidence, jobs, memories, tasks
from reconciler.store.records import Direction, HandSuspension, Job, Wish
from reconciler.store.store import Store
from stickers.signature import Statement
from tests.harness import virtual_time
from tests.reconciler.rig import PROD, Rig, Shelf, around, artifact, declared, keyring, place, rig
from tests.reconciler.stores import fresh_store

anyio_backend = virtual_time.backend()

ALL = Strategy(kind=StrategyKind.ALL_AT_ONCE)


async def goods(made: Rig) -> dict[Any, str]:
    known = await made.store.read(lambda c: memories.known(c, PROD, virtual_time.now()))
    return {id: memory.last_good.release for id, memory in known.memories.items() if memory.last_good}


def bad(made: Rig, version: str, script: scripts.Script = scripts.NEVER) -> None:
    made.world.scripts[artifact("api", version).digest] = script


# -- forward ----------------------------------------------------------------------------------------------------------


async def test_a_job_goes_through_its_states_and_each_task_through_its_own() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        states = [event.state for event in made.events if isinstance(event, JobMoved)]
        assert states == [JobState.PENDING, JobState.RUNNING, JobState.COMPLETING, JobState.COMPLETED]
        moved = [event.state for event in made.events if isinstance(event, TaskMoved)]
        assert moved == [TaskState.DISPATCHED, TaskState.RUNNING, TaskState.VERIFYING, TaskState.SUCCEEDED]


async def test_a_wave_begins_when_the_one_before_is_done_and_never_exceeds_its_size() -> None:
    strategy = Strategy(wave=2, percent=False)
    async with rig(declared("1.0.0", targets=5, strategy=strategy)) as made:
        job = await made.rested("1.0.0", 5)
        found = await made.tasks(job)
        assert [task.wave for task in found] == [0, 0, 1, 1, 2]
        for earlier, later in ((0, 1), (1, 2)):
            done = max(task.ended_at for task in found if task.wave == earlier and task.ended_at)
            begun = min(task.began_at for task in found if task.wave == later and task.began_at)
            assert done <= begun


async def test_last_good_and_signed_evidence_are_kept_for_what_was_proven() -> None:
    async with rig(declared("1.0.0", targets=2)) as made:
        job = await made.rested("1.0.0", 2)
        assert set((await goods(made)).values()) == {"shop@1.0.0"}
        for task in await made.tasks(job):
            assert task.receipt is not None
            assert task.evidence is not None
            [proof] = [outcome.evidence for outcome in task.receipt.outcomes if outcome.evidence]
            for id, kind in ((proof.id, Statement.EVIDENCE), (task.evidence, Statement.ACTION)):
                row = await made.store.read(partial(evidence.load, id=id))
                assert row is not None
                assert row.kind is kind
                keyring().payload(row.envelope, kind, lambda _: PROD)


async def test_the_record_of_an_action_can_be_read_whatever_its_driver_said() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        fault = Fault(trouble=Trouble.REFUSED, step="prepare", text="no space left " * 10_000)
        made.world.host(place(0).target).faults.append(fault)
        job = await made.ended(1)
        [task] = await made.tasks(job)
        assert task.evidence is not None
        row = await made.store.read(partial(evidence.load, id=task.evidence))
        assert row is not None
        record = json.loads(keyring().payload(row.envelope, Statement.ACTION, lambda _: PROD))
        assert record["detail"].startswith("trying again cannot help: no space left no space left")
        assert [one.partition(":")[0] for one in record["cut"]] == ["detail"]


async def test_progress_is_kept_as_it_comes() -> None:
    async with rig(declared("1.0.0", targets=1), running=True) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=20))
        await made.until(lambda: made.job())
        await anyio.sleep(5)
        job = await made.job()
        assert job is not None
        [task] = await made.tasks(job)
        lines = await made.store.read(lambda c: tasks.progress(c, task.id))
        assert [line.step for line in lines] == ["look", "prepare"]
        assert task.state is TaskState.RUNNING
        await made.rested("1.0.0", 1)


async def test_several_components_of_one_target_change_together() -> None:
    async with rig(declared("1.0.0", targets=1, components=("api", "web", "db"))) as made:
        for host in made.world.hosts.values():
            host.faults.append(Fault(trouble=Trouble.SLOW, step="prepare", times=None, seconds=10))
        job = await made.rested("1.0.0", 1)
        assert job.ended_at is not None
        assert (job.ended_at - job.created_at).total_seconds() < 20


# -- retries and what is unknown --------------------------------------------------------------------------------------


async def test_an_unreachable_target_is_tried_again_under_the_same_key() -> None:
    async with rig(declared("1.0.0", targets=1), running=True) as made:
        fault = Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=2)
        made.world.host(place(0).target).faults.append(fault)
        job = await made.rested("1.0.0", 1)
        [task] = await made.tasks(job)
        assert (task.state, task.attempt) == (TaskState.SUCCEEDED, 3)


async def test_of_a_large_wave_only_so_many_are_begun_together_and_no_retry_holds_up_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(act, "AT_HAND", 2)
    ended = list[str]()

    def sink(event: Event) -> None:
        if isinstance(event, TaskMoved) and event.state is TaskState.SUCCEEDED:
            ended.append(event.target)

    async with rig(declared("1.0.0", targets=9, strategy=ALL), sink=sink, limits=Limits(actions=1)) as made:
        for number in range(3):
            made.world.host(place(number).target).faults.append(
                Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=4)
            )
        await made.rested("1.0.0", 9)
    assert sorted(ended[-3:]) == [place(number).target for number in range(3)]


async def test_what_can_never_be_reached_ends_the_job_without_a_word_against_the_release() -> None:
    async with rig(declared("1.0.0", targets=2, strategy=ALL)) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=5))
        first = await made.ended(1)
        assert first.state is JobState.FAILED
        assert "gave up after 5 attempts" in first.message
        assert await made.store.read(lambda c: memories.refused(c, PROD)) == ()
        await made.until(lambda: made.runs("1.0.0") == 2)


async def test_a_lost_answer_is_no_failure_and_nothing_is_done_twice() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.LOST, step="wear", times=2))
        await made.rested("1.0.0", 1)
        assert [effect.deed for effect in made.world.effects].count(Deed.MADE) == 1


async def test_a_hanging_action_is_lost_looked_at_and_finished() -> None:
    limits = Limits(action=timedelta(seconds=60))
    async with rig(declared("1.0.0", targets=1), limits=limits) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.HANG, step="switch"))
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.HANG, step="start"))
        job = await made.rested("1.0.0", 1)
        [task] = await made.tasks(job)
        assert task.attempt == 2
        assert [effect.deed for effect in made.world.effects].count(Deed.MADE) == 1


async def lost(made: Rig) -> None:
    """An action hangs on the first target, and the target goes away before anybody can look."""
    host = made.world.host(place(0).target)
    host.faults.append(Fault(trouble=Trouble.HANG, step="start", when=When.AFTER))
    await made.until(lambda: any(e.deed is Deed.STARTED and e.target == host.target for e in made.world.effects))
    host.cut()
    await made.until(lambda: any(isinstance(e, TaskMoved) and e.state is TaskState.LOST for e in made.events))


async def test_an_unknown_outcome_is_waited_for_while_the_target_is_away() -> None:
    async with rig(declared("1.0.0", targets=1), limits=Limits(action=timedelta(seconds=20))) as made:
        await lost(made)
        await anyio.sleep(120)
        job = await made.job()
        assert job is not None
        [task] = await made.tasks(job)
        assert (job.state, task.state) == (JobState.RUNNING, TaskState.LOST)
        made.world.host(place(0).target).mend()
        await made.rested("1.0.0", 1)
        assert len(await made.jobs()) == 1
        assert [effect.deed for effect in made.world.effects].count(Deed.MADE) == 1


async def test_an_unknown_outcome_is_not_looked_at_without_pause_while_another_waits_for_its_retry() -> None:
    async with rig(declared("1.0.0", targets=2, strategy=ALL)) as made:
        host = made.world.host(place(0).target)
        host.faults.append(Fault(trouble=Trouble.LOST, step="wear"))
        made.world.host(place(1).target).faults.append(Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=4))
        await made.until(lambda: made.job())
        host.faults.append(Fault(trouble=Trouble.UNREACHABLE, step="observe", times=None))
        looks: list[float] = []
        made.world.nemesis = lambda crossing: _counted(crossing, looks)
        await anyio.sleep(20)
        assert len(looks) < 60
        made.world.nemesis = None
        host.mend()
        await made.rested("1.0.0", 2)


def _counted(crossing: Crossing, looks: list[float]) -> Fault | None:
    """Who does nothing but look is slowed down at last, or no time would pass."""
    if crossing.step == "observe" and crossing.when is When.BEFORE:
        looks.append(anyio.current_time())
    return Fault(trouble=Trouble.SLOW, seconds=5) if len(looks) > 1000 else None


async def test_nobody_waits_for_ever_for_an_unknown_outcome() -> None:
    limits = Limits(action=timedelta(seconds=20), patience=timedelta(minutes=5))
    async with rig(declared("1.0.0", targets=2, strategy=ALL), limits=limits) as made:
        await lost(made)
        job = await made.ended(1)
        assert job.state is JobState.FAILED
        assert "the outcome on default/prod-0 is unknown" in job.message
        assert (await made.standings())[place(0)].verdict is Verdict.UNKNOWN
        assert await made.store.read(lambda c: memories.refused(c, PROD)) == ()
        made.world.host(place(0).target).mend()
        await made.until(lambda: made.runs("1.0.0") == 2)


async def test_a_failure_of_one_target_does_not_touch_its_siblings() -> None:
    strategy = Strategy(kind=StrategyKind.ALL_AT_ONCE, max_failures=1)
    async with rig(declared("1.0.0", targets=4, strategy=strategy)) as made:
        made.world.host(place(2).target).faults.append(Fault(trouble=Trouble.REFUSED, step="prepare"))
        job = await made.ended(1)
        states = {task.target: task.state for task in await made.tasks(job)}
        assert states.pop(place(2).target) is TaskState.FAILED
        assert set(states.values()) == {TaskState.SUCCEEDED}
        assert job.state is JobState.COMPLETED
        assert "1 targets failed, which is allowed" in job.message


async def test_a_conflict_is_planned_again_and_refuses_nothing() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        host = made.world.host(place(0).target)
        host.faults.append(Fault(trouble=Trouble.SLOW, step="look", seconds=5))
        made.shelf.put(declared("1.1.0", targets=1))
        await made.until(
            lambda: any(isinstance(e, TaskMoved) and e.state == "running" and ":2/" in e.task for e in made.events)
        )
        await anyio.sleep(1)
        host.swap(place(0), artifact("api", "by-hand"))
        job = await made.ended(2)
        assert job.state is JobState.FAILED
        assert [task.code for task in await made.tasks(job)] == ["CONFLICT"]
        await made.until(lambda: made.runs("1.1.0") == 1)


async def test_a_target_that_keeps_failing_is_left_alone_for_a_while() -> None:
    manual: dict[str, Any] = {"rollback": RollbackPolicy.MANUAL, "strategy": ALL}
    async with rig(declared("1.0.0", targets=1, **manual)) as made:
        fault = Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=None)
        made.world.host(place(0).target).faults.append(fault)
        await made.until(lambda: _open(made), within=300)
        count = len(await made.jobs())
        assert count == 3
        made.world.host(place(0).target).mend()
        await made.rested("1.0.0", 1)
        assert await made.store.read(lambda c: memories.circuits(c, PROD)) == {}


async def _open(made: Rig) -> bool:
    found = await made.store.read(lambda c: memories.circuits(c, PROD))
    return any(one.open_until is not None for one in found.values())


# -- rollback ---------------------------------------------------------------------------------------------------------


async def test_a_bad_release_stops_after_its_first_wave_and_goes_back() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        bad(made, "2.0.0")
        made.shelf.put(declared("2.0.0"))
        job = await made.ended(2)
        assert job.state is JobState.ROLLED_BACK
        assert "not healthy" in job.message
        assert [task.state for task in await made.tasks(job)] == ["failed", "cancelled", "cancelled"]
        assert made.runs("1.0.0") == 3


async def test_waves_that_went_well_come_back_too() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.world.host(place(2).target).faults.append(Fault(trouble=Trouble.REFUSED, step="start"))
        made.shelf.put(declared("2.0.0"))
        job = await made.ended(2)
        assert job.state is JobState.ROLLED_BACK
        back = [task for task in await made.tasks(job) if task.direction is Direction.BACK]
        assert {task.target for task in back} >= {place(0).target, place(1).target}
        assert made.runs("1.0.0") == 3
        assert set((await goods(made)).values()) == {"shop@1.0.0"}


async def test_what_was_rolled_back_is_never_tried_again_by_itself_and_drift_is_still_healed() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        bad(made, "2.0.0")
        made.shelf.put(declared("2.0.0"))
        await made.ended(2)
        await anyio.sleep(600)
        assert len(await made.jobs()) == 2
        made.world.host(place(1).target).remove(place(1))
        job = await made.ended(3)
        assert (job.kind, job.state) == (JobKind.HEAL, JobState.COMPLETED)
        assert made.runs("1.0.0") == 3


async def test_another_release_ends_the_refusal() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        bad(made, "2.0.0")
        made.shelf.put(declared("2.0.0"))
        await made.ended(2)
        made.shelf.put(declared("2.0.1"))
        await made.rested("2.0.1")


async def test_a_person_may_have_it_tried_again() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        bad(made, "2.0.0")
        made.shelf.put(declared("2.0.0"))
        await made.ended(2)
        made.world.scripts.clear()
        assert await made.reconciler.lift_refused(PROD, actor="ada") == 1
        await made.rested("2.0.0")


async def test_where_nothing_stood_before_what_was_brought_is_taken_away() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        made.world.scripts[artifact("web", "2.0.0").digest] = scripts.NEVER
        made.shelf.put(declared("2.0.0", targets=1, components=("api", "web")))
        job = await made.ended(2)
        assert job.state is JobState.ROLLED_BACK
        assert made.runs("1.0.0") == 1
        assert made.world.host(place(0).target).place(place(0, "web")).things == {}


async def test_a_bad_release_stays_where_policy_leaves_it_to_people() -> None:
    async with rig(declared("1.0.0", rollback=RollbackPolicy.MANUAL)) as made:
        await made.rested("1.0.0")
        bad(made, "2.0.0")
        made.shelf.put(declared("2.0.0", rollback=RollbackPolicy.MANUAL))
        job = await made.ended(2)
        assert job.state is JobState.FAILED
        assert [task.direction for task in await made.tasks(job)] == [Direction.FORWARD] * 3


async def test_what_falls_ill_after_its_proof_fails_the_job_at_the_final_look() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        bad(made, "2.0.0", scripts.Dying(2.5))
        made.shelf.put(declared("2.0.0"))
        job = await made.ended(2)
        assert job.state is JobState.ROLLED_BACK
        assert "did not last" in job.message
        assert made.runs("1.0.0") == 3


async def test_an_interrupted_way_back_is_gone_on_by_later_turns() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.world.host(place(2).target).faults.append(Fault(trouble=Trouble.REFUSED, step="start"))
        made.shelf.put(declared("2.0.0"))
        await made.until(lambda: made.runs("2.0.0") == 2)
        await made.until(lambda: _state(made, JobState.ROLLING_BACK))
        job = await made.job()
        assert job is not None
        await made.store.write(lambda c: jobs.request(c, job.id, Wish.CANCEL, "ada", virtual_time.now()))
        made.reconciler.request(execute(job.id))
        assert (await made.ended(2)).state is JobState.CANCELLED
        await made.until(lambda: made.runs("1.0.0") == 3)


async def _state(made: Rig, state: JobState) -> bool:
    job = await made.job()
    return job is not None and job.state is state


# -- what is asked of a job -------------------------------------------------------------------------------------------


async def test_a_newer_desire_supersedes_between_waves() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.shelf.put(declared("1.1.0"))
        await made.until(lambda: made.runs("1.1.0") == 1)
        made.shelf.put(declared("1.2.0"))
        await made.rested("1.2.0")
        second = (await made.jobs())[1]
        assert second.state is JobState.SUPERSEDED
        assert "generation 3 is desired by now" in second.message
        assert made.runs("1.1.0") == 0


async def test_a_newer_desire_is_not_held_up_by_retries_of_the_older() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        made.world.withheld.add(artifact("api", "1.1.0").digest)
        fault = Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=3)
        made.world.host(place(0).target).faults.append(fault)
        made.shelf.put(declared("1.1.0", targets=1))
        await made.until(lambda: any(isinstance(e, TaskMoved) and e.state == "retrying" for e in made.events))
        made.shelf.put(declared("1.2.0", targets=1))
        await made.until(lambda: made.runs("1.2.0") == 1, within=30)


async def ask(made: Rig, wish: Wish) -> Job:
    job = await made.job()
    assert job is not None
    await made.store.write(lambda c: jobs.request(c, job.id, wish, "ada", virtual_time.now()))
    made.reconciler.request(execute(job.id))
    return job


async def test_pause_holds_at_the_end_of_the_wave_and_continue_goes_on() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: any(isinstance(e, TaskMoved) and e.state == "running" for e in made.events))
        await ask(made, Wish.PAUSE)
        await made.until(lambda: _state(made, JobState.PAUSED))
        assert made.runs("1.0.0") == 1
        await anyio.sleep(300)
        assert made.runs("1.0.0") == 1
        await ask(made, Wish.CONTINUE)
        await made.rested("1.0.0")


async def test_cancel_ends_the_job_and_tears_nothing() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: any(isinstance(e, TaskMoved) and e.state == "running" for e in made.events))
        await ask(made, Wish.CANCEL)
        job = await made.ended(1)
        assert (job.state, job.message) == (JobState.CANCELLED, "cancelled by ada")
        assert [task.state for task in await made.tasks(job)] == ["succeeded", "cancelled", "cancelled"]


async def test_a_suspension_pauses_what_is_under_way_and_its_end_goes_on() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: any(isinstance(e, TaskMoved) and e.state == "running" for e in made.events))
        await anyio.sleep(0.1)
        until = virtual_time.now() + timedelta(seconds=120)
        held = HandSuspension(reason="maintenance", actor="ada", since=virtual_time.now(), until=until)
        await made.store.write(lambda c: environments.suspend(c, PROD, held))
        await made.until(lambda: _state(made, JobState.PAUSED))
        assert made.runs("1.0.0") == 1
        job = await made.job()
        assert job is not None
        assert job.message == "suspended by ada: maintenance"
        await made.rested("1.0.0")


# -- recovery ---------------------------------------------------------------------------------------------------------


async def crashed(world: World, store: Store, shelf: Shelf, when: Any) -> None:
    """A reconciler that is gone, from one moment to the next, when it is told to be."""
    async with around(world, store, shelf) as made:
        await made.until(lambda: when(made))


@pytest.mark.parametrize("state", ["dispatched", "running", "verifying"])
async def test_the_next_one_looks_first_and_finishes_what_a_dead_one_began(state: str) -> None:
    store = fresh_store(virtual_time.now)
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0"))
    world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="look", seconds=1))

    def there(made: Rig) -> bool:
        return any(isinstance(event, TaskMoved) and event.state == state for event in made.events)

    await crashed(world, store, shelf, there)
    async with around(world, store, shelf) as made:
        await made.rested("1.0.0")
        [job] = await made.jobs()
        assert job.state is JobState.COMPLETED
        assert job.fence == 2
        made_keys = [effect.key for effect in world.effects if effect.deed is Deed.MADE]
        assert len(made_keys) == len(set(made_keys)) == 3
    await store.aclose()


async def test_what_was_in_flight_is_lost_and_looked_at() -> None:
    store = fresh_store(virtual_time.now)
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0", targets=1))
    world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=60))
    await crashed(
        world, store, shelf, lambda made: any(isinstance(e, TaskMoved) and e.state == "running" for e in made.events)
    )
    async with around(world, store, shelf) as made:
        job = await made.rested("1.0.0", 1)
        [task] = await made.tasks(job)
        assert task.attempt == 2
        moved = [event for event in made.events if isinstance(event, TaskMoved)]
        assert moved[0].state is TaskState.RETRYING
    await store.aclose()


async def test_after_a_death_the_rest_of_a_wave_is_carried_together() -> None:
    store = fresh_store(virtual_time.now)
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0", targets=6, strategy=ALL))
    for number in range(6):
        world.host(place(number).target).faults.append(
            Fault(trouble=Trouble.SLOW, step="prepare", times=None, seconds=60)
        )

    def all_run(made: Rig) -> bool:
        return sum(isinstance(event, TaskMoved) and event.state == "running" for event in made.events) == 6

    await crashed(world, store, shelf, all_run)
    began = virtual_time.now()
    async with around(world, store, shelf) as made:
        job = await made.rested("1.0.0", 6)
        assert job.ended_at is not None
        assert (job.ended_at - began).total_seconds() < 90
    await store.aclose()


async def test_what_is_tried_again_does_not_wait_for_the_slowest_of_its_wave() -> None:
    async with rig(declared("1.0.0", targets=2, strategy=ALL)) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=300))
        made.world.host(place(1).target).faults.append(Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=3))
        began = anyio.current_time()
        await made.until(lambda: made.runs("1.0.0") == 1)
        assert anyio.current_time() - began < 60
        job = await made.rested("1.0.0", 2)
        assert [task.attempt for task in await made.tasks(job)] == [1, 4]


async def test_an_unknown_outcome_is_looked_at_again_while_others_are_under_way() -> None:
    async with rig(declared("1.0.0", targets=2, strategy=ALL)) as made:
        host = made.world.host(place(0).target)
        host.faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=5))
        host.faults.append(Fault(trouble=Trouble.LOST, step="wear"))
        made.world.host(place(1).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=300))
        await made.until(lambda: made.job())
        host.faults.append(Fault(trouble=Trouble.UNREACHABLE, step="observe", times=None))
        await made.until(lambda: any(isinstance(e, TaskMoved) and e.state is TaskState.LOST for e in made.events))
        host.mend()
        began = anyio.current_time()
        await made.until(lambda: _succeeded(made))
        assert anyio.current_time() - began < 60
        await made.rested("1.0.0", 2)


def _succeeded(made: Rig) -> bool:
    return any(isinstance(event, TaskMoved) and event.state is TaskState.SUCCEEDED for event in made.events)


async def test_nothing_is_tried_again_beside_others_once_something_else_is_asked() -> None:
    async with rig(declared("1.0.0", targets=2, strategy=ALL)) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=100))
        made.world.host(place(1).target).faults.append(Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=1))
        await made.until(lambda: any(isinstance(e, TaskMoved) and e.state == "retrying" for e in made.events))
        await ask(made, Wish.CANCEL)
        job = await made.ended(1)
        assert [task.state for task in await made.tasks(job)] == ["succeeded", "cancelled"]


async def test_nothing_is_tried_again_beside_others_once_too_much_has_failed() -> None:
    async with rig(declared("1.0.0", targets=3, strategy=ALL)) as made:
        made.world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=100))
        made.world.host(place(1).target).faults.append(Fault(trouble=Trouble.UNREACHABLE, step="prepare", times=1))
        made.world.host(place(2).target).faults.append(Fault(trouble=Trouble.REFUSED, step="prepare"))
        job = await made.ended(1)
        forward = [task for task in await made.tasks(job) if task.direction is Direction.FORWARD]
        assert [task.state for task in forward] == ["succeeded", "cancelled", "failed"]


async def test_a_job_outlives_any_number_of_deaths() -> None:
    store = fresh_store(virtual_time.now)
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0"))
    for seconds in (0.1, 0.7, 1.3, 0.3, 2.1, 0.9):
        async with around(world, store, shelf):
            await anyio.sleep(seconds)
    async with around(world, store, shelf) as made:
        await made.rested("1.0.0")
        assert len(await made.jobs()) == 1
    await store.aclose()


async def test_a_stale_holder_changes_nothing() -> None:
    """Two reconcilers; the first sleeps in the middle of an action until the second has finished a newer release."""
    store = fresh_store(virtual_time.now)
    world, shelf = World(now=virtual_time.now), Shelf(declared("1.0.0", targets=1))
    async with around(world, store, shelf, holder="first") as first:
        await first.rested("1.0.0", 1)
        first.reconciler._leases._ttl = timedelta(days=1)  # its own clock would stop it otherwise
        world.host(place(0).target).faults.append(Fault(trouble=Trouble.SLOW, step="start", seconds=300))
        shelf.put(declared("2.0.0", targets=1))
        await anyio.sleep(10)
        row = await store.read(lambda c: jobs.active(c, PROD))
        assert row is not None
        shelf.put(declared("3.0.0", targets=1))
        await store.write(lambda c: c.exec_driver_sql("update lease set until = '2000-01-01 00:00:00.000000'"))
        async with around(world, store, shelf, holder="second") as second:
            await second.until(lambda: second.runs("3.0.0") == 1)
            await anyio.sleep(400)
            assert second.runs("3.0.0") == 1
            started = [effect for effect in world.effects if effect.deed is Deed.STARTED]
            assert started[-1].artifact == artifact("api", "3.0.0").digest
    await store.aclose()
