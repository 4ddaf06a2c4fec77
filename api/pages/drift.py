"""The drift report: what is not in sync and what blocks it, as a page, as JSON and CSV, and as a file for mail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api import wire
from api.http.guard import SOMEWHERE, guarded
from api.pages import live, report
from api.pages.access import readable
from api.pages.carrying import answer
from api.pages.frame import HEADERS, Desk, pages, show
from api.people.principal import Verb
from reconciler.store import environments

ROWS: Final = 200


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    async def drifted(request: Request) -> list[Mapping[str, Any]]:
        named = request.query_params.get("environment")
        asked: dict[str, Any] = {"environment": named} if named else {}
        found = await answer(desk, request, "drift", **asked)
        wanted = request.query_params.get("verdict")
        rows = [row for row in found["placements"] if not wanted or row["verdict"] == wanted]
        return report.ordered(rows)

    @made.get("/drift", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def page(request: Request) -> Response:
        news, rows = await live.fleet(desk), await drifted(request)
        known = readable(request, await desk.house.store.read(environments.all))
        return show(
            desk,
            request,
            "drift.html",
            title="Drift",
            live=news,
            rows=rows[:ROWS],
            total=len(rows),
            counts=Counter(row["verdict"] for row in rows),
            environments=[row.id for row in known],
            chosen={name: request.query_params.get(name, "") for name in ("environment", "verdict")},
        )

    @made.get("/drift.json", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def as_json(request: Request) -> Response:
        body = wire.line({"at": desk.now, "placements": await drifted(request)})
        return Response(body, headers=HEADERS, media_type="application/json")

    @made.get("/drift.csv", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def as_csv(request: Request) -> Response:
        return _file(report.as_csv(await drifted(request)), "text/csv; charset=utf-8", "drift.csv")

    @made.get("/drift.html", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def as_html(request: Request) -> Response:
        rows = await drifted(request)
        return _file(report.as_html(rows, now=desk.now), "text/html; charset=utf-8", "drift.html")

    return made


def _file(body: str, media_type: str, name: str) -> Response:
    headers = HEADERS | {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body.encode(errors="replace"), headers=headers, media_type=media_type)
