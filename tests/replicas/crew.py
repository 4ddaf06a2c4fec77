"""Replicas in one process, each with connections of its own to one PostgreSQL, on one fleet in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import anyio

from desired_state.health import Health, TcpCheck
from desired_state.model import DesiredState, Sync
from drivers.memory import MemoryDriver, World
from reconciler.bell import Bell
from reconciler.events import Event
from reconciler.store import listening
from reconciler.store.store import Store
from stickers.names import EnvironmentId
from tests.reconciler import rig
from tests.reconciler.rig import Rig, Shelf

TTL: Final = timedelta(seconds=3)
PATIENCE: Final = 60.0  # seconds; the machine may be loaded
QUICK: Final = Health(
    check=TcpCheck(port=8080), interval=timedelta(milliseconds=5), successes=1, deadline=timedelta(seconds=20)
)
SYNC: Final = Sync(interval=timedelta(seconds=1))


def utc() -> datetime:
    return datetime.now(UTC)


def declared(version: str, **more: Any) -> DesiredState:
    """The shop of the rig, in real time: its health is asked quickly."""
    state = rig.declared(version, **({"sync": SYNC} | more))
    return replace(state, placements=tuple(replace(placement, health=QUICK) for placement in state.placements))


def environment(number: int) -> EnvironmentId:
    return EnvironmentId(f"default/env{number:02}")


@dataclass(kw_only=True)
class Crew:
    """One database, one fleet, one source of documents; replicas come and go."""

    address: str
    shelf: Shelf
    world: World
    ttl: timedelta = TTL

    @classmethod
    def of(cls, address: str, *states: DesiredState) -> Crew:
        return cls(address=address, shelf=Shelf(*states), world=World(now=utc))

    @asynccontextmanager
    async def replica(
        self, name: str, *, address: str | None = None, direct: str | None = None, **parts: Any
    ) -> AsyncIterator[Rig]:
        """At work until the block ends; then it is gone without a word, as one that was killed."""
        where = address or self.address
        store = await Store.open(where, now=utc, patience=parts.pop("patience", 5.0))
        said: list[Event] = []
        bell = parts.pop("bell", None) or (lambda: listening.heard(direct or where))
        tools = replace(rig.tools(), now=utc)
        given: dict[str, Any] = {
            "tools": tools,
            "drivers": {"memory": MemoryDriver(tools, self.world, who=name)},
            "holder": name,
            "ttl": self.ttl,
            "sink": said.append,
            "bell": Bell(store, bell, sink=said.append, random=Random(1)),
        }
        try:
            async with rig.around(self.world, store, self.shelf, **(given | parts)) as made:
                made.events = said
                yield made
        finally:
            with anyio.CancelScope(shield=True):
                await store.aclose()


async def until(what: str, true: Callable[[], Any], *, within: float = PATIENCE) -> float:
    """Wait until it is true; an awaitable is awaited. The seconds it took."""
    began = time.monotonic()
    while True:
        answer = true()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return time.monotonic() - began
        if time.monotonic() - began > within:
            raise AssertionError(f"waited {within:g} s for {what}")
        await anyio.sleep(0.02)


def shares(replicas: Sequence[Rig]) -> list[int]:
    """How many environments each holds."""
    return [len(one.reconciler.held) for one in replicas]
