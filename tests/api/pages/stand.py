"""A dashboard to look at: real parts on a fleet in memory, real time, a port of loopback. The reconciler runs in a thread
of its own, so that a browser can be driven from the test's.

    .venv/bin/python -m tests.api.pages.stand        # to look at it by hand
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from sqlalchemy import Connection
from starlette.requests import Request

from api.house import House
from api.http.app import application
from api.http.serving import on_port
from api.pages.routes import router
from api.people.principal import Grant, Principal, Verb, owner
from api.settings import Settings
from desired_state.model import Policy, StrategyKind, Strategy, Sync
from drivers.memory import World
from reconciler.store.store import Store
from stickers.names import EnvironmentId
from stickers.redaction import Redactor
from tests.reconciler.rig import HERE, Rig, Shelf, around, declared, keyring, tools

T = TypeVar("T")

PROD: Final = EnvironmentId("default/prod")
STAGING: Final = EnvironmentId("default/staging")


def utc() -> datetime:
    return datetime.now(UTC)


class Doorkeeper:
    """Everybody is who the cookie says: the owner, or a reader who may do nothing."""

    async def principal(self, request: Request) -> Principal:
        match request.cookies.get("who"):
            case "reader":
                return Principal(actor="reader", grants=(Grant(verb=Verb.READ, where=str(STAGING)),))
            case _:
                return owner("ada")


@dataclass(kw_only=True)
class Stand:
    """The dashboard at work."""

    address: str
    portal: BlockingPortal
    rig: Rig
    house: House

    def write(self, query: Callable[[Connection], T]) -> T:
        return self.portal.call(self.rig.store.write, query)

    def read(self, query: Callable[[Connection], T]) -> T:
        return self.portal.call(self.rig.store.read, query)

    def until(self, true: Callable[[], Any], within: float = 10.0) -> None:
        end = time.monotonic() + within
        while not true():
            if time.monotonic() > end:
                raise AssertionError("waited too long")
            time.sleep(0.05)


def states(prod: str = "1.0.0", **changes: Any) -> list[Any]:
    common: dict[str, Any] = {
        "sync": Sync(interval=timedelta(seconds=2)),
        "strategy": Strategy(kind=StrategyKind.ALL_AT_ONCE),
    }
    quick = [
        declared(prod, targets=6, components=("api", "worker"), environment=PROD, **(common | changes)),
        declared("1.0.0", targets=3, environment=STAGING, **common),
        declared("1.0.0", targets=60, environment=EnvironmentId("default/edge"), **common),
    ]
    return [replace(each, placements=tuple(replace(one, health=None) for one in each.placements)) for each in quick]


@contextmanager
def stand(*desired: Any, running: bool = True) -> Iterator[Stand]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        yield stack.enter_context(portal.wrap_async_context_manager(_served(portal, home, desired, running)))


from collections.abc import AsyncIterator  # noqa: E402
from contextlib import asynccontextmanager  # noqa: E402


@asynccontextmanager
async def _served(portal: BlockingPortal, home: Path, desired: Any, running: bool) -> AsyncIterator[Stand]:
    store = await Store.open(f"sqlite:///{home / 'holdfast.db'}", now=utc)
    real = replace(tools(), now=utc)
    async with around(World(now=utc), store, Shelf(*desired), running=running, tools=real) as rig:
        house = House(
            settings=Settings(documents=Path("holdfast"), state=home),
            installation=HERE,
            store=store,
            reconciler=rig.reconciler,
            drivers={"memory": rig.driver},
            keyring=keyring(),
            redactor=Redactor(),
            now=utc,
        )
        server = on_port(application(house, Doorkeeper(), more=(router,)), "127.0.0.1", 0)
        async with anyio.create_task_group() as group:
            port = await group.start(server.run_until_stopped)
            yield Stand(address=f"http://127.0.0.1:{port}", portal=portal, rig=rig, house=house)
            server.should_exit = True
            server.force_exit = True
    await store.aclose()


if __name__ == "__main__":
    with stand(*states()) as made:
        print(made.address, flush=True)
        time.sleep(3600)
