"""Waking other replicas, and being woken by them: words are coalesced, told in one transaction, and may be lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from random import Random
from typing import Final

import anyio

from reconciler import events
from reconciler.events import Sink
from reconciler.loop import Pace, plain, sentence
from reconciler.store import listening
from reconciler.store.errors import StoreError
from reconciler.store.store import Store

TOGETHER: Final = 0.01  # seconds that words wait for others
MOST: Final = 2_000  # words; beyond that everybody looks at everything
EVERYTHING: Final = "everything"

Lines = Callable[[], AsyncIterator[tuple[str, ...]]]


class Bell:
    """Rung by `ring`, heard by `run`. `heard` is handed every word, and `EVERYTHING` when some may have been lost."""

    def __init__(self, store: Store, lines: Lines, *, sink: Sink, random: Random) -> None:
        self._store, self._lines, self._sink, self._random = store, lines, sink, random
        self._words: dict[str, None] = {}
        self._rung = anyio.Event()
        self._pace = Pace(first=0.2, limit=10.0)
        self.heard: Callable[[str], None] = lambda word: None

    def ring(self, word: str) -> None:
        """Tell all replicas, this one among them."""
        if len(self._words) < MOST:
            self._words[word] = None
        else:
            self._words = {EVERYTHING: None}
        self._rung.set()

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen, name="listens")
            group.start_soon(self._tell, name="tells")

    async def tell_now(self) -> None:
        """What has been rung and not been told."""
        words, self._words = self._words, {}
        if words:
            await self._store.write(lambda c: listening.tell(c, words))

    async def _tell(self) -> None:
        while True:
            await self._rung.wait()
            await anyio.sleep(TOGETHER)
            self._rung = anyio.Event()
            try:
                await self.tell_now()
            except StoreError:
                continue  # they find out by polling

    async def _listen(self) -> None:
        """For ever; what was said while the line was down is looked for."""
        failures = 0
        while True:
            try:
                async with aclosing(self._lines()) as lines:  # type: ignore[type-var]
                    async for words in lines:
                        failures = 0
                        for word in words or (EVERYTHING,):
                            self.heard(word)
            except Exception as error:  # of the driver or of the network: whatever it is, the line is laid again
                failures += 1
                again = self._pace.pause(failures, self._random)
                reason = sentence(plain(error))
                self._sink(events.WatchLost(watched="the database", reason=reason, again=round(again, 3)))
                await anyio.sleep(again)
