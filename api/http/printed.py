"""What workloads printed, as a page and as a stream that can be resumed.

A runtime gives its lines no ids. So the id of a line is a digest of it and the few before it; whoever comes back with
one is looked up in what the runtime still shows, and told `gap` when it is not there any more.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import StreamingResponse

from api import commands
from api.commands.given import Given
from api.commands.logs import narrated
from api.house import House
from api.http import streams
from api.problem import Problem

WINDOW: Final = 4  # lines that an id is made of
SEARCHED: Final = 5_000  # last lines among which the one that was seen last is looked for
SLACK: Final = 200  # lines that may come between the search and the stream


async def lines(house: House, request: Request, target: str, component: str, tail: int) -> dict[str, Any]:
    found = [text async for text in _lines(house, request, target, component, tail, follow=False)]
    return {"target": target, "component": component, "lines": found}


async def stream(house: House, request: Request, target: str, component: str, tail: int) -> StreamingResponse:
    """Refused before it begins where there is no such thing, or its runtime shows no logs."""
    await narrated(house, Given({"target": target, "component": component}, request.state.principal))
    last = request.headers.get("last-event-id") or request.query_params.get("after")
    if last is not None and not (last.isascii() and last.isalnum() and len(last) <= 41):
        raise Problem("BAD_ARGUMENT", f"{last[:40]!r} is no id of a line")
    return streams.response(request, lambda: _frames(house, request, target, component, tail, last))


async def _frames(
    house: House, request: Request, target: str, component: str, tail: int, last: str | None
) -> AsyncGenerator[bytes, None]:
    yield streams.framed("hello", {})
    behind = None if last is None else await _behind(house, request, target, component, last)
    if last is not None and behind is None:
        yield streams.framed("gap", {})
    skipping = behind is not None
    named, wanted = _Names(), tail if behind is None else behind + WINDOW + SLACK
    async with aclosing(_lines(house, request, target, component, wanted, follow=True)) as shown:
        async for text in shown:
            id = named.next(text)
            if not skipping:
                yield streams.framed("line", {"text": text}, id)
            skipping = skipping and id != last
    yield streams.framed("end", {})


async def _behind(house: House, request: Request, target: str, component: str, last: str) -> int | None:
    """How many lines stand behind the one that was seen last; None when it is not shown any more."""
    named, behind = _Names(), None
    async with aclosing(_lines(house, request, target, component, SEARCHED, follow=False)) as shown:
        async for text in shown:
            behind = 0 if named.next(text) == last else None if behind is None else behind + 1
    return behind


async def _lines(
    house: House, request: Request, target: str, component: str, tail: int, *, follow: bool
) -> AsyncGenerator[str, None]:
    words = {"target": target, "component": component, "tail": tail, "follow": follow}
    async with aclosing(commands.carry_out(house, "logs", words, principal=request.state.principal)) as events:
        async for event in events:
            if "line" in event:
                yield event["line"]


class _Names:
    """Names lines by what they and the few before them say."""

    def __init__(self, before: Iterable[str] = ()) -> None:
        self._window: deque[str] = deque(before, maxlen=WINDOW)

    def next(self, text: str) -> str:
        self._window.append(text)
        return hashlib.sha256("\n".join(self._window).encode(errors="replace")).hexdigest()[:32]
