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
from drivers.conformance.clause import Clause
from drivers.contract import Driver, Tools
from drivers.memory import MemoryDriver
from drivers.registry import load
from tests.drivers.agent.scene import OWN, running
from tests.drivers.agent.wire import Authorises, Wire
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


LATE = "what is told of a step comes a moment after it, and what is seen then is of later"


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


OF_ANOTHER_KIND = {
    "a_sticker_is_in_transit_before_the_first_change": LATE,
    "a_sticker_is_proven_only_after_proof": LATE,
    "the_sticker_of_another_placement_is_not_believed": "a fence is one of the target here, not of a placement",
    "whoever_is_overtaken_changes_nothing_more": "one task at a time on a target: nobody is overtaken",
}


class TestMemoryThroughAnAgent(Conformance):
    @pytest.fixture(autouse=True)
    def _applies(self, clause: Clause) -> None:
        if clause.name in OF_ANOTHER_KIND:
            pytest.skip(OF_ANOTHER_KIND[clause.name])

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
