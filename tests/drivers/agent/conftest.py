"""An agent on a target in memory; and plain hosts and engines, as the tests of their drivers have them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.conformance.stage import Stage
from tests.drivers.agent.memory import on
from tests.drivers.agent.scene import Scene
from tests.drivers.docker.conftest import engine, registry, stocked, without_traffic
from tests.drivers.docker.conftest import yard as docker_yard
from tests.drivers.memory_bench import MemoryBench
from tests.drivers.process.conftest import images, root

__all__ = ["docker_yard", "engine", "images", "registry", "root", "stocked", "without_traffic"]


@pytest.fixture
def bench() -> MemoryBench:
    return MemoryBench()


@pytest.fixture
def stage(bench: MemoryBench) -> Stage:
    return Stage(bench)


@pytest.fixture
async def scene(bench: MemoryBench, tmp_path: Path) -> AsyncIterator[Scene]:
    async with on(bench, tmp_path) as scene:
        yield scene
