"""The kit through switchboard and agent, on plain hosts and on a real engine: some clauses of each kind, since the
drivers there are the ones that keep them all by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from drivers.conformance import Bench, Clause
from tests.drivers.agent.through import SAMPLE, between, check, paired
from tests.drivers.docker.test_conformance import DockerBench
from tests.drivers.process.test_conformance import ProcessBench

pytestmark = pytest.mark.anyio


@pytest.fixture
async def plain(root: Path, images: Path, tmp_path: Path) -> AsyncIterator[Any]:
    made = between(ProcessBench(root, images))
    try:
        async with paired(made.target, made.tools, tmp_path) as made.pair:
            yield made
    finally:
        made.close()


@pytest.fixture
async def engine_bench(docker_yard: Any, without_traffic: None, tmp_path: Path) -> AsyncIterator[Any]:
    made = between(DockerBench(docker_yard))
    async with paired(made.target, made.tools, tmp_path) as made.pair:
        yield made


@pytest.mark.parametrize("clause", SAMPLE, ids=str)
async def test_a_plain_host_keeps(plain: Bench, clause: Clause) -> None:
    await check(plain, clause)


@pytest.mark.parametrize("clause", SAMPLE, ids=str)
async def test_an_engine_keeps(engine_bench: Bench, clause: Clause) -> None:
    await check(engine_bench, clause)
