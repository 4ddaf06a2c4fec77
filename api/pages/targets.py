"""Targets: the list with the last contact of each, one with the reasons behind every cell, what a workload prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import anyio
from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api import commands
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import PREFIX
from api.pages import live
from api.pages.access import readable
from api.pages.carrying import answer
from api.pages.fleet import is_overdue
from api.pages.frame import Desk, pages, principal_of, show
from api.pages.sides import blockages, sides
from api.people.principal import Verb
from api.problem import Problem
from desired_state.model import Target
from reconciler.core.drift import Verdict
from reconciler.store import environments, history, memories, overview
from reconciler.store.overview import Looked, TargetRow
from stickers import names
from stickers.names import EnvironmentId, TargetId

PAGE: Final = 100
PAST: Final = 20  # earlier intervals on the page of a target
TAIL: Final = 200  # lines of a workload
PATIENCE: Final = 15.0  # seconds for a host to hand its lines over


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get("/targets", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def index(request: Request) -> Response:
        news, after = await live.fleet(desk), request.query_params.get("after")
        ids = [row.id for row in readable(request, await desk.house.store.read(environments.all))]
        found = await desk.house.store.read(lambda c: _list(c, ids, after))
        return show(desk, request, "targets.html", title="Targets", live=news, after=after, **found)

    @made.get("/targets/{project}/{target}", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def one(request: Request, project: str, target: str) -> Response:
        id = target_of(project, target)
        where = await _seen_in(desk, request, id)
        before = request.query_params.get("before")
        found = await desk.house.store.read(lambda c: _read(c, desk, id, where, before))
        news = await live.environment(desk, where)
        return show(desk, request, "target.html", title=id, live=news, id=id, where=where, before=before, **found)

    @made.get("/targets/{project}/{target}/{component}/logs", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def logs(request: Request, project: str, target: str, component: str) -> Response:
        id = target_of(project, target)
        lines = await _lines(desk, request, id, component)
        stream = f"{PREFIX}/targets/{id}/components/{quote(component)}/logs/stream?tail={TAIL}"
        shown: dict[str, Any] = {"component": component, "lines": lines, "stream": stream}
        return show(desk, request, "logs.html", title=f"Lines of {component} on {id}", id=id, **shown)

    @made.get("/evidence/{id}", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def evidence(request: Request, id: str) -> Response:
        found = await answer(desk, request, "evidence", id=id)
        return show(desk, request, "evidence.html", title="A signed statement", evidence=found)

    return made


def target_of(project: str, target: str) -> TargetId:
    try:
        return names.target_id(project, target)
    except names.InvalidName as error:
        raise Problem("NO_TARGET", str(error)) from None


async def _seen_in(desk: Desk, request: Request, id: TargetId) -> EnvironmentId:
    """The environment where the target is known, if whoever looks may see it."""
    principal = principal_of(request)
    for found in await desk.house.store.read(lambda c: overview.environments_of(c, id)):
        if principal.may(Verb.READ, found):
            return found
    raise Problem("NO_TARGET", f"nothing is known of a target {id}")


def _list(c: Connection, ids: list[EnvironmentId], after: str | None) -> dict[str, Any]:
    page, looked = overview.targets(c, ids, after=after, limit=PAGE), overview.looked(c)
    declared = {id: _declared(c, id) for id in dict.fromkeys(row.environment for row in page.items)}
    rows = [
        {
            "row": row,
            "target": declared[row.environment].get(row.target),
            "verdict": min((verdict for _, verdict, _ in row.verdicts), key=overview.GRAVITY.index),
            **contact(row, looked.get(row.environment)),
        }
        for row in page.items
    ]
    return {"rows": rows, "next": page.before, "looked": looked}


def contact(row: TargetRow, looked: Looked | None) -> dict[str, Any]:
    """When the target was last seen, as far as it is known; or since when it has not been."""
    blind = [since for _, verdict, since in row.verdicts if verdict is Verdict.UNKNOWN]
    if blind and len(blind) == len(row.verdicts):
        return {"seen": None, "unseen_since": max(blind)}
    return {"seen": looked.at if looked else None, "unseen_since": None}


def _declared(c: Connection, id: EnvironmentId) -> Mapping[TargetId, Target]:
    desired = environments.desired(c, id)
    return desired.target_of if desired else {}


def _read(c: Connection, desk: Desk, id: TargetId, where: EnvironmentId, before: str | None) -> dict[str, Any]:
    decision, known = history.last_decision(c, where), memories.known(c, where, desk.now)
    declared = environments.desired(c, where)
    looked = Looked(at=decision.until, again=decision.again_at) if decision else None
    standings = [each for each in history.why(c, id) if each.environment == where]
    past = history.page_of_target(c, id, before=before, limit=PAST)
    trials = {each.id: each.trial for each in declared.placements if each.id.target == id} if declared else {}
    row = TargetRow(
        target=id,
        environment=where,
        verdicts=tuple((each.id.component, each.verdict, each.since) for each in standings),
    )
    return {
        "target": declared.target_of.get(id) if declared else None,
        "placements": [sides(each, blockages(decision)) for each in standings],
        "memories": {each.id: known.memories.get(each.id) for each in standings},
        "refused": {id: known.refused.get(trial) for id, trial in trials.items()},
        "circuit": known.circuits.get(id),
        "decision": decision,
        "looked": looked,
        "overdue": is_overdue(looked, desk.now),
        "past": [each for each in past.items if each.environment == where],
        "next": past.before,
        **contact(row, looked),
    }


async def _lines(desk: Desk, request: Request, id: TargetId, component: str) -> list[str]:
    """The latest lines that the workload printed, masked."""
    found: list[str] = []
    asked = {"target": id, "component": component, "tail": TAIL}
    with anyio.move_on_after(PATIENCE) as scope:
        async for event in commands.carry_out(desk.house, "logs", asked, principal=principal_of(request)):
            if "line" in event:
                found.append(event["line"])
    if scope.cancelled_caught:
        raise Problem("TIMED_OUT", f"{id} did not hand its lines over within {PATIENCE:.0f} s")
    return found
