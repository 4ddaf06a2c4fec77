"""What the ECS driver does beside the contract: rollouts, the circuit breaker, revisions, tags, templates."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from desired_state.model import RuntimeHealthcheck
from drivers.contract import Look, Progress, Result, Step
from drivers.ecs import checks, revisions
from drivers.errors import Conflict, DriverError, InvalidAction, OutcomeUnknown, Refused
from stickers.names import ComponentName, PlacementId, SlotName
from stickers.observation import HealthState, WorkloadState
from tests.drivers.ecs import yard as yards
from tests.drivers.ecs.fake import App, FakeEcs
from tests.drivers.ecs.stage import EcsStage
from tests.drivers.ecs.yard import Yard, artifact

API = ComponentName("api")


@pytest.fixture
async def stage(yard: Yard) -> AsyncIterator[EcsStage]:
    stage = EcsStage(yard)
    yield stage
    await stage.aclose()


# -- rollouts and the circuit breaker ---------------------------------------------------------------------------------


async def test_the_service_is_brought_to_an_exact_revision(stage: EcsStage, yard: Yard) -> None:
    await stage.deployed("one")
    (said,) = stage.calls("UpdateService")
    assert said["taskDefinition"] == yard.revisions_of(yard.family)[0]
    assert said["taskDefinition"].endswith(f"task-definition/{yard.family}:1")
    assert yard.images["api"] == str(artifact("one"))


async def test_a_rollout_is_waited_for_and_told(stage: EcsStage, yard: Yard) -> None:
    await stage.deployed("one")
    assert any("tasks run" in told for told in stage.told)
    assert yard.service.deployments[0].rollout == "COMPLETED"


async def test_a_rollout_on_its_way_is_seen_as_starting(stage: EcsStage, yard: Yard) -> None:
    await stage.deployed("one")
    yard.service.held = True
    yard.update(yard.service.deployments[0].definition, forceNewDeployment=True)
    assert (await stage.workload()).state is WorkloadState.STARTING


async def test_what_the_breaker_takes_back_is_reverted_and_says_why(ecs: FakeEcs) -> None:
    async with EcsStage(Yard(ecs, breaker=True)) as stage:
        one = await stage.deployed("one")
        begun = ecs.begun
        outcome = await stage.deploy("crashing", before=one)
        assert outcome.result is Result.REVERTED
        assert f"ECS's circuit breaker rolled back to {stage.yard.family}:1: tasks failed to start" in outcome.detail
        assert ecs.begun == begun + 2, "the deployment, and the rollback of ECS itself: none of ours beside it"
        await stage.stands(one)


async def test_the_breakers_own_rollback_is_told_and_is_no_drift(ecs: FakeEcs) -> None:
    async with EcsStage(Yard(ecs, breaker=True)) as stage:
        one = await stage.deployed("one")
        was = await stage.workload()
        stage.yard.swap("api", "crashing")
        found = await stage.until(lambda seen: bool(seen.differences) and seen.artifact == one.artifact.digest)
        assert (found.artifact, found.configuration) == one.content
        assert (found.instance, found.key) == (was.instance, was.key)
        await stage.until(lambda seen: seen.state is WorkloadState.RUNNING)
        assert (await stage.workload()).differences == (
            f"ECS's circuit breaker rolled back to {stage.yard.family}:1: tasks failed to start",
        )


async def test_what_ecs_gives_up_without_taking_it_back_is_put_back(ecs: FakeEcs) -> None:
    async with EcsStage(Yard(ecs, breaker=True)) as stage:
        stage.yard.service.takes_back = False
        one = await stage.deployed("one")
        outcome = await stage.deploy("crashing", before=one)
        assert outcome.result is Result.REVERTED
        assert f"ECS gave up the rollout of {stage.yard.family}:2" in outcome.detail
        await stage.stands(one)


async def test_a_rollout_that_never_ends_is_put_back(yard: Yard) -> None:
    async with EcsStage(yard, rollout=1) as stage:
        one = await stage.deployed("one")
        outcome = await stage.deploy("crashing", before=one)
        assert outcome.result is Result.REVERTED
        await stage.stands(one)


async def test_what_is_put_back_is_the_revision_that_stood(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    await stage.deploy("bad", before=one)
    assert yard.service.deployments[0].definition.endswith(":1")
    assert len(yard.revisions_of(yard.family)) == 2


async def test_a_lost_answer_is_an_unknown_outcome_and_nothing_is_begun_twice(stage: EcsStage, ecs: FakeEcs) -> None:
    one = await stage.deployed("one")
    action = stage.action(await stage.change("two", before=one))
    begun = ecs.begun
    ecs.dropped.append("UpdateService")
    with pytest.raises(OutcomeUnknown, match="UpdateService: nobody knows"):
        await stage.apply(action)
    receipt = await stage.apply(action)
    assert receipt.as_wanted
    assert ecs.begun == begun + 1


async def test_a_description_that_is_older_than_the_update_is_waited_out(stage: EcsStage, ecs: FakeEcs) -> None:
    one = await stage.deployed("one")
    ecs.lag = 3
    try:
        await stage.deployed("two", before=one)
    finally:
        ecs.lag = 0


async def test_what_was_begun_and_put_away_by_hand_is_begun_again(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    before = yard.service.deployments[0].definition
    action = stage.action(await stage.change("two", before=one))
    assert await stage.crash(action, Step.PROVE)
    yard.update(before)
    receipt = await stage.apply(action)
    assert receipt.as_wanted
    assert yard.images["api"] == str(artifact("two"))


async def test_what_the_breaker_took_back_while_we_were_gone_is_not_begun_again(ecs: FakeEcs) -> None:
    async with EcsStage(Yard(ecs, breaker=True)) as stage:
        one = await stage.deployed("one")
        action = stage.action(await stage.change("crashing", before=one))
        ecs.dropped.append("UpdateService")
        with pytest.raises(OutcomeUnknown):
            await stage.apply(action)
        await stage.until(lambda seen: bool(seen.differences))
        begun = ecs.begun
        outcome = (await stage.apply(action)).outcomes[0]
        assert (outcome.result, ecs.begun) == (Result.REVERTED, begun)
        await stage.stands(one)


async def test_a_removal_needs_no_template(stage: EcsStage, yard: Yard) -> None:
    removal = await stage.removal(await stage.deployed("one"))
    stage.connection = changed(yard, memry="1")
    assert (await stage.one(removal)).result is Result.CHANGED


async def test_whoever_changes_the_service_between_is_not_overwritten(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    action = stage.action(await stage.change("two", before=one))

    def meddle(progress: Any) -> None:
        if progress.step == "start" and yard.images["api"] == str(artifact("one")):
            yard.swap("api", "three")

    with pytest.raises(Conflict, match="was changed to"):
        await stage.driver.apply(action, report=meddle)
    assert yard.images["api"] == str(artifact("three"))


# -- revisions --------------------------------------------------------------------------------------------------------


async def test_equal_content_is_registered_once(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    two = await stage.deployed("two", before=one)
    await stage.begin_again()  # nothing is remembered
    await stage.deployed("one", before=two)
    assert len(yard.revisions_of(yard.family)) == 2
    assert yard.service.deployments[0].definition.endswith(":1")


async def test_equal_content_is_found_on_a_later_page(
    stage: EcsStage, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await stage.deployed("one")
    for version in ("two", "three"):
        one = await stage.deployed(version, before=one)
    monkeypatch.setattr(revisions, "PAGE", 1)
    await stage.begin_again()
    await stage.deployed("one", before=one)
    assert len(yard.revisions_of(yard.family)) == 3
    assert len(stage.calls("ListTaskDefinitions")) >= 3


async def test_a_copy_made_by_hand_is_not_believed(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    yard.swap("api", "one")  # the same image, and everything else might have been changed with it
    found = await stage.until(lambda seen: seen.configuration is None)
    assert found.artifact == one.artifact.digest
    assert found.differences == (f"{yard.family}:2 was not registered by us",)


async def test_what_was_swapped_by_hand_is_seen_as_what_it_runs(stage: EcsStage, yard: Yard) -> None:
    await stage.deployed("one")
    yard.swap("api", "two")
    assert (await stage.workload()).artifact == artifact("two").digest


async def test_what_runs_there_before_us_is_seen_and_put_back(yard: Yard, ecs: FakeEcs) -> None:
    image = str(artifact("three"))
    environment = [{"name": "PORT", "value": "8080"}]
    theirs = yard._register("theirs", [{"name": "api", "image": image, "environment": environment}])
    yard.update(theirs, desiredCount=2)
    async with EcsStage(yard) as stage:
        seen = await stage.until(lambda seen: seen.state is WorkloadState.RUNNING)
        assert (seen.artifact, seen.configuration, seen.key) == (artifact("three").digest, None, None)
        outcome = await stage.deploy("bad")
        assert outcome.result is Result.UNPROVEN
        assert yard.service.deployments[0].definition == theirs
        assert yard.service.desired == 2


# -- several containers -----------------------------------------------------------------------------------------------


async def test_a_task_runs_several_components_each_with_its_sticker(stage: EcsStage, yard: Yard) -> None:
    api, web = await stage.change("one"), await stage.change("two", component="web")
    receipt = await stage.apply(stage.action(api, web))
    assert receipt.as_wanted
    assert yard.images == {"api": str(artifact("one")), "web": str(artifact("two"))}
    await stage.stands(api.placement)
    await stage.stands(web.placement)


async def test_what_changes_together_is_one_rollout_and_is_all_marked_before_it(stage: EcsStage, yard: Yard) -> None:
    before = {component: await stage.deployed("one", component=component) for component in ("api", "web")}
    changes = [await stage.change("two", component=one, before=before[one]) for one in ("api", "web")]
    begun, phases = yard.ecs.begun, list[str]()

    def report(progress: Progress) -> None:
        if progress.step is Step.START and not phases:
            phases.extend(stage.phases("api", "web"))

    await stage.driver.apply(stage.action(*changes), report=report)
    assert yard.ecs.begun == begun + 1
    assert phases == ["in_transit", "in_transit"]
    for change in changes:
        await stage.stands(change.placement)


async def test_of_two_that_change_together_only_the_failed_one_is_put_back(stage: EcsStage, yard: Yard) -> None:
    api, web = await stage.deployed("one"), await stage.deployed("one", component="web")
    changes = [await stage.change("bad", before=api), await stage.change("two", component="web", before=web)]
    receipt = await stage.apply(stage.action(*changes))
    assert [outcome.result for outcome in receipt.outcomes] == [Result.REVERTED, Result.CHANGED]
    assert yard.images == {"api": str(artifact("one")), "web": str(artifact("two"))}
    await stage.stands(api)
    await stage.stands(changes[1].placement)


async def test_what_the_breaker_takes_back_is_reverted_for_all_that_changed_with_it(ecs: FakeEcs) -> None:
    async with EcsStage(Yard(ecs, breaker=True)) as stage:
        api, web = await stage.deployed("one"), await stage.deployed("one", component="web")
        changes = [await stage.change("crashing", before=api), await stage.change("two", component="web", before=web)]
        receipt = await stage.apply(stage.action(*changes))
        assert [outcome.result for outcome in receipt.outcomes] == [Result.REVERTED, Result.REVERTED]
        await stage.stands(api)
        await stage.stands(web)


async def test_a_lost_answer_of_several_changes_is_finished_by_one_rollout(stage: EcsStage, ecs: FakeEcs) -> None:
    action = stage.action(await stage.change("one"), await stage.change("one", component="web"))
    begun = ecs.begun
    ecs.dropped.append("UpdateService")
    with pytest.raises(OutcomeUnknown):
        await stage.apply(action)
    assert (await stage.apply(action)).as_wanted
    assert ecs.begun == begun + 1


async def test_a_crash_between_two_stickers_is_finished_without_another_rollout(stage: EcsStage, ecs: FakeEcs) -> None:
    changes = [await stage.change("one", component=one) for one in ("api", "web")]
    action = stage.action(*changes)
    assert await stage.crash(action, Step.STICKER, visit=2)
    assert stage.phases("api", "web") == ["proven", "in_transit"]
    begun = ecs.begun
    receipt = await stage.apply(action)
    assert [outcome.result for outcome in receipt.outcomes] == [Result.UNCHANGED, Result.CHANGED]
    assert ecs.begun == begun
    for change in changes:
        await stage.stands(change.placement)


async def test_a_component_that_does_not_change_keeps_container_instance_and_sticker(
    stage: EcsStage, yard: Yard
) -> None:
    api, web = await stage.deployed("one"), await stage.deployed("one", component="web")
    was, worn = await stage.workload("web"), await stage.worn("web")
    await stage.deployed("two", before=api)
    now = await stage.workload("web")
    assert (now.instance, now.key, await stage.worn("web")) == (was.instance, was.key, worn)
    assert yard.images == {"api": str(artifact("two")), "web": str(artifact("one"))}
    await stage.stands(web)


async def test_a_failed_component_is_put_back_beside_what_has_changed_since(stage: EcsStage, yard: Yard) -> None:
    api = await stage.deployed("one")
    await stage.deployed("two", component="web")
    outcome = await stage.deploy("bad", before=api)
    assert outcome.result is Result.REVERTED
    assert yard.images == {"api": str(artifact("one")), "web": str(artifact("two"))}


async def test_a_removed_component_leaves_the_others(stage: EcsStage, yard: Yard) -> None:
    api, web = await stage.deployed("one"), await stage.deployed("one", component="web")
    await stage.one(await stage.removal(api))
    assert set(yard.images) == {"web"}
    await stage.stands(web)
    assert not [key for key in yard.service.tags if ":api:" in key]


async def test_what_is_removed_together_is_one_rollout(stage: EcsStage, yard: Yard) -> None:
    placements = [await stage.deployed("one", component=component) for component in ("api", "web", "api-admin")]
    begun = yard.ecs.begun
    receipt = await stage.apply(stage.action(*[await stage.removal(one) for one in placements[:2]]))
    assert receipt.as_wanted
    assert yard.ecs.begun == begun + 1
    assert set(yard.images) == {"api-admin"}
    await stage.stands(placements[2])


async def test_what_is_restarted_together_is_one_rollout(stage: EcsStage, yard: Yard) -> None:
    placements = [await stage.deployed("one", component=component) for component in ("api", "web")]
    begun = yard.ecs.begun
    action = stage.action(*[await stage.restart(one) for one in placements])
    receipt = await stage.apply(action)
    assert receipt.as_wanted
    assert yard.ecs.begun == begun + 1
    for outcome, one in zip(receipt.outcomes, placements, strict=True):
        await stage.stands(one)
        found = await stage.workload(one.id.component)
        assert (found.instance, found.key) == (outcome.instance, action.key)


async def test_the_last_component_leaves_no_task_and_no_tag(stage: EcsStage, yard: Yard) -> None:
    yard.ecs.ask(lambda: yard.service.tags.update({"team": "shop"}))
    await stage.one(await stage.removal(await stage.deployed("one")))
    assert (yard.service.desired, yard.service.tags) == (0, {"team": "shop"})


async def test_one_container_of_a_task_cannot_be_stopped_alone(stage: EcsStage, yard: Yard) -> None:
    api = await stage.deployed("one")
    await stage.deployed("one", component="web")
    with pytest.raises(InvalidAction, match="containers of a task stop together"):
        await stage.deploy("one", before=api, running=False)
    assert yard.running == 1
    mixed = [await stage.change("one", running=True), await stage.change("one", component="web", running=False)]
    with pytest.raises(InvalidAction, match="containers of a task stop together"):
        await stage.apply(stage.action(*[replace(change, anew=True) for change in mixed]))
    changes = [await stage.change("one", component=one, running=False) for one in ("api", "web")]
    assert (await stage.apply(stage.action(*changes))).as_wanted
    assert yard.running == 0


async def test_as_many_tasks_run_again_as_were_stopped(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    yard.ecs.ask(lambda: setattr(yard.service, "desired", 3))
    await stage.until(lambda seen: yard.running == 3)
    await stage.deploy("one", before=one, running=False)
    assert yard.service.desired == 0
    await stage.deployed("one", before=one)
    assert yard.service.desired == 3


async def test_the_number_of_tasks_is_left_to_whoever_scales(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    await stage.deployed("two", before=one)
    assert [said.get("desiredCount") for said in stage.calls("UpdateService")] == [1, None]


# -- templates --------------------------------------------------------------------------------------------------------


def changed(yard: Yard, **fields: Any) -> dict[str, Any]:
    return {"task_definition": yard.connection["task_definition"] | fields}


async def test_a_changed_template_is_a_difference_and_is_brought_by_a_deploy(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    stage.connection = changed(yard, memory="2048")
    found = await stage.workload()
    assert found.configuration is None
    assert found.differences == (f"the template of the task has changed since {yard.family}:1 was registered",)
    await stage.deployed("one", before=one)
    assert yard.ecs.definitions[yard.service.deployments[0].definition]["memory"] == "2048"
    await stage.stands(one)


async def test_a_changed_template_of_a_container_is_named(stage: EcsStage, yard: Yard) -> None:
    await stage.deployed("one")
    stage.connection = changed(yard)
    stage.connection["task_definition"]["containerDefinitions"][0]["essential"] = True
    assert (await stage.workload()).differences == (
        f"the template of container api has changed since {yard.family}:1 was registered",
    )


async def test_what_fails_under_a_new_template_is_put_back_under_the_old_one(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    stage.connection = changed(yard, memory="2048")
    outcome = await stage.deploy("bad", before=one)
    assert outcome.result is Result.REVERTED
    assert yard.service.deployments[0].definition.endswith(":1")


async def test_a_template_may_stand_in_a_file(yard: Yard, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps(yard.connection["task_definition"]))
    async with EcsStage(yard, task_definition=None, task_definition_file=str(path)) as stage:
        await stage.stands(await stage.deployed("one"))
        path.write_text("{")
        with pytest.raises(InvalidAction, match=r"task.json: not JSON"):
            await stage.deploy("two")
        path.unlink()
        with pytest.raises(InvalidAction, match="No such file"):
            await stage.deploy("two")
        assert (await stage.workload()).artifact == artifact("one").digest, "what stands is seen all the same"


async def test_a_template_that_cannot_be_used_changes_nothing(stage: EcsStage, yard: Yard) -> None:
    calls = len(yard.ecs.calls)
    stage.connection = changed(yard, memry="1")
    with pytest.raises(InvalidAction, match=r"template of default/shop: memry is not .*; did you mean memory\?"):
        await stage.deploy("one")
    assert {name for name, _ in yard.ecs.calls[calls:]} <= {"DescribeServices", "DescribeTaskDefinition"}


async def test_health_that_cannot_be_asked_is_refused_before_anything_is_changed(stage: EcsStage, yard: Yard) -> None:
    stage.connection = changed(yard, networkMode="bridge")
    with pytest.raises(InvalidAction, match="health: tasks in networkMode bridge have no address of their own"):
        await stage.deploy("one")
    assert not yard.service.tags
    await stage.deployed("one", health=None)


async def test_what_ecs_would_not_enforce_is_refused_before_anything_is_asked(stage: EcsStage, yard: Yard) -> None:
    change = await stage.change("one")
    calls = len(yard.ecs.calls)
    green = replace(change.placement, id=PlacementId(change.id.target, API, SlotName("green")))
    for placement, because in (
        (green, "slot green"),
        (
            replace(change.placement, id=PlacementId(change.id.target, ComponentName("db"))),
            "no container of the target",
        ),
    ):
        with pytest.raises(InvalidAction, match=because):
            await stage.one(replace(change, placement=placement))
    assert len(yard.ecs.calls) == calls


# -- tags -------------------------------------------------------------------------------------------------------------


async def test_the_tags_of_three_components_fit_and_those_of_others_stay(stage: EcsStage, yard: Yard) -> None:
    theirs = {f"team-{index}": "shop" for index in range(12)}
    yard.ecs.ask(lambda: yard.service.tags.update(theirs))
    for component in ("api", "web", "api-admin"):
        await stage.deployed("one", component=component)
    assert theirs.items() <= yard.service.tags.items()
    assert len(yard.service.tags) < 50
    assert all(len(key) <= 128 and len(value) <= 256 for key, value in yard.service.tags.items())


async def test_a_service_with_too_many_tags_is_refused_before_it_is_changed(stage: EcsStage, yard: Yard) -> None:
    yard.ecs.ask(lambda: yard.service.tags.update({f"team-{index}": "shop" for index in range(45)}))
    with pytest.raises(Refused, match=r"would carry 5[0-9] tags, and ECS takes 50"):
        await stage.deploy("one")
    assert not stage.calls("UpdateService")
    assert len(yard.service.tags) == 45


async def test_chunks_of_a_longer_sticker_are_not_read_and_go_with_the_next(stage: EcsStage, yard: Yard) -> None:
    one = await stage.deployed("one")
    worn = await stage.worn()
    yard.ecs.ask(lambda: yard.service.tags.update({"holdfast:api:40": "40/41:left", "holdfast:api:41": "x"}))
    assert await stage.worn() == worn
    await stage.deployed("two", before=one)
    assert "holdfast:api:40" not in yard.service.tags
    assert "holdfast:api:41" not in yard.service.tags


async def test_a_service_belongs_to_one_target(stage: EcsStage, yard: Yard) -> None:
    await stage.deployed("one")
    other = yard.target("other")
    seen = (await stage.driver.observe([Look(target=other)]))[other.id]
    assert "belongs to another target or installation: conformance default/shop" in (seen.unseen or "")
    change = await stage.change("two")
    placement = replace(change.placement, id=PlacementId(other.id, API))
    action = replace(stage.action(replace(change, placement=placement)), target=other)
    with pytest.raises(Refused, match="belongs to another"):
        await stage.apply(action)


# -- health -----------------------------------------------------------------------------------------------------------


async def test_every_task_is_asked(stage: EcsStage, yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PAGE", 2)
    one = await stage.deployed("one")
    yard.ecs.ask(lambda: setattr(yard.service, "desired", 5))
    await stage.until(lambda seen: yard.running == 5)
    assert (await stage.workload(asked=one)).health.state is HealthState.HEALTHY
    assert len(stage.calls("DescribeTasks")[-3:]) == 3

    def fail() -> None:
        yard.service.tasks[3].servers[0].close()

    yard.ecs.ask(fail)
    found = (await stage.workload(asked=one)).health
    assert (found.state, found.detail) == (
        HealthState.UNHEALTHY,
        "http GET :8080/ answers 200: the connection is refused",
    )


async def test_a_container_that_ecs_finds_unwell_is_unwell(stage: EcsStage, yard: Yard) -> None:
    checked = replace(yard.configuration("api"), healthcheck=RuntimeHealthcheck(argv=("/check",)))
    one = await stage.deployed("one", configuration=checked, health=None)
    assert (await stage.workload()).health.state is HealthState.HEALTHY
    image = str(one.artifact)
    try:
        yard.ecs.apps[image] = App("one", health="UNHEALTHY")
        assert (await stage.workload(asked=one)).health.detail == "ECS: the container's own check fails"
        yard.ecs.apps[image] = App("one", health="UNKNOWN")
        assert (await stage.workload(asked=one)).health.state is HealthState.UNKNOWN
    finally:
        yard.ecs.apps[image] = yards.APPS["one"]


async def test_without_any_check_a_completed_rollout_is_the_proof(stage: EcsStage) -> None:
    one = await stage.deployed("one", health=None)
    assert (await stage.workload()).health.state is HealthState.UNCHECKED
    await stage.stands(one)


def test_a_task_without_an_address_of_its_own_is_not_asked() -> None:
    assert checks.address({"containers": [{"name": "api", "networkBindings": [{"hostPort": 1}]}]}, "api") is None


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_services_are_described_ten_at_a_time(stage: EcsStage, yard: Yard) -> None:
    for index in range(12):
        yard.stranger(str(index))
    targets = [yard.target(f"t{index}", service=f"shop-{index}") for index in range(12)]
    seen = await stage.driver.observe([Look(target=target) for target in targets])
    assert {id: found.unseen for id, found in seen.items()} == {target.id: None for target in targets}
    assert sorted(len(said["services"]) for said in stage.calls("DescribeServices")) == [2, 10]


async def test_a_service_that_is_not_there_is_unseen_beside_one_that_is(stage: EcsStage, yard: Yard) -> None:
    gone, there = yard.target("gone", service="shpo"), yard.target()
    seen = await stage.driver.observe([Look(target=gone), Look(target=there)])
    assert seen[gone.id].unseen == f"there is no service shpo of cluster {yard.cluster} in eu-central-1"
    assert seen[there.id].unseen is None


async def test_a_cluster_that_is_not_there_is_named(stage: EcsStage, yard: Yard) -> None:
    gone = yard.target("gone", cluster="nowhere")
    seen = (await stage.driver.observe([Look(target=gone)]))[gone.id]
    assert seen.unseen == "there is no cluster nowhere in eu-central-1 that these credentials can see"


@pytest.mark.parametrize(
    ("field", "value", "because"),
    [
        ("controller", "CODE_DEPLOY", "is deployed by CODE_DEPLOY, not by ECS itself"),
        ("status", "DRAINING", "is being deleted"),
        ("status", "INACTIVE", "there is no service"),
    ],
)
async def test_a_service_that_cannot_be_ours_says_why(
    stage: EcsStage, yard: Yard, field: str, value: str, because: str
) -> None:
    change = await stage.change("one")
    setattr(yard.service, field, value)
    with pytest.raises(DriverError, match=because):
        await stage.one(change)


async def test_a_connection_that_cannot_be_read_is_unseen(stage: EcsStage, yard: Yard) -> None:
    wrong = replace(yard.target(), connection={"cluster": "x"})
    assert "connection of default/shop: service" in (
        (await stage.driver.observe([Look(target=wrong)]))[wrong.id].unseen or ""
    )
