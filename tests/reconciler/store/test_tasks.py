"""Tasks: made from a plan's intents, keyed once, advanced step by step, with a bounded tail of what was reported."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.event import listen

from drivers.contract import Outcome, Receipt, Result, Step
from reconciler.core.machine import IllegalTransition, JobEvent, TaskEvent, TaskState
from reconciler.core.plan import Plan, Wave
from reconciler.store import evidence, jobs, overview, tasks
from reconciler.store.errors import LostLease, Stale, Violated
from reconciler.store.records import Direction, Lease, ProgressLine, Task
from reconciler.store.store import Store
from reconciler.store.tasks import LINES
from stickers.names import TaskId
from tests.reconciler.core.builders import NOW, fleet
from tests.reconciler.store.builders import LATER, new_job, plan_of, proof, settled, working
from tests.reconciler.store.ended import all_told


async def _one(store: Store) -> tuple[Lease, Task]:
    lease = await settled(store, fleet(1))
    job = await working(store, lease, fleet(1))
    [task] = await store.read(lambda c: tasks.of(c, job))
    return lease, task


async def _advanced(store: Store, lease: Lease, task: Task, *events: TaskEvent) -> Task:
    for event in events:
        task = await store.write(lambda c, task=task, event=event: tasks.advance(c, task, event, lease, LATER))
    return task


def _two_waves() -> Plan:
    plan = plan_of(fleet(3))
    [wave] = plan.waves
    return replace(plan, waves=(Wave(intents=wave.intents[:2]), Wave(intents=wave.intents[2:])))


async def test_every_intent_is_a_task_in_its_wave_and_in_order(store: Store) -> None:
    lease = await settled(store, fleet(3))
    job = await store.write(lambda c: jobs.create(c, new_job(fleet(3), plan=_two_waves()), lease, NOW))
    found = await store.read(lambda c: tasks.of(c, job))
    assert [(task.number, task.wave, task.id) for task in found] == [
        (1, 0, "default/prod:1/1"),
        (2, 0, "default/prod:1/2"),
        (3, 1, "default/prod:1/3"),
    ]
    assert [task.intent for task in found] == list(_two_waves().intents)
    assert {(task.state, task.direction, task.attempt) for task in found} == {(TaskState.PENDING, Direction.FORWARD, 0)}


async def test_the_way_back_is_more_tasks_in_waves_after_those_there_are(store: Store) -> None:
    lease = await settled(store, fleet(3))
    job = await store.write(lambda c: jobs.create(c, new_job(fleet(3), plan=_two_waves()), lease, NOW))
    await store.write(lambda c: jobs.add_tasks(c, job, _two_waves(), Direction.BACK, lease, NOW))
    found = await store.read(lambda c: tasks.of(c, job))
    assert [(task.number, task.wave, task.direction) for task in found[3:]] == [
        (4, 2, Direction.BACK),
        (5, 2, Direction.BACK),
        (6, 3, Direction.BACK),
    ]
    assert len({task.key for task in found}) == 6


async def test_many_tasks_are_kept_as_few_are(store: Store) -> None:
    lease = await settled(store, fleet(50))
    job = await working(store, lease, fleet(50))
    found = await store.read(lambda c: tasks.of(c, job))
    assert [task.intent for task in found] == list(plan_of(fleet(50)).intents)


async def test_a_key_is_used_once(store: Store) -> None:
    lease = await settled(store, fleet(2))
    job = await working(store, lease, fleet(2))
    with pytest.raises(Violated, match=r"task_key_once|task\.key"):
        await store.write(lambda c: jobs.add_tasks(c, job, plan_of(fleet(2)), Direction.FORWARD, lease, NOW))


async def test_a_key_is_used_once_among_many_too(store: Store) -> None:
    lease = await settled(store, fleet(30))
    job = await working(store, lease, fleet(30))
    with pytest.raises(Violated, match=r"task_key_once|task\.key"):
        await store.write(lambda c: jobs.add_tasks(c, job, plan_of(fleet(30)), Direction.FORWARD, lease, NOW))
    assert len(await store.read(lambda c: tasks.of(c, job))) == 30


async def test_without_the_constraint_a_key_would_be_used_twice(postgresql: str) -> None:
    store = await Store.open(postgresql)
    lease = await settled(store, fleet(2))
    job = await working(store, lease, fleet(2))
    await store.write(lambda c: c.execute(text("alter table task drop constraint task_key_once")))
    await store.write(lambda c: jobs.add_tasks(c, job, plan_of(fleet(2)), Direction.FORWARD, lease, NOW))
    assert len({task.key for task in await store.read(lambda c: tasks.of(c, job))}) == 2
    await store.aclose()


async def test_a_task_counts_its_dispatches_and_its_times(store: Store) -> None:
    lease, task = await _one(store)
    task = await _advanced(store, lease, task, TaskEvent.QUEUE, TaskEvent.DISPATCH)
    assert (task.attempt, task.began_at, task.ended_at) == (1, LATER, None)
    task = await _advanced(store, lease, task, TaskEvent.START, TaskEvent.RETRY, TaskEvent.QUEUE, TaskEvent.DISPATCH)
    assert task.attempt == 2
    task = await _advanced(store, lease, task, TaskEvent.START, TaskEvent.ANSWER, TaskEvent.SUCCEED)
    assert (task.state, task.ended_at, task.version) == (TaskState.SUCCEEDED, LATER, 9)
    assert await store.read(lambda c: tasks.load(c, task.id)) == task


async def test_what_a_step_brought_is_kept_with_it(store: Store) -> None:
    lease, task = await _one(store)
    placement = fleet(1).placements[0]
    outcome = Outcome(id=placement.id, result=Result.CHANGED, detail="now runs", instance="i-1", sequence=3)
    receipt = Receipt(key=task.key, target=task.target, outcomes=(outcome,))
    task = await _advanced(store, lease, task, TaskEvent.QUEUE, TaskEvent.DISPATCH, TaskEvent.START)
    await store.write(lambda c: evidence.keep(c, [proof(placement)]))
    task = await store.write(
        lambda c: tasks.advance(
            c, task, TaskEvent.ANSWER, lease, NOW, receipt=receipt, evidence=proof(placement).id, detail="now runs"
        )
    )
    assert (task.receipt, task.evidence, task.detail) == (receipt, proof(placement).id, "now runs")
    task = await store.write(
        lambda c: tasks.advance(c, task, TaskEvent.RETRY, lease, NOW, not_before=LATER, code="UNREACHABLE")
    )
    assert (task.not_before, task.code, task.receipt) == (LATER, "UNREACHABLE", receipt)


async def test_a_task_that_has_changed_since_it_was_read_is_stale(store: Store) -> None:
    lease, task = await _one(store)
    await _advanced(store, lease, task, TaskEvent.QUEUE)
    with pytest.raises(Stale, match="has changed since version 0"):
        await _advanced(store, lease, task, TaskEvent.QUEUE)


async def test_a_task_is_not_moved_under_another_s_lease(store: Store) -> None:
    lease, task = await _one(store)
    with pytest.raises(LostLease):
        await _advanced(store, replace(lease, token=lease.token + 1), task, TaskEvent.QUEUE)


async def test_an_event_that_the_table_does_not_list_is_illegal(store: Store) -> None:
    lease, task = await _one(store)
    with pytest.raises(IllegalTransition):
        await _advanced(store, lease, task, TaskEvent.SUCCEED)


def _lines(task: Task, count: int, *, since: int = 0) -> list[ProgressLine]:
    return [
        ProgressLine(
            at=NOW + timedelta(seconds=since + number),
            id=fleet(1).placements[0].id,
            step=Step.PROVE,
            message=f"line {since + number}",
        )
        for number in range(count)
    ]


async def test_progress_is_numbered_on_and_read_from_where_one_left_off(store: Store) -> None:
    _, task = await _one(store)
    await store.write(lambda c: tasks.note(c, task.id, _lines(task, 2)))
    await store.write(lambda c: tasks.note(c, task.id, _lines(task, 2, since=2)))
    found = await store.read(lambda c: tasks.progress(c, task.id))
    assert [(line.number, line.message) for line in found] == [
        (1, "line 0"), (2, "line 1"), (3, "line 2"), (4, "line 3")
    ]  # fmt: skip
    assert found[0] == replace(_lines(task, 1)[0], number=1)
    assert [line.number for line in await store.read(lambda c: tasks.progress(c, task.id, after=3))] == [4]


async def test_progress_is_bounded_and_keeps_the_newest(store: Store) -> None:
    _, task = await _one(store)
    await store.write(lambda c: tasks.note(c, task.id, _lines(task, LINES - 1)))
    await store.write(lambda c: tasks.note(c, task.id, _lines(task, 3 * LINES, since=1000)))
    found = await store.read(lambda c: tasks.progress(c, task.id))
    assert len(found) == LINES
    assert found[-1].message == f"line {1000 + 3 * LINES - 1}"


async def test_a_line_from_a_hostile_host_is_kept_harmless(store: Store) -> None:
    _, task = await _one(store)
    hostile = replace(_lines(task, 1)[0], message="\x00\ud800" + "x" * 100_000)
    await store.write(lambda c: tasks.note(c, task.id, [hostile] * 20))
    found = await store.read(lambda c: tasks.progress(c, task.id))
    assert {len(line.message) for line in found} == {2_000}
    assert found[0].message.startswith("\ufffd\ufffdx")


async def test_nothing_reported_is_nothing_written(store: Store) -> None:
    _, task = await _one(store)
    await store.write(lambda c: tasks.note(c, task.id, []))
    assert await store.read(lambda c: tasks.progress(c, task.id)) == ()


async def test_a_task_that_is_not_there_is_none(store: Store) -> None:
    assert await store.read(lambda c: tasks.load(c, TaskId("default/prod:1/1"))) is None


async def test_a_job_cannot_lose_its_tasks_while_it_is_active(store: Store) -> None:
    lease, task = await _one(store)
    with pytest.raises(Violated):
        await store.write(lambda c: c.execute(text("delete from job")))
    job = await store.read(lambda c: jobs.load(c, task.job))
    assert job is not None
    await store.write(lambda c: jobs.advance(c, job, JobEvent.CANCEL, lease, NOW))


async def test_the_pulse_of_a_job_beats_with_every_step_and_line_and_only_then(store: Store) -> None:
    lease, task = await _one(store)
    seen = [await _pulse(store, task)]
    assert await _pulse(store, task) == seen[0]
    await _advanced(store, lease, task, TaskEvent.QUEUE)
    seen.append(await _pulse(store, task))
    for since in (0, 1):
        await store.write(lambda c, since=since: tasks.note(c, task.id, _lines(task, 1, since=since)))  # type: ignore[misc]
        seen.append(await _pulse(store, task))
    assert len(set(seen)) == 4


async def _pulse(store: Store, task: Task) -> str:
    await all_told(store)
    return await store.read(lambda c: overview.pulse_of_job(c, task.job))


async def test_the_pulse_of_a_job_counts_no_line(store: Store) -> None:
    """However much a job reports, its open pages ask for one row."""
    _, task = await _one(store)
    asked: list[str] = []

    def watched(c: Connection) -> None:
        listen(c, "before_cursor_execute", lambda *given: asked.append(given[2].lower()))
        overview.pulse_of_job(c, task.job)

    await store.read(watched)
    assert asked
    assert not [one for one in asked if "count(" in one or "sum(" in one or "progress" in one]
