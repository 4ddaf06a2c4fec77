"""Jobs: listed, shown, followed, and asked to stop, wait or go on. The server moves and ends every one of them; a
client that goes away changes nothing."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api.commands.jobs import found
from api.house import House
from api.http import shapes, streams
from api.http.answers import answered, result_of, shown
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import (
    JOB,
    PLACE,
    PREFIX,
    Before,
    EnvironmentName,
    FollowedAfter,
    Limit,
    Number,
    Project,
    Qualified,
)
from api.people.principal import Verb
from reconciler.core.machine import JobState
from reconciler.store.records import Wish
from stickers.names import EnvironmentId, JobId

READS = [guarded(Verb.READ)]
State = Annotated[JobState | None, Query(description="only jobs in this state")]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["jobs"])
    _lists(router, house)
    _one(router, house)
    for wish in Wish:
        _wish(router, house, wish)
    return router


def _lists(router: APIRouter, house: House) -> None:
    @router.get("/jobs", response_model=shapes.Jobs, dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def jobs(
        request: Request,
        environment: Qualified = None,
        state: State = None,
        before: Before = None,
        limit: Limit = 20,
    ) -> Response:
        """The jobs that you may see, newest first."""
        words = {"environment": environment, "state": state, "before": before, "limit": limit}
        return await shown(house, request, "jobs", **words)

    @router.get(PLACE + "/jobs", response_model=shapes.Jobs, dependencies=READS)
    async def jobs_of(
        project: Project,
        environment: EnvironmentName,
        request: Request,
        state: State = None,
        before: Before = None,
        limit: Limit = 20,
    ) -> Response:
        """The jobs of the environment, newest first."""
        words = {"environment": f"{project}/{environment}", "state": state, "before": before, "limit": limit}
        return await shown(house, request, "jobs", **words)


def _one(router: APIRouter, house: House) -> None:
    @router.get(JOB, response_model=shapes.Job, dependencies=READS)
    async def job(project: Project, environment: EnvironmentName, number: Number, request: Request) -> Response:
        """One job with its tasks and what they reported."""
        return await shown(house, request, "job", job=f"{project}/{environment}:{number}")

    @router.get(JOB + "/tasks", response_model=shapes.Tasks, dependencies=READS)
    async def tasks(project: Project, environment: EnvironmentName, number: Number, request: Request) -> Response:
        """What the job does on each target: attempts, states, evidence, progress."""
        found = await result_of(house, request, "job", job=f"{project}/{environment}:{number}")
        return answered(request, {"job": found["id"], "tasks": found["tasks"]})

    @router.get(JOB + "/events", response_class=streams.EventStream, dependencies=READS)
    async def events(
        project: Project, environment: EnvironmentName, number: Number, request: Request, after: FollowedAfter = None
    ) -> Response:
        """The job live, from its beginning or from your last event, until it has ended."""
        place = EnvironmentId(f"{project}/{environment}")
        job = await found(house, JobId(f"{place}:{number}"))
        return streams.job(house, request, job.id, place)


def _wish(router: APIRouter, house: House, wish: Wish) -> None:
    asks = [guarded(Verb.DEPLOY)]

    @router.post(f"{JOB}/{wish}", response_model=shapes.JobSummary, dependencies=asks, operation_id=f"{wish}_job")
    async def ask(project: Project, environment: EnvironmentName, number: Number, request: Request) -> Response:
        """Ask the job to stop, to wait at the end of its wave, or to go on."""
        job = f"{project}/{environment}:{number}"
        return answered(request, await result_of(house, request, "request", job=job, what=wish.value))
