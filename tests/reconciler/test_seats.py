"""Seats for actions are shared fairly over the environments: one that is large or hangs keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel

from desired_state.model import Strategy, StrategyKind
from drivers.memory import Fault, Trouble
from reconciler.means import Limits
from reconciler.seats import Seats
from stickers.names import EnvironmentId
from tests.harness import virtual_time
from tests.reconciler.rig import declared, place, rig

anyio_backend = virtual_time.backend()

LARGE, SMALL, THIRD = (EnvironmentId(f"default/{name}") for name in ("large", "small", "third"))
AT_ONCE = Strategy(kind=StrategyKind.ALL_AT_ONCE)


async def sit(seats: Seats, environment: EnvironmentId, seconds: float, done: Callable[[], None]) -> None:
    async with seats.seat(environment):
        await anyio.sleep(seconds)
    done()


async def test_one_environment_alone_takes_all_but_the_last_eighth() -> None:
    seats = Seats(16)
    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(sit, seats, LARGE, 10, lambda: None)
        await anyio.sleep(1)
        assert seats.taken == {LARGE: 14}
        group.cancel_scope.cancel()
    assert seats.taken == {}


async def test_no_environment_takes_more_than_half_while_another_waits() -> None:
    seats, most = Seats(16), list[int]()
    async with anyio.create_task_group() as group:
        for number in range(80):
            group.start_soon(sit, seats, LARGE, 1 + number / 100, lambda: None)
        await anyio.sleep(0.5)
        for _ in range(80):
            group.start_soon(sit, seats, SMALL, 1, lambda: None)
        await anyio.sleep(3)
        for _ in range(10):
            most.append(seats.taken.get(LARGE, 0))
            assert SMALL in seats.taken
            await anyio.sleep(0.1)
        group.cancel_scope.cancel()
    assert max(most) <= 8


async def test_who_is_cancelled_while_waiting_or_while_called_loses_no_seat() -> None:
    seats, done = Seats(1), list[int]()
    for early in (0.5, 1.0):
        async with anyio.create_task_group() as group:
            group.start_soon(sit, seats, LARGE, 1, lambda: done.append(1))
            await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(early):
                await sit(seats, SMALL, 5, lambda: done.append(2))
    assert seats.taken == {}
    with anyio.fail_after(2):
        await sit(seats, THIRD, 1, lambda: done.append(3))
    assert done == [1, 1, 3]


async def test_an_environment_whose_targets_all_hang_keeps_no_other_from_being_deployed() -> None:
    large = declared("1.0.0", targets=60, environment=LARGE, strategy=AT_ONCE)
    small = declared("1.0.0", targets=2, environment=SMALL, strategy=AT_ONCE)
    async with rig(large, limits=Limits(actions=16)) as made:
        for target in large.targets:
            made.world.host(target.id).faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=500))
        await anyio.sleep(60)
        assert made.runs("1.0.0", environment=LARGE) == 0
        made.shelf.put(large, small)
        began = anyio.current_time()
        await made.until(lambda: made.world.answering(place(1, environment=SMALL)) is not None, within=120)
        assert anyio.current_time() - began < 60
        assert sum(made.world.answering(placement.id) is not None for placement in large.placements) == 0
