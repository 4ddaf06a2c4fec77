"""Several replicas on one PostgreSQL: a request with a key makes one job, whichever of them it reaches."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx2
import pytest

from api.commands import act
from api.http.caps import Caps
from desired_state.model import Policy, Sync
from drivers.contract import Tools
from drivers.memory import MemoryDriver, World
from reconciler.store import environments, jobs
from reconciler.store.records import Role
from reconciler.store.store import Store
from tests.api.http.doors import opened
from tests.harness import postgres
from tests.reconciler.rig import Shelf, around, declared, tools
from tests.replicas.crew import Crew, until

HERE = "/api/v1/environments/default/prod"
ASKS = Sync(interval=timedelta(seconds=30), mode=Policy.ASK, heal=Policy.ASK)
REPLICAS = 3
REQUESTS = 200


@pytest.fixture
def database() -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgres.given_postgres())
        except postgres.NoPostgres as reason:
            pytest.skip(str(reason))
        yield stack.enter_context(postgres.database(server))


def now() -> datetime:
    return datetime.now(UTC)


def real() -> Tools:
    return replace(tools(), now=now)


async def test_two_hundred_requests_over_three_replicas_make_one_job(database: str) -> None:
    world, answers = World(now=now), list[httpx2.Response]()
    async with contextlib.AsyncExitStack() as stack:
        doors = []
        for number in range(REPLICAS):
            store = await Store.open(database)
            stack.push_async_callback(store.aclose)
            parts: dict[str, Any] = {
                "holder": f"replica-{number}",
                "tools": real(),
                "drivers": {"memory": MemoryDriver(real(), world)},
                "tell": act.told,
            }
            made = await stack.enter_async_context(around(world, store, Shelf(), running=False, **parts))
            doors.append(await stack.enter_async_context(opened(made, Caps(requests=1_000), now=now)))
        await doors[0].house.store.write(lambda c: environments.accept(c, declared("1.0.0", sync=ASKS), now=now()))

        async def ask(number: int) -> None:
            key = {"Idempotency-Key": "the same"}
            answers.append(await doors[number % REPLICAS].post(f"{HERE}/sync", headers=key))

        async with anyio.create_task_group() as group:
            for number in range(REQUESTS):
                group.start_soon(ask, number)
        kept = await doors[0].house.store.read(lambda c: jobs.page(c, limit=10))
    assert Counter(answer.status_code for answer in answers) == {201: REQUESTS}
    assert len({answer.content for answer in answers}) == 1
    assert len(kept.items) == 1


async def test_a_key_is_answered_alike_by_whoever_does_not_hold_the_environment(database: str) -> None:
    made, key = Crew.of(database, declared("1.0.0", sync=ASKS)), {"Idempotency-Key": "k-1"}
    async with (
        made.replica("a", tell=act.told) as a,
        made.replica("b", role=Role.API, tell=act.told) as b,
        made.replica("c", role=Role.API, tell=act.told) as c,
        opened(b, Caps(), now=now) as first,
        opened(c, Caps(), now=now) as second,
    ):
        await until("a holder", lambda: a.reconciler.held)
        answer = await first.post(f"{HERE}/sync", headers=key)
        again = await second.post(f"{HERE}/sync", headers=key)
        assert (answer.status_code, answer.content) == (201, again.content)
        refused = await second.post(f"{HERE}/rollback", headers=key, json={"reason": "slow"})
        assert refused.json()["code"] == "IDEMPOTENCY_DIFFERS"
        assert len(await a.jobs()) == 1
