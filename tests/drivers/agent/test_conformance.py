"""The contract of drivers is kept through an agent, from the driver of agents to the runtime on its host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.agent.duty.clock import Clock
from drivers.conformance import Bench, Conformance
from drivers.contract import Driver, Tools
from drivers.memory import MemoryDriver
from tests.drivers.agent.through import Applies, ThroughAgent, served
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


class MemoryThroughAgent(ThroughAgent, MemoryBench):
    def local(self, kind: str, tools: Tools) -> Driver:
        return MemoryDriver(replace(tools, now=self.tools.now), self.world)


class TestMemoryThroughAnAgent(Applies, Conformance):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        bench, time = MemoryThroughAgent(), asyncio.get_running_loop().time
        async with served(bench, tmp_path, Clock(since_boot=time, wall=time, boot_id="one"), bench.local):
            yield bench
