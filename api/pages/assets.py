"""The script, the style and the picture that the pages use, from this package and nowhere else; and the light they are
seen in."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import open_to_all
from api.pages.carrying import form
from api.pages.frame import HEADERS, THEME_COOKIE, THEMES, Desk, local, pages, sent_to
from api.pages.templating import STATIC
from api.problem import Problem

KINDS: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
FOR_EVER: Final = "public, max-age=31536000, immutable"
YEAR: Final = 365 * 24 * 3600


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in KINDS}

    @made.get("/static/{name}", dependencies=[open_to_all("the same bytes for everybody, without any data")])
    async def static(name: str) -> Response:
        if name not in files:
            raise Problem("NO_FILE", f"there is no file {name[:40]}")
        body = files[name].read_bytes()
        return Response(body, headers=HEADERS | {"Cache-Control": FOR_EVER}, media_type=KINDS[files[name].suffix])

    @made.post("/theme", dependencies=[open_to_all("only the light of one's own browser")])
    async def theme(request: Request) -> Response:
        given = await form(request)
        answer = sent_to(local(given.get("here")))
        chosen = given.get("theme", "auto")
        if chosen in THEMES:
            secure = request.url.scheme == "https"
            answer.set_cookie(THEME_COOKIE, chosen, max_age=YEAR, httponly=True, samesite="lax", secure=secure)
        return answer

    return made
