"""Rendered files: kept once by content, found by job and by what they were rendered from, kept as long as last good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, func, select, text

from drivers.contract import Rendered, RenderedKind
from reconciler.core.machine import JobEvent
from reconciler.store import artifacts, contents, jobs, memories, retention
from reconciler.store.artifacts import Batch
from reconciler.store.errors import Corrupt, LostLease, StoreError
from reconciler.store.records import Direction, Job, Lease
from reconciler.store.store import Store
from reconciler.store.tables import artifact, content
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import LATER, keep_good, settled, working

LOCK = RenderedKind.COMPOSE_LOCK
DESIRED = fleet(2)
ONE, TWO = DESIRED.placements


def lock(of: tuple[object, ...] = (ONE,), said: str = "services: {}\n") -> Rendered:
    ids = tuple(each.id for each in of)  # type: ignore[attr-defined]
    return Rendered(kind=LOCK, name="lock.yaml", media_type="application/yaml", text=said, of=ids)


def batch(*files: Rendered) -> Batch:
    return Batch(target=ONE.id.target, files=files, placements={ONE.id: ONE})


MANIFEST = Batch(
    target=None,
    files=(Rendered(kind=RenderedKind.MANIFEST, name="manifest.json", media_type="application/json", text="{}\n"),),
    placements={},
)


async def kept(store: Store, *batches: Batch) -> tuple[Job, Lease]:
    lease = await settled(store, DESIRED)
    job = await working(store, lease, DESIRED)
    await store.write(lambda c: artifacts.keep(c, job, Direction.FORWARD, batches, lease, NOW))
    return job, lease


async def test_a_job_shows_its_files_and_what_they_say(store: Store) -> None:
    job, _ = await kept(store, MANIFEST, batch(lock()))
    found = await store.read(lambda c: artifacts.of_job(c, job.id))
    assert [(file.target, file.name, file.components) for file in found] == [
        (None, "manifest.json", ()),
        (ONE.id.target, "lock.yaml", (ONE.id.component,)),
    ]
    texts = await store.read(lambda c: artifacts.texts(c, found))
    assert [texts[file.digest] for file in found] == ["{}\n", "services: {}\n"]
    assert found[1].digest == lock().digest


async def test_keeping_twice_is_keeping_once_and_never_another_text(store: Store) -> None:
    job, lease = await kept(store, batch(lock()))
    for said in ("services: {}\n", "other: {}\n"):
        await store.write(
            lambda c, said=said: artifacts.keep(c, job, Direction.FORWARD, [batch(lock(said=said))], lease, LATER)
        )
    [file] = await store.read(lambda c: artifacts.of_job(c, job.id))
    assert (file.digest, file.kept_at) == (lock().digest, NOW)


async def test_one_body_is_kept_once_however_many_files_have_it(store: Store) -> None:
    await kept(store, batch(lock(), replace(lock(), name="again.yaml")))
    count = select(func.count()).select_from(content).where(content.c.kind == "file")
    assert await store.read(lambda c: c.execute(count).scalar()) == 1


async def test_many_files_are_kept_as_few_are(store: Store) -> None:
    many = [
        Rendered(kind=LOCK, name=f"{number}.yaml", media_type="text/plain", text=f"{number}\n", of=of)
        for number in range(20)
        for of in [(ONE.id,) if number % 2 else ()]
    ]
    job, _ = await kept(store, batch(*many))
    found = await store.read(lambda c: artifacts.of_job(c, job.id))
    assert {file.name: file.digest for file in found} == {file.name: file.digest for file in many}


async def test_the_database_refuses_to_change_a_kept_file(store: Store) -> None:
    await kept(store, batch(lock()))
    for statement in ("update artifact set name = 'other'", "update content set body = 'other'"):
        with pytest.raises(StoreError):
            await store.write(lambda c, statement=statement: c.execute(text(statement)))


async def test_a_body_that_was_tampered_with_is_not_handed_out(store: Store) -> None:
    await kept(store, batch(lock()))

    def tamper(c: Connection) -> None:
        c.execute(delete(artifact))
        c.execute(delete(content).where(content.c.kind == "file"))
        c.execute(
            content.insert().values(digest=lock().digest, kind="file", body="services: {evil: {}}\n", kept_at=NOW)
        )

    await store.write(tamper)
    with pytest.raises(Corrupt):
        await store.read(lambda c: contents.texts(c, [lock().digest]))


async def test_whoever_has_lost_the_lease_keeps_nothing(store: Store) -> None:
    job, lease = await kept(store)
    stale = replace(lease, token=lease.token - 1)
    with pytest.raises(LostLease):
        await store.write(lambda c: artifacts.keep(c, job, Direction.FORWARD, [batch(lock())], stale, NOW))
    assert await store.read(lambda c: artifacts.of_job(c, job.id)) == ()


async def test_an_action_is_handed_the_files_of_its_own_target_way_and_kinds(store: Store) -> None:
    env = Rendered(kind=RenderedKind.ENV_FILE, name="api.env", media_type="text/plain", text="A=1\n", of=(ONE.id,))
    job, _ = await kept(store, MANIFEST, batch(lock(), env))

    def asked(direction: Direction, target: object) -> object:
        return lambda c: artifacts.of_action(c, job.id, direction, target, {LOCK})  # type: ignore[arg-type]

    assert await store.read(asked(Direction.FORWARD, ONE.id.target)) == (lock(),)  # type: ignore[arg-type]
    assert await store.read(asked(Direction.BACK, ONE.id.target)) == ()  # type: ignore[arg-type]
    assert await store.read(asked(Direction.FORWARD, TWO.id.target)) == ()  # type: ignore[arg-type]


async def test_the_last_that_was_kept_of_the_same_content_is_found_under_whatever_release(store: Store) -> None:
    job, lease = await kept(store, batch(lock(said="first: {}\n")))
    later = batch(lock(said="second: {}\n"))
    await store.write(lambda c: artifacts.keep(c, job, Direction.BACK, [later], lease, LATER))
    relabelled = replace(ONE, release="shop@9.9.9")
    [found] = await store.read(lambda c: artifacts.latest(c, PROD, [relabelled], {LOCK}))
    assert (found.text, found.of) == ("second: {}\n", (ONE.id,))
    other = replace(ONE, configuration=replace(ONE.configuration, command=("other",)))
    assert await store.read(lambda c: artifacts.latest(c, PROD, [other, TWO], {LOCK})) == ()


async def test_retention_leaves_the_files_of_last_good_and_takes_the_others(store: Store, tmp_path: Path) -> None:
    job, lease = await kept(store, MANIFEST, batch(lock()))
    env = Rendered(kind=RenderedKind.ENV_FILE, name="api.env", media_type="text/plain", text="B=1\n", of=(TWO.id,))
    other = Batch(target=TWO.id.target, files=(env,), placements={TWO.id: TWO})
    await store.write(lambda c: artifacts.keep(c, job, Direction.FORWARD, [other], lease, NOW))

    def end(c: Connection) -> None:
        goods = keep_good(c, DESIRED)
        memories.good(c, [each for each in goods if each.placement.id == ONE.id], lease, NOW)
        jobs.advance(c, job, JobEvent.CANCEL, lease, NOW)

    await store.write(end)
    await retention.run(store, tmp_path, now=NOW + timedelta(days=91))
    assert [file.name for file in await store.read(lambda c: artifacts.of_job(c, job.id))] == ["lock.yaml"]
    [found] = await store.read(lambda c: artifacts.latest(c, PROD, [ONE], {LOCK}))
    assert found.text == lock().text
    assert await store.read(lambda c: jobs.load(c, job.id)) is None
    count = select(func.count()).select_from(content).where(content.c.kind == "file")
    assert await store.read(lambda c: c.execute(count).scalar()) == 1
