"""What asks for turns beside the interval: events of runtimes, and changes of the documents.

A lost trigger costs one interval and never correctness: events are resumed after a pause, and after each loss their
environments are looked at again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeVar

import anyio

from desired_state.model import Target
from drivers.contract import Driver, Watcher
from reconciler import events
from reconciler.events import Sink
from reconciler.loop import Pace, plain, sentence
from stickers import digest
from stickers.names import EnvironmentId, TargetId

SETTLE: Final = 0.1  # seconds: a runtime tells one change in several events

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """How a trigger asks: for an environment, in so many seconds."""

    environment: Callable[[EnvironmentId, float], None]
    sink: Sink
    random: Random
    pace: Pace = field(default_factory=Pace)


async def follow(
    name: str,
    stream: Callable[[], AsyncIterator[T]],
    told: Callable[[T], Awaitable[None]],
    lost: Callable[[], Awaitable[None]],
    ask: Ask,
) -> None:
    """Hand on what the stream tells, for ever. When it ends or raises: say so, pause, `lost()`, and resume it."""
    failures = 0
    while True:
        reason = "the events ended"
        try:
            async with aclosing(stream()) as items:  # type: ignore[type-var]
                async for item in items:
                    failures = 0
                    await told(item)
        except Exception as error:
            reason = sentence(plain(error))
        failures += 1
        again = ask.pace.pause(failures, ask.random)
        ask.sink(events.WatchLost(watched=name, reason=reason, again=round(again, 3)))
        await anyio.sleep(again)
        await lost()


class Runtimes:
    """The events of all runtimes that have them, one stream for each way a target is reached, so that one that is
    down takes no other with it."""

    def __init__(self, drivers: Mapping[str, Driver], ask: Ask) -> None:
        self._drivers, self._ask = drivers, ask
        self._wanted: dict[str, tuple[Target, ...]] = {}
        self._ways: dict[TargetId, tuple[Target, str]] = {}
        self._changed = anyio.Event()

    def watch(self, targets: Iterable[Target]) -> None:
        """From now on, watch these targets and no others."""
        groups: dict[str, list[Target]] = {}
        for target in targets:
            if self._tells(target.hands):
                groups.setdefault(self._way(target), []).append(target)
        wanted = {way: tuple(group) for way, group in groups.items()}
        self._ways = {target.id: self._ways[target.id] for group in wanted.values() for target in group}
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def _way(self, target: Target) -> str:
        """Targets that are reached the same way share one stream; each agent is a way of its own. Told once for each,
        since thousands are swept over and stay as they are."""
        known = self._ways.get(target.id)
        if known is None or known[0] is not target:
            known = self._ways[target.id] = target, _way(target)
        return known[1]

    def _tells(self, kind: str) -> bool:
        try:
            driver = self._drivers[kind]
        except Exception:  # a driver that cannot be had is reported where its targets are looked at
            return False
        return driver.capabilities.events and isinstance(driver, Watcher)

    async def run(self) -> None:
        """Keep one stream for each group of targets, and change them when the targets change."""
        streams: dict[str, tuple[tuple[Target, ...], anyio.CancelScope]] = {}
        async with anyio.create_task_group() as group:
            while True:
                self._changed = anyio.Event()
                for way in [way for way, (targets, _) in streams.items() if self._wanted.get(way) != targets]:
                    streams.pop(way)[1].cancel()
                for way, targets in self._wanted.items():
                    if way not in streams:
                        streams[way] = targets, anyio.CancelScope()
                        group.start_soon(self._stream, way, targets, streams[way][1])
                await self._changed.wait()

    async def _stream(self, way: str, targets: tuple[Target, ...], scope: anyio.CancelScope) -> None:
        environments = {target.id: target.environment for target in targets}
        watcher: Any = self._drivers[targets[0].hands]

        async def told(target: TargetId) -> None:
            if target in environments:
                self._ask.environment(environments[target], SETTLE)

        async def lost() -> None:
            for environment in sorted(set(environments.values())):
                self._ask.environment(environment, SETTLE)

        with scope:
            await follow(f"{way} ({len(targets)} targets)", lambda: watcher.watch(targets), told, lost, self._ask)


def _way(target: Target) -> str:
    if target.hands != target.driver:
        return f"{target.hands} {target.id}"
    return f"{target.driver} {digest.short(digest.of(dict(target.connection)))}"
