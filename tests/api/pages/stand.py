"""A dashboard to look at: real parts on a fleet in memory, in real time, at a port of loopback. It runs in a thread of
its own, so that a browser can be driven from the test's.

    .venv/bin/python -m tests.api.pages.stand        # to look at it by hand
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from sqlalchemy import Connection
from starlette.requests import Request

from api import sources
from api.house import House
from api.http.app import application
from api.http.serving import on_port
from api.pages.routes import lost, router
from api.people.principal import Grant, Principal, Verb, owner
from api.problem import Problem
from api.settings import Settings
from desired_state.model import DesiredState, Policy, Strategy, StrategyKind, Sync
from drivers.memory import MemoryDriver, World
from reconciler.core.drift import Verdict
from reconciler.store import agents, overview
from reconciler.store.store import Store
from stickers.names import AgentName, EnvironmentId, TargetId
from stickers.redaction import Redactor
from tests.reconciler.rig import HERE, Rig, Shelf, around, artifact, declared, keyring, place, tools

T = TypeVar("T")

PROD: Final = EnvironmentId("default/prod")
EDGE: Final = EnvironmentId("default/edge")
REPORTED: Final = Sync(interval=timedelta(seconds=2), heal=Policy.REPORT)
HOSTILE: Final = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'`{{7*7}}"
STAGING: Final = EnvironmentId("default/staging")


def utc() -> datetime:
    return datetime.now(UTC)


class Doorkeeper:
    """Everybody is who the cookie says: the owner, or a reader who may do nothing."""

    async def principal(self, request: Request) -> Principal:
        match request.cookies.get("who"):
            case "reader":
                return Principal(actor="reader", grants=(Grant(verb=Verb.READ, where=str(STAGING)),))
            case "nobody":
                raise Problem("UNAUTHENTICATED", "log in")
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

    def until(self, true: Callable[[], Any], within: float = 180.0) -> None:
        end = time.monotonic() + within
        while not true():
            if time.monotonic() > end:
                raise AssertionError("waited too long")
            time.sleep(0.05)


def states(prod: str = "1.0.0", **changes: Any) -> list[DesiredState]:
    """Three environments: one of many small targets, one whose drift stays to be seen, one that is healed."""
    common: dict[str, Any] = {
        "sync": Sync(interval=timedelta(seconds=2)),
        "strategy": Strategy(kind=StrategyKind.ALL_AT_ONCE),
    }
    quick = [
        declared(prod, targets=6, components=("api", "worker"), environment=PROD, **(common | changes)),
        declared("1.0.0", targets=6, environment=STAGING, **common | {"sync": REPORTED}),
        declared("1.0.0", targets=130, environment=EDGE, **common),
    ]
    return [replace(each, placements=tuple(replace(one, health=None) for one in each.placements)) for each in quick]


@contextmanager
def stand(*desired: DesiredState, running: bool = True) -> Iterator[Stand]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        yield stack.enter_context(portal.wrap_async_context_manager(_served(portal, home, desired, running)))


@asynccontextmanager
async def _served(
    portal: BlockingPortal, home: Path, desired: tuple[DesiredState, ...], running: bool
) -> AsyncIterator[Stand]:
    store = await Store.open(f"sqlite:///{home / 'holdfast.db'}", now=utc)
    real = replace(tools(), now=utc)
    world, settings = World(now=utc), Settings(documents=Path("holdfast"), state=home)
    drivers = {"memory": MemoryDriver(real, world)}
    async with around(world, store, Shelf(*desired), running=running, tools=real, drivers=drivers) as rig:
        house = House(
            settings=settings,
            sources=sources.read(settings),
            installation=HERE,
            store=store,
            reconciler=rig.reconciler,
            drivers=drivers,
            keyring=keyring(),
            redactor=Redactor(),
            now=utc,
        )
        server = on_port(application(house, Doorkeeper(), more=(router, lost)), "127.0.0.1", 0)
        async with anyio.create_task_group() as group:
            port = await group.start(server.run_until_stopped)
            yield Stand(address=f"http://127.0.0.1:{port}", portal=portal, rig=rig, house=house)
            server.should_exit = True
            server.force_exit = True
    await store.aclose()


def settled(made: Stand) -> None:
    """Everything that is declared stands, and was seen to."""
    made.until(lambda: _verdicts(made) == {Verdict.IN_SYNC}, 20)


def _verdicts(made: Stand) -> set[Verdict]:
    found = made.read(overview.tallies)
    return {verdict for tally in found.values() for verdict in tally.placements} if len(found) == 3 else set()


def unsettled(made: Stand) -> None:
    """Staging after a bad night, with a stranger whose name is an attack."""
    made.portal.call(_unsettle, made.rig.world)
    made.until(lambda: len(made.read(lambda c: overview.tally(c, STAGING)).placements) >= 5)


async def _unsettle(world: World) -> None:
    world.host(place(0, environment=STAGING).target).kill(place(0, environment=STAGING))
    world.host(place(1, environment=STAGING).target).forge(place(1, environment=STAGING))
    world.host(place(2, environment=STAGING).target).swap(place(2, environment=STAGING), artifact("api", "0.9.0"))
    world.host(place(3, environment=STAGING).target).cut()
    world.host(place(4, environment=STAGING).target).intrude(HOSTILE, artifact("api", "0.1.0"))
    thing = next(iter(world.host(place(5, environment=STAGING).target).things))
    world.host(place(5, environment=STAGING).target).say(thing, HOSTILE)


def agented(made: Stand) -> None:
    """Agents of staging: one online whose host says hostile things, one silent, one locked, one invited; and one of
    another environment."""
    made.write(lambda c: _agented(c, utc()))


def _agented(c: Connection, now: datetime) -> None:
    for number in range(4):
        _invited(c, f"staging-{number}", place(number, environment=STAGING).target, now)
    _invited(c, "prod-0", place(0, environment=PROD).target, now)
    for number in range(3):
        _joined(c, f"staging-{number}", now)
    heard = [
        _heard("staging-0", now),
        replace(_heard("staging-1", now - timedelta(minutes=3)), version="1.2.3", queue=4),
    ]
    agents.heard(c, heard)
    agents.lock(c, AgentName("staging-2"), HOSTILE, "ada", now)


def _invited(c: Connection, name: str, target: TargetId, now: datetime) -> None:
    invite = agents.Invite(
        hash=name, agent=AgentName(name), created_at=now, created_by="ada", expires_at=now + timedelta(minutes=15)
    )
    agents.invite(c, invite, [target], ["docker", "systemd"])


def _joined(c: Connection, name: str, now: datetime) -> None:
    def issued(wanted: agents.Wanted) -> agents.Certificate:
        return agents.Certificate(
            serial=int.from_bytes(name.encode()),
            agent=wanted.agent,
            generation=wanted.generation,
            key=name,
            issuer="4f1d0c22ab90",
            pem="",
            issued_at=now,
            not_after=now + timedelta(hours=24),
        )

    keys = agents.Keys(key=name, signing=name, sealing=name)
    agents.join(c, name, keys, issued, by="192.0.2.7", now=now)


def _heard(name: str, at: datetime) -> agents.Heard:
    return agents.Heard(
        agent=AgentName(name),
        at=at,
        version=HOSTILE,
        reported=("docker", HOSTILE),
        queue=0,
        way="websocket",
        peer=HOSTILE,
        server="here",
    )


if __name__ == "__main__":
    with stand(*states()) as made:
        settled(made)
        unsettled(made)
        print(made.address, flush=True)
        time.sleep(3600)
