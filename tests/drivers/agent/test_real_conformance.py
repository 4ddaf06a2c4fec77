"""The same on real processes and containers: some clauses, and with HOLDFAST_KIT=all every one, which takes minutes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.agent.duty.clock import Clock
from drivers.conformance import Bench, Conformance, Power
from drivers.conformance.clause import Clause
from drivers.docker import hands
from tests.drivers.agent.through import Applies, ThroughAgent, served
from tests.drivers.docker.test_conformance import DockerBench
from tests.drivers.docker.yard import Yard
from tests.drivers.process.test_conformance import ProcessBench

ALL = bool(os.environ.get("HOLDFAST_KIT"))
SOME = frozenset({"twice_is_once", "a_crash_at_start_is_finished_beside"})


class ProcessThroughAgent(ThroughAgent, ProcessBench):  # type: ignore[misc]  # its driver is the agents
    pass


class DockerThroughAgent(ThroughAgent, DockerBench):
    pass


class OnRealRuntimes(Applies, Conformance):
    @pytest.fixture(autouse=True)
    def _is_among_some(self, clause: Clause) -> None:
        if not ALL and clause.name not in SOME:
            pytest.skip("HOLDFAST_KIT=all holds every clause")


class TestProcessThroughAnAgent(OnRealRuntimes):
    @pytest.fixture
    async def bench(self, root: Path, images: Path, tmp_path: Path) -> AsyncIterator[Bench]:
        bench = ProcessThroughAgent(root, images)
        try:
            async with served(bench, tmp_path / "state", Clock()):
                yield bench
        finally:
            bench.close()


class TestDockerThroughAnAgent(OnRealRuntimes):
    @pytest.fixture
    async def bench(
        self, docker_yard: Yard, clause: Clause, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Bench]:
        if Power.ANSWERS not in clause.needs:  # nobody asks the old one, so nobody has to be waited for
            monkeypatch.setattr(hands, "DRAIN", 0.0)
        bench = DockerThroughAgent(docker_yard)
        async with served(bench, tmp_path / "state", Clock()):
            yield bench
