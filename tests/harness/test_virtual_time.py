"""Virtual time: it jumps, it is exact, and one seed is one order."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import anyio
import anyio.to_thread
import pytest

from tests.harness import virtual_time
from tests.harness.virtual_time import Stuck

anyio_backend = virtual_time.backend()


async def test_an_hour_passes_without_waiting() -> None:
    began = time.monotonic()
    before = anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() - before == pytest.approx(3600, abs=1e-6)
    assert time.monotonic() - began < 5


async def test_timers_fire_in_their_order_and_at_their_time() -> None:
    fired: list[tuple[float, float]] = []
    start = anyio.current_time()

    async def wait(seconds: float) -> None:
        await anyio.sleep(seconds)
        fired.append((seconds, round(anyio.current_time() - start, 6)))

    async with anyio.create_task_group() as group:
        for seconds in (5.0, 0.25, 86_400.0 * 3, 1.0):
            group.start_soon(wait, seconds)
    assert fired == [(0.25, 0.25), (1.0, 1.0), (5.0, 5.0), (259_200.0, 259_200.0)]


async def test_deadlines_are_kept() -> None:
    with anyio.move_on_after(2) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_clock_stands_while_a_thread_is_at_work() -> None:
    before = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 3600)
        await anyio.to_thread.run_sync(time.sleep, 0.05)
        assert anyio.current_time() == before
        group.cancel_scope.cancel()


async def test_the_wall_clock_moves_with_it() -> None:
    before = virtual_time.now()
    await anyio.sleep(90)
    assert (virtual_time.now() - before).total_seconds() == pytest.approx(90, abs=1e-5)


def order(seed: int | None) -> list[int]:
    """Who ran when: eight tasks woken together, three times."""
    seen: list[int] = []

    async def main() -> None:
        async def walk(number: int) -> None:
            for _ in range(3):
                await anyio.sleep(1)
                seen.append(number)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(walk, number)

    virtual_time.run(main, seed=seed)
    return seen


def cancelled(seed: int | None) -> list[int]:
    """In which order tasks learn that they are cancelled: anyio keeps them in a set."""
    seen: list[int] = []

    async def main() -> None:
        async def wait(number: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                seen.append(number)

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(wait, number)
            await anyio.sleep(1)
            group.cancel_scope.cancel()

    virtual_time.run(main, seed=seed)
    return seen


def test_without_a_seed_tasks_run_by_age() -> None:
    assert order(None) == [*range(8)] * 3
    assert cancelled(None) == [*range(40)]


def test_a_seed_shuffles_and_repeats() -> None:
    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(None))
    assert cancelled(5) == cancelled(5) != cancelled(6)


def test_one_seed_is_one_order_in_every_process() -> None:
    code = "from tests.harness.test_virtual_time import cancelled, order; print(cancelled(3), order(3))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert runs == {f"{cancelled(3)} {order(3)}\n".encode()}


def test_a_loop_in_which_nothing_can_happen_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "PATIENCE", 0.01)
    with pytest.raises(Stuck):
        virtual_time.run(anyio.Event().wait)
