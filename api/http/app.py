"""The application behind every HTTP door: REST under `/api/v1`, the command wire, and whatever else is mounted here.

It is built once for TCP, with the doorkeeper who knows people, and once for the Unix socket, where the kernel says who
asks and the owner of the daemon may do everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp

from api.house import House
from api.http import contract, guard, problems
from api.http.caps import Caps, Gate
from api.http.guard import Doorkeeper
from api.http.recorded import Recorded
from api.http.routes import (
    acts,
    agents,
    artifacts,
    audit,
    documents,
    fleet,
    health,
    jobs,
    people,
    records,
    sources,
    wire,
)
from api.http.streams import Pace, Seats
from api.people.principal import Principal, owner
from api.telemetry.requests import Tracing

Router = Callable[[House], APIRouter]

ROUTERS: tuple[Router, ...] = (
    wire.router,
    contract.router,
    health.router,
    fleet.router,
    acts.router,
    jobs.router,
    records.router,
    artifacts.router,
    sources.router,
    documents.router,
    audit.router,
    people.router,
    agents.router,
)


class AtTheSocket:
    """Whoever can open the socket is the user the daemon runs as."""

    async def principal(self, request: Request) -> Principal:
        return owner(request.state.actor)


def application(house: House, doorkeeper: Doorkeeper, *, more: Iterable[Router] = ()) -> FastAPI:
    """Every route of every router, each with its guard. `more` are routers of other parts, such as the pages."""
    app = FastAPI(title="Holdfast", version="1", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.house, app.state.doorkeeper = house, doorkeeper
    app.state.seats, app.state.pace = Seats(), Pace()
    app.router.redirect_slashes = False
    app.router.routes.clear()
    for router in (*ROUTERS, *more):
        app.router.routes.extend(router(house).routes)
    guard.insist(app.router.routes)
    problems.install(app)
    return app


def gated(app: ASGIApp, caps: Caps, tracing: Tracing | None = None) -> ASGIApp:
    """The application with its caps in front: what is too much never reaches a route, and is recorded all the same."""
    return Recorded(Gate(app, caps), tracing)
