"""The queue of keys: equal requests merge, each key is served by one turn at a time, and one heap keeps all timers.

A turn is handed a key, never an event, and answers in how many seconds it wants to be asked again. A turn that raises
is asked again by a growing, jittered pause; nothing it raises ends the loop.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from reconciler import correlation, events
from reconciler.events import Sink
from stickers.names import EnvironmentId, JobId


class Wheel(StrEnum):
    """What turns: sources are read, environments are reconciled, jobs are executed, commands that were asked anywhere
    are carried out. They meet in the store. A sweep asks for whatever nobody has asked for."""

    READ = "read"
    SWEEP = "sweep"
    RECONCILE = "reconcile"
    EXECUTE = "execute"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What a turn is asked to look after: a source, an environment, or a job."""

    wheel: Wheel
    id: str

    def __str__(self) -> str:
        return f"{self.wheel}:{self.id}"


def parsed(text: str) -> Key | None:
    """The key that is written so; None for what is none."""
    wheel, colon, id = text.partition(":")
    return Key(Wheel(wheel), id) if colon and id and wheel in list(Wheel) else None


def reconcile(environment: EnvironmentId) -> Key:
    return Key(Wheel.RECONCILE, environment)


def execute(job: JobId) -> Key:
    return Key(Wheel.EXECUTE, job)


def read(source: str) -> Key:
    return Key(Wheel.READ, source)


DOCUMENTS: Final = read("documents")  # the one source where no others are declared
SWEEP: Final = Key(Wheel.SWEEP, "all")

