"""Events as a stream that can be resumed: server-sent events whose ids are places in the chronicle.

Each stream reads the database at the pace of its client, so a slow one holds up nobody, and whoever comes back with the
last id they saw (`Last-Event-ID`), at whichever replica, goes on behind it. Frames:

    hello    where the stream begins; fetch what you show after it, and nothing falls in between
    gap      what lies between your id and the oldest event that is kept is not told any more; fetch anew
    end      what was followed is over; `bye`: the server ends, come back; `problem`: you may not see it any more
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
from starlette.requests import Request
from starlette.responses import StreamingResponse

from api import wire
from api.commands.jobs import found, summary
from api.house import House
from api.http import problems
from api.people.principal import Principal, Verb, authorise
from api.problem import Problem
from reconciler.core.machine import JOB_TERMINAL
from reconciler.store import chronicle
from reconciler.store.chronicle import Cursor, Entry
from stickers.names import EnvironmentId, JobId

MEDIA_TYPE: Final = "text/event-stream"
ALIVE: Final = 15.0  # seconds, after which a silent stream says that it is still there
ASKED_AGAIN: Final = 60.0  # seconds, after which the right to follow is asked for again
TOGETHER: Final = 512
EACH: Final = 32  # of one principal
COMES_BACK: Final = b"retry: 1000\n\n"  # milliseconds, after which a browser that lost the stream tries again


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a stream says that it lives, and asks again whether it may go on."""

    alive: float = ALIVE
    asked_again: float = ASKED_AGAIN


class Seats:
    """How many streams there may be, together and for each principal."""

    def __init__(self, together: int = TOGETHER, each: int = EACH) -> None:
        self._together, self._each = together, each
        self._taken = Counter[str]()

    @property
    def taken(self) -> int:
        return self._taken.total()

    @contextmanager
    def one(self, principal: Principal) -> Any:
        if self.taken >= self._together or self._taken[principal.actor] >= self._each:
            raise Problem("TOO_MANY_STREAMS", f"{self._taken[principal.actor]} streams are open for you; close some")
        self._taken[principal.actor] += 1
        try:
            yield
        finally:
            self._taken[principal.actor] -= 1
            self._taken += Counter()  # lets go of whoever has none


class EventStream(StreamingResponse):
    """What OpenAPI says of a stream."""

    media_type = MEDIA_TYPE


def response(request: Request, frames: Callable[[], AsyncGenerator[bytes, None]]) -> StreamingResponse:
    """The frames as an answer, counted for as long as they are sent. `TOO_MANY_STREAMS` before it begins."""
    seat = request.app.state.seats.one(request.state.principal)
    seat.__enter__()
    return _Stream(frames, seat)


class _Stream(StreamingResponse):
    """Gives its seat back however it ends."""

    def __init__(self, frames: Callable[[], AsyncGenerator[bytes, None]], seat: Any) -> None:
        self._seat = seat
        super().__init__(_closed_in_time(frames), media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._seat.__exit__(None, None, None)


async def _closed_in_time(frames: Callable[[], AsyncGenerator[bytes, None]]) -> AsyncIterator[bytes]:
    yield COMES_BACK
    async with aclosing(frames()) as stream:
        try:
            async for frame in stream:
                yield frame
        except Problem as problem:
            yield framed("problem", problems.document(problem))
        except Exception as error:
            yield framed("problem", problems.document(problems.broken(error, "stream")))


# -- what is followed -----------------------------------------------------------------------------------------------


def fleet(house: House, request: Request, environment: EnvironmentId | None) -> StreamingResponse:
    """What happens from now on, in one environment or in all that the principal may see."""
    given = cursor_of(request)
    return response(request, lambda: _fleet(house, request, environment, given))


async def _fleet(
    house: House, request: Request, environment: EnvironmentId | None, given: Cursor | None
) -> AsyncGenerator[bytes, None]:
    leave, among = _Leave(request, environment), None if environment is None else (environment,)
    cursor = await house.store.read(chronicle.end) if given is None else given
    yield framed("hello", {}, cursor)
    if given is not None and await _gone(house, given):
        yield framed("gap", {})
    while not house.bell.closing:
        principal = await leave.asked()
        page = await house.store.read(lambda c, after=cursor: chronicle.after(c, after, among=among))  # type: ignore[misc]
        for entry in page:
            cursor = entry.cursor
            if principal.may(Verb.READ, entry.environment):
                yield _told(entry)
        if len(page) < chronicle.PAGE and not await house.bell.beyond(house.store, cursor, leave.pace.alive):
            yield b": alive\n\n"
    yield framed("bye", {}, cursor)


def job(house: House, request: Request, id: JobId, environment: EnvironmentId) -> StreamingResponse:
    """A job from its beginning, or from where the client was, until it has ended."""
    given = cursor_of(request)
    return response(request, lambda: _job(house, request, id, environment, given or chronicle.BEGINNING))


async def _job(
    house: House, request: Request, id: JobId, environment: EnvironmentId, cursor: Cursor
) -> AsyncGenerator[bytes, None]:
    leave = _Leave(request, environment)
    yield framed("hello", {}, cursor)
    while not house.bell.closing:
        await leave.asked()
        now = await found(house, id)  # before the events: what ends it is among those that are read then
        page = await house.store.read(lambda c, after=cursor: chronicle.after(c, after, job=id))  # type: ignore[misc]
        for entry in page:
            cursor = entry.cursor
            yield _told(entry)
        if len(page) == chronicle.PAGE:
            continue
        if now.state in JOB_TERMINAL and await house.store.read(lambda c: chronicle.all_told(c, id)):
            yield framed("end", summary(now), cursor)
            return
        if not await house.bell.beyond(house.store, cursor, leave.pace.alive):
            yield b": alive\n\n"
    yield framed("bye", {}, cursor)


async def _gone(house: House, cursor: Cursor) -> bool:
    oldest = await house.store.read(chronicle.beginning)
    return oldest is not None and chronicle.BEGINNING < cursor < oldest


class _Leave:
    """The right to follow, asked for again now and then: a grant may be taken back while a stream is open."""

    def __init__(self, request: Request, environment: EnvironmentId | None) -> None:
        self._request, self._environment = request, environment
        self.pace: Pace = request.app.state.pace
        self._principal: Principal = request.state.principal
        self._at = anyio.current_time()

    async def asked(self) -> Principal:
        if anyio.current_time() - self._at >= self.pace.asked_again:
            self._at = anyio.current_time()
            self._principal = await self._request.app.state.doorkeeper.principal(self._request)
            if self._environment is not None:
                authorise(self._principal, Verb.READ, self._environment)
        return self._principal


def cursor_of(request: Request) -> Cursor | None:
    """`Last-Event-ID`, which browsers send when they come back, or `after`, which the first request may carry."""
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if not text:
        return None
    try:
        return Cursor.parsed(text)
    except ValueError as error:
        raise Problem("BAD_ARGUMENT", f"{error}; it is the id of an event") from None


def _told(entry: Entry) -> bytes:
    said = {"environment": entry.environment, "job": entry.job, "at": entry.at, **entry.content}
    return framed(entry.kind, said, entry.cursor)


def framed(kind: str, data: dict[str, Any], cursor: Cursor | str | None = None) -> bytes:
    """One event. JSON has no line breaks, so its data is one line."""
    head = f"id: {cursor}\n" if cursor is not None else ""
    body = json.dumps(json.loads(wire.line(data)), ensure_ascii=True)
    return f"{head}event: {kind}\ndata: {body}\n\n".encode()
