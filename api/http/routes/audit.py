"""The audit log: read it and verify its chains, of one environment or of the installation with all of them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import shapes
from api.http.answers import answered, result_of, shown
from api.http.guard import guarded
from api.http.routes.words import PLACE, PREFIX, Before, EnvironmentName, Limit, Project
from api.people.principal import Verb

READS = [guarded(Verb.AUDIT_READ)]
READS_ALL = [guarded(Verb.AUDIT_READ, None)]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["audit"])

    @router.get("/audit", response_model=shapes.Audit, dependencies=READS_ALL)
    async def audit(request: Request, before: Before = None, limit: Limit = 20) -> Response:
        """What was changed by whom, newest first, in every chain."""
        return await shown(house, request, "audit", before=before, limit=limit)

    @router.get(PLACE + "/audit", response_model=shapes.Audit, dependencies=READS)
    async def audit_of(
        project: Project, environment: EnvironmentName, request: Request, before: Before = None, limit: Limit = 20
    ) -> Response:
        """What was changed by whom in the environment, newest first."""
        return await shown(house, request, "audit", environment=f"{project}/{environment}", before=before, limit=limit)

    @router.post("/audit/verify", response_model=shapes.AuditVerified, dependencies=READS_ALL)
    async def verify(request: Request, asked: shapes.VerifyAsked | None = None) -> Response:
        """Whether every entry of every chain is as it was written, and the chains are as checkpoints said they were."""
        return answered(request, await _verified(house, request, asked))

    @router.post(PLACE + "/audit/verify", response_model=shapes.AuditVerified, dependencies=READS)
    async def verify_of(
        project: Project, environment: EnvironmentName, request: Request, asked: shapes.VerifyAsked | None = None
    ) -> Response:
        """The same of the environment's chain."""
        return answered(request, await _verified(house, request, asked, environment=f"{project}/{environment}"))

    return router


async def _verified(house: House, request: Request, asked: shapes.VerifyAsked | None, **where: str) -> Any:
    return await result_of(house, request, "audit_verify", **(asked or shapes.VerifyAsked()).model_dump(), **where)
