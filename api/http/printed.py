"""What workloads printed, as a page and as a stream that can be resumed.

A runtime gives its lines no ids. So the id of a line is a digest of it and the few before it; whoever comes back with
one is looked up in what the runtime still shows, and told `gap` when it is not there any more.

A workload that prints the same few lines over and over has many lines with one id, and nobody can tell which of them
was seen. Then the stream goes on behind the first of them, so that nothing is left out, and says `again` before it:
lines that were seen may follow once more.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
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
Read = Callable[[int, bool], AsyncGenerator[str, None]]  # so many of the last lines, and with True those to come


async def lines(house: House, request: Request, target: str, component: str, tail: int) -> dict[str, Any]:
    found = [text async for text in _lines(house, request, target, component, tail, follow=False)]
    return {"target": target, "component": component, "lines": found}


async def stream(house: House, request: Request, target: str, component: str, tail: int) -> StreamingResponse:
    """Refused before it begins where there is no such thing, or its runtime shows no logs."""
    await narrated(house, Given({"target": target, "component": component}, request.state.principal))
    last = request.headers.get("last-event-id") or request.query_params.get("after")
    if last is not None and not (last.isascii() and last.isalnum() and len(last) <= 41):
        raise Problem("BAD_ARGUMENT", f"{last[:40]!r} is no id of a line")

    def read(lines: int, follow: bool) -> AsyncGenerator[str, None]:
        return _lines(house, request, target, component, lines, follow=follow)

    return streams.response(request, lambda: frames(read, tail, last))


async def frames(read: Read, tail: int, last: str | None) -> AsyncGenerator[bytes, None]:
    """The stream of what `read` reads, behind the line whose id is `last`."""
    yield streams.framed("hello", {})
    place = None if last is None else await _place(read, last)
    if last is not None and place is None:
        yield streams.framed("gap", {})
    if place is not None and not place.alone:
        yield streams.framed("again", {})
    async with aclosing(_shown(read, tail, last, place)) as shown:
        async for frame in shown:
            yield frame
    yield streams.framed("end", {})


async def _shown(read: Read, tail: int, last: str | None, place: _Place | None) -> AsyncGenerator[bytes, None]:
    skipping = place is not None
    named, wanted = _Names(), tail if place is None else place.behind + WINDOW + SLACK
    passed = 0
    async with aclosing(read(wanted, True)) as shown:
        async for text in shown:
            id = named.next(text)
            if skipping and passed == wanted:  # so much came in between that the place is out of sight
                skipping = False
                yield streams.framed("gap", {})
            if not skipping:
                yield streams.framed("line", {"text": text}, id)
            skipping, passed = skipping and id != last, passed + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """How many lines stand behind the first that may be the one that was seen last, and whether it is the only one."""

    behind: int
    alone: bool


async def _place(read: Read, last: str) -> _Place | None:
    """None when it is not shown any more."""
    named, behind, fits = _Names(), 0, 0
    async with aclosing(read(SEARCHED, False)) as shown:
        async for text in shown:
            behind += fits > 0
            fits += named.next(text) == last
    return _Place(behind=behind, alone=fits == 1) if fits else None


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
