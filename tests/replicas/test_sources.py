"""Whatever replica is told that a source has changed, the one that reads it is woken before its interval is over."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta

import anyio
import pytest

from desired_state.model import Policy, Sync
from reconciler import daemon, loop
from reconciler.sources import Followed
from reconciler.store.records import Role
from tests.reconciler.rig import Rig, Shelf
from tests.replicas.crew import Crew, declared, until

ASKS = Sync(interval=timedelta(seconds=1), mode=Policy.ASK, heal=Policy.ASK)
SOON = 60.0  # seconds; a source is read every hour


class Silent(Shelf):
    """Says nothing when it changes, as a forge that is only heard by webhooks."""

    async def changes(self) -> AsyncIterator[None]:
        yield
        await anyio.sleep_forever()


@pytest.fixture
def crew(postgresql: str) -> Crew:
    made = Crew.of(postgresql)
    made.shelf = Silent(declared("1.0.0", targets=1, sync=ASKS))
    return made


def followed(made: Crew) -> dict[str, Followed]:
    return {"documents": Followed(source=made.shelf, poll=3600.0)}


async def declares(made: Rig, version: str) -> bool:
    row = await made.row()
    return row is not None and str(row.release) == f"shop@{version}"


async def test_a_webhook_at_a_process_that_only_answers_wakes_the_replica_that_reads(crew: Crew) -> None:
    sources = followed(crew)
    async with crew.replica("a", sources=sources) as a, crew.replica("api", role=Role.API, sources=sources) as api:
        await until("the documents", lambda: declares(a, "1.0.0"))
        crew.shelf.put(declared("2.0.0", targets=1, sync=ASKS))
        api.reconciler.request(loop.read("documents"))
        await until("the next documents", lambda: declares(api, "2.0.0"), within=SOON)
        assert not api.reconciler.single


async def test_a_webhook_at_a_replica_that_does_not_read_wakes_the_one_that_does(crew: Crew) -> None:
    sources = followed(crew)
    async with crew.replica("a", sources=sources) as a, crew.replica("b", sources=sources) as b:
        await until("the documents", lambda: declares(a, "1.0.0"))
        await until("one that reads", lambda: a.reconciler.single or b.reconciler.single)
        reads, other = (a, b) if a.reconciler.single else (b, a)
        await until("the other", lambda: len(other.reconciler.live) == 2)
        crew.shelf.put(declared("2.0.0", targets=1, sync=ASKS))
        other.reconciler.request(loop.read("documents"))
        await until("the next documents", lambda: declares(other, "2.0.0"), within=SOON)
        assert reads.reconciler.single
        assert not other.reconciler.single


async def test_who_asks_for_a_read_elsewhere_is_told_what_was_found(crew: Crew) -> None:
    sources = followed(crew)
    async with crew.replica("a", sources=sources) as a, crew.replica("api", role=Role.API, sources=sources) as api:
        await until("the documents", lambda: declares(a, "1.0.0"))
        crew.shelf.put(declared("2.0.0", targets=1, sync=ASKS))
        began = time.monotonic()
        reading = await api.reconciler.read("documents")
        assert reading.revision == "commit-2"
        assert time.monotonic() - began < daemon.READS_IN
        crew.shelf.broken = "the disk is gone"
        reading = await api.reconciler.read("documents")
        assert reading.fault is not None
        assert "the disk is gone" in reading.fault.message
