"""What the store costs: medians of recording looks and of carrying jobs, on SQLite and on PostgreSQL where it is there.

    python -m tests.benchmarks.bench_store [placements]

`unchanged` is a turn that found everything as before: what is known is asked, and the decision made again. `all looked
through` hands all placements in as a start of the daemon does, and none is written. `changed` closes and opens the
interval of every placement. A job is created with one task and advanced to its end, eleven transactions in all.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

from desired_state.model import DesiredState
from reconciler.core.drift import Drift
from reconciler.core.machine import JobEvent, TaskEvent
from reconciler.store import environments, history, jobs, memories, tasks
from reconciler.store.records import Decision, Job, Lease, Task
from reconciler.store.store import Store
from tests.harness.postgres import NoPostgres, database, given_postgres
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import judged, keep_good, new_job, settled

ROUNDS = 5
JOBS = 100

TASK_PATH = (TaskEvent.QUEUE, TaskEvent.DISPATCH, TaskEvent.START, TaskEvent.ANSWER, TaskEvent.SUCCEED)
JOB_PATH = (JobEvent.PREPARE, JobEvent.BEGIN, JobEvent.FINISH, JobEvent.COMPLETE)


async def measure(name: str, address: str, placements: int) -> None:
    desired = fleet(placements)
    assert desired.digest
    store = await Store.open(address)
    try:
        lease = await settled(store, desired)
        await store.write(lambda c: memories.good(c, keep_good(c, desired), lease, NOW))
        await _looks(name, store, lease, desired)
        await _jobs(name, store, lease, fleet(1))
    finally:
        await store.aclose()


async def _looks(name: str, store: Store, lease: Lease, desired: DesiredState) -> None:
    before = [judged(each) for each in desired.placements]
    first = await _timed(1, lambda: _recorded(store, lease, before))
    unchanged = await _timed(ROUNDS, lambda: _turn(store, lease))
    through = await _timed(ROUNDS, lambda: _recorded(store, lease, before))
    rounds = iter([[_moved(each, number) for each in before] for number in range(ROUNDS)])
    changed = await _timed(ROUNDS, lambda: _recorded(store, lease, next(rounds)))
    _print(name, f"{len(before)} looks, first", first)
    _print(name, f"{len(before)} looks, unchanged", unchanged)
    _print(name, f"{len(before)} looks, all looked through", through)
    _print(name, f"{len(before)} looks, changed", changed)


async def _jobs(name: str, store: Store, lease: Lease, desired: DesiredState) -> None:
    await store.write(lambda c: environments.accept(c, desired, now=NOW))
    wall, cpu = await _timed(ROUNDS, lambda: _many(store, lease, desired))
    print(f"{name:<11} jobs created and carried {JOBS / wall:26.0f} /s   {1000 * cpu / JOBS:9.2f} ms cpu each")


async def _many(store: Store, lease: Lease, desired: DesiredState) -> None:
    for _ in range(JOBS):
        await _carried(store, lease, desired)


async def _carried(store: Store, lease: Lease, desired: DesiredState) -> None:
    job = await store.write(lambda c: jobs.create(c, new_job(desired), lease, NOW))
    for event in JOB_PATH[:2]:
        job = await _job_moved(store, lease, job, event)
    [task] = await store.read(partial(tasks.of, job=job))
    for step in TASK_PATH:
        task = await _task_moved(store, lease, task, step)
    for event in JOB_PATH[2:]:
        job = await _job_moved(store, lease, job, event)


async def _job_moved(store: Store, lease: Lease, job: Job, event: JobEvent) -> Job:
    return await store.write(lambda c: jobs.advance(c, job, event, lease, NOW))


async def _task_moved(store: Store, lease: Lease, task: Task, event: TaskEvent) -> Task:
    return await store.write(lambda c: tasks.advance(c, task, event, lease, NOW))


async def _turn(store: Store, lease: Lease) -> None:
    await store.read(lambda c: memories.known(c, PROD, NOW))
    await store.write(lambda c: history.decide(c, PROD, Decision(rule="nothing to do"), lease, NOW))


async def _recorded(store: Store, lease: Lease, drifts: Sequence[Drift]) -> None:
    await store.write(lambda c: history.standings(c, PROD, drifts, [], lease, NOW + timedelta(seconds=1)))


def _moved(drift: Drift, number: int) -> Drift:
    assert drift.standing is not None
    assert drift.standing.workload is not None
    moved = replace(drift.standing.workload, instance=f"instance-{number}")
    return replace(drift, standing=replace(drift.standing, workload=moved))


async def _timed(rounds: int, work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Medians of wall time and of this process's CPU time, in seconds."""
    taken = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        await work()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return median(wall for wall, _ in taken), median(cpu for _, cpu in taken)


def _print(name: str, what: str, figures: tuple[float, float]) -> None:
    wall, cpu = figures
    print(f"{name:<11} {what:<38} {1000 * wall:9.1f} ms   {1000 * cpu:9.1f} ms cpu")


def main() -> None:
    placements = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure("sqlite", f"sqlite:///{Path(directory) / 'holdfast.db'}", placements))
    try:
        with given_postgres() as server, database(server) as address:
            asyncio.run(measure("postgresql", address, placements))
    except NoPostgres as reason:
        print(f"postgresql  is not measured: {reason}")


if __name__ == "__main__":
    main()
