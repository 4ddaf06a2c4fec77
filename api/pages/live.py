"""News for open pages: a token that changes when what a page shows does. The page then asks for itself again, through
the same door and with the same rights."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from typing import Final

import anyio
from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api.http import streams
from api.http.guard import SOMEWHERE, guarded
from api.pages.access import environment_of
from api.pages.frame import HEADERS, Desk, Live, pages
from api.people.principal import Verb
from drivers.agent.protocol import DEGRADED, OFFLINE
from reconciler.store import agents, overview
from reconciler.store.errors import StoreError
from stickers import names
from stickers.names import EnvironmentId, JobId

GLANCE: Final = 0.5  # seconds between two looks, shared by all that watch the same
SIGN_OF_LIFE: Final = 15.0  # seconds, after which a silent stream says that it is still there
SESSION: Final = 60.0  # seconds, after which a watcher comes in again through the door, with the rights of then
KEPT: Final = 512

Query = Callable[[Connection], str]


class Pulses:
    """The last token of everything that is watched: however many watch it, it is looked at once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._latest: OrderedDict[str, tuple[float, str]] = OrderedDict()

    async def token(self, key: str, query: Query) -> str:
        at, found = self._latest.get(key, (0.0, ""))
        if time.monotonic() - at < GLANCE * 0.9:
            return found
        found = await self._desk.house.store.read(query)
        self._latest[key] = (time.monotonic(), found)
        self._latest.move_to_end(key)
        if len(self._latest) > KEPT:
            self._latest.popitem(last=False)
        return found


async def fleet(desk: Desk) -> Live:
    return Live(address="/live", token=await desk.house.store.read(overview.pulse))


async def environment(desk: Desk, id: EnvironmentId) -> Live:
    token = await desk.house.store.read(lambda c: overview.pulse_of(c, id))
    return Live(address=f"/live/environments/{id}", token=token)


async def job(desk: Desk, id: JobId) -> Live:
    token = await desk.house.store.read(lambda c: overview.pulse_of_job(c, id))
    where, _, number = id.rpartition(":")
    return Live(address=f"/live/jobs/{where}/{number}", token=token)


async def all_agents(desk: Desk) -> Live:
    return Live(address="/live/agents", token=await desk.house.store.read(lambda c: _of_agents(c, desk)))


def _of_agents(c: Connection, desk: Desk) -> str:
    return agents.pulse(c, desk.now, (DEGRADED, OFFLINE))


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)
    pulses = Pulses(desk)

    @made.get("/live", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def watch_fleet(request: Request) -> Response:
        return _stream(desk, request, pulses, "fleet", overview.pulse)

    @made.get("/live/environments/{project}/{environment}", dependencies=[guarded(Verb.READ)])
    async def watch_environment(request: Request, project: str, environment: str) -> Response:
        id = environment_of(project, environment)
        return _stream(desk, request, pulses, id, lambda c: overview.pulse_of(c, id))

    @made.get("/live/jobs/{project}/{environment}/{number}", dependencies=[guarded(Verb.READ)])
    async def watch_job(request: Request, project: str, environment: str, number: int) -> Response:
        id = names.job_id(environment_of(project, environment), number)
        return _stream(desk, request, pulses, id, lambda c: overview.pulse_of_job(c, id))

    @made.get("/live/agents", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def watch_agents(request: Request) -> Response:
        return _stream(desk, request, pulses, "agents", lambda c: _of_agents(c, desk))

    return made


def _stream(desk: Desk, request: Request, pulses: Pulses, key: str, query: Query) -> Response:
    answer = streams.response(request, lambda: _beats(desk, pulses, key, query))
    answer.headers.update(HEADERS)
    return answer


async def _beats(desk: Desk, pulses: Pulses, key: str, query: Query) -> AsyncGenerator[bytes, None]:
    told, quiet, end = "", 0.0, time.monotonic() + SESSION
    while time.monotonic() < end and not desk.house.bell.closing:
        try:
            token = await pulses.token(key, query)
        except StoreError:  # the page stays as it is; the watcher comes again
            return
        if token != told or quiet >= SIGN_OF_LIFE:
            yield f"event: pulse\ndata: {token}\n\n".encode()
            told, quiet = token, 0.0
        await anyio.sleep(GLANCE)
        quiet += GLANCE
