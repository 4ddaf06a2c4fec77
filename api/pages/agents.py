"""Agents: how each is, what it serves and may work with, and what whoever keeps them does about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import SOMEWHERE, guarded
from api.pages import live
from api.pages.acting import needed
from api.pages.carrying import answer, form
from api.pages.frame import Desk, pages, principal_of, sent_to, show
from api.pages.words import Tone
from api.people.principal import Verb
from api.problem import Problem

PAGE: Final = 200
TONES: Final[Mapping[str, Tone]] = {
    "locked": Tone.BAD,
    "offline": Tone.BAD,
    "degraded": Tone.WARN,
    "invited": Tone.UNKNOWN,
    "online": Tone.GOOD,
    "removed": Tone.QUIET,
}
MEANINGS: Final[Mapping[str, str]] = {
    "locked": "nobody speaks with it until a person unlocks it",
    "offline": "silent for more than 90 s; its targets are unknown",
    "degraded": "a sign of life is missing",
    "invited": "it has not joined yet, or has to join anew",
    "online": "heard within 45 s",
    "removed": "it has no identity, no targets and no rights",
}


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get("/agents", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def index(request: Request) -> Response:
        news, page = await live.all_agents(desk), _page(request)
        found = (await answer(desk, request, "agents"))["agents"]
        rows = sorted((row for row in found if row["state"] != "removed"), key=_gravest)
        shown = rows[page * PAGE : (page + 1) * PAGE]
        more: dict[str, Any] = {"counts": _counts(rows), "tones": TONES, "meanings": MEANINGS, "keeps": _keeps(request)}
        after = page + 1 if len(rows) > (page + 1) * PAGE else None
        return show(desk, request, "agents.html", title="Agents", live=news, rows=shown, page=page, next=after, **more)

    @made.get("/agents/{name}", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def one(request: Request, name: str) -> Response:
        news, found = await live.all_agents(desk), await answer(desk, request, "agent", name=name)
        more: dict[str, Any] = {"tones": TONES, "meanings": MEANINGS, "keeps": _keeps(request)}
        return show(desk, request, "agent.html", title=f"Agent {name}", live=news, agent=found, **more)

    @made.post("/agents/{name}/lock", dependencies=[guarded(Verb.AGENT_ADMIN, None)])
    async def lock(request: Request, name: str) -> Response:
        given = await form(request)
        await answer(desk, request, "agent_lock", name=name, reason=needed(given, "reason"))
        return sent_to(f"/agents/{name}")

    @made.post("/agents/{name}/unlock", dependencies=[guarded(Verb.AGENT_ADMIN, None)])
    async def unlock(request: Request, name: str) -> Response:
        await form(request)
        await answer(desk, request, "agent_unlock", name=name)
        return sent_to(f"/agents/{name}")

    @made.post("/agents/{name}/drain", dependencies=[guarded(Verb.AGENT_ADMIN, None)])
    async def drain(request: Request, name: str) -> Response:
        given = await form(request)
        await answer(desk, request, "agent_drain", name=name, end="end" in given)
        return sent_to(f"/agents/{name}")

    return made


def _keeps(request: Request) -> bool:
    return principal_of(request).may(Verb.AGENT_ADMIN)


def _page(request: Request) -> int:
    text = request.query_params.get("page", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise Problem("BAD_ARGUMENT", f"{text[:20]!r} is no page")
    return int(text)


def _gravest(row: Mapping[str, Any]) -> tuple[int, str]:
    return list(TONES).index(row["presence"]), row["name"]


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    counts = dict.fromkeys(TONES, 0)
    for row in rows:
        counts[row["presence"]] += 1
    return {word: number for word, number in counts.items() if number}
