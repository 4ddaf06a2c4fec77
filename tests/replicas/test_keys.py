"""What is asked under a key takes effect once, whoever dies on the way: the answer is kept where the job is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import anyio
import psycopg
import pytest

from desired_state.model import Policy, Sync
from reconciler import failpoints, forward
from reconciler.commands import Declined
from reconciler.core.intent import Grant
from reconciler.store import answers
from reconciler.store.answers import Ticket
from reconciler.store.records import Role
from stickers import digest
from tests.reconciler.rig import PROD, Rig
from tests.replicas.crew import Crew, declared, shares, until

ASKS = Sync(interval=timedelta(seconds=1), mode=Policy.ASK, heal=Policy.ASK)
ANYTHING = Grant(advance=True, heal=True)
KEY = Ticket(actor="ada", key="k-1", request=digest.of("sync"))
OTHER = Ticket(actor="ada", key="k-1", request=digest.of("rollback"))


@pytest.fixture
def crew(postgresql: str) -> Crew:
    return Crew.of(postgresql, declared("1.0.0", targets=1, sync=ASKS))


@pytest.fixture
def points() -> Iterator[None]:
    yield
    failpoints.listen(None)


async def kept(made: Rig, ticket: Ticket = KEY) -> Mapping[str, Any] | None:
    return await made.store.read(lambda c: answers.find(c, ticket))


async def test_the_answer_stands_at_the_moment_the_job_does(crew: Crew, points: None) -> None:
    seen: list[tuple[int, int]] = []

    def look(point: str) -> None:
        if point == "after_job":  # the next step of whoever made it, or its death
            with psycopg.connect(crew.address.replace("+psycopg", "")) as c:
                row = c.execute("select (select count(*) from job), (select count(*) from answer)").fetchone()
                seen.append(row or (0, 0))

    async with crew.replica("a") as a, crew.replica("b", role=Role.API) as b:
        await until("a holder", lambda: shares([a]) == [1])
        failpoints.listen(look)
        job = await b.reconciler.sync(PROD, ANYTHING, actor="ada", ticket=KEY)
        assert job is not None
        assert seen == [(1, 1)]
        assert await kept(b) == {"environment": PROD, "job": job.id}


async def test_who_asked_dies_before_the_answer_and_the_repeat_elsewhere_gets_the_first(crew: Crew) -> None:
    """Nobody has begun when who asked is gone; what it asked is done all the same, once."""
    async with crew.replica("b", role=Role.API) as b:
        async with crew.replica("a") as a:
            await until("the documents", lambda: shares([a]) == [1])
        with anyio.move_on_after(0.5):
            await b.reconciler.sync(PROD, ANYTHING, actor="ada", ticket=KEY)
    async with crew.replica("c") as c, crew.replica("d", role=Role.API) as d:
        await until("the job", lambda: jobs_of(c))
        first = await kept(d)
        await until("its end", lambda: c.runs("1.0.0") == 1)
        with pytest.raises(Declined) as again:
            await d.reconciler.sync(PROD, ANYTHING, actor="ada", ticket=KEY)
        assert again.value.code == forward.REPEATED
        assert first is not None
        assert first == await kept(d)
        assert [first["job"]] == [job.id for job in await c.jobs()]


async def jobs_of(made: Rig) -> bool:
    return bool(await made.jobs())


async def test_that_there_was_nothing_to_do_is_kept_with_the_holders_answer(crew: Crew) -> None:
    async with crew.replica("a") as a, crew.replica("b", role=Role.API) as b:
        await until("a holder", lambda: shares([a]) == [1])
        await b.reconciler.sync(PROD, ANYTHING, actor="ada")
        await until("the deployment", lambda: a.runs("1.0.0") == 1)
        await until("its end", lambda: _rests(a))
        assert await b.reconciler.sync(PROD, ANYTHING, actor="ada", ticket=KEY) is None
        assert await kept(b) == {"environment": PROD, "job": None}


async def _rests(made: Rig) -> bool:
    return all(job.ended_at is not None for job in await made.jobs())


async def test_a_key_of_another_request_is_refused_by_the_holder(crew: Crew) -> None:
    async with crew.replica("a") as a, crew.replica("b", role=Role.API) as b:
        await until("a holder", lambda: shares([a]) == [1])
        await b.reconciler.sync(PROD, ANYTHING, actor="ada", ticket=KEY)
        with pytest.raises(Declined) as refused:
            await b.reconciler.sync(PROD, ANYTHING, actor="ada", ticket=OTHER)
        assert refused.value.code == "IDEMPOTENCY_DIFFERS"


async def test_fifty_with_one_key_at_three_replicas_make_one_job(crew: Crew) -> None:
    told: list[str] = []

    async def ask(one: Rig) -> None:
        try:
            job = await one.reconciler.sync(PROD, ANYTHING, actor="ada", ticket=KEY)
            told.append("made" if job else "nothing")
        except Declined as declined:
            told.append(declined.code)

    async with crew.replica("a") as a, crew.replica("b") as b, crew.replica("c", role=Role.API) as c:
        await until("a holder", lambda: sum(shares([a, b])) == 1)
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(ask, (a, b, c)[number % 3])
        assert (told.count("made"), told.count(forward.REPEATED)) == (1, 49)
        assert len(await a.jobs()) == 1
