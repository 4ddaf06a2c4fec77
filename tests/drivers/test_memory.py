"""The memory driver keeps the contract, and its world misbehaves as it is told."""

from __future__ import annotations

import pytest

from drivers.conformance import Bench, Conformance
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


class TestMemory(Conformance):
    @pytest.fixture
    def bench(self) -> Bench:
        return MemoryBench()
