"""What is told keeps its order and loses nothing, whoever writes and whenever their transactions end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import Connection

from reconciler.store import chronicle, engines
from reconciler.store.chronicle import BEGINNING, Cursor, Kind
from reconciler.store.store import Store
from stickers.names import EnvironmentId, JobId
from tests.reconciler.core.builders import NOW
from tests.reconciler.store.ended import all_told

HERE = EnvironmentId("default/prod")
THERE = EnvironmentId("default/other")
JOB = JobId("default/prod:1")


def told(c: Connection, text: str, environment: EnvironmentId = HERE, job: JobId | None = None) -> None:
    chronicle.tell(c, environment, Kind.VERDICTS, NOW, {"text": text}, job)


async def texts(store: Store, after: Cursor = BEGINNING, **which: object) -> list[str]:
    await all_told(store)
    return await seen(store, after, **which)


async def seen(store: Store, after: Cursor = BEGINNING, **which: object) -> list[str]:
    found = await store.read(lambda c: chronicle.after(c, after, **which))  # type: ignore[arg-type]
    return [entry.content["text"] for entry in found]


async def test_entries_come_in_their_order_and_behind_a_cursor(store: Store) -> None:
    for text in "abcde":
        await store.write(lambda c, text=text: told(c, text))  # type: ignore[misc]
    await all_told(store)
    first = await store.read(lambda c: chronicle.after(c, BEGINNING, limit=2))
    assert await texts(store, Cursor.parsed(str(first[-1].cursor))) == ["c", "d", "e"]
    assert await texts(store, await store.read(chronicle.end)) == []


async def test_one_environment_or_one_job_can_be_followed(store: Store) -> None:
    await store.write(lambda c: told(c, "here"))
    await store.write(lambda c: told(c, "there", THERE))
    await store.write(lambda c: told(c, "job", HERE, JOB))
    assert await texts(store, among=(HERE,)) == ["here", "job"]
    assert await texts(store, job=JOB) == ["job"]


async def test_what_was_undone_is_never_told(store: Store) -> None:
    def fails(c: Connection) -> None:
        told(c, "undone")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        await store.write(fails)
    await store.write(lambda c: told(c, "kept"))
    assert await texts(store) == ["kept"]


async def test_a_transaction_that_ends_late_is_not_passed_by(postgresql: str) -> None:
    """The one that began first, and was given the lower number, ends last: a reader between them sees neither."""
    store, slow = await Store.open(postgresql), engines.writer(postgresql)
    try:
        with slow.connect() as late, late.begin():
            told(late, "late", job=JOB)
            await store.write(lambda c: told(c, "early"))
            assert await seen(store) == []  # else a follower's cursor would be behind `early`, and `late` lost
            assert await store.read(chronicle.end) == BEGINNING
        assert await texts(store) == ["late", "early"]
        assert await store.read(lambda c: chronicle.all_told(c, JOB))
    finally:
        slow.dispose()
        await store.aclose()


async def test_followers_of_many_writers_miss_nothing_and_meet_nothing_twice(postgresql: str) -> None:
    store, go = await Store.open(postgresql), Event()
    writers = [engines.writer(postgresql) for _ in range(4)]

    def write(name: int) -> None:
        go.wait()
        for number in range(50):
            with writers[name].begin() as c:
                told(c, f"{name}-{number}")

    try:
        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(write, name) for name in range(4)]
            go.set()
            met, cursor, done = [], BEGINNING, False
            while not done or (await store.read(chronicle.end)) > cursor:
                if done := all(each.done() for each in running):
                    await all_told(store)
                for entry in await store.read(lambda c, after=cursor: chronicle.after(c, after, limit=7)):  # type: ignore[misc]
                    met.append(entry.content["text"])
                    cursor = entry.cursor
        assert len(met) == len(set(met)) == 200
    finally:
        for writer in writers:
            writer.dispose()
        await store.aclose()


@pytest.mark.parametrize("text", ["", "1", "-", "a-b", "1-", "-1", "1-2-3", "1" * 20 + "-1", "١-٢"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        Cursor.parsed(text)
