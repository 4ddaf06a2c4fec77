"""Wakes whoever follows events: at once when something happens in this process, soon when it happened in another."""

from __future__ import annotations

from typing import Final

import anyio

from reconciler.store import chronicle
from reconciler.store.chronicle import Cursor
from reconciler.store.store import Store

GLANCE: Final = 0.5  # seconds between two looks at the database, shared by all that follow


class Bell:
    """One for a process. However many follow, the database is asked once a glance for the end of what is told."""

    def __init__(self) -> None:
        self._rings, self._asking = anyio.Event(), anyio.Lock()
        self._end, self._asked_at = chronicle.BEGINNING, float("-inf")
        self.closing = False

    def ring(self) -> None:
        """Something has happened here. Called on the loop's own thread."""
        self._asked_at = float("-inf")
        self._rings.set()
        self._rings = anyio.Event()

    def close(self) -> None:
        """The process ends: everybody goes home."""
        self.closing = True
        self.ring()

    async def beyond(self, store: Store, cursor: Cursor, within: float) -> bool:
        """Wait until there is something after the cursor; False when there is nothing by then, or the bell closes."""
        until = anyio.current_time() + within
        while not self.closing:
            if await self._newest(store) > cursor:
                return True
            left = until - anyio.current_time()
            if left <= 0:
                return False
            rings = self._rings
            with anyio.move_on_after(min(GLANCE, left)):
                await rings.wait()
        return False

    async def _newest(self, store: Store) -> Cursor:
        async with self._asking:
            if anyio.current_time() - self._asked_at >= GLANCE * 0.9:
                asked_at = anyio.current_time()
                self._asked_at = asked_at
                self._end = await store.read(chronicle.end)
            return self._end
