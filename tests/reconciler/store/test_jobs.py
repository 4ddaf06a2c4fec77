"""Jobs: one active per environment by the index, compare-and-set on every step, wishes that are heard, pages by key."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from sqlalchemy import Connection, event, text

from reconciler.core.machine import IllegalTransition, JobEvent, JobState
from reconciler.core.plan import JobKind
from reconciler.store import jobs, tasks
from reconciler.store.errors import JobActive, JobOver, Missing, Violated
from reconciler.store.records import Job, Lease, Wish
from reconciler.store.store import Store
from stickers.names import EnvironmentId, JobId
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import LATER, held, new_job, plan_of, settled, working


async def _ended(store: Store, lease: Lease, number: int = 0) -> Job:
    job = await store.write(lambda c: jobs.create(c, new_job(fleet(1)), lease, NOW + timedelta(minutes=number)))
    return await store.write(lambda c: jobs.advance(c, job, JobEvent.CANCEL, lease, LATER))


async def test_a_new_job_is_pending_and_carries_its_plan(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    assert (job.id, job.number, job.state, job.version) == (JobId("default/prod:1"), 1, JobState.PENDING, 0)
    assert (job.kind, job.requested_by, job.fence) == (JobKind.DEPLOY, "holdfast", lease.token)
    assert await store.read(lambda c: jobs.plan(c, job)) == plan_of(fleet(2))
    assert await store.read(lambda c: jobs.load(c, job.id)) == job
    assert await store.read(lambda c: jobs.active(c, PROD)) == job


async def test_numbers_rise_within_an_environment(store: Store) -> None:
    lease = await settled(store)
    assert [(await _ended(store, lease)).number for _ in range(3)] == [1, 2, 3]


async def test_a_second_active_job_is_refused_and_names_the_first(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    with pytest.raises(JobActive) as caught:
        await working(store, lease)
    assert caught.value.job == job.id
    assert [each.id for each in (await store.read(jobs.page)).items] == [job.id]


async def test_a_refused_job_leaves_no_trace_in_a_transaction_that_goes_on(store: Store) -> None:
    lease = await settled(store)
    first = await working(store, lease)

    def tried(c: Connection) -> int:
        with pytest.raises(JobActive):
            jobs.create(c, new_job(fleet(2)), lease, NOW)
        return len(tasks.of(c, first.id))

    assert await store.write(tried) == 2


async def test_of_many_that_come_at_once_exactly_one_becomes_a_job(address: str) -> None:
    """Over two stores on PostgreSQL, as two replicas that both believe in the lease."""
    stores = [await Store.open(address)]
    if address.startswith("postgresql"):
        stores.append(await Store.open(address))
    lease = await settled(stores[0])
    made, refused = [], []

    async def ask(number: int) -> None:
        try:
            made.append(await working(stores[number % len(stores)], lease))
        except JobActive as error:
            refused.append(error.job)

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(ask, number)
    assert len(made) == 1
    assert refused == [made[0].id] * 29
    for store in stores:
        await store.aclose()


SECOND = (
    "insert into job (id, environment, number, kind, state, generation, desired, plan, plan_hash, requested_by,"
    " reason, created_at, changed_at, fence) select 'second', environment, 2, kind, state, generation, desired, plan,"
    " plan_hash, requested_by, reason, created_at, changed_at, fence from job"
)


async def test_it_is_the_index_that_allows_one_active_job(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    with pytest.raises(Violated, match=r"one_active_job|job\.environment"):
        await store.write(lambda c: c.execute(text(SECOND)))
    await store.write(lambda c: jobs.advance(c, job, JobEvent.CANCEL, lease, NOW))
    await working(store, lease)  # the next one is free to begin when the first has ended


async def test_without_the_index_there_would_be_two(store: Store) -> None:
    await working(store, await settled(store))

    def without(c: Connection) -> int:
        c.execute(text("drop index one_active_job"))
        c.execute(text(SECOND))
        return int(c.execute(text("select count(*) from job where state = 'pending'")).scalar_one())

    assert await store.write(without) == 2


async def test_without_the_index_no_job_is_created_at_all(store: Store) -> None:
    lease = await settled(store)
    await store.write(lambda c: c.execute(text("drop index one_active_job")))
    with pytest.raises(Exception, match="ON CONFLICT"):
        await working(store, lease)
    assert await store.read(lambda c: jobs.active(c, PROD)) is None


async def test_another_environment_is_not_in_the_way(store: Store) -> None:
    await working(store, await settled(store))
    staging = EnvironmentId("default/staging")
    placements = tuple(replace(each, environment=staging) for each in fleet(1).placements)
    desired = replace(fleet(1), environment=replace(fleet(1).environment, id=staging), placements=placements)
    lease = await settled(store, desired)
    job = await store.write(lambda c: jobs.create(c, new_job(desired), lease, NOW))
    assert job.id == "default/staging:1"
    assert {each.id for each in await store.read(jobs.all_active)} == {"default/prod:1", "default/staging:1"}


async def test_a_job_needs_an_environment_that_was_accepted(store: Store) -> None:
    staging = EnvironmentId("default/staging")
    lease = await store.write(lambda c: held(c, staging))
    with pytest.raises(Missing, match="no environment default/staging is known"):
        await store.write(lambda c: jobs.create(c, new_job(fleet(1), environment=staging), lease, NOW))


async def test_every_step_raises_the_version_and_an_end_has_a_time(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    for version, step in enumerate((JobEvent.PREPARE, JobEvent.BEGIN, JobEvent.FINISH, JobEvent.COMPLETE), start=1):
        assert job.ended_at is None
        job = await store.write(lambda c, job=job, step=step: jobs.advance(c, job, step, lease, LATER))
        assert job.version == version
    assert (job.state, job.ended_at, job.changed_at) == (JobState.COMPLETED, LATER, LATER)
    assert await store.read(lambda c: jobs.active(c, PROD)) is None


async def test_an_event_that_the_table_does_not_list_is_illegal(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    with pytest.raises(IllegalTransition):
        await store.write(lambda c: jobs.advance(c, job, JobEvent.COMPLETE, lease, NOW))


async def test_particulars_change_with_a_step_or_without_one(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    job = await store.write(lambda c: jobs.revise(c, job, lease, LATER, wave=2))
    assert (job.wave, job.state, job.version) == (2, JobState.PENDING, 1)
    job = await store.write(lambda c: jobs.advance(c, job, JobEvent.CANCEL, lease, NOW, message="nobody wants it"))
    assert job.message == "nobody wants it"


async def test_a_message_is_cut_and_free_of_what_no_database_holds(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    message = "a\x00b\ud800c" + "x" * 10_000
    job = await store.write(lambda c: jobs.revise(c, job, lease, NOW, message=message))
    assert job.message.startswith("a\ufffdb\ufffdcxxx")
    assert len(job.message) == 2_000


async def test_a_wish_is_heard_and_the_last_one_counts(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    await store.write(lambda c: jobs.request(c, job.id, Wish.PAUSE, "joe", NOW))
    wished = await store.write(lambda c: jobs.request(c, job.id, Wish.CONTINUE, "ann", LATER))
    assert (wished.wish, wished.wished_by, wished.wished_at) == (Wish.CONTINUE, "ann", LATER)


async def test_a_wish_does_not_get_in_the_way_of_whoever_carries_the_job(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    await store.write(lambda c: jobs.request(c, job.id, Wish.PAUSE, "joe", NOW))
    job = await store.write(lambda c: jobs.advance(c, job, JobEvent.PREPARE, lease, NOW))
    assert job.wish is Wish.PAUSE


async def test_a_cancellation_is_final_and_may_be_repeated(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    first = await store.write(lambda c: jobs.request(c, job.id, Wish.CANCEL, "joe", NOW))
    with pytest.raises(JobOver, match="is being cancelled"):
        await store.write(lambda c: jobs.request(c, job.id, Wish.CONTINUE, "ann", LATER))
    assert await store.write(lambda c: jobs.request(c, job.id, Wish.CANCEL, "ann", LATER)) == first


async def test_nothing_can_be_asked_of_a_job_that_ended_or_never_was(store: Store) -> None:
    job = await _ended(store, await settled(store))
    with pytest.raises(JobOver, match="is cancelled"):
        await store.write(lambda c: jobs.request(c, job.id, Wish.PAUSE, "joe", NOW))
    with pytest.raises(Missing, match="no job default/prod:99 is known"):
        await store.write(lambda c: jobs.request(c, JobId("default/prod:99"), Wish.PAUSE, "joe", NOW))


async def test_pages_are_newest_first_and_lose_nothing_between_them(store: Store) -> None:
    lease = await settled(store)
    made = [(await _ended(store, lease, number=number // 2)).id for number in range(7)]  # two at each moment
    found, before = [], None
    while True:
        page = await store.read(lambda c, before=before: jobs.page(c, PROD, before=before, limit=3))
        found += [job.id for job in page.items]
        if (before := page.before) is None:
            break
        await _ended(store, lease, number=9)  # newer ones do not shift the pages
    assert found == list(reversed(made))


async def test_pages_can_be_of_one_state(store: Store) -> None:
    lease = await settled(store)
    await _ended(store, lease)
    job = await working(store, lease)
    page = await store.read(lambda c: jobs.page(c, PROD, JobState.PENDING))
    assert [each.id for each in page.items] == [job.id]
    assert page.before is None


@pytest.mark.parametrize("state", [None, JobState.CANCELLED])
@pytest.mark.parametrize("environment", [None, PROD])
async def test_a_page_costs_an_index_and_no_sorting(
    sqlite: str, environment: EnvironmentId | None, state: JobState | None
) -> None:
    store = await Store.open(sqlite)
    said: list[str] = []

    def explained(c: Connection) -> str:
        statement = said[-1]
        count = statement.count("?")
        return str(c.exec_driver_sql(f"explain query plan {statement}", tuple("x" * count)).all())

    event.listen(store._readers, "before_cursor_execute", lambda c, cursor, statement, *_: said.append(statement))
    await store.read(lambda c: jobs.page(c, environment, state, before=f"{NOW.isoformat()} x"))
    steps = await store.read(explained)
    assert "USING INDEX" in steps
    assert "TEMP B-TREE" not in steps
    await store.aclose()
