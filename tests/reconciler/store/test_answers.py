"""The first answer to a key stands, in one process and in several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection

from reconciler.store import answers, chronicle
from reconciler.store.answers import RequestDiffers, Ticket
from reconciler.store.chronicle import BEGINNING, Kind
from reconciler.store.errors import Violated
from reconciler.store.store import Store
from stickers import digest
from stickers.names import EnvironmentId
from tests.reconciler.core.builders import NOW
from tests.reconciler.store.ended import all_told

TICKET = Ticket(actor="ada", key="k", request=digest.of("sync prod"))
HERE = EnvironmentId("default/prod")


async def found(store: Store, ticket: Ticket = TICKET) -> Mapping[str, Any] | None:
    return await store.read(lambda c: answers.find(c, ticket))


async def test_an_answer_is_found_again_by_whom_it_was_given_to(store: Store) -> None:
    await store.write(lambda c: answers.keep(c, TICKET, {"id": 1}, NOW))
    assert await found(store) == {"id": 1}
    assert await found(store, Ticket(actor="ben", key="k", request=TICKET.request)) is None


async def test_the_same_key_for_another_request_is_refused(store: Store) -> None:
    await store.write(lambda c: answers.keep(c, TICKET, {"id": 1}, NOW))
    with pytest.raises(RequestDiffers, match="take a new one"):
        await found(store, Ticket(actor="ada", key="k", request=digest.of("rollback prod")))


async def test_whoever_is_second_has_no_effect(store: Store) -> None:
    def effect(c: Connection) -> None:
        chronicle.tell(c, HERE, Kind.DESIRED, NOW, {})
        answers.keep(c, TICKET, {"id": 2}, NOW)

    await store.write(lambda c: answers.keep(c, TICKET, {"id": 1}, NOW))
    with pytest.raises(Violated):
        await store.write(effect)
    assert await found(store) == {"id": 1}
    assert await store.read(lambda c: chronicle.after(c, BEGINNING)) == ()


async def test_of_many_replicas_at_once_one_has_the_effect(postgresql: str) -> None:
    stores = [await Store.open(postgresql) for _ in range(3)]
    made: list[int] = []

    async def ask(store: Store, number: int) -> None:
        def effect(c: Connection) -> None:
            chronicle.tell(c, HERE, Kind.DESIRED, NOW, {"n": number})
            answers.keep(c, TICKET, {"n": number}, NOW)

        try:
            await store.write(effect)
            made.append(number)
        except Violated:
            pass

    try:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(ask, stores[number % 3], number)
        assert len(made) == 1
        assert await found(stores[0]) == {"n": made[0]}
        await all_told(stores[0])
        assert len(await stores[0].read(lambda c: chronicle.after(c, BEGINNING))) == 1
    finally:
        for store in stores:
            await store.aclose()
