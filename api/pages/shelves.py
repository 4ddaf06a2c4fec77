"""What stands behind the fleet: releases and where each is declared, sources and how old what was accepted is, and the
search over all of it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import SOMEWHERE, guarded
from api.pages import live
from api.pages.access import readable
from api.pages.carrying import answer
from api.pages.frame import Desk, pages, show
from api.people.principal import Verb
from api.problem import Problem
from reconciler.core.conditions import ConditionType
from reconciler.store import environments, overview, releases
from reconciler.store.records import EnvironmentRow
from stickers import names
from stickers.names import split_id

PAGE: Final = 50
FOUND: Final = 20  # of each kind
LONGEST: Final = 100  # characters of a word that is searched


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)
    store = desk.house.store

    @made.get("/releases", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def release_list(request: Request) -> Response:
        known = readable(request, await store.read(environments.all))
        before = request.query_params.get("before")
        page = await store.read(lambda c: overview.releases(c, before=before, limit=PAGE))
        mine = [row for row in page.items if row.project in _projects(known)]
        return show(
            desk,
            request,
            "releases.html",
            title="Releases",
            live=await live.fleet(desk),
            releases=[(row, _declaring(known, row.project, row.name)) for row in mine],
            next=page.before,
        )

    @made.get("/releases/{project}/{release}", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def release_page(request: Request, project: str, release: str) -> Response:
        known = readable(request, await store.read(environments.all))
        if project not in _projects(known):
            raise Problem("NO_RELEASE", f"there is no release {release[:80]} in {project[:80]}")
        found = await store.read(lambda c: _release(c, project, release))
        declaring = _declaring(known, project, found.name)
        return show(desk, request, "release.html", title=found.name, release=found, declaring=declaring)

    @made.get("/sources", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def sources(request: Request) -> Response:
        known = readable(request, await store.read(environments.all))
        return show(
            desk,
            request,
            "sources.html",
            title="Sources",
            live=await live.fleet(desk),
            rows=[(row, _source_condition(row)) for row in known],
            sources=(await answer(desk, request, "sources"))["sources"],
        )

    @made.get("/search", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def search(request: Request) -> Response:
        word = request.query_params.get("q", "").strip()[:LONGEST]
        known = readable(request, await store.read(environments.all))
        ids = [row.id for row in known]
        found = await store.read(lambda c: overview.search(c, word, ids, limit=FOUND)) if word else overview.Found()
        mine = tuple(pair for pair in found.releases if pair[0] in _projects(known))
        return show(desk, request, "search.html", title="Search", found=found, releases=mine, word=word, most=FOUND)

    return made


def _projects(known: list[EnvironmentRow]) -> set[str]:
    return {split_id(row.id)[0] for row in known}


def _declaring(known: list[EnvironmentRow], project: str, name: str) -> list[EnvironmentRow]:
    return [row for row in known if row.release == name and split_id(row.id)[0] == project]


def _release(c: Connection, project: str, name: str) -> Any:
    try:
        found = releases.load(c, project, names.release_name(name))
    except names.InvalidName as error:
        raise Problem("NO_RELEASE", str(error)) from None
    if found is None:
        raise Problem("NO_RELEASE", f"there is no release {name[:80]} in {project[:80]}")
    return found


def _source_condition(row: EnvironmentRow) -> Any:
    return next((each for each in row.conditions if each.type is ConditionType.SOURCE_READY), None)
