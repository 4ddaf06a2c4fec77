"""The nomad driver keeps the contract: on the contract server, replaced in place and with canaries, and on the agent at
NOMAD_ADDR where that is set, with images from the registry of the test run, which that agent's Docker must reach."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest

from drivers.conformance import Bench, Clause, Conformance, Power, Version, checks
from tests.drivers.nomad.bench import SOON, NomadBench, Site, artifact
from tests.drivers.nomad.server import Behaviour, Server
from tests.harness import images
from tests.harness import registry as registries

TWO_VERSIONS = {"a_replacement_leaves_one_workload", "as_many_predecessors_are_kept_as_was_said", "twice_is_once"}
CANARIES = [
    clause
    for clause in checks()
    if clause.needs & {Power.BESIDE, Power.ANSWERS} or clause.name.endswith("_beside") or clause.name in TWO_VERSIONS
]
APPS = {Version.ONE: images.ONE, Version.TWO: images.TWO, Version.THREE: images.THREE, Version.BAD: images.BAD}


class TestNomad(Conformance):
    @pytest.fixture
    def bench(self, server: Server) -> Bench:
        server.agent.behaviours[artifact(Version.BAD).digest] = Behaviour.SILENT
        return NomadBench(Site(address=server.address))


class TestNomadWithCanaries(Conformance):
    """What canaries change: whatever is proven, put back, cut off or asked while two versions run."""

    @pytest.fixture
    def bench(self, server: Server) -> Bench:
        server.agent.behaviours[artifact(Version.BAD).digest] = Behaviour.SILENT
        return NomadBench(Site(address=server.address, update=SOON | {"Canary": 1}))

    @pytest.mark.parametrize("clause", CANARIES, ids=str)
    async def test_keeps(self, bench: Bench, clause: Clause) -> None:
        await clause.check(bench)


class PatientBench(NomadBench):
    patience = timedelta(seconds=300)


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    try:
        with registries.given_or_running() as address:
            yield address
    except registries.NoRegistry as reason:
        pytest.skip(f"no registry: {reason}")


@pytest.mark.skipif("NOMAD_ADDR" not in os.environ, reason="NOMAD_ADDR is not set: no real Nomad agent to ask")
class TestRealNomad(Conformance):
    """With canaries or without is one more variable: NOMAD_CANARY=1."""

    @pytest.fixture
    def bench(self, registry: str) -> Iterator[Bench]:
        canaries = int(os.environ.get("NOMAD_CANARY", "0"))
        site = Site(
            address=os.environ["NOMAD_ADDR"],
            token=os.environ.get("NOMAD_TOKEN"),
            job=f"kit-{uuid.uuid4().hex[:8]}",
            artifacts={version: images.pushed(registry, app) for version, app in APPS.items()},
            update={"MinHealthyTime": 10**9, "HealthyDeadline": 60 * 10**9, "ProgressDeadline": 120 * 10**9}
            | {"HealthCheck": "task_states", "Canary": canaries},
            deadline=timedelta(seconds=20),
        )
        made = PatientBench(site)
        yield made
        made.clear()
