"""The nomad driver keeps the contract, on the contract server: groups replaced in their place, and with canaries."""

from __future__ import annotations

import pytest

from drivers.conformance import Bench, Conformance
from tests.drivers.nomad.bench import NomadBench
from tests.drivers.nomad.server import Server


class TestNomad(Conformance):
    @pytest.fixture
    def bench(self, server: Server) -> Bench:
        return NomadBench(server)
