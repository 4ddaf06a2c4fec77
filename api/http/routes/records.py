"""Evidence, releases, and everything that happens, live."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api.commands import lookup
from api.house import House
from api.http import printed, shapes, streams
from api.http.answers import shown
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import (
    PLACE,
    PREFIX,
    After,
    ComponentName,
    EnvironmentName,
    FollowedAfter,
    Many,
    Project,
    TargetName,
)
from api.people.principal import Verb
from stickers import names
from stickers.names import EnvironmentId

READS_SOMEWHERE = [guarded(Verb.READ, SOMEWHERE)]
EvidenceId = Annotated[str, Path(pattern=f"^{names.DIGEST.pattern}$", max_length=71)]
ReleaseName = Annotated[str, Path(max_length=200, pattern="^[^@/]+@[^@/]+$", examples=["shop@2.3.1"])]
ProjectAsked = Annotated[str, Query(max_length=63)]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["records"])
    _records(router, house)
    _events(router, house)
    return router


def _records(router: APIRouter, house: House) -> None:
    @router.get("/evidence/{id}", response_model=shapes.Evidence, dependencies=READS_SOMEWHERE)
    async def evidence(id: EvidenceId, request: Request) -> Response:
        """A signed statement, and whether its signature holds today."""
        return await shown(house, request, "evidence", id=id)

    @router.get("/releases", response_model=shapes.Releases, dependencies=READS_SOMEWHERE)
    async def releases(
        request: Request, project: ProjectAsked = "default", after: After = None, limit: Many = 100
    ) -> Response:
        """The releases of a project by name."""
        return await shown(house, request, "releases", project=project, after=after, limit=limit)

    @router.get("/releases/{project}/{release}", response_model=shapes.Release, dependencies=READS_SOMEWHERE)
    async def release(project: Project, release: ReleaseName, request: Request) -> Response:
        """What a release consists of, by digest."""
        return await shown(house, request, "release", project=project, release=release)


def _events(router: APIRouter, house: House) -> None:
    @router.get("/events", response_class=streams.EventStream, dependencies=READS_SOMEWHERE)
    async def events(request: Request, after: FollowedAfter = None) -> Response:
        """Everything that happens where you may see it, from now on or from your last event."""
        return streams.fleet(house, request, None)

    @router.get(PLACE + "/events", response_class=streams.EventStream, dependencies=[guarded(Verb.READ)])
    async def events_of(
        project: Project, environment: EnvironmentName, request: Request, after: FollowedAfter = None
    ) -> Response:
        """Everything that happens in the environment."""
        row, _ = await lookup.environment(house, EnvironmentId(f"{project}/{environment}"))
        return streams.fleet(house, request, row.id)

    @router.get(
        "/targets/{project}/{target}/components/{component}/logs/stream",
        response_class=streams.EventStream,
        dependencies=READS_SOMEWHERE,
    )
    async def log_stream(
        project: Project,
        target: TargetName,
        component: ComponentName,
        request: Request,
        tail: Many = 100,
        after: FollowedAfter = None,
    ) -> Response:
        """What the component prints there, live. A line's id is what it and those before it say, so that whoever comes
        back goes on behind the line they saw last, as far as the runtime still shows it (else `gap`). Where several
        lines may be that one, it goes on behind the first of them and says `again`: some may be told twice."""
        return await printed.stream(house, request, f"{project}/{target}", component, tail)
