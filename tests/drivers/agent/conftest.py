"""An agent on a target in memory; and plain hosts and engines, as the tests of their drivers have them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.agent.duty.own import Reader
from drivers.conformance.stage import Stage
from tests.drivers.agent.memory import on
from tests.drivers.agent.scene import OWN, Scene
from tests.drivers.agent.server import Server
from tests.drivers.docker.conftest import engine, registry, stocked, without_traffic
from tests.drivers.docker.conftest import yard as docker_yard
from tests.drivers.docker.yard import Yard
from tests.drivers.memory_bench import MemoryBench
from tests.drivers.process.conftest import images, root
from tests.harness.engine import Engine

__all__ = ["docker_yard", "engine", "images", "registry", "root", "stocked", "without_traffic"]


@pytest.fixture
def bench() -> MemoryBench:
    return MemoryBench()


@pytest.fixture
def stage(bench: MemoryBench) -> Stage:
    return Stage(bench)


@pytest.fixture
def yard(own: Engine, registry: str) -> Iterator[Yard]:
    """On the engine of the module's own, with an agent's stickers believed."""
    yard = Yard(own.address, registry)
    yard.tools = replace(yard.tools, read=Reader(OWN))
    try:
        yield yard
    finally:
        yard.clear()


@pytest.fixture
async def server(yard: Yard, tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(yard.target.id, "docker", yard.tools.installation, tmp_path)
    async with server.listening():
        yield server


@pytest.fixture
async def scene(bench: MemoryBench, tmp_path: Path) -> AsyncIterator[Scene]:
    async with on(bench, tmp_path) as scene:
        yield scene
