"""Whatever replica people ask: the holder does it, once, and the answer follows from the database."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from desired_state.model import Policy, Sync
from reconciler import correlation, forward
from reconciler.commands import Declined
from reconciler.core.intent import Grant
from reconciler.core.machine import JobState
from reconciler.events import Event, JobMoved, LeaseTaken
from reconciler.loop import execute, reconcile
from reconciler.store import commands, environments, jobs
from reconciler.store.errors import JobActive
from reconciler.store.records import HandSuspension, Job, Role, Wish
from tests.harness.link import link
from tests.reconciler.rig import PROD, Rig
from tests.replicas.crew import Crew, declared, shares, until, utc

ASKS = Sync(interval=timedelta(seconds=1), mode=Policy.ASK, heal=Policy.ASK)
ANYTHING = Grant(advance=True, heal=True)
ASKED = 200


async def everything(made: Rig) -> list[Job]:
    return await made.jobs()


async def state(made: Rig, job: Job) -> JobState:
    found = await made.store.read(lambda c: jobs.load(c, job.id))
    assert found is not None
    return found.state


def holder(*replicas: Rig) -> tuple[Rig, Rig]:
    """Who holds the environment, and one that does not."""
    [holds] = [one for one in replicas if PROD in one.reconciler.held]
    return holds, next(one for one in replicas if one is not holds)


async def test_two_hundred_that_ask_three_replicas_at_once_make_one_job(postgresql: str) -> None:
    made = Crew.of(postgresql, declared("1.0.0", targets=2, sync=ASKS))
    answers: list[str] = []

    async def ask(one: Rig) -> None:
        try:
            job = await one.reconciler.sync(PROD, ANYTHING, actor="ada")
            answers.append(f"made {job.id if job else None}")
        except JobActive as busy:
            answers.append(f"busy with {busy.job}")

    async with made.replica("a") as a, made.replica("b") as b, made.replica("c", role=Role.API) as c:
        await until("a holder", lambda: sum(shares([a, b])) == 1)
        async with anyio.create_task_group() as group:
            for number in range(ASKED):
                group.start_soon(ask, (a, b, c)[number % 3])
        await until("the deployment", lambda: a.runs("1.0.0") == 2)
        [job] = await everything(a)
        assert len(answers) == ASKED
        assert answers.count(f"made {job.id}") == 1
        assert set(answers) <= {f"made {job.id}", f"busy with {job.id}", "made None"}


async def test_a_command_asked_of_one_that_does_not_hold_is_carried_out_and_refusals_come_back(postgresql: str) -> None:
    made = Crew.of(postgresql, declared("1.0.0", targets=1, sync=ASKS))
    async with made.replica("a") as a, made.replica("b") as b:
        await until("a holder", lambda: sum(shares([a, b])) == 1)
        _, other = holder(a, b)
        with pytest.raises(Declined, match="the plan is"):
            await other.reconciler.sync(PROD, ANYTHING, actor="ada", plan_hash="0123456789abcdef")
        job = await other.reconciler.sync(PROD, ANYTHING, actor="ada", reason="now")
        assert job is not None
        assert (job.requested_by, job.reason) == ("ada", "now")
        await until("its end", lambda: a.runs("1.0.0") == 1)
        await until("its end", lambda: _over(a, job))
        assert await other.reconciler.sync(PROD, ANYTHING, actor="ada") is None
        with pytest.raises(Declined, match="nothing ran in health"):
            await other.reconciler.rollback(PROD, actor="ada", reason="a test")


async def _over(made: Rig, job: Job) -> bool:
    return await state(made, job) is JobState.COMPLETED


async def test_the_holder_knows_from_what_request_a_job_follows_that_another_was_asked_for(postgresql: str) -> None:
    cause, causes = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", set[str | None]()

    def sink(event: Event) -> None:
        if isinstance(event, JobMoved) and event.state is JobState.PENDING:
            causes.add(correlation.cause())

    made = Crew.of(postgresql, declared("1.0.0", targets=1, sync=ASKS))
    async with made.replica("a", sink=sink) as a, made.replica("b", sink=sink) as b:
        await until("a holder", lambda: sum(shares([a, b])) == 1)
        _, other = holder(a, b)
        with correlation.caused_by(cause):
            assert await other.reconciler.sync(PROD, ANYTHING, actor="ada") is not None
        await until("its end", lambda: a.runs("1.0.0") == 1)
    assert causes == {cause}


async def test_wishes_and_suspensions_written_elsewhere_reach_the_holder_at_once(postgresql: str) -> None:
    made = Crew.of(postgresql, declared("1.0.0", targets=3, sync=ASKS))
    made.ttl = timedelta(seconds=60)
    async with made.replica("a") as a, made.replica("b") as b:
        await until("a holder", lambda: sum(shares([a, b])) == 1)
        _, other = holder(a, b)
        job = await other.reconciler.sync(PROD, ANYTHING, actor="ada")
        assert job is not None
        await other.store.write(lambda c: jobs.request(c, job.id, Wish.PAUSE, "ada", utc()))
        await until("the pause", lambda: _is(a, job, JobState.PAUSED))
        await other.store.write(lambda c: jobs.request(c, job.id, Wish.CONTINUE, "ada", utc()))
        other.reconciler.request(execute(job.id))
        took = await until("its end", lambda: _over(a, job))
        assert took < 25  # sweeps ask every thirty seconds
        suspension = HandSuspension(reason="a test", actor="ada", since=utc(), until=None)
        await other.store.write(lambda c: environments.suspend(c, PROD, suspension))
        other.reconciler.request(reconcile(PROD))
        await until("the condition", lambda: _suspended(a), within=25)


async def _is(made: Rig, job: Job, wanted: JobState) -> bool:
    return await state(made, job) is wanted


async def _suspended(made: Rig) -> bool:
    row = await made.row()
    return any(condition.reason == "Suspended" and "a test" in condition.message for condition in row.conditions)


async def test_what_nobody_can_do_is_withdrawn_and_never_done_later(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "PATIENCE", timedelta(seconds=1))
    monkeypatch.setattr(forward, "WORKING", timedelta(seconds=0))
    made = Crew.of(postgresql, declared("1.0.0", targets=1, sync=ASKS))
    async with made.replica("api", role=Role.API) as api:
        await api.store.write(lambda c: environments.accept(c, declared("1.0.0", targets=1, sync=ASKS), now=utc()))
        with pytest.raises(Declined, match="nobody that holds default/prod has answered") as refused:
            await api.reconciler.sync(PROD, ANYTHING, actor="ada")
        assert refused.value.code == "NO_HOLDER"
        async with made.replica("a") as a:
            await until("a holder", lambda: shares([a]) == [1])
            await anyio.sleep(2)
            assert await everything(a) == []


async def test_a_command_that_was_asked_before_its_holder_died_is_carried_out_by_the_next(postgresql: str) -> None:
    made = Crew.of(postgresql, declared("1.0.0", targets=1, sync=ASKS))
    async with made.replica("api", role=Role.API) as api, anyio.create_task_group() as group:
        async with made.replica("a") as a:
            await until("a holder", lambda: shares([a]) == [1])
        found: list[Job | None] = []

        async def ask() -> None:
            found.append(await api.reconciler.sync(PROD, ANYTHING, actor="ada"))

        group.start_soon(ask)
        await anyio.sleep(0.2)
        async with made.replica("b") as b:
            await until("the answer", lambda: found)
            assert [found[0].id if found[0] else None] == [job.id for job in await everything(b)]


async def test_a_command_line_beside_replicas_asks_them_and_takes_nothing(postgresql: str) -> None:
    made = Crew.of(postgresql, declared("1.0.0", targets=1, sync=ASKS))
    async with made.replica("a") as a, made.replica("cli", running=False) as cli:
        await until("a holder", lambda: shares([a]) == [1])
        made.shelf.put(declared("2.0.0", targets=1, sync=ASKS))
        await until("the documents", lambda: _declares(a, "2.0.0"))
        await cli.reconciler.begin_alone()
        job = await cli.reconciler.sync(PROD, ANYTHING, actor="ada")
        assert [each.id for each in await everything(a)] == [job.id if job else None]
        assert not [event for event in cli.events if isinstance(event, LeaseTaken)]


async def _declares(made: Rig, version: str) -> bool:
    row = await made.row()
    return row is not None and str(row.release) == f"shop@{version}"


async def test_a_lost_answer_of_the_database_makes_no_second_job_and_fails_nobody(postgresql: str) -> None:
    with link(postgresql) as line:
        made = Crew.of(postgresql, declared("1.0.0", targets=1, sync=ASKS))
        async with made.replica("a", address=line.address) as a:
            await until("a holder", lambda: shares([a]) == [1])
            line.rob(6)
            job = await a.reconciler.sync(PROD, ANYTHING, actor="ada")
            assert [each.id for each in await everything(a)] == [job.id if job else None]
            await until("the deployment", lambda: a.runs("1.0.0") == 1)
            assert line.robbed == 6
            waiting = await a.store.read(lambda c: commands.waiting(c, PROD, utc()))
            assert waiting == ()
