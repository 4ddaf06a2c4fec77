"""What a job, its allocations and its deployments say of a placement, read without an agent."""

from __future__ import annotations

from typing import Any

import pytest

from drivers.nomad import look, render
from drivers.nomad.look import Holder, Scene
from stickers import digest, names
from stickers.names import ComponentName, Digest, PlacementId
from stickers.observation import HealthState, WorkloadState
from tests.drivers.nomad import samples
from tests.drivers.nomad.samples import INSTALLATION, job, origin, outline, part, placement

WORKER = placement("worker").id


def version(number: int, found: render.Job) -> render.Job:
    return found | {"Version": number, "JobModifyIndex": number + 10}


def allocation(number: int, client: str = "running", **more: Any) -> dict[str, Any]:
    state = {"State": "running" if client == "running" else "dead", "StartedAt": "2026-01-02T03:04:05.123456789Z"}
    return {
        "ID": f"a{number}",
        "TaskGroup": "back",
        "JobVersion": number,
        "ClientStatus": client,
        "DesiredStatus": "run",
        "TaskStates": {"worker": state | more.pop("task", {})},
        "CreateIndex": number,
    } | more


def deployment(number: int, status: str = "running", **group: Any) -> dict[str, Any]:
    counts = {"DesiredTotal": 1, "HealthyAllocs": 0, "UnhealthyAllocs": 0, "DesiredCanaries": 0} | group
    return {"ID": f"d{number}", "JobVersion": number, "Status": status, "TaskGroups": {"back": counts}}


def scene(*allocations: dict[str, Any], deployments: tuple[Any, ...] = (), **changed: Any) -> Scene:
    """Version 0 has the worker; version 1 changed another component alone."""
    first = version(0, job(placement("worker")))
    second = version(1, job(placement("api"), found=first)) | changed
    return Scene(job=second, versions=(second, first), allocations=allocations, deployments=deployments)


def test_an_allocation_of_an_earlier_version_with_the_same_task_is_its_own() -> None:
    seen = look.workload(scene(allocation(0)), INSTALLATION, WORKER)
    assert seen is not None
    assert seen.state is WorkloadState.RUNNING
    assert (seen.artifact, seen.configuration) == placement("worker").content
    assert seen.started_at is not None
    assert seen.started_at.microsecond == 123456


def test_the_deployment_is_that_of_the_version_which_brought_the_task() -> None:
    """The latest is another component's, and its failure is no word on this one."""
    found = scene(allocation(0), deployments=(deployment(1, "failed"), deployment(0, "successful")))
    chosen = look.deployment(found, INSTALLATION, WORKER)
    assert chosen is not None
    assert chosen["ID"] == "d0"
    assert look.own_word(found, INSTALLATION, WORKER) is None


def test_what_came_back_has_the_deployment_of_its_return() -> None:
    first = version(0, job(placement("worker")))
    second = version(1, render.with_components(outline(), [placement("worker", "two")], origin("cd" * 32), first))
    third = version(2, first)
    back = Scene(job=third, versions=(third, second, first), deployments=(deployment(2), deployment(0, "successful")))
    chosen = look.deployment(back, INSTALLATION, WORKER)
    assert chosen is not None
    assert chosen["ID"] == "d2"


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (deployment(0, "failed"), HealthState.UNHEALTHY, "deployment failed"),
        (deployment(0, "paused"), HealthState.UNKNOWN, "deployment is paused"),
        (deployment(0), HealthState.UNKNOWN, "not all of 1"),
        (deployment(0, UnhealthyAllocs=1), HealthState.UNHEALTHY, "unhealthy"),
        (deployment(0, DesiredCanaries=1), HealthState.UNKNOWN, "waits for its canaries"),
    ],
)
def test_nomads_word_is_taken(found: Any, state: HealthState, words: str) -> None:
    said = look.own_word(scene(allocation(0), deployments=(found,)), INSTALLATION, WORKER)
    assert said is not None
    assert said.state is state
    assert words in said.detail


def test_canaries_that_nomad_promotes_itself_wait_for_nobody() -> None:
    found = deployment(0, DesiredCanaries=1, AutoPromote=True)
    assert not look.awaits_promotion(found, "back")
    assert look.awaits_promotion(deployment(0, DesiredCanaries=1), "back")
    assert not look.awaits_promotion(deployment(0, DesiredCanaries=1, Promoted=True), "back")


