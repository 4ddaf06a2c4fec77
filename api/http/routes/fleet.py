"""Environments, targets and components: how they stand, why, and what would be done about it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import printed, shapes
from api.http.answers import answered, result_of, shown, table
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import (
    PLACE,
    PREFIX,
    After,
    Before,
    ComponentName,
    EnvironmentName,
    Limit,
    Many,
    Project,
    Qualified,
    TargetName,
)
from api.people.principal import Verb

READS = [guarded(Verb.READ)]
READS_SOMEWHERE = [guarded(Verb.READ, SOMEWHERE)]
DRIFT_COLUMNS = (
    "environment",
    "target",
    "component",
    "slot",
    "verdict",
    "trust",
    "release",
    "since",
    "rule",
    "reason",
    "blocked",
    "differences",
)
CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
Format = Annotated[Literal["json", "csv"], Query(description="csv: a table for a spreadsheet")]
Removal = Annotated[
    str | None, Query(min_length=1, max_length=80, description="`removal_hash`: as if this large removal were allowed")
]
Moment = Annotated[str | None, Query(max_length=40, description="ISO 8601 with a zone: what was known then")]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["fleet"])
    _environments(router, house)
    _drift(router, house)
    _targets(router, house)
    return router


def _environments(router: APIRouter, house: House) -> None:
    @router.get("/environments", response_model=shapes.Fleet, dependencies=READS_SOMEWHERE)
    async def environments(request: Request) -> Response:
        """Every environment that you may see, with how many placements stand how."""
        return await shown(house, request, "status")

    @router.get(PLACE, response_model=shapes.WholeEnvironment, dependencies=READS)
    async def environment(project: Project, environment: EnvironmentName, request: Request) -> Response:
        """One environment with all its placements."""
        found = await result_of(house, request, "status", environment=f"{project}/{environment}")
        return answered(request, found["environments"][0])

    @router.get(PLACE + "/plan", response_model=shapes.Plan, dependencies=READS)
    async def plan(
        project: Project, environment: EnvironmentName, request: Request, confirm_removal: Removal = None
    ) -> Response:
        """What would be done; its `hash` is what a sync may insist on. Changes nothing."""
        words = {"confirm_removal": confirm_removal}
        return await shown(house, request, "plan", environment=f"{project}/{environment}", **words)

    @router.get(PLACE + "/history", response_model=shapes.History, dependencies=READS)
    async def history(
        project: Project,
        environment: EnvironmentName,
        request: Request,
        at: Moment = None,
        target: Qualified = None,
        before: Before = None,
        limit: Limit = 20,
    ) -> Response:
        """What was decided, newest first; with `at` what was known then, with `target` how its placements stood."""
        place = f"{project}/{environment}"
        words = {"at": at, "target": target, "before": before, "limit": limit}
        return await shown(house, request, "history", environment=place, **words)


def _drift(router: APIRouter, house: House) -> None:
    @router.get("/drift", response_model=shapes.Drift, responses=CSV, dependencies=READS_SOMEWHERE)
    async def drift(request: Request, format: Format = "json") -> Response:
        """Every placement that you may see and that is not in sync."""
        return await _drifted(house, request, None, format)

    @router.get(PLACE + "/drift", response_model=shapes.Drift, responses=CSV, dependencies=READS)
    async def drift_of(
        project: Project, environment: EnvironmentName, request: Request, format: Format = "json"
    ) -> Response:
        """Every placement of the environment that is not in sync."""
        return await _drifted(house, request, f"{project}/{environment}", format)


async def _drifted(house: House, request: Request, place: str | None, format: str) -> Response:
    found = await result_of(house, request, "drift", environment=place)
    if format == "csv":
        return table(request, DRIFT_COLUMNS, found["placements"], "drift")
    return answered(request, found)


def _targets(router: APIRouter, house: House) -> None:
    @router.get(PLACE + "/targets", response_model=shapes.Targets, dependencies=READS)
    async def targets(
        project: Project, environment: EnvironmentName, request: Request, after: After = None, limit: Many = 100
    ) -> Response:
        """The targets of the environment by name, each with how its placements stand."""
        place = f"{project}/{environment}"
        return await shown(house, request, "targets", environment=place, after=after, limit=limit)

    @router.get(PLACE + "/components", response_model=shapes.Components, dependencies=READS)
    async def components(project: Project, environment: EnvironmentName, request: Request) -> Response:
        """The components of the declared release, each with how its placements stand."""
        return await shown(house, request, "components", environment=f"{project}/{environment}")

    @router.get("/targets/{project}/{target}/why", response_model=shapes.Why, dependencies=READS_SOMEWHERE)
    async def why(project: Project, target: TargetName, request: Request) -> Response:
        """What is declared, worn and running there, the rule that fired, and what happens next."""
        return await shown(house, request, "why", target=f"{project}/{target}")

    @router.get(
        "/targets/{project}/{target}/components/{component}/logs",
        response_model=shapes.Logs,
        dependencies=READS_SOMEWHERE,
    )
    async def logs(
        project: Project, target: TargetName, component: ComponentName, request: Request, tail: Many = 100
    ) -> Response:
        """The last lines that the component printed there."""
        return answered(request, await printed.lines(house, request, f"{project}/{target}", component, tail))
