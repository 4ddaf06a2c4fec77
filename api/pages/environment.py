"""One environment: desired, sticker and observed side by side, what blocks and until when, and what may be done."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import guarded
from api.pages import live, strokes
from api.pages.access import allowed, environment_of
from api.pages.fleet import foremost, is_overdue
from api.pages.frame import Desk, pages, principal_of, show
from api.pages.sides import blockages, sides
from api.people.principal import Verb
from api.problem import Problem
from reconciler.core.drift import Verdict
from reconciler.store import environments, history, jobs, memories, overview
from reconciler.store.overview import Looked
from stickers.names import EnvironmentId

ROWS: Final = 40  # placements on one page
SPELLS: Final = 2_000  # intervals that a sparkline is drawn from
DRIFTED: Final = frozenset(Verdict) - {Verdict.IN_SYNC}


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get("/environments/{project}/{environment}", dependencies=[guarded(Verb.READ)])
    async def one(request: Request, project: str, environment: str) -> Response:
        id = environment_of(project, environment)
        news = await live.environment(desk, id)
        wanted = _wanted(request.query_params.get("verdict"))
        after = request.query_params.get("after")
        found = await desk.house.store.read(lambda c: _read(c, desk, id, wanted, after))
        return show(
            desk,
            request,
            "environment.html",
            title=id,
            live=news,
            id=id,
            allowed=allowed(principal_of(request), id),
            wanted=request.query_params.get("verdict") or "",
            after=after,
            **found,
        )

    return made


def _wanted(text: str | None) -> frozenset[Verdict] | None:
    if text == "drift":
        return DRIFTED
    if not text:
        return None
    if text not in list(Verdict):
        raise Problem("BAD_ARGUMENT", f"{text[:40]!r} is no verdict; known are drift, {', '.join(Verdict)}")
    return frozenset({Verdict(text)})


def _read(
    c: Connection, desk: Desk, id: EnvironmentId, wanted: frozenset[Verdict] | None, after: str | None
) -> dict[str, Any]:
    """Everything on the page, as of one moment."""
    row, desired = environments.load(c, id), environments.desired(c, id)
    if row is None or desired is None:
        raise Problem("NO_ENVIRONMENT", f"there is no environment {id}")
    now, decision = desk.now, history.last_decision(c, id)
    looked = Looked(at=decision.until, again=decision.again_at) if decision else None
    page = overview.placements(c, id, verdicts=wanted, after=after, limit=ROWS)
    blocked = blockages(decision)
    by_hand = memories.in_force(row.suspended, now)
    return {
        "row": row,
        "desired": desired.environment,
        "says": foremost(row.conditions),
        "suspension": by_hand or desired.environment.suspend,
        "by_hand": row.suspended if by_hand else None,
        "tally": overview.tally(c, id),
        "placements": [sides(standing, blocked) for standing in page.items],
        "next": page.before,
        "decision": decision,
        "looked": looked,
        "overdue": is_overdue(looked, now),
        "job": jobs.active(c, id),
        "recent": jobs.page(c, id, limit=5).items,
        "refused": memories.refused(c, id),
        "strokes": _strokes(c, id, now),
    }


def _strokes(c: Connection, id: EnvironmentId, now: datetime) -> dict[str, Any]:
    since = now - strokes.DAY
    spells = overview.spells(c, id, since, limit=SPELLS)
    ended = [spell.until for spell in spells if spell.until is not None]
    if len(ended) >= SPELLS:  # more has happened than is drawn: the line begins where it is complete
        since = min(ended)
    elif spells:
        since = max(since, min(spell.since for spell in spells))
    since = min(since, now - timedelta(minutes=1))
    return {
        "drift": strokes.drift(spells, since, now),
        "healing": strokes.healing(strokes.episodes(spells)),
        "over": strokes.hours(now - since),
    }
