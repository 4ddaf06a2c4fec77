"""What machines ask of the process itself: whether it lives, whether it may be sent requests, and its metrics."""

from __future__ import annotations

from typing import Final

import anyio
from fastapi import APIRouter
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from api.house import House
from api.http.guard import guarded, open_to_all
from api.people.principal import Verb
from api.problem import Problem
from reconciler.store.errors import StoreError

WITHIN: Final = 2.0  # seconds that the store has to answer


def router(house: House) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/livez", dependencies=[open_to_all("it says that the process answers, and nothing else")])
    async def livez(request: Request) -> Response:
        return PlainTextResponse("lives\n")

    @router.get("/readyz", dependencies=[open_to_all("it says whether the store answers, and nothing else")])
    async def readyz(request: Request) -> Response:
        """200, or 503 where requests had better go to another replica."""
        try:
            with anyio.fail_after(WITHIN):
                await house.store.read(lambda c: c.execute(text("select 1")).scalar())
        except (TimeoutError, StoreError):
            return PlainTextResponse("the store does not answer\n", status_code=503)
        return PlainTextResponse("ready\n")

    @router.get("/metrics", dependencies=[guarded(Verb.READ, None)])
    async def metrics(request: Request) -> Response:
        """In Prometheus' text format, for a token with `read` everywhere."""
        from api.telemetry.metrics import CONTENT_TYPE

        try:
            told = await house.metrics.text(house.store, house.reconciler, house.now())
        except StoreError as error:
            raise Problem(error.code, str(error)) from None
        return Response(told, media_type=CONTENT_TYPE)

    return router
