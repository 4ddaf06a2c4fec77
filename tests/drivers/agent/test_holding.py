"""A target is held only under a grant, only without a server, and only as it was proven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from drivers.agent import protocol
from drivers.agent.duty.clock import Clock
from drivers.agent.protocol import OFFLINE, Answer, Code, Hold, Verb, Welcome
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Result
from tests.drivers.agent.memory import on, receipt
from tests.drivers.agent.scene import MemoryChannel, Scene, action
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()
LONG = 3 * OFFLINE


def clock() -> Clock:
    """The loop's own."""
    time = asyncio.get_running_loop().time
    return Clock(since_boot=time, wall=time, boot_id="one")


@pytest.fixture
async def scene(bench: MemoryBench, tmp_path: Path) -> AsyncIterator[Scene]:
    async with on(bench, tmp_path, clock=clock()) as scene:
        yield scene


async def deployed(scene: Scene, stage: Stage) -> None:
    result, _ = await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()), fence=3)))
    assert result.code is Code.DONE


async def grant(scene: Scene, seconds: int, fence: int = 3) -> str:
    body = protocol.body(Hold(seconds=seconds))
    task = scene.task(Verb.HOLD, body, fence=fence)
    result, _ = await scene.answer(task, body)
    assert result.code is Code.DONE
    return task.id


async def up(stage: Stage) -> bool:
    return any(one.running for one in await stage.raw())


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_what_is_gone_is_brought_back_when_no_server_is_heard_of(
    scene: Scene, stage: Stage, bench: MemoryBench, how: str
) -> None:
    await deployed(scene, stage)
    await grant(scene, 3600)
    scene.channel.lose()
    await getattr(bench, how)(stage.id())
    await anyio.sleep(OFFLINE / 2)
    assert not await up(stage)
    await anyio.sleep(LONG)
    assert await up(stage)


async def test_nothing_is_held_without_a_grant(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await deployed(scene, stage)
    scene.channel.lose()
    await bench.stop(stage.id())
    await anyio.sleep(LONG)
    assert not await up(stage)


async def test_nothing_is_held_while_a_server_is_there(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await deployed(scene, stage)
    await grant(scene, 3600)
    await bench.stop(stage.id())
    await anyio.sleep(LONG)
    assert not await up(stage)


async def test_nothing_is_held_when_the_grant_is_over(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await deployed(scene, stage)
    await grant(scene, 60)
    scene.channel.lose()
    await anyio.sleep(61)
    await bench.stop(stage.id())
    await anyio.sleep(LONG)
    assert not await up(stage)


async def test_a_grant_of_nothing_takes_it_away(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await deployed(scene, stage)
    await grant(scene, 3600)
    await grant(scene, 0)
    scene.channel.lose()
    await bench.stop(stage.id())
    await anyio.sleep(LONG)
    assert not await up(stage)


async def test_a_target_that_was_taken_away_is_not_held(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await deployed(scene, stage)
    await grant(scene, 3600)
    scene.channel.say(Welcome(protocol=1, targets=(), kinds=("memory",)))
    await anyio.sleep(1)
    scene.channel.lose()
    await bench.stop(stage.id())
    await anyio.sleep(LONG)
    assert not await up(stage)


async def test_what_was_never_proven_is_not_held(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await grant(scene, 3600)
    scene.channel.lose()
    await anyio.sleep(LONG)
    assert await stage.raw() == ()


async def test_what_was_done_is_told_to_the_next_server(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await deployed(scene, stage)
    id = await grant(scene, 3600)
    scene.channel.lose()
    await bench.stop(stage.id())
    await anyio.sleep(LONG)
    other = MemoryChannel("https://two:8421")
    async with anyio.create_task_group() as group:
        group.start_soon(scene.agent.met, other, Welcome(protocol=1, targets=(scene.target.id,), kinds=("memory",)))
        found = await other.until(lambda frame: isinstance(frame, Answer))
        group.cancel_scope.cancel()
    other.close()
    assert isinstance(found, Answer)
    assert found.task.startswith(f"{id}/")
    assert receipt(found).outcomes[0].result is Result.CHANGED


async def test_a_grant_lasts_over_runs_and_no_longer_for_it(bench: MemoryBench, stage: Stage, tmp_path: Path) -> None:
    async with on(bench, tmp_path, clock=clock()) as scene:
        await deployed(scene, stage)
        await grant(scene, 300)
    await anyio.sleep(100)
    async with on(bench, tmp_path, clock=clock(), connected=False) as scene:
        span = scene.journal.holds[scene.target.id].span
        assert 199_000 <= scene.clock.left(span) <= 200_000
        await bench.stop(stage.id())
        await anyio.sleep(110)
        assert await up(stage)


def test_a_span_never_counts_backwards() -> None:
    now = [1000.0, 5000.0]
    one = Clock(since_boot=lambda: now[0], wall=lambda: now[1], boot_id="one")
    span = one.span(100)
    now[0] += 40
    assert one.left(span) == 60_000
    span = one.renewed(span)
    now[:] = [3.0, 4000.0]  # the machine was started anew, and its wall clock was set back
    other = Clock(since_boot=lambda: now[0], wall=lambda: now[1], boot_id="two")
    assert other.left(span) == 60_000
    now[1] = 5030.0
    assert other.left(span) == 30_000
    span = other.renewed(span)
    now[0] += 31
    assert other.left(span) == 0
