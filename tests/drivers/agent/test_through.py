"""What lies between the driver of agents and an agent: the kit's clauses through the real switchboard, and what a server
that somebody has taken can do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from drivers.conformance import Bench, Clause, checks
from drivers.conformance.stage import Stage, Wish
from drivers.memory import MemoryDriver
from tests.drivers.agent.through import BESIDE_THE_AGENT, SAMPLE, SOME, between, check, paired
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Any]:
    made = between(MemoryBench())
    world = made.world
    async with paired(
        made.target, made.tools, tmp_path, lambda kind, tools: MemoryDriver(replace(tools, now=virtual_time.now), world)
    ) as made.pair:
        yield made


def test_what_is_left_out_and_what_is_tried_are_clauses() -> None:
    assert {one.name for one in checks()} >= set(BESIDE_THE_AGENT) | SOME


@pytest.mark.parametrize("clause", SAMPLE, ids=str)
async def test_memory_keeps(bench: Bench, clause: Clause) -> None:
    await check(bench, clause)


async def test_a_killed_agent_begins_again_with_its_journal(bench: Any) -> None:
    stage = Stage(bench)
    one = await stage.deployed(Wish())
    await bench.pair.kill()
    await anyio.sleep(1)
    await stage.must_stand(one)
