"""What a job deployed: its files by target, and one of them as text."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import guarded
from api.http.routes.words import PREFIX
from api.pages.access import environment_of
from api.pages.carrying import answer
from api.pages.frame import Desk, pages, show
from api.people.principal import Verb
from stickers import names

JOB: Final = "/jobs/{project}/{environment}/{number}"
FILES: Final = 500  # on one page
SHOWN: Final = 200_000  # characters of one file; the rest is in its download


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get(JOB + "/artifacts", dependencies=[guarded(Verb.READ)])
    async def index(request: Request, project: str, environment: str, number: int) -> Response:
        id = names.job_id(environment_of(project, environment), number)
        found = await answer(desk, request, "artifacts", job=id)
        files, here = found["files"], f"/jobs/{project}/{environment}/{number}/artifacts"
        shown = {"files": files[:FILES], "total": len(files), "here_is": here}
        return show(desk, request, "artifacts.html", title=f"Files of {id}", id=id, **shown)

    @made.get(JOB + "/artifacts/{digest}", dependencies=[guarded(Verb.READ)])
    async def one(request: Request, project: str, environment: str, number: int, digest: str) -> Response:
        id = names.job_id(environment_of(project, environment), number)
        found = await answer(desk, request, "artifacts", job=id, digest=digest, text=True)
        file = found["files"][0]
        raw = f"{PREFIX}/environments/{project}/{environment}/jobs/{number}/artifacts/{file['digest']}"
        shown = {"file": file, "others": found["files"][1:], "text": file["text"][:SHOWN], "raw": raw}
        shown |= {"cut": len(file["text"]) > SHOWN, "back": f"/jobs/{project}/{environment}/{number}/artifacts"}
        return show(desk, request, "artifact.html", title=f"{file['name']} of {id}", id=id, **shown)

    return made
