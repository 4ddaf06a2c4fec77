"""Commands about jobs: list, show, follow, and ask one to stop, wait or go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final

import anyio
from sqlalchemy import Connection

from api.commands import lookup, once
from api.commands.given import Given
from api.house import House
from api.problem import Problem
from reconciler.core.machine import JOB_TERMINAL, TASK_TERMINAL, JobState
from reconciler.loop import execute
from reconciler.store import jobs, tasks
from reconciler.store.records import Job, ProgressLine, Task, Wish
from stickers.names import JobId, TaskId

Events = AsyncGenerator[dict[str, Any], None]

GLANCE: Final = 0.2  # seconds between two looks at a job that somebody watches
MOST: Final = 200  # characters of a job id
DONE: Final = frozenset({JobState.COMPLETED})


async def index(house: House, given: Given) -> Events:
    environment, state = given.environment_or_none(), given.text_or_none("state")
    if state is not None and state not in list(JobState):
        raise Problem("BAD_ARGUMENT", f"{state[:40]!r} is no state of a job; known are {', '.join(JobState)}")
    before, limit = given.text_or_none("before"), given.count("limit", 20, 500)
    _insist_on_cursor(before)
    if environment is not None:
        await lookup.environment(house, environment)
    among = None if environment else await lookup.visible(house, given)
    wanted = JobState(state) if state else None
    page = await house.store.read(lambda c: jobs.page(c, environment, wanted, among=among, before=before, limit=limit))
    yield {"result": {"jobs": [summary(job) for job in page.items], "next": page.before}}


def _insist_on_cursor(before: str | None) -> None:
    moment, _, id = (before or "").partition(" ")
    try:
        good = before is None or (datetime.fromisoformat(moment).tzinfo is not None and len(id) <= MOST)
    except ValueError:
        good = False
    if not good:
        raise Problem("BAD_ARGUMENT", f"{str(before)[:40]!r} is no cursor; take the one of the page before")


async def show(house: House, given: Given) -> Events:
    job = await found(house, given.job())
    worked = await house.store.read(lambda c: tasks.of(c, job))
    lines = await house.store.read(lambda c: {task.id: tasks.progress(c, task.id) for task in worked})
    yield {"result": summary(job) | {"tasks": [_task(task, lines[task.id]) for task in worked]}}


async def follow(house: House, given: Given) -> Events:
    async for event in watched(house, (await found(house, given.job())).id):
        yield event


async def request(house: House, given: Given) -> Events:
    what = given.text("what")
    if what not in list(Wish):
        raise Problem("BAD_ARGUMENT", f"{what[:40]!r} cannot be asked of a job; known are {', '.join(Wish)}")
    id = (await found(house, given.job())).id

    def effect(c: Connection) -> once.Answer:
        job = jobs.request(c, id, Wish(what), given.actor, house.now())
        return summary(job) | {"message": f"asked {job.id} to {what}; it is {job.state} now"}

    answer = await once.written(house, "request", given, effect)
    house.reconciler.request(execute(id))
    yield {"result": answer}


async def found(house: House, id: JobId) -> Job:
    job = await house.store.read(lambda c: jobs.load(c, id))
    if job is None:
        raise Problem("NO_JOB", f"there is no job {id}; `holdfast job list` shows them")
    return job


def summary(job: Job) -> dict[str, Any]:
    """A job as everybody sees it. `ok` is None while it is under way."""
    return {
        "id": job.id,
        "environment": job.environment,
        "kind": job.kind,
        "state": job.state,
        "ok": job.state in DONE if job.state in JOB_TERMINAL else None,
        "generation": job.generation,
        "plan_hash": job.plan_hash,
        "requested_by": job.requested_by,
        "reason": job.reason,
        "message": job.message,
        "wave": job.wave,
        "created_at": job.created_at,
        "ended_at": job.ended_at,
    }


def _task(task: Task, lines: tuple[ProgressLine, ...]) -> dict[str, Any]:
    return {
        "id": task.id,
        "target": task.target,
        "components": components(task),
        "direction": task.direction,
        "wave": task.wave,
        "state": task.state,
        "attempt": task.attempt,
        "code": task.code,
        "detail": task.detail,
        "evidence": evidence(task),
        "began_at": task.began_at,
        "ended_at": task.ended_at,
        "progress": [_line(line) for line in lines],
    }


def components(task: Task) -> str:
    return ", ".join(change.id.component for change in task.intent.changes)


def evidence(task: Task) -> list[str]:
    """The signed statements about this task: its action record, and the proof of what stands."""
    outcomes = task.receipt.outcomes if task.receipt else ()
    proofs = [outcome.evidence.id for outcome in outcomes if outcome.evidence is not None]
    return [*([task.evidence] if task.evidence else []), *proofs]


def _line(line: ProgressLine) -> dict[str, Any]:
    return {"at": line.at, "component": line.id.component, "step": line.step, "message": line.message}


async def watched(house: House, id: JobId) -> Events:
    """The job's events from its beginning until it ends, then its end as the result."""
    told: dict[str, object] = {}
    lines: dict[TaskId, int] = {}
    while True:
        job = await found(house, id)
        if not told:
            yield _moved(job, told)
        worked = await house.store.read(lambda c: tasks.of(c, id))
        for task in worked:
            for event in await _news(house, task, worked, told, lines):
                yield {"event": event}
        if told[job.id] != job.state:
            yield _moved(job, told)
        if job.state in JOB_TERMINAL:
            yield {"result": summary(job) | {"message": _ending(job)}}
            return
        await anyio.sleep(GLANCE)


def _moved(job: Job, told: dict[str, object]) -> dict[str, Any]:
    told[job.id] = job.state
    return {"event": {"kind": "job", "job": job.id, "state": job.state, "detail": job.message or job.reason}}


async def _news(
    house: House, task: Task, worked: tuple[Task, ...], told: dict[str, object], lines: dict[TaskId, int]
) -> list[dict[str, Any]]:
    """What is new about one task since it was last told."""
    if told.get(task.id) == (task.state, task.version):
        return []
    after = lines.get(task.id, 0)
    fresh = await house.store.read(lambda c: tasks.progress(c, task.id, after=after))
    news: list[dict[str, Any]] = [{"kind": "progress", "task": task.id, **_line(line)} for line in fresh]
    if fresh:
        lines[task.id] = fresh[-1].number
    before = told.get(task.id)
    told[task.id] = (task.state, task.version)
    if not isinstance(before, tuple) or before[0] != task.state:
        done = sum(other.state in TASK_TERMINAL for other in worked)
        where = {"task": task.id, "target": task.target, "component": components(task)}
        news.append(
            {"kind": "task", **where, "state": task.state, "detail": task.detail, "done": done, "total": len(worked)}
        )
    return news


def _ending(job: Job) -> str:
    return f"{job.id} {job.state}: {job.message}" if job.message else f"{job.id} {job.state}"
