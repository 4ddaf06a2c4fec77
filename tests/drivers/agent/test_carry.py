"""Tasks through a channel, on the memory driver: carried out once, answered until somebody has heard it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from desired_state.model import Target
from drivers.agent import protocol
from drivers.agent.local import Make
from drivers.agent.protocol import Accepted, Code
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Receipt, Result
from drivers.memory import MemoryDriver
from tests.drivers.agent.scene import Scene, action, running
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


@pytest.fixture
def bench() -> MemoryBench:
    return MemoryBench()


@pytest.fixture
def stage(bench: MemoryBench) -> Stage:
    return Stage(bench)


def through_agent(target: Target) -> Target:
    return replace(target, connection={**target.connection, "via": "agent"})


def make(bench: MemoryBench) -> Make:
    return lambda kind, tools: MemoryDriver(replace(tools, now=virtual_time.now), bench.world)


@pytest.fixture
async def scene(bench: MemoryBench, tmp_path: Path) -> AsyncIterator[Scene]:
    async with running(tmp_path, through_agent(bench.target), make=make(bench)) as scene:
        yield scene


async def test_a_deploy_is_accepted_carried_out_and_answered(scene: Scene, stage: Stage) -> None:
    asked = action(scene.target, await stage.deploy(Wish()))
    task, body = scene.deploying(asked)
    result, answer = await scene.answer(task, body)
    receipt = protocol.read_body(Receipt, answer.body)
    assert (result.code, result.key, result.fence) == (Code.DONE, asked.key, 1)
    assert (receipt.key, receipt.outcomes[0].result) == (asked.key, Result.CHANGED)
    assert scene.channel.of(Accepted) == [Accepted(task=task.id)]
    assert [one.running for one in await stage.raw()] == [True]
