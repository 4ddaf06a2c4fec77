"""How many actions run at once over all environments, and that none keeps the others waiting.

A seat that becomes free goes to the environment that has fewest of them among those that wait, so none takes more than
half while another waits. The last eighth of the seats is only for environments that have less than that: one whose
targets all hang, for as long as an action may take, does not keep another from beginning.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from stickers.names import EnvironmentId


class Seats:
    """So many, each taken for one action."""

    def __init__(self, most: int) -> None:
        self._free, self._kept = most, most // 8
        self._taken: Counter[EnvironmentId] = Counter()
        self._waiting: dict[EnvironmentId, deque[anyio.Event]] = {}

    @property
    def taken(self) -> dict[EnvironmentId, int]:
        """By those that have any."""
        return dict(+self._taken)

    @asynccontextmanager
    async def seat(self, environment: EnvironmentId) -> AsyncIterator[None]:
        if environment not in self._waiting and self._may_sit(environment):
            self._sit(environment)
        else:
            await self._called(environment)
        try:
            yield
        finally:
            self._leave(environment)

    def _may_sit(self, environment: EnvironmentId) -> bool:
        return self._free > self._kept or (self._free > 0 and self._taken[environment] < self._kept)

    def _sit(self, environment: EnvironmentId) -> None:
        self._free -= 1
        self._taken[environment] += 1

    async def _called(self, environment: EnvironmentId) -> None:
        call = anyio.Event()
        self._waiting.setdefault(environment, deque()).append(call)
        try:
            await call.wait()
        except BaseException:
            if call.is_set():  # called in the moment of leaving
                self._leave(environment)
            else:
                self._forget(environment, call)
            raise

    def _leave(self, environment: EnvironmentId) -> None:
        self._free += 1
        self._taken[environment] -= 1
        while able := [each for each in self._waiting if self._may_sit(each)]:
            first = min(able, key=self._taken.__getitem__)
            call = self._waiting[first][0]
            self._forget(first, call)
            self._sit(first)
            call.set()

    def _forget(self, environment: EnvironmentId, call: anyio.Event) -> None:
        self._waiting[environment].remove(call)
        if not self._waiting[environment]:
            del self._waiting[environment]