Turn = Callable[[Key], Awaitable[float | None]]  # answers in how many seconds it wants to be asked again, None: never


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many turns of one wheel run together, and the pauses after turns that raised, in seconds."""

    parallel: int = 64
    first: float = 0.5
    limit: float = 60.0

    def pause(self, failures: int, random: Random) -> float:
        """Between half and all of a pause that doubles with every failure in a row, up to the limit."""
        full = min(self.limit, self.first * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + random.random() / 2)


_HANDED_ON: Final = (Wheel.READ, Wheel.RECONCILE)  # a job has its cause, and ends it
MAX_WAIT: Final = 3600.0  # the longest the dispatcher sleeps


class Queue:
    """Keys on their way to their turns. `terminal` tells errors that trying again cannot mend: they are shown as such
    and asked again at the slowest pace only."""

    def __init__(
        self, turn: Turn, *, pace: Pace, random: Random, sink: Sink, terminal: Callable[[BaseException], bool]
    ) -> None:
        self._turn, self._pace, self._random, self._sink, self._terminal = turn, pace, random, sink, terminal
        self._ready: dict[Wheel, deque[Key]] = {wheel: deque() for wheel in Wheel}
        self._waiting: set[Key] = set()  # in a deque of `_ready`
        self._running: dict[Key, anyio.CancelScope] = {}
        self._again: set[Key] = set()  # asked for while running
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._numbers = 0
        self._causes: dict[Key, str] = {}  # the request from which the next turn follows
        self._wake = anyio.Event()
        self._idle = anyio.Event()
        self._closed = False
        self.failures: dict[Key, int] = {}  # in a row
        self.errors = 0  # since the start

    @property
    def depth(self) -> Mapping[Wheel, int]:
        """How many keys are ready for a turn and wait for a seat."""
        return {wheel: len(keys) for wheel, keys in self._ready.items()}

    # -- asking -----------------------------------------------------------------------------------------------------

    def request(self, key: Key, *, after: float = 0.0) -> None:
        """Ask for a turn, now or in `after` seconds; requests for one key merge, the earliest counts."""
        if self._closed:
            return
        if (cause := correlation.cause()) is not None and key.wheel in _HANDED_ON:
            self._causes[key] = cause
        if after > 0:
            if not self._schedule(key, anyio.current_time() + after):
                return  # it comes sooner anyway: thousands of events ask for one turn
        elif key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready[key.wheel].append(key)
        self._wake.set()

    def forget(self, key: Key) -> None:
        """Ask no more for what is not there any more; a turn that runs is not disturbed."""
        self._due.pop(key, None)
        self._again.discard(key)
        self._causes.pop(key, None)
        self.failures.pop(key, None)

    def running(self, key: Key) -> bool:
        return key in self._running

    def serves(self, environment: EnvironmentId) -> bool:
        """Whether a turn runs for the environment or a job of it."""
        return any(key.id == environment or key.id.startswith(f"{environment}:") for key in self._running)

    def pending(self) -> int:
        """Keys that wait for a free place."""
        return len(self._waiting)

    def due(self, key: Key) -> float | None:
        """The loop's time of the next turn that is planned."""
        return self._due.get(key)

    def _schedule(self, key: Key, at: float) -> bool:
        """Whether that is sooner than what is planned."""
        if key in self._due and self._due[key] <= at:
            return False
        self._due[key] = at
        self._numbers += 1
        heapq.heappush(self._timers, (at, self._numbers, key))
        return True

    # -- serving ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `drain`."""
        async with anyio.create_task_group() as turns:
            task_status.started()
            while not self._closed:
                self._wake = anyio.Event()
                self._ring(anyio.current_time())
                self._start(turns)
                with anyio.move_on_at(self._next_timer()):
                    await self._wake.wait()

    def _ring(self, now: float) -> None:
        """Make ready what is due."""
        while self._timers and self._timers[0][0] <= now:
            at, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == at:
                del self._due[key]
                self.request(key)

    def _next_timer(self) -> float:
        latest = anyio.current_time() + MAX_WAIT
        return min(self._timers[0][0], latest) if self._timers else latest

    def _start(self, turns: TaskGroup) -> None:
        for wheel, ready in self._ready.items():
            free = self._pace.parallel - sum(key.wheel is wheel for key in self._running)
            for _ in range(min(free, len(ready))):
                key = ready.popleft()
                self._waiting.discard(key)
                self._due.pop(key, None)
                self._running[key] = anyio.CancelScope()
                turns.start_soon(self._serve, key, name=str(key))

    async def _serve(self, key: Key) -> None:
        """One turn; the answer, or the pause after its error, becomes the next request."""
        try:
            with self._running[key], correlation.caused_by(self._causes.pop(key, None)):
                again = await self._answer(key)
                if again is not None and not self._closed:
                    self._schedule(key, anyio.current_time() + again)
        finally:
            del self._running[key]
            if key in self._again:
                self._again.discard(key)
                self.request(key)
            self._wake.set()
            if not self._running:
                self._idle.set()

    async def _answer(self, key: Key) -> float | None:
        try:
            again = await self._turn(key)
        except Exception as error:
            return self._failed(key, error)
        self.failures.pop(key, None)
        return again

    def _failed(self, key: Key, error: Exception) -> float:
        cause = plain(error)
        self.errors += 1
        failures = self.failures[key] = self.failures.get(key, 0) + 1
        terminal = self._terminal(cause)
        again = self._pace.limit if terminal else self._pace.pause(failures, self._random)
        self._sink(
            events.TurnFailed(
                key=str(key), error=sentence(cause), failures=failures, terminal=terminal, again=round(again, 3)
            )
        )
        return again

    # -- ending -----------------------------------------------------------------------------------------------------

    async def drain(self, grace: float) -> tuple[Key, ...]:
        """Start nothing more, give running turns `grace` seconds, then cancel them. Answers those cancelled."""
        self._closed = True
        self._idle = anyio.Event()
        if self._running:
            with anyio.move_on_after(grace):
                await self._idle.wait()
        abandoned = tuple(sorted(self._running))
        for key in abandoned:
            self._running[key].cancel()
        if abandoned:
            self._idle = anyio.Event()
            with anyio.move_on_after(grace):
                await self._idle.wait()
        self._wake.set()
        return abandoned


def plain(error: BaseException) -> BaseException:
    """The one error inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def sentence(error: BaseException) -> str:
    """One bounded line about an error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400] if text else type(error).__name__