@pytest.mark.parametrize(
    ("allocations", "state"),
    [
        ((), WorkloadState.STARTING),
        ((allocation(0, "pending"),), WorkloadState.STARTING),
        ((allocation(0, "failed"),), WorkloadState.STOPPED),
        ((allocation(0, "failed", FollowupEvalID="e1"),), WorkloadState.STARTING),
        ((allocation(0, "running", task={"State": "pending", "Restarts": 2}),), WorkloadState.RESTARTING),
        ((allocation(0, "unknown"),), WorkloadState.STARTING),
        ((allocation(0, DesiredStatus="stop"),), WorkloadState.STARTING),
    ],
)
def test_how_allocations_run_is_the_state(allocations: tuple[Any, ...], state: WorkloadState) -> None:
    seen = look.workload(scene(*allocations), INSTALLATION, WORKER)
    assert seen is not None
    assert seen.state is state


def test_one_of_several_that_run_is_not_running() -> None:
    first = version(0, job(placement("api")))  # of which two are wanted
    one = allocation(0, TaskGroup="front", TaskStates={"api": {"State": "running"}})
    seen = look.workload(Scene(job=first, versions=(first,), allocations=(one,)), INSTALLATION, placement().id)
    assert seen is not None
    assert seen.state is WorkloadState.STARTING


def test_a_stopped_job_that_is_still_ending_runs() -> None:
    ending = scene(allocation(0, DesiredStatus="stop"), Stop=True)
    seen = look.workload(ending, INSTALLATION, WORKER)
    assert seen is not None
    assert seen.state is WorkloadState.RUNNING
    ended = scene(allocation(0, "complete", DesiredStatus="stop", task={"Events": _ended(143)}), Stop=True)
    seen = look.workload(ended, INSTALLATION, WORKER)
    assert seen is not None
    assert (seen.state, seen.exit_code) == (WorkloadState.STOPPED, 143)


def _ended(code: int) -> list[dict[str, Any]]:
    return [{"Type": "Started"}, {"Type": "Terminated", "ExitCode": code}]


def test_failed_allocations_count_as_restarts() -> None:
    seen = look.workload(scene(allocation(0, "failed"), allocation(0)), INSTALLATION, WORKER)
    assert seen is not None
    assert seen.restarts == 1


def test_a_job_of_another_installation_or_target_is_strange() -> None:
    found = version(0, job(placement("worker")))
    assert look.is_strange(found, names.InstallationId("other"), samples.TARGET)
    assert look.is_strange(found, INSTALLATION, names.target_id("shop", "other"))
    assert not look.is_strange(found, INSTALLATION, samples.TARGET)
    assert not look.is_strange(None, INSTALLATION, samples.TARGET)


def test_what_is_kept_can_be_had_again() -> None:
    here, gone = placement("worker").content, (Digest("sha256:" + "0" * 64), Digest("sha256:" + "1" * 64))
    first = version(0, job(placement("worker")))
    second = version(1, render.with_components(outline(), [placement("worker", "two")], origin("cd" * 32), first))
    held = Holder(index=5, items={look.KEPT: look.contents([here, gone])})
    found = Scene(job=second, versions=(second, first))
    assert look.standing(found, INSTALLATION, WORKER, held, None).kept == (here,)


def test_a_version_that_a_hand_has_changed_is_not_gone_back_to() -> None:
    first = version(0, job(placement("worker")))
    part(first, "worker").task["Env"] = {"MORE": "x"}
    found = Scene(job=first, versions=(first,))
    assert look.version_with(found, WORKER, INSTALLATION, placement("worker").content) is None


def test_the_path_of_a_sticker_fits_a_variable() -> None:
    long = PlacementId(samples.TARGET, ComponentName("c" * 63), names.SlotName("s" * 63))
    for id in (WORKER, long):
        path = look.path(INSTALLATION, id)
        assert len(path) <= look.LONGEST
    assert look.path(INSTALLATION, WORKER) != look.path(names.InstallationId("other"), WORKER)
    assert look.path(INSTALLATION, WORKER).endswith("/worker")
    assert digest.short(digest.of([INSTALLATION, samples.TARGET])) in look.path(INSTALLATION, WORKER)


@pytest.mark.parametrize("items", [{}, {"kept": "x"}, {"kept": "[1]", "fence": "many"}, {"format": "v9"}])
def test_a_variable_that_somebody_spoilt_is_read_as_far_as_it_goes(items: dict[str, str]) -> None:
    held = look.holder({"ModifyIndex": 3, "Items": items})
    assert (held.kept, held.fence, held.in_transit) == ((), 0, False)
    assert held.worn is not None
    assert held.worn.problem
