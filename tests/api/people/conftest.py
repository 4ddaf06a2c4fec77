"""A house of its own for each test, with a clock that the test moves, and the doors that know people."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from starlette.requests import Request

from api import commands, keys
from api.house import House
from api.http.app import application
from api.http.guard import guarded
from api.people import passwords, routes
from api.people.doorkeeper import Doorkeeper, Limits
from api.people.limits import Limit
from api.people.passwords import Cost
from api.people.principal import Principal, Verb, owner
from api.settings import Settings
from api.wiring import built
from reconciler.store import engines, schema

BOSS = owner("boss (uid 0)")
PASSWORD = "correct horse battery"
HERE = "http://127.0.0.1:8080"
CHEAP = Cost(n=16)


@dataclass
class Clock:
    moment: datetime = field(default_factory=lambda: datetime(2026, 11, 21, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.moment

    def on(self, **later: float) -> None:
        self.moment += timedelta(**later)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with keys and a laid schema, to be copied."""
    state = tmp_path_factory.mktemp("blank") / "state"
    keys.init(state / "keys")
    engine = engines.writer(f"sqlite:///{state / 'holdfast.db'}")
    schema.bring_up_to_date(engine)
    engine.dispose()
    return state


@pytest.fixture
def settings(blank: Path, tmp_path: Path) -> Settings:
    shutil.copytree(blank, tmp_path / "state")
    return Settings(state=tmp_path / "state", documents=tmp_path / "documents")


@pytest.fixture
async def house(settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    encoded = passwords.encoded
    monkeypatch.setattr(passwords, "encoded", lambda password, cost=CHEAP: encoded(password, cost))
    monkeypatch.setattr(passwords, "outdated", lambda kept, cost=CHEAP: False)
    async with built(settings) as house:
        yield replace(house, now=clock)


@pytest.fixture
async def keeper(house: House) -> AsyncIterator[Doorkeeper]:
    made = Doorkeeper(house)
    yield made
    await made.aclose()


def limits(peer: int = 100, account: int = 100, token: int = 100, **more: Any) -> Limits:
    return Limits(peer=Limit(peer, 60, **more), account=Limit(account, 60, **more), token=Limit(token, 60, **more))


def probes(house: House) -> APIRouter:
    """Routes that ask for a verb, and say who passed."""
    router = APIRouter()

    @router.get("/probe/{project}/{environment}", dependencies=[guarded(Verb.READ)])
    async def look(request: Request) -> dict[str, str]:
        return {"actor": request.state.principal.actor}

    @router.post("/probe/{project}/{environment}", dependencies=[guarded(Verb.DEPLOY)])
    async def act(request: Request) -> dict[str, str]:
        return {"actor": request.state.principal.actor, "body": (await request.body()).decode()}

    return router


def browser(house: House, keeper: Doorkeeper, *, base: str = HERE, address: str = "127.0.0.1") -> httpx2.AsyncClient:
    """Something that keeps cookies, at this address, over this scheme."""
    app = application(house, keeper, more=[routes.router, probes])
    transport = httpx2.ASGITransport(app=app, client=(address, 40000))
    return httpx2.AsyncClient(transport=transport, base_url=base)


async def asked(house: House, command: str, principal: Principal = BOSS, **arguments: Any) -> Any:
    """The result of a command."""
    result = None
    async for event in commands.carry_out(house, command, arguments, principal=principal):
        result = event.get("result", result)
    return result


async def logged_in(client: httpx2.AsyncClient, name: str = "ada", password: str = PASSWORD) -> dict[str, str]:
    """The headers with which this browser's page may change something."""
    answer = await client.post("/login", json={"name": name, "password": password})
    assert answer.status_code == 200, answer.text
    return {"x-csrf-token": answer.json()["csrf"], "sec-fetch-site": "same-origin"}
