"""Commands that take effect once for each key: the first answer is kept in the transaction of the effect, and whoever
repeats the request is given it, in this process or in another, before and after a crash."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

import anyio
from sqlalchemy import Connection

from api import wire
from api.commands.given import Given
from api.house import House
from api.problem import Problem
from reconciler.commands import Declined
from reconciler.store import answers
from reconciler.store.answers import Ticket
from reconciler.store.errors import StoreError, Violated
from reconciler.store.records import Job
from stickers import digest

LONGEST: Final = 128  # characters of a key
HELD: Final = "HELD_ELSEWHERE"
PATIENCE: Final = 3.0  # seconds for another replica that may be answering the same request
GLANCE: Final = 0.1
Answer = Mapping[str, Any]
Make = Callable[[Ticket | None], Awaitable[Job | None]]
Tell = Callable[[Job | None], Answer]

_turns: Final[WeakValueDictionary[Ticket, anyio.Lock]] = WeakValueDictionary()


def ticket(name: str, given: Given) -> Ticket | None:
    """None for a request without a key: it takes effect each time."""
    if given.key is None:
        return None
    if not (1 <= len(given.key) <= LONGEST and given.key.isascii() and given.key.isprintable()):
        raise Problem("BAD_ARGUMENT", f"Idempotency-Key has 1 to {LONGEST} printable ASCII characters")
    asked = digest.of({"command": name, "arguments": given.about()})
    return Ticket(actor=given.actor, key=given.key, request=asked)


async def job_made(house: House, name: str, given: Given, make: Make, tell: Tell) -> Answer:
    """What is answered to who asks for a job; `make` makes it, and keeps its answer under the ticket."""
    asked = ticket(name, given)
    if asked is None:
        return plain(tell(await make(None)))
    async with _turn(asked):
        first = await _first(house, asked)
        return first if first is not None else await _made(house, asked, make, tell)


async def written(house: House, name: str, given: Given, effect: Callable[[Connection], Answer]) -> Answer:
    """What is answered to who asks for what one transaction does."""
    asked = ticket(name, given)
    if asked is None:
        return plain(await house.store.write(effect))
    async with _turn(asked):
        return await _kept(house, asked, effect)


async def _kept(house: House, asked: Ticket, effect: Callable[[Connection], Answer]) -> Answer:
    """The first answer; the effect's, where there is none yet."""

    def write(c: Connection) -> Answer:
        first = answers.find(c, asked)
        if first is None:
            first = plain(effect(c))
            answers.keep(c, asked, first, house.now())
        return first

    try:
        return await house.store.write(write)
    except Violated:  # another replica was faster by a moment
        return await house.store.write(write)


async def _made(house: House, asked: Ticket, make: Make, tell: Tell) -> Answer:
    try:
        job = await make(asked)
    except (Declined, StoreError) as error:
        first = await _firsts_of_another(house, asked, error)
        if first is None:
            raise
        return first
    return await _kept(house, asked, lambda _: tell(job))  # by now, where there is a job: whoever made it kept it


async def _firsts_of_another(house: House, asked: Ticket, error: Declined | StoreError) -> Answer | None:
    """Another replica was first with the same request, or is about to be: it holds the environment at this moment."""
    first = await _first(house, asked)
    with anyio.move_on_after(PATIENCE if error.code == HELD else 0):
        while first is None and error.code == HELD:
            await anyio.sleep(GLANCE)
            first = await _first(house, asked)
    return first


async def _first(house: House, asked: Ticket) -> Answer | None:
    return await house.store.read(lambda c: answers.find(c, asked))


@asynccontextmanager
async def _turn(asked: Ticket) -> AsyncIterator[None]:
    """One after the other with the same key; so only the first looks at the targets."""
    lock = _turns.get(asked)
    if lock is None:
        lock = _turns[asked] = anyio.Lock()
    async with lock:
        yield


def plain(answer: Answer) -> Answer:
    """As it is kept: so the first answer and the repeated one are the same bytes."""
    found: Answer = json.loads(json.dumps(json.loads(wire.line(dict(answer))), sort_keys=True))
    return found
