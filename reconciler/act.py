"""Carrying one wave: every task through its states, intent first, then the effect, then what was observed.

Several tasks run together; what happens to one never touches the others. Only a lost lease ends them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from typing import Final

import anyio

from reconciler.core import retry
from reconciler.core.machine import TaskState
from reconciler.failpoints import reached
from reconciler.flight import Flight
from reconciler.looks import Looks
from reconciler.loop import plain
from reconciler.means import Means
from reconciler.store.errors import LostLease
from reconciler.store.records import Task
from reconciler.undertaking import Undertaking
from stickers.names import TargetId, TaskId

LOOK_AGAIN: Final = 5.0  # seconds between two looks at a target whose outcome is unknown
AT_HAND: Final = 256  # tasks of a wave that are begun and have not ended their first try; more where more may act
GoesOn = Callable[[Set[TargetId]], Awaitable[bool]]  # asked with the targets that have failed meanwhile


async def carry(means: Means, undertaking: Undertaking, wave: Sequence[Task], goes_on: GoesOn) -> list[Task]:
    """Carry these tasks as far as they come now, and answer them as they are then. What is to be tried again later, or
    looked at again, joins the others when its time has come while some are under way, and `goes_on` is asked first.
    Raises `LostLease` at once, other errors of the store at the end."""
    return await _Wave(means, undertaking, wave, goes_on).carry()


def wait(task: Task, now: datetime) -> float:
    """Seconds until a retry may begin, never longer than the policy waits: a clock that was set back holds up
    nothing."""
    if task.state is not TaskState.RETRYING or task.not_before is None:
        return 0.0
    return min((task.not_before - now).total_seconds(), retry.TASKS.limit.total_seconds())


class _Wave:
    """Tasks under way together, and those that wait to join them."""

    def __init__(self, means: Means, undertaking: Undertaking, wave: Sequence[Task], goes_on: GoesOn) -> None:
        self._means, self._undertaking, self._goes_on = means, undertaking, goes_on
        self._tasks = {task.id: task for task in wave}
        self._looks = Looks(means, undertaking, wave)
        most = means.limits.on_one_target
        crowded = [target for target, tasks in Counter(task.target for task in wave).items() if tasks > most]
        self._seats = {target: anyio.CapacityLimiter(most) for target in crowded}
        self._at_hand: set[TaskId] = set()
        self._room = anyio.Event()
        self._under_way: set[TaskId] = set()
        self._waiting: set[anyio.CancelScope] = set()
        self._failed: set[TargetId] = set()
        self._errors: list[Exception] = []

    async def carry(self) -> list[Task]:
        now = self._means.tools.now()
        self._under_way = {id for id, task in self._tasks.items() if wait(task, now) <= 0}
        async with anyio.create_task_group() as tasks:
            for id in self._tasks:
                if id in self._under_way:
                    await self._have_at_hand(id)
                tasks.start_soon(self._carry, id, name=str(id))
        if self._errors:
            raise self._errors[0]
        return list(self._tasks.values())

    async def _have_at_hand(self, id: TaskId) -> None:
        """Wait until not too many others wait for a seat: each that does takes more memory than its task."""
        while len(self._at_hand) >= max(AT_HAND, 2 * self._means.limits.actions):
            self._room = anyio.Event()
            await self._room.wait()
        self._at_hand.add(id)

    def _seat_at(self, target: TargetId) -> AbstractAsyncContextManager[None]:
        seats = self._seats.get(target)
        return nullcontext() if seats is None else seats

    async def _carry(self, id: TaskId) -> None:
        """One task, try after try, until it has ended or nobody else is under way."""
        try:
            while id in self._under_way or await self._joins(id):
                await self._fly(id)
                if self._tasks[id].state not in (TaskState.RETRYING, TaskState.LOST):
                    return
        except Exception as error:  # of one task: the others finish first
            if isinstance(plain(error), LostLease):
                raise plain(error) from None
            self._errors.append(error)

    async def _fly(self, id: TaskId) -> None:
        try:
            async with self._seat_at(self._tasks[id].target), self._means.seats.seat(self._undertaking.job.environment):
                flight = Flight(self._means, self._undertaking, self._looks, self._tasks[id])
                try:
                    await flight.fly()
                finally:
                    self._tasks[id] = flight.task
        finally:
            self._under_way.discard(id)
            self._at_hand.discard(id)
            self._room.set()
            if self._tasks[id].state is TaskState.FAILED:
                self._failed.add(self._tasks[id].target)
            if not self._under_way:
                for scope in self._waiting:
                    scope.cancel()

    async def _joins(self, id: TaskId) -> bool:
        """Whether the task is tried again beside those that are under way when its time has come."""
        task, joins = self._tasks[id], False
        pause = LOOK_AGAIN if task.state is TaskState.LOST else wait(task, self._means.tools.now())
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            if not self._under_way:
                scope.cancel()
            await anyio.sleep(max(0.0, pause))
            if not self._errors and not self._means.stopping() and await self._goes_on(self._failed):
                reached("before_retry")
                joins = True
        self._waiting.discard(scope)
        if joins and task.state is TaskState.RETRYING:  # looks alone keep nobody waiting
            self._under_way.add(id)
        return joins
