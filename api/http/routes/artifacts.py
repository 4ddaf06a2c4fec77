"""What a job deployed: the list of its files, and one of them as its bytes were kept."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import shapes
from api.http.answers import answered, raw, result_of
from api.http.guard import guarded
from api.http.routes.words import JOB, PREFIX, EnvironmentName, Number, Project, Qualified
from api.people.principal import Verb
from drivers.contract import RenderedKind
from stickers import names

READS = [guarded(Verb.READ)]
RAW: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
Kind = Annotated[RenderedKind | None, Query(description="only files of this kind")]
FileName = Annotated[str | None, Query(min_length=1, max_length=300, description="only the files of this name")]
FileDigest = Annotated[str, Path(pattern=f"^{names.DIGEST.pattern}$", max_length=71)]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["artifacts"])

    @router.get(JOB + "/artifacts", response_model=shapes.Artifacts, dependencies=READS)
    async def artifacts(
        project: Project,
        environment: EnvironmentName,
        number: Number,
        request: Request,
        kind: Kind = None,
        target: Qualified = None,
        name: FileName = None,
    ) -> Response:
        """Every file of the job, or those asked for: where each is for, and the digest of its bytes."""
        words = {"kind": kind, "target": target, "name": name}
        return answered(
            request, await result_of(house, request, "artifacts", job=f"{project}/{environment}:{number}", **words)
        )

    @router.get(JOB + "/artifacts/{digest}", response_class=Response, responses=RAW, dependencies=READS)
    async def artifact(
        project: Project, environment: EnvironmentName, number: Number, digest: FileDigest, request: Request
    ) -> Response:
        """One file as it was kept, byte for byte; always as plain text to be saved, whatever it holds."""
        job = f"{project}/{environment}:{number}"
        [file] = (await result_of(house, request, "artifacts", job=job, digest=digest, text=True))["files"][:1]
        return raw(request, file["text"], file["name"])

    return router
