"""The contract of drivers is kept through an agent, from the driver of agents to the runtime on its host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from desired_state.model import Target
from drivers.agent.clock import Clock
from drivers.agent.driver import over_agents
from drivers.agent.own import Reader
from drivers.conformance import Bench, Conformance
from drivers.contract import Driver, Tools
from drivers.memory import MemoryDriver
from drivers.registry import load
from tests.drivers.agent.scene import OWN, running
from tests.drivers.agent.wire import Authorises, Wire
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


def agents(tools: Tools) -> Tools:
    """Whoever breaks things signs as the agent does, and reads what it has signed."""
    return replace(tools, installation=OWN.installation, sign=OWN.signer().sign, read=Reader(OWN))


class MemoryThroughAgent(MemoryBench):
    wire: Wire

    def __init__(self) -> None:
        super().__init__()
        self.tools, self._authorises = agents(self.tools), Authorises()

    @property
    def target(self) -> Target:
        return replace(super().target, connection={"via": "agent"})

    def driver(self) -> Driver:
        made: Driver = over_agents(load("memory"))(self.tools, self.wire, self._authorises)
        return made

    def local(self, kind: str, tools: Tools) -> Driver:
        return MemoryDriver(replace(tools, now=self.tools.now), self.world)


class TestMemoryThroughAnAgent(Conformance):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        bench, time = MemoryThroughAgent(), asyncio.get_running_loop().time
        welcome = {"targets": (bench.target.id, bench.unreachable().id)}
        clock = Clock(since_boot=time, wall=time, boot_id="one")
        async with running(tmp_path, bench.target, make=bench.local, welcome=welcome, clock=clock) as scene:
            bench.wire = Wire(scene)
            async with anyio.create_task_group() as group:
                group.start_soon(bench.wire.acknowledge)
                yield bench
                group.cancel_scope.cancel()
