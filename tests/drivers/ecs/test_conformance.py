"""The ECS driver keeps the contract, on a fake ECS of our own: no real one is asked here."""

from __future__ import annotations

import pytest

from drivers.conformance import Bench, Conformance
from tests.drivers.ecs.bench import EcsBench
from tests.drivers.ecs.yard import Yard


class TestEcs(Conformance):
    @pytest.fixture
    def bench(self, yard: Yard) -> Bench:
        return EcsBench(yard)
