"""Where the documents come from: how old what each source says is, and to look again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import shapes
from api.http.answers import shown
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import PREFIX
from api.people.principal import Verb

READS_SOMEWHERE = [guarded(Verb.READ, SOMEWHERE)]
SourceName = Annotated[str, Path(min_length=1, max_length=63, examples=["main"])]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["sources"])

    @router.get("/sources", response_model=shapes.Sources, dependencies=READS_SOMEWHERE)
    async def sources(request: Request) -> Response:
        """Every declared source; of its environments, those that you may see."""
        return await shown(house, request, "sources")

    @router.get("/sources/{source}", response_model=shapes.DeclaredSource, dependencies=READS_SOMEWHERE)
    async def source(source: SourceName, request: Request) -> Response:
        """One source: what it says, how old that is, and what is wrong with it."""
        return await shown(house, request, "source", source=source)

    @router.post(
        "/sources/{source}/refresh",
        response_model=shapes.DeclaredSource,
        dependencies=[guarded(Verb.REQUEST, SOMEWHERE)],
    )
    async def refresh(source: SourceName, request: Request, asked: shapes.RefreshAsked | None = None) -> Response:
        """Read it now. `allow` lets in a commit that does not follow from the accepted one, and asks for the right to
        edit policy."""
        words = (asked or shapes.RefreshAsked()).model_dump()
        return await shown(house, request, "refresh", source=source, **words)

    return router
