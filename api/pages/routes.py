"""All pages as one router, to be mounted where people come in; and the page of what is not there, mounted last."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import problems
from api.http.guard import open_to_all
from api.pages import (
    acting,
    agents,
    artifacts,
    assets,
    drift,
    entry,
    environment,
    fleet,
    jobs,
    live,
    past,
    shelves,
    targets,
)
from api.pages.frame import desk, pages, refused
from api.problem import Problem

ROUTERS = (fleet, environment, acting, past, jobs, artifacts, targets, agents, drift, shelves, live, entry, assets)


def router(house: House) -> APIRouter:
    made, table = APIRouter(), desk(house)
    for each in ROUTERS:
        made.routes.extend(each.router(table).routes)
    return made


def lost(house: House) -> APIRouter:
    """Whatever no other route answers: for a browser a page, for a program the usual problem."""
    table = desk(house)
    made = APIRouter(route_class=pages(table), include_in_schema=False)

    @made.get("/{path:path}", dependencies=[open_to_all("says only that there is nothing")])
    async def nothing(request: Request) -> Response:
        problem = Problem("NO_ROUTE", "there is nothing at this address")
        wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
        return refused(table, request, problem) if wants_page else problems.response(problem)

    return made
