"""Containers through an agent, on a real engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drivers.agent import protocol
from drivers.agent.duty.own import Reader
from drivers.agent.protocol import Changed, Code, Said
from drivers.conformance import Version
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Progress, Receipt, Result, Step
from stickers.observation import HealthState, Observation, WorkloadState
from tests.drivers.agent.scene import OWN, action, running
from tests.drivers.docker.test_conformance import DockerBench
from tests.drivers.docker.yard import Yard


@pytest.fixture
def stage(docker_yard: Yard, without_traffic: None) -> Stage:
    docker_yard.tools = replace(docker_yard.tools, read=Reader(OWN))
    return Stage(DockerBench(docker_yard))


async def test_a_container_is_deployed_seen_replaced_and_told_of(stage: Stage, tmp_path: Path) -> None:
    near = stage.bench.target
    target = replace(near, connection={**near.connection, "via": "agent"})
    async with running(tmp_path, target, own=replace(OWN, installation=stage.bench.tools.installation)) as scene:
        one = stage.placement(Wish())
        result, answer = await scene.answer(*scene.deploying(action(target, await stage.deploy(Wish()))))
        assert result.code is Code.DONE, result.detail
        assert protocol.read_body(Receipt, answer.body).outcomes[0].result is Result.CHANGED
        assert result.metrics.health is not None

        asked = await scene.order(one)
        first = await scene.look(asked)
        workload = protocol.read_body(Observation, first.observation or "").standings[0].workload
        assert workload is not None
        assert (workload.state, workload.health.state) == (WorkloadState.RUNNING, HealthState.HEALTHY)
        assert (await scene.look(replace(asked, seen=first.digest))).observation is None

        two = action(target, await stage.deploy(Wish(version=Version.TWO), before=one), key="b", fence=2)
        result, _ = await scene.answer(*scene.deploying(two))
        assert result.code is Code.DONE, result.detail
        assert len([one for one in await stage.raw() if one.running]) == 1

        bad = Wish(version=Version.BAD)
        three = action(
            target, await stage.deploy(bad, before=stage.placement(Wish(version=Version.TWO))), key="c", fence=3
        )
        _, answer = await scene.answer(*scene.deploying(three))
        assert protocol.read_body(Receipt, answer.body).outcomes[0].result is Result.REVERTED
        lines = [protocol.from_plain(Progress, line) for said in scene.channel.of(Said) for line in said.lines]
        assert Step.PUT_BACK in [line.step for line in lines]

        before = len(scene.channel.of(Changed))
        await stage.bench.stop(stage.id())
        await scene.channel.until(lambda frame: len(scene.channel.of(Changed)) > before, within=20)
        await stage.aclose()
