"""What may be asked of an environment: sync, rollback, adopt, suspend, resume.

Each may carry an `Idempotency-Key`: repeated with it, the request has its first answer and makes nothing new.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import shapes
from api.http.answers import answered, result_of
from api.http.guard import guarded
from api.http.routes.words import PLACE, PREFIX, EnvironmentName, Project
from api.people.principal import Verb

MADE: dict[int | str, dict[str, Any]] = {
    200: {"model": shapes.NothingToDo, "description": "There is nothing to do"},
    201: {"model": shapes.Made, "description": "The job that was made"},
}


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["acts"])
    _jobs(router, house)
    _suspension(router, house)
    return router


def _jobs(router: APIRouter, house: House) -> None:
    @router.post(PLACE + "/sync", status_code=201, responses=MADE, dependencies=[guarded(Verb.DEPLOY)])
    async def sync(
        project: Project, environment: EnvironmentName, request: Request, asked: shapes.SyncAsked | None = None
    ) -> Response:
        """Close the gap now, also where the policy asks for a person."""
        return await _made(house, request, "sync", f"{project}/{environment}", asked or shapes.SyncAsked())

    @router.post(PLACE + "/rollback", status_code=201, responses=MADE, dependencies=[guarded(Verb.ROLLBACK)])
    async def rollback(
        project: Project, environment: EnvironmentName, request: Request, asked: shapes.RollbackAsked | None = None
    ) -> Response:
        """Return every placement to what it last ran in health."""
        return await _made(house, request, "rollback", f"{project}/{environment}", asked or shapes.RollbackAsked())

    @router.post(PLACE + "/adopt", status_code=201, responses=MADE, dependencies=[guarded(Verb.DEPLOY)])
    async def adopt(
        project: Project, environment: EnvironmentName, request: Request, asked: shapes.AdoptAsked | None = None
    ) -> Response:
        """Take over workloads that already run as declared, without restarting them."""
        return await _made(house, request, "adopt", f"{project}/{environment}", asked or shapes.AdoptAsked())


def _suspension(router: APIRouter, house: House) -> None:
    @router.post(PLACE + "/suspend", response_model=shapes.Done, dependencies=[guarded(Verb.FREEZE)])
    async def suspend(
        project: Project, environment: EnvironmentName, request: Request, asked: shapes.SuspendAsked
    ) -> Response:
        """Stop changing the environment; it is still looked at."""
        words = asked.model_dump()
        return answered(
            request, await result_of(house, request, "suspend", environment=f"{project}/{environment}", **words)
        )

    @router.post(PLACE + "/resume", response_model=shapes.Done, dependencies=[guarded(Verb.FREEZE)])
    async def resume(
        project: Project,
        environment: EnvironmentName,
        request: Request,
        asked: shapes.ResumeAsked | None = None,
    ) -> Response:
        """End a suspension; `lift_refused` lets what failed here be tried again, and asks for the right to deploy."""
        words = (asked or shapes.ResumeAsked()).model_dump()
        return answered(
            request, await result_of(house, request, "resume", environment=f"{project}/{environment}", **words)
        )


async def _made(house: House, request: Request, command: str, place: str, asked: shapes.Asked) -> Response:
    found = await result_of(house, request, command, environment=place, **asked.model_dump())
    if "id" not in found:
        return answered(request, found)
    number = found["id"].rpartition(":")[2]
    where = f"{PREFIX}/environments/{place}/jobs/{number}"
    return answered(request, found, 201, {"Location": where})
