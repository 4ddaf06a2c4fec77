"""Virtual time: an asyncio event loop whose clock jumps to the next timer when nothing is ready.

A test that waits an hour takes a millisecond, and the same seed gives the same run, in every process. Callbacks that
are ready together run by the age of their tasks, not by the order in which some set happened to hold them; a seed
shuffles the tasks among themselves, so that other interleavings are met. The clock stands while a worker thread is at
work, so that no virtual time passes by how busy the machine is; for sockets and processes it does not wait.

In a test module, for all its tests:    anyio_backend = virtual_time.backend()
In a simulation, for one seed:          virtual_time.run(main, seed=7)
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import anyio
import pytest
from anyio._backends._asyncio import AsyncIOBackend

T = TypeVar("T")

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE: Final = 5.0  # real seconds that an idle loop waits for a thread or something from outside before it gives up


class Stuck(Exception):
    """Everything waits and no timer is set: nothing would ever happen again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """The event loop of virtual time. Its clock begins at zero and moves only when nothing is ready."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int | None = None) -> None:
        self._now = 0.0
        super().__init__(_Jump(self._jump, lambda: self.threads > 0))
        self._clock_resolution = 1e-9
        self._numbers: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._made = 0
        self.threads = 0  # worker threads at work for a task that waits for them
        self._dice = None if seed is None else random.Random(seed)
        self.set_task_factory(self._make)

    def time(self) -> float:
        return self._now

    def _make(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        self._made += 1
        self._numbers[task] = self._made
        return task

    def _jump(self) -> bool:
        """To the next timer; False when there is none."""
        if not self._scheduled:
            return False
        self._now = max(self._now, self._scheduled[0].when())
        return True

    def _run_once(self) -> None:
        self._order()
        super()._run_once()  # type: ignore[misc]  # the one turn of asyncio's loop

    def _order(self) -> None:
        """Tasks that are ready together, by age or by dice, each in a place that some task held before."""
        if len(self._ready) < 2:
            return
        handles = list(self._ready)
        places = [place for place, handle in enumerate(handles) if self._number(handle)]
        steps = sorted((handles[place] for place in places), key=self._number)
        if self._dice is not None:
            self._dice.shuffle(steps)
        for place, step in zip(places, steps, strict=True):
            handles[place] = step
        self._ready.clear()
        self._ready.extend(handles)

    def _number(self, handle: asyncio.Handle) -> int:
        owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]  # a task's step or wake-up
        return self._numbers.get(owner, 0) if isinstance(owner, asyncio.Task) else 0


class _Jump(selectors.SelectSelector):
    """Waits by moving the clock. Only for threads, and where no timer is set, does it wait for something real, and not
    for long."""

    def __init__(self, jump: Callable[[], bool], threads: Callable[[], bool]) -> None:
        super().__init__()
        self._jump_on, self._threads = jump, threads

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        at_once = timeout is not None and timeout <= 0
        found = super().select(PATIENCE if self._threads() and not at_once else 0)
        if found or at_once or self._jump_on():
            return found
        found = super().select(PATIENCE)
        if not found:
            raise Stuck("every task waits and no timer is set")
        return found


_in_a_thread: Final = AsyncIOBackend.run_sync_in_worker_thread


async def _counted(*args: Any, **options: Any) -> Any:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        return await _in_a_thread(*args, **options)
    loop.threads += 1
    try:
        return await _in_a_thread(*args, **options)
    finally:
        loop.threads -= 1


AsyncIOBackend.run_sync_in_worker_thread = _counted  # type: ignore[method-assign]  # nothing tells when a thread begins


def now() -> datetime:
    """The wall clock of virtual time."""
    return EPOCH + timedelta(seconds=anyio.current_time())


def backend(seed: int | None = None):  # type: ignore[no-untyped-def]  # a pytest fixture
    """The `anyio_backend` of a test module that runs in virtual time."""

    @pytest.fixture(scope="module", name="anyio_backend")
    def anyio_backend() -> tuple[str, dict[str, object]]:
        return "asyncio", {"loop_factory": partial(VirtualLoop, seed)}

    return anyio_backend


def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int | None = None) -> T:
    """Run to the end in virtual time."""
    return anyio.run(main, backend="asyncio", backend_options={"loop_factory": partial(VirtualLoop, seed)})
