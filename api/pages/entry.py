"""The way in: the page that asks who one is. What is typed there goes to the people's part, never to a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import open_to_all
from api.pages.frame import LOGIN, Desk, local, pages, show

FAILED: Final[Mapping[str, str]] = {
    "UNAUTHENTICATED": "Name or password is wrong.",
    "TOO_MANY_REQUESTS": "Too many tries. Wait a minute, then try again.",
    "TLS_REQUIRED": "A password may not be sent over plain HTTP. Ask for this page with https.",
    "FORBIDDEN": "This login did not come from our own page. Try it from here.",
}
OTHERWISE: Final = "That did not work. The log of the daemon says why."


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get(LOGIN, dependencies=[open_to_all("whoever logs in is not known yet")])
    async def login(request: Request) -> Response:
        code = request.query_params.get("problem")
        return show(
            desk,
            request,
            "login.html",
            title="Log in",
            status=401 if code else 200,
            failed=FAILED.get(code, OTHERWISE) if code else None,
            provider=getattr(request.app.state.doorkeeper, "provider", None) is not None,
            next=local(request.query_params.get("next")),
        )

    return made
