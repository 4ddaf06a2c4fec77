"""The sources that are followed, which may become others while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import anyio

from reconciler.sources import Followed, Reading
from reconciler.triggers import Ask, follow


class Following:
    """Hears what the sources tell of themselves, and asks for their reads. `readings` is shared with whoever reads."""

    def __init__(self, followed: Mapping[str, Followed], read: Callable[[str], None], ask: Ask, now: datetime) -> None:
        self._read, self._ask = read, ask
        self._changed = anyio.Event()
        self.readings: dict[str, Reading] = {}
        self._become(followed, now)

    def become(self, followed: Mapping[str, Followed], now: datetime) -> None:
        """From now on these. Those that are the very same are read again too: what another declared may be theirs."""
        self._become(followed, now)
        for reading in self.readings.values():
            reading.content = None
        self._changed.set()
        for name in self.readings:
            self._read(name)

    def _become(self, followed: Mapping[str, Followed], now: datetime) -> None:
        was = dict(self.readings)
        self.readings.clear()
        for name, each in followed.items():
            before = was.get(name)
            same = before is not None and before.followed is each
            self.readings[name] = before if before and same else Reading(followed=each, since=now)

    async def run(self) -> None:
        """One stream for each source, until this is cancelled."""
        streams: dict[str, tuple[Reading, anyio.CancelScope]] = {}
        async with anyio.create_task_group() as group:
            while True:
                self._changed = anyio.Event()
                for name in [name for name, (reading, _) in streams.items() if self.readings.get(name) is not reading]:
                    streams.pop(name)[1].cancel()
                for name, reading in self.readings.items():
                    if name not in streams:
                        streams[name] = reading, anyio.CancelScope()
                        group.start_soon(self._stream, name, *streams[name], name=f"source {name}")
                await self._changed.wait()

    async def _stream(self, name: str, reading: Reading, scope: anyio.CancelScope) -> None:
        async def told(_: None) -> None:
            self._read(name)

        async def lost() -> None:
            self._read(name)

        with scope:
            await follow(name, reading.followed.source.changes, told, lost, self._ask)
