"""The one door to worker threads, for runtimes whose SDK blocks.

Each connection has threads of its own, so that one that hangs cannot take those of another. A call that changes
something is always waited for: an effect that lands after its caller has gone would fall into somebody else's action.
The SDK's own time-outs must therefore bound every call; what is given up here is only the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from math import inf
from typing import TypeVar

import anyio
import anyio.to_thread

from drivers.errors import Busy, DriverError, Unreachable

T = TypeVar("T")
Translate = Callable[[Exception], Exception]  # a foreign error -> ours; what is not known is answered as it came


def untranslated(error: Exception) -> Exception:
    return error


class Threads:
    """At most `limit` calls at once to what `name` names. An abandoned call keeps its place until it really ends."""

    def __init__(self, name: str, *, limit: int = 8, translate: Translate = untranslated) -> None:
        self.name, self._translate = name, translate
        self._places = anyio.CapacityLimiter(limit)
        self._unlimited = anyio.CapacityLimiter(inf)  # the places are counted here, by the threads themselves

    async def run(self, call: Callable[[], T], *, abandon: bool = False, within: timedelta | None = None) -> T:
        """The call's answer. `abandon` is for idempotent reads alone: cancelled or late, they are not waited for.

        `within` bounds a read; late, it is `Unreachable`. A change is only bounded until it has begun: found no free
        thread in that time, it is `Busy` and was not begun.
        """
        seconds = within.total_seconds() if within is not None else inf
        place = object()
        with anyio.move_on_after(seconds) as waiting:
            await self._places.acquire_on_behalf_of(place)
        if waiting.cancelled_caught:
            raise self._taken(abandon, seconds)
        turn = _Turn(partial(self._places.release_on_behalf_of, place))
        try:
            with anyio.move_on_after(seconds if abandon else inf):
                return await self._answer(partial(turn, call), abandon)
            raise Unreachable(f"{self.name} did not answer within {seconds:g} s")
        finally:
            turn.left()

    async def _answer(self, call: Callable[[], T], abandon: bool) -> T:
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=abandon, limiter=self._unlimited)
        except DriverError:
            raise
        except Exception as error:
            translated = self._translate(error)
            if translated is error:
                raise
            raise translated from error

    def _taken(self, abandon: bool, seconds: float) -> DriverError:
        kind = Unreachable if abandon else Busy
        return kind(
            f"{self.name}: {self._places.borrowed_tokens:g} calls are under way and none ended in {seconds:g} s"
        )


class _Turn:
    """One call's turn in a thread. Its place is given back once: by the thread when the call has ended, or by the
    caller who left before it began."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._loop = asyncio.get_running_loop()
        self._first = threading.Lock()  # taken for good by whoever comes first: the thread, or the caller leaving

    def __call__(self, call: Callable[[], T]) -> T:
        if not self._first.acquire(blocking=False):
            raise RuntimeError("the caller has gone before the call began")
        try:
            return call()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for a place any more
                self._loop.call_soon_threadsafe(self._give_back)

    def left(self) -> None:
        if self._first.acquire(blocking=False):
            self._give_back()
