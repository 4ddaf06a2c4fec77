"""The example of the documentation loads, and deploys as it stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from desired_state.load import load
from desired_state.model import DesiredState
from desired_state.sources.base import Tree
from drivers.contract import Action, Deploy, Look, Result, Stamp
from drivers.ecs.connection import Connection
from drivers.ecs.driver import EcsDriver
from stickers.names import ActionKey, EnvironmentId, JobId
from stickers.observation import HealthState
from tests.drivers.ecs import yard as yards
from tests.drivers.ecs.yard import Yard

EXAMPLE = Path(__file__).with_name("example.yaml")


def loaded() -> DesiredState:
    what = load(Tree(files={"fleet.yaml": EXAMPLE.read_bytes()}, revision="1"), {"ecs": Connection})
    assert [str(finding) for finding in what.findings] == []
    return what.environments[EnvironmentId("default/production")]


async def test_the_example_loads_and_deploys(yard: Yard) -> None:
    desired = loaded()
    assert {placement.id.component for placement in desired.placements} == {"api", "jobs"}
    said = {"cluster": yard.cluster, "endpoint": yard.ecs.endpoint, "credentials": yards.CREDENTIALS}
    target = replace(desired.targets[0], connection={**desired.targets[0].connection, **said})
    placements = tuple(replace(one, health=None) for one in desired.placements)
    action = Action(
        key=ActionKey("a" * 64),
        fence=1,
        environment=desired.environment.id,
        job=JobId("default/production:1"),
        revision="1",
        target=target,
        changes=tuple(
            Deploy(placement=one, replaces=None, stamp=Stamp(sequence=1, previous=None)) for one in placements
        ),
        deadline=timedelta(seconds=30),
    )
    driver = EcsDriver(yard.tools)
    receipt = await driver.apply(action, report=lambda progress: None)
    assert [outcome.result for outcome in receipt.outcomes] == [Result.CHANGED, Result.CHANGED]
    seen = (await driver.observe([Look(target=target, placements=placements)]))[target.id]
    await driver.aclose()
    assert set(yard.images) == {"app", "worker", "proxy"}
    assert [standing.component for standing in seen.standings] == ["api", "jobs"]
    api = seen.standings[0].workload
    assert api is not None
    assert (api.artifact, api.configuration) == placements[0].content
    assert api.health.state is HealthState.HEALTHY, "ECS asks the container itself"
