"""Actions of people on an environment: the plan with its hash before a sync, a rollback with its reason, suspend and
resume. Each is the command of the same name; what it answers is a page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import guarded
from api.pages.access import allowed, environment_of
from api.pages.carrying import answer, form
from api.pages.frame import Desk, pages, principal_of, sent_to, show
from api.people.principal import Verb
from api.problem import Problem
from reconciler.core.plan import Code
from stickers.names import EnvironmentId, JobId

PLACE = "/environments/{project}/{environment}"


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get(PLACE + "/plan", dependencies=[guarded(Verb.READ)])
    async def plan(request: Request, project: str, environment: str) -> Response:
        id = environment_of(project, environment)
        found, whole = await answer(desk, request, "plan", environment=id), None
        going = [each for each in found["blocked"] if each["code"] == Code.REMOVAL_LIMIT]
        if going:  # the plan with the removal that waits for a person, as they would confirm it
            whole = await answer(desk, request, "plan", environment=id, confirm_removal=found["removal_hash"])
        may, title = allowed(principal_of(request), id), f"Plan of {id}"
        return show(desk, request, "plan.html", title=title, id=id, plan=found, whole=whole, going=going, allowed=may)

    @made.post(PLACE + "/sync", dependencies=[guarded(Verb.DEPLOY)])
    async def sync(request: Request, project: str, environment: str) -> Response:
        id, given = environment_of(project, environment), await form(request)
        arguments: dict[str, Any] = {"environment": id, "plan_hash": needed(given, "plan_hash")}
        if given.get("confirm_removal"):
            arguments["confirm_removal"] = given["confirm_removal"]
        return begun(id, await answer(desk, request, "sync", **arguments))

    @made.post(PLACE + "/rollback", dependencies=[guarded(Verb.ROLLBACK)])
    async def rollback(request: Request, project: str, environment: str) -> Response:
        id, given = environment_of(project, environment), await form(request)
        return begun(id, await answer(desk, request, "rollback", environment=id, reason=needed(given, "reason")))

    @made.post(PLACE + "/adopt", dependencies=[guarded(Verb.DEPLOY)])
    async def adopt(request: Request, project: str, environment: str) -> Response:
        id = environment_of(project, environment)
        await form(request)
        return begun(id, await answer(desk, request, "adopt", environment=id))

    @made.post(PLACE + "/suspend", dependencies=[guarded(Verb.FREEZE)])
    async def suspend(request: Request, project: str, environment: str) -> Response:
        id, given = environment_of(project, environment), await form(request)
        arguments: dict[str, Any] = {"environment": id, "reason": needed(given, "reason")}
        if given.get("until"):
            arguments["until"] = moment_of(given["until"]).isoformat()
        await answer(desk, request, "suspend", **arguments)
        return sent_to(f"/environments/{id}")

    @made.post(PLACE + "/resume", dependencies=[guarded(Verb.FREEZE)])
    async def resume(request: Request, project: str, environment: str) -> Response:
        id, given = environment_of(project, environment), await form(request)
        await answer(desk, request, "resume", environment=id, lift_refused="lift_refused" in given)
        return sent_to(f"/environments/{id}")

    return made


def needed(given: dict[str, str], name: str) -> str:
    text = given.get(name, "").strip()
    if not text:
        raise Problem("BAD_ARGUMENT", f"{name.replace('_', ' ')} is missing")
    return text


def begun(id: EnvironmentId, result: dict[str, Any]) -> Response:
    """To the job that was made, or back where there is nothing to do."""
    job = result.get("id")
    return sent_to(job_address(JobId(job)) if job else f"/environments/{id}")


def job_address(id: JobId) -> str:
    where, _, number = id.rpartition(":")
    return f"/jobs/{where}/{number}"


def moment_of(text: str) -> datetime:
    """A moment as a form gives it; without a zone it is UTC, as the page says."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Problem("BAD_ARGUMENT", f"{text[:40]!r} is no time; expected 2026-11-22T06:00, in UTC") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
