"""The nomad driver keeps the contract, on the contract server: groups replaced in their place, and with canaries."""

from __future__ import annotations

import pytest

from drivers.conformance import Bench, Clause, Conformance, Power, checks
from tests.drivers.nomad.bench import NomadBench
from tests.drivers.nomad.server import Server

TWO_VERSIONS = {"a_replacement_leaves_one_workload", "as_many_predecessors_are_kept_as_was_said", "twice_is_once"}
CANARIES = [
    clause
    for clause in checks()
    if clause.needs & {Power.BESIDE, Power.ANSWERS} or clause.name.endswith("_beside") or clause.name in TWO_VERSIONS
]


class TestNomad(Conformance):
    @pytest.fixture
    def bench(self, server: Server) -> Bench:
        return NomadBench(server)


class TestNomadWithCanaries(Conformance):
    """What canaries change: whatever is proven, put back, cut off or asked while two versions run."""

    @pytest.fixture
    def bench(self, server: Server) -> Bench:
        return NomadBench(server, Canary=1)

    @pytest.mark.parametrize("clause", CANARIES, ids=str)
    async def test_keeps(self, bench: Bench, clause: Clause) -> None:
        await clause.check(bench)
