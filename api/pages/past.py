"""History: what every turn decided, one decision whole, and what was known at a moment."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import guarded
from api.pages import live
from api.pages.access import environment_of
from api.pages.acting import moment_of
from api.pages.frame import Desk, pages, show
from api.pages.sides import blockages, sides
from api.people.principal import Verb
from api.problem import Problem
from reconciler.store import environments, history, overview
from stickers.names import EnvironmentId

PAGE: Final = 30
ROWS: Final = 100  # placements of a moment
NAMED: Final = 200  # drifted and blocked placements of a decision


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get("/environments/{project}/{environment}/history", dependencies=[guarded(Verb.READ)])
    async def index(request: Request, project: str, environment: str) -> Response:
        id = environment_of(project, environment)
        await _insist(desk, id)
        if at := request.query_params.get("at"):
            return await _moment(desk, request, id, at)
        news, before = await live.environment(desk, id), _cursor(request.query_params.get("before"))
        page = await desk.house.store.read(lambda c: history.page(c, id, before=before, limit=PAGE))
        return show(
            desk,
            request,
            "history.html",
            title=f"History of {id}",
            live=None if before else news,
            id=id,
            decisions=page.items,
            next=page.before,
        )

    @made.get("/environments/{project}/{environment}/decisions/{number}", dependencies=[guarded(Verb.READ)])
    async def one(request: Request, project: str, environment: str, number: int) -> Response:
        id = environment_of(project, environment)
        found = await desk.house.store.read(lambda c: overview.decided(c, id, number))
        if found is None:
            raise Problem("NO_DECISION", f"decision {number} of {id} is not kept; older ones are in the archive")
        return show(
            desk,
            request,
            "decision.html",
            title=f"Decision {number} of {id}",
            id=id,
            decision=found,
            blocked=list(blockages(found).items())[:NAMED],
            drifted=list(found.content.get("drifted", ()))[:NAMED],
        )

    return made


async def _moment(desk: Desk, request: Request, id: EnvironmentId, text: str) -> Response:
    """What was known then, and nothing that was learnt later."""
    at = moment_of(text)
    counted, standings = await desk.house.store.read(lambda c: overview.stood(c, id, at, limit=ROWS))
    decision = await desk.house.store.read(lambda c: overview.decided_at(c, id, at))
    blocked = blockages(decision)
    return show(
        desk,
        request,
        "moment.html",
        title=f"{id} as known at a moment",
        id=id,
        at=at,
        counted=counted,
        total=sum(counted.values()),
        placements=[sides(standing, blocked) for standing in standings],
        decision=decision,
    )


async def _insist(desk: Desk, id: EnvironmentId) -> None:
    if await desk.house.store.read(lambda c: environments.load(c, id)) is None:
        raise Problem("NO_ENVIRONMENT", f"there is no environment {id}")


def _cursor(text: str | None) -> str | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Problem("BAD_ARGUMENT", f"{text[:40]!r} is no cursor; follow the link below a page")
    return text
