"""A house of real parts on a fleet in memory, its HTTP application, and a doorkeeper who believes what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx2
from fastapi import FastAPI
from starlette.requests import Request

from api.commands import act
from api.house import House
from api.http.app import application, gated
from api.http.caps import Caps
from api.http.guard import Doorkeeper
from api.people.principal import Grant, Principal, Verb, owner
from api.problem import Problem
from api.settings import Settings
from api.telemetry.requests import Tracing
from desired_state.model import DesiredState
from stickers.redaction import Redactor
from tests.harness import virtual_time
from tests.reconciler.rig import HERE, Rig, keyring, rig

PROD: Final = "default/prod"
OTHER: Final = "default/other"
READS: Final = (Verb.READ,)
ROLES: Final[Mapping[str, tuple[Verb, ...]]] = {
    "viewer": (Verb.READ,),
    "developer": (Verb.READ, Verb.REQUEST),
    "operator": (Verb.READ, Verb.DEPLOY, Verb.ROLLBACK, Verb.FREEZE),
    "freezer": (Verb.READ, Verb.FREEZE),
    "auditor": (Verb.AUDIT_READ,),
    "admin": (Verb.ADMIN, Verb.TOKEN_ADMIN),
    "keeper": (Verb.AGENT_ADMIN,),
}


class Believing:
    """Knows who the token names: `role@place`, or `owner`. Whoever is in `gone` is known no more."""

    def __init__(self) -> None:
        self.gone: set[str] = set()

    async def principal(self, request: Request) -> Principal:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        role, _, place = token.partition("@")
        if token in self.gone or (role not in ROLES and role != "owner"):
            raise Problem("UNAUTHENTICATED", "this token is not known")
        return owner("owner") if role == "owner" else granted(role, place or "*")


def granted(role: str, where: str) -> Principal:
    return Principal(actor=f"{role}@{where}", grants=tuple(Grant(verb=verb, where=where) for verb in ROLES[role]))


@dataclass(kw_only=True, eq=False)
class Door:
    """A house and a client of its application."""

    rig: Rig
    house: House
    app: FastAPI
    client: httpx2.AsyncClient
    doorkeeper: Believing

    async def get(self, path: str, token: str = "owner", **more: Any) -> httpx2.Response:
        return await self.ask("GET", path, token, **more)

    async def post(self, path: str, token: str = "owner", **more: Any) -> httpx2.Response:
        return await self.ask("POST", path, token, **more)

    async def ask(self, method: str, path: str, token: str = "owner", **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        return await self.client.request(method, path, headers=headers, **more)


@asynccontextmanager
async def door(
    *states: DesiredState, caps: Caps | None = None, tracing: Tracing | None = None, **parts: Any
) -> AsyncIterator[Door]:
    async with (
        rig(*states, **({"tell": act.told} | parts)) as made,
        opened(made, caps or Caps(), tracing=tracing) as door,
    ):
        yield door


@asynccontextmanager
async def opened(
    made: Rig,
    caps: Caps,
    settings: Settings | None = None,
    now: Callable[[], datetime] = virtual_time.now,
    tracing: Tracing | None = None,
) -> AsyncIterator[Door]:
    house = House(
        settings=settings or Settings(),
        installation=HERE,
        store=made.store,
        reconciler=made.reconciler,
        drivers={"memory": made.driver},
        keyring=keyring(),
        redactor=Redactor(),
        now=now,
    )
    doorkeeper = Believing()
    app = application(house, doorkeeper)
    transport = httpx2.ASGITransport(app=gated(app, caps, tracing), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://holdfast") as client:
        yield Door(rig=made, house=house, app=app, client=client, doorkeeper=doorkeeper)


def is_doorkeeper(one: Believing) -> Doorkeeper:
    """Held by the type checker."""
    return one
