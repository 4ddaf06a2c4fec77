"""The queue: requests merge, keys are served one turn at a time, errors back off, and stopping is orderly."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio
import pytest

from reconciler.events import Event, TurnFailed
from reconciler.loop import Key, Pace, Queue, Wheel
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()

ONE = Key(Wheel.RECONCILE, "default/one")
TWO = Key(Wheel.RECONCILE, "default/two")


class Turns:
    """Turns that note when they begin and end, and do what the test says."""

    def __init__(self, does: Callable[[Key], Awaitable[float | None]] | None = None) -> None:
        self.begun: list[tuple[float, Key]] = []
        self.ended: list[tuple[float, Key]] = []
        self.running: Counter[Key] = Counter()
        self.most = 0
        self.does = does

    async def __call__(self, key: Key) -> float | None:
        self.begun.append((anyio.current_time(), key))
        self.running[key] += 1
        self.most = max(self.most, self.running.total())
        assert self.running[key] == 1, "two turns of one key at once"
        try:
            return await self.does(key) if self.does else None
        finally:
            self.running[key] -= 1
            self.ended.append((anyio.current_time(), key))

    def times(self, key: Key) -> list[float]:
        return [round(at, 3) for at, served in self.begun if served == key]


@asynccontextmanager
async def served(turns: Turns, said: list[Event] | None = None, **pace: Any) -> AsyncIterator[Queue]:
    sink = said.append if said is not None else lambda event: None
    queue = Queue(
        turns, pace=Pace(**pace), random=Random(7), sink=sink, terminal=lambda error: isinstance(error, TypeError)
    )
    async with anyio.create_task_group() as group:
        await group.start(queue.run)
        yield queue
        group.cancel_scope.cancel()


async def sleeps(seconds: float, key: Key) -> None:
    await anyio.sleep(seconds)


async def test_equal_requests_merge() -> None:
    turns = Turns()
    async with served(turns) as queue:
        for _ in range(100):
            queue.request(ONE)
        queue.request(TWO)
        await anyio.sleep(1)
    assert [key for _, key in turns.begun] == [ONE, TWO]


async def test_requests_while_it_runs_become_one_more_turn() -> None:
    async def slow(key: Key) -> None:
        await anyio.sleep(5)

    turns = Turns(slow)
    async with served(turns) as queue:
        queue.request(ONE)
        await anyio.sleep(1)
        for _ in range(50):
            queue.request(ONE)
        await anyio.sleep(30)
    assert turns.times(ONE) == [0.0, 5.0]


async def test_the_earliest_of_several_timers_counts() -> None:
    turns = Turns()
    async with served(turns) as queue:
        queue.request(ONE, after=30)
        queue.request(ONE, after=10)
        queue.request(ONE, after=20)
        await anyio.sleep(100)
    assert turns.times(ONE) == [10.0]


async def test_a_request_replaces_a_later_timer() -> None:
    turns = Turns()
    async with served(turns) as queue:
        queue.request(ONE, after=30)
        queue.request(ONE)
        await anyio.sleep(100)
    assert turns.times(ONE) == [0.0]


async def test_a_turn_is_asked_again_when_it_wants() -> None:
    answers = iter((4.0, 2.0, None))

    async def again(key: Key) -> float | None:
        return next(answers)

    turns = Turns(again)
    async with served(turns) as queue:
        queue.request(ONE)
        await anyio.sleep(100)
    assert turns.times(ONE) == [0.0, 4.0, 6.0]


async def test_the_wheels_do_not_wait_for_each_other_and_each_is_bounded() -> None:
    async def long(key: Key) -> None:
        await anyio.sleep(100)

    turns = Turns(long)
    async with served(turns, parallel=3) as queue:
        for number in range(10):
            queue.request(Key(Wheel.EXECUTE, f"job-{number}"))
        queue.request(ONE)
        await anyio.sleep(1)
        assert turns.most == 4
        assert queue.pending() == 7
        assert turns.running[ONE] == 1


async def test_a_busy_key_does_not_starve_the_others() -> None:
    async def at_once(key: Key) -> float | None:
        await anyio.sleep(1)
        return 0.0 if key == ONE else None

    turns = Turns(at_once)
    async with served(turns, parallel=1) as queue:
        queue.request(ONE)
        await anyio.sleep(5.5)
        queue.request(TWO)
        await anyio.sleep(3)
        assert turns.times(TWO) == [6.0]


async def test_errors_back_off_with_growing_jittered_pauses_and_are_told() -> None:
    async def fails(key: Key) -> float | None:
        raise ValueError("no luck")

    said: list[Event] = []
    turns = Turns(fails)
    async with served(turns, said, first=1.0, limit=8.0) as queue:
        queue.request(ONE)
        await anyio.sleep(60)
        pauses = [after - before for before, after in zip(turns.times(ONE), turns.times(ONE)[1:], strict=False)]
        for pause, full in zip(pauses, (1, 2, 4, 8, 8, 8), strict=False):
            assert full / 2 <= pause <= full
        assert queue.failures[ONE] == len(turns.begun)
    assert all(isinstance(event, TurnFailed) and event.error == "ValueError: no luck" for event in said)
    assert len(said) == len(turns.begun)


async def test_a_success_forgets_the_failures_before() -> None:
    outcomes = iter((ValueError("once"), ValueError("twice"), None))

    async def recovers(key: Key) -> float | None:
        error = next(outcomes)
        if error is not None:
            raise error
        return None

    turns = Turns(recovers)
    async with served(turns, first=1.0) as queue:
        queue.request(ONE)
        await anyio.sleep(60)
        assert len(turns.begun) == 3
        assert queue.failures == {}
        assert queue.errors == 2


async def test_terminal_errors_wait_the_longest_pause_and_say_so() -> None:
    async def wrong(key: Key) -> float | None:
        raise TypeError("a mistake")

    said: list[Event] = []
    turns = Turns(wrong)
    async with served(turns, said, first=1.0, limit=50.0) as queue:
        queue.request(ONE)
        await anyio.sleep(120)
    assert turns.times(ONE) == [0.0, 50.0, 100.0]
    assert [event.terminal for event in said if isinstance(event, TurnFailed)] == [True, True, True]


async def test_a_failing_key_is_served_at_once_when_somebody_asks() -> None:
    async def fails(key: Key) -> float | None:
        raise ValueError

    turns = Turns(fails)
    async with served(turns, first=100.0, limit=100.0) as queue:
        queue.request(ONE)
        await anyio.sleep(10)
        queue.request(ONE)
        await anyio.sleep(10)
    assert turns.times(ONE) == [0.0, 10.0]


async def test_pauses_repeat_with_the_seed() -> None:
    async def once(seed: int) -> list[float]:
        pace, random = Pace(first=1.0, limit=60.0), Random(seed)
        return [pace.pause(failures, random) for failures in range(1, 10)]

    assert await once(1) == await once(1) != await once(2)


async def test_drain_starts_nothing_more_and_waits_for_what_runs() -> None:
    async def slow(key: Key) -> None:
        await anyio.sleep(5)

    turns = Turns(slow)
    async with served(turns, parallel=1) as queue:
        queue.request(ONE)
        queue.request(TWO)
        await anyio.sleep(1)
        assert await queue.drain(30) == ()
        assert anyio.current_time() == pytest.approx(turns.ended[0][0])
        queue.request(TWO)
        await anyio.sleep(30)
    assert [key for _, key in turns.begun] == [ONE]


async def test_drain_cancels_what_takes_too_long_and_names_it() -> None:
    cleaned = anyio.Event()

    async def endless(key: Key) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()

    turns = Turns(endless)
    async with served(turns) as queue:
        queue.request(ONE)
        await anyio.sleep(1)
        began = anyio.current_time()
        assert await queue.drain(10) == (ONE,)
        assert cleaned.is_set()
        assert anyio.current_time() - began == pytest.approx(10)


async def test_ten_thousand_timers_are_one_heap() -> None:
    turns = Turns()
    async with served(turns, parallel=64) as queue:
        for number in range(10_000):
            queue.request(Key(Wheel.RECONCILE, f"default/{number}"), after=1 + number % 50)
        await anyio.sleep(60)
    assert len(turns.begun) == 10_000
