"""An agent on the memory driver's world, in virtual time."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from desired_state.model import Target
from drivers.agent import protocol
from drivers.agent.duty.local import Make
from drivers.agent.protocol import Answer, Failure
from drivers.contract import Receipt
from drivers.memory import MemoryDriver
from tests.drivers.agent.scene import Scene, running
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time


def through_agent(target: Target) -> Target:
    return replace(target, connection={**target.connection, "via": "agent"})


def make(bench: MemoryBench) -> Make:
    return lambda kind, tools: MemoryDriver(replace(tools, now=virtual_time.now), bench.world)


def on(bench: MemoryBench, state: Path, **how: Any) -> AbstractAsyncContextManager[Scene]:
    """A run of the agent in this state directory."""
    return running(state, through_agent(bench.target), make=make(bench), **how)


def receipt(answer: Answer) -> Receipt:
    return protocol.read_body(Receipt, answer.body)


def failure(answer: Answer) -> Failure:
    return protocol.read_body(Failure, answer.body)
