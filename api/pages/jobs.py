"""Jobs: the list, and one with its waves, tasks and lines, as they come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import SOMEWHERE, guarded
from api.pages import live
from api.pages.access import allowed, environment_of, readable
from api.pages.acting import job_address, needed
from api.pages.carrying import answer, form
from api.pages.frame import Desk, pages, principal_of, sent_to, show
from api.people.principal import Verb
from api.problem import Problem
from reconciler.core.machine import JOB_ACTIVE, TASK_TERMINAL, JobState, TaskState
from reconciler.store import environments, jobs, overview
from reconciler.store.overview import TaskRow
from reconciler.store.records import Job, ProgressLine
from stickers import names
from stickers.names import JobId

PAGE: Final = 30
TASKS: Final = 60  # of one job on its page; a larger one is paged, what went wrong first
LINES: Final = 1_500  # of all of them together


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShown:
    """A task with what it changes and what was reported of it."""

    row: TaskRow
    changes: tuple[str, ...]
    lines: tuple[ProgressLine, ...]

    @property
    def open(self) -> bool:
        """Whether its lines are shown without being asked for."""
        return self.row.state not in TASK_TERMINAL and self.row.state is not TaskState.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveShown:
    number: int
    counts: dict[TaskState, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        return sum(number for state, number in self.counts.items() if state in TASK_TERMINAL)


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get("/jobs", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def index(request: Request) -> Response:
        news, chosen = await live.fleet(desk), request.query_params
        asked: dict[str, Any] = {name: chosen[name] for name in ("environment", "state", "before") if chosen.get(name)}
        found = await answer(desk, request, "jobs", limit=PAGE, **asked)
        known = readable(request, await desk.house.store.read(environments.all))
        return show(
            desk,
            request,
            "jobs.html",
            title="Jobs",
            live=news,
            jobs=found["jobs"],
            next=found["next"],
            states=list(JobState),
            chosen=asked,
            environments=[row.id for row in known],
        )

    @made.get("/jobs/{project}/{environment}/{number}", dependencies=[guarded(Verb.READ)])
    async def one(request: Request, project: str, environment: str, number: int) -> Response:
        where = environment_of(project, environment)
        id = names.job_id(where, number)
        news = await live.job(desk, id)
        after = _number(request.query_params.get("after"))
        found = await desk.house.store.read(lambda c: _read(c, id, after))
        may = allowed(principal_of(request), where)
        return show(desk, request, "job.html", title=f"Job {id}", live=news, allowed=may, after=after, **found)

    @made.post("/jobs/{project}/{environment}/{number}/request", dependencies=[guarded(Verb.DEPLOY)])
    async def ask(request: Request, project: str, environment: str, number: int) -> Response:
        id, given = names.job_id(environment_of(project, environment), number), await form(request)
        await answer(desk, request, "request", job=id, what=needed(given, "what"))
        return sent_to(job_address(id))

    return made


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _read(c: Connection, id: JobId, after: int) -> dict[str, Any]:
    job = jobs.load(c, id)
    if job is None:
        raise Problem("NO_JOB", f"there is no job {id}")
    counts = overview.task_counts(c, id)
    waves = [WaveShown(number=number, counts=found) for number, found in sorted(counts.items())]
    total = sum(wave.total for wave in waves)
    rows = overview.tasks_of(c, id, after=after, limit=TASKS + 1)
    unquiet = overview.unquiet_tasks(c, id, limit=TASKS) if total > TASKS else ()
    return {
        "job": job,
        "active": job.state in JOB_ACTIVE,
        "waves": waves,
        "total": total,
        "done": sum(wave.done for wave in waves),
        "tasks": _shown(c, rows[:TASKS]),
        "unquiet": _shown(c, unquiet),
        "next": rows[TASKS - 1].number if len(rows) > TASKS else None,
        "asks": _asks(job),
    }


def _asks(job: Job) -> tuple[str, ...]:
    """What can be asked of the job as it is."""
    if job.state not in JOB_ACTIVE or job.wish == "cancel":
        return ()
    if job.state is JobState.PAUSED or job.wish == "pause":
        return ("continue", "cancel")
    return ("pause", "cancel")


def _shown(c: Connection, rows: Sequence[TaskRow]) -> list[TaskShown]:
    lines = overview.lines_of(c, [row.id for row in rows], limit=LINES) if rows else {}
    return [TaskShown(row=row, changes=_changes(row.intent), lines=tuple(lines.get(row.id, ()))) for row in rows]


def _changes(intent: str) -> tuple[str, ...]:
    """What the task changes, in words."""
    causes = json.loads(intent).get("causes", [])
    return tuple(
        f"{cause['kind']} {cause['id']['component']}: {_release(cause['found'])} → {_release(cause['wanted'])}"
        for cause in causes
    )


def _release(content: dict[str, Any] | None) -> str:
    return "nothing" if content is None else str(content["release"] or "unknown release")
