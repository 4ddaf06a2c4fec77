"""Documents that the database owns: read, written as a whole or not at all, and taken out.

`If-Match` holds a change to the revision that it was made for: the `ETag` of any reading at it begins with its number,
and the number in quotes is enough.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api import wire
from api.house import House
from api.http import shapes
from api.http.answers import answered, result_of
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import PREFIX, Project, Qualified
from api.people.principal import Verb
from api.problem import Problem
from stickers import names

EDITS = [guarded(Verb.TARGET_EDIT, SOMEWHERE)]
REVISION: Final = re.compile(r'"([0-9]{1,15})(?:-[0-9a-f]{32})?"')
Kind = Annotated[Literal["Environment", "Release", "Target"], Path(description="of the document")]
Document = Annotated[str, Path(max_length=200, pattern=names.NAME.pattern, examples=["web-1", "shop@2.3.1"])]
IfMatch = Annotated[str | None, Header(max_length=60, description="the revision that the documents must still be at")]
DryRun = Annotated[bool, Query(description="only say what would change")]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["documents"])

    @router.get("/documents", response_model=shapes.Documents, dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def documents(request: Request, environment: Qualified = None) -> Response:
        """The documents as YAML by the name of a file: all that you may see, or those of one environment."""
        found = await result_of(house, request, "export", environment=environment)
        return answered(request, found, version=f"{found['revision']}-")

    @router.post("/documents", response_model=shapes.Written, dependencies=EDITS)
    async def apply(request: Request, asked: shapes.DocumentsOffered, if_match: IfMatch = None) -> Response:
        """Write documents: all of them, or with any finding none."""
        revision = asked.revision if asked.revision is not None else _revision(if_match)
        words = {"files": asked.files, "dry_run": asked.dry_run, "revision": revision}
        return answered(request, await result_of(house, request, "apply", **words))

    @router.delete("/documents/{kind}/{project}/{name}", response_model=shapes.Written, dependencies=EDITS)
    async def remove(
        kind: Kind,
        project: Project,
        name: Document,
        request: Request,
        dry_run: DryRun = False,
        if_match: IfMatch = None,
    ) -> Response:
        """Take one document out, if what is left is whole without it."""
        files = {"removed.yaml": wire.line(_named(kind, project, name))}
        words = {"files": files, "remove": True, "dry_run": dry_run, "revision": _revision(if_match)}
        result = await result_of(house, request, "apply", **words)
        if not result["changes"]:
            raise Problem("NO_DOCUMENT", f"the database holds no {kind} {project}/{name}")
        return answered(request, result)

    return router


def _named(kind: str, project: str, name: str) -> dict[str, Any]:
    """As much of a document as names it; JSON is YAML."""
    about = {"apiVersion": "holdfast/v1", "kind": kind, "project": project}
    if kind != "Release":
        return about | {"name": name}
    product, _, version = name.partition("@")
    return about | {"name": product, "version": version}


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    found = REVISION.fullmatch(if_match.strip())
    if found is None:
        raise Problem("BAD_ARGUMENT", f"If-Match is {if_match[:40]!r}; expected the revision in quotes, or an ETag")
    return int(found[1])
