"""The process driver on real processes: deploying, going back, restarting, removing, and seeing what is so."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.health import CommandCheck, Health, TcpCheck
from desired_state.model import Placement, Volume
from desired_state.secrets import SecretFile, SecretRef
from drivers.contract import Deploy, Driver, Look, Narrator, Result, Stamp, Watcher
from drivers.errors import Busy, Conflict, InvalidAction, OutcomeUnknown, Refused, StaleFence
from drivers.oci import layout
from drivers.oci.credentials import Credentials
from drivers.oci.registry import Access, Registry
from drivers.process import host
from drivers.process.driver import ProcessDriver
from drivers.process.line import Line
from stickers.names import Artifact, SlotName
from stickers.observation import HealthState, Workload, WorkloadState
from stickers.sticker import Phase
from tests.drivers.process.far import HOST
from tests.drivers.process.yard import Yard, footing
from tests.harness import registry as harness
from tests.harness.apps import Character

TOKEN = SecretRef(reference="env:TOKEN")


def good(workload: Workload) -> bool:
    return workload.health.state is HealthState.HEALTHY


async def test_it_is_a_driver_that_watches_and_tells(yard: Yard) -> None:
    driver: Driver = yard.driver
    assert isinstance(driver, Watcher)
    assert isinstance(driver, Narrator)
    assert (driver.capabilities.events, driver.capabilities.logs, driver.capabilities.adopts) == (True, True, False)


# -- deploying ---------------------------------------------------------------------------------------------------------


async def test_a_first_deploy_runs_proven_and_labelled(yard: Yard) -> None:
    placement = yard.placement("1.0")
    outcome = await yard.deploy(placement)
    workload, sticker = await yard.workload(placement), await yard.worn()
    assert (outcome.result, outcome.instance) == (Result.CHANGED, workload.instance)
    assert (workload.artifact, workload.configuration) == placement.content
    assert (workload.state, workload.health.state) == (WorkloadState.RUNNING, HealthState.HEALTHY)
    assert (sticker.claim.content, sticker.phase, sticker.sequence) == (placement.content, Phase.PROVEN, 2)
    assert outcome.evidence is not None
    assert (outcome.evidence.instance, outcome.evidence.id) == (workload.instance, sticker.evidence)
    assert yard.serves() == "1.0"


async def test_a_second_deploy_of_the_same_touches_nothing(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    files, alive = yard.files(), yard.alive()
    outcome = await yard.deploy(placement)
    assert outcome.result is Result.UNCHANGED
    assert (yard.files(), yard.alive()) == (files, alive)


async def test_a_successor_on_a_fixed_port_takes_its_place(yard: Yard) -> None:
    first, second = yard.placement("1.0"), yard.placement("2.0")
    await yard.deploy(first)
    before = await yard.workload()
    outcome = await yard.deploy(second, first)
    assert (outcome.result, yard.serves()) == (Result.CHANGED, "2.0")
    assert yard.alive() == [outcome.instance]
    assert before.instance != outcome.instance
    standing = await yard.standing()
    assert standing is not None
    assert standing.kept == (first.content,)
    assert standing.debris == ()


async def test_the_time_without_a_listener_is_measured_and_said(yard: Yard) -> None:
    await yard.deploy(yard.placement("1.0"))
    assert not [line for line in yard.said if "without a listener" in line.message]
    await yard.deploy(yard.placement("2.0"), yard.placement("1.0"))
    (said,) = [line.message for line in yard.said if "without a listener" in line.message]
    found = re.fullmatch(r"[0-9]+:[0-9]+ took over after ([0-9]+) ms without a listener", said)
    assert found is not None
    assert 0 < int(found[1]) < 3000


async def test_another_configuration_of_the_same_artifact_is_another_content(yard: Yard) -> None:
    first = yard.placement("1.0")
    await yard.deploy(first)
    second = yard.placement("1.0", environment=(("COLOUR", "blue"), ("PORT", str(yard.port))))
    outcome = await yard.deploy(second, first)
    workload = await yard.workload(second)
    assert outcome.result is Result.CHANGED
    assert (workload.artifact, workload.configuration) == second.content


async def test_another_release_name_of_the_same_content_rewrites_the_sticker_alone(yard: Yard) -> None:
    first = yard.placement("1.0")
    await yard.deploy(first)
    alive = yard.alive()
    outcome = await yard.deploy(replace(first, release="shop@1.0.1"), first)  # type: ignore[arg-type]
    assert (outcome.result, yard.alive()) == (Result.LABELLED, alive)
    assert (await yard.worn()).claim.release == "shop@1.0.1"


async def test_the_images_own_command_is_used_where_none_is_declared(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    release = yard.place / os.readlink(yard.place / "current")
    assert json.loads((release / "specification.json").read_text())["command"][-1] == "app.py"
    assert placement.configuration.command is None


async def test_without_any_command_nothing_is_touched(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/data").write_text("no program")
    artifact = Artifact("registry.example.com/shop/web", layout.pack(tmp_path / "source", yard.images))
    placement = replace(yard.placement("1.0"), artifact=artifact)
    with pytest.raises(InvalidAction, match="no command is declared, and the image has none"):
        await yard.deploy(placement)
    assert await yard.standing() is None or (await yard.standing()).worn is None  # type: ignore[union-attr]


async def test_the_python_on_path_will_do(yard: Yard) -> None:
    connection = {name: value for name, value in yard.target.connection.items() if name != "python"}
    yard.target = replace(yard.target, connection=connection)
    assert (await yard.deploy(yard.placement("1.0"))).result is Result.CHANGED


async def test_bytes_may_come_from_a_tar_of_a_layout(yard: Yard, tmp_path: Path) -> None:
    placement = yard.placement("1.0")
    shutil.make_archive(str(tmp_path / "images-tar"), "tar", yard.images)
    yard.target = yard.target_at(yard.root, "web-1", artifacts=f"tar:{tmp_path / 'images-tar.tar'}")
    assert (await yard.deploy(placement)).result is Result.CHANGED


# the same name and password twice: as the secret holds them, and as htpasswd writes them (bcrypt, cost 4)
SHOP = "shop:s3cret:with:colons"
USERS = "shop:$2b$04$abcdefghijklmnopqrstuu/RcPheG5Bboq6i7MyIjQPaaSOeR71ra\n"


async def test_bytes_may_come_from_a_registry_that_asks_who_it_is(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(USERS)
    yard.secrets["env:REGISTRY"] = SHOP
    try:
        with harness.running_registry(tmp_path / "users") as address:
            placement = yard.placement("1.0", registry_credentials=SecretRef(reference="env:REGISTRY"))
            placement = replace(placement, artifact=replace(placement.artifact, repository=f"{address}/shop/web"))
            access = Access(credentials=Credentials.parse(SHOP))
            async with Registry(placement.artifact.repository, access) as registry:
                await registry.push(layout.directory(yard.images), placement.artifact.digest)
            yard.target = yard.target_at(yard.root, "web-1", artifacts="registry")
            assert (await yard.deploy(placement)).result is Result.CHANGED
    except harness.NoRegistry as reason:
        pytest.skip(str(reason))


async def test_going_back_needs_no_source_of_bytes(yard: Yard) -> None:
    first, second = yard.placement("1.0"), yard.placement("2.0")
    await yard.deploy(first)
    await yard.deploy(second, first)
    shutil.rmtree(yard.images)
    change = await yard.change(first, second)
    assert (await yard.send(change)).result is Result.CHANGED
    assert yard.serves() == "1.0"


async def test_bytes_that_cannot_be_had_leave_everything_as_it_was(yard: Yard) -> None:
    first, second = yard.placement("1.0"), yard.placement("2.0")
    await yard.deploy(first)
    shutil.rmtree(yard.images)
    sticker, alive = await yard.worn(), yard.alive()
    with pytest.raises(Refused):
        await yard.deploy(second, first)
    assert (await yard.worn(), yard.alive(), yard.serves()) == (sticker, alive, "1.0")


async def test_only_so_many_predecessors_are_kept(yard: Yard) -> None:
    placements = [yard.placement(f"{number}.0") for number in range(1, 5)]
    for before, placement in zip([None, *placements], placements, strict=False):
        await yard.send(await yard.change(placement, before, keep=1))
    standing = await yard.standing()
    assert standing is not None
    assert standing.kept == (placements[2].content,)


# -- a proof that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", [Character.BAD, Character.CRASH])
async def test_a_release_that_fails_its_proof_gives_way_to_its_predecessor(yard: Yard, character: Character) -> None:
    first = yard.placement("1.0")
    await yard.deploy(first)
    second = yard.placement("2.0", character)
    outcome = await yard.deploy(second, first)
    standing, sticker = await yard.standing(first), await yard.worn()
    assert (outcome.result, yard.serves()) == (Result.REVERTED, "1.0")
    assert standing is not None
    assert standing.workload is not None
    assert (standing.workload.artifact, standing.workload.configuration) == first.content
    assert (sticker.claim.content, sticker.phase) == (first.content, Phase.PROVEN)
    assert yard.alive() == [standing.workload.instance]
    assert (standing.kept, standing.debris) == ((), ())


async def test_a_first_release_that_fails_its_proof_leaves_nothing(yard: Yard) -> None:
    outcome = await yard.deploy(yard.placement("1.0", Character.BAD))
    assert (outcome.result, outcome.instance) == (Result.REVERTED, None)
    assert await yard.standing() is None
    assert yard.alive() == []


async def test_what_never_was_proven_is_put_back_and_not_labelled(yard: Yard) -> None:
    first = yard.placement("1.0")
    await yard.deploy(first)
    outcome = await yard.deploy(yard.placement("2.0", Character.BAD), None)
    standing = await yard.standing()
    assert (outcome.result, yard.serves()) == (Result.UNPROVEN, "1.0")
    assert standing is not None
    assert standing.worn is None


async def test_a_stopped_predecessor_is_put_back_stopped(yard: Yard) -> None:
    stopped = yard.placement("1.0", running=False)
    await yard.deploy(stopped)
    outcome = await yard.deploy(yard.placement("2.0", Character.BAD), stopped)
    assert (outcome.result, yard.alive()) == (Result.REVERTED, [])
    workload = await yard.workload()
    assert (workload.artifact, workload.configuration, workload.state) == (*stopped.content, WorkloadState.STOPPED)


async def test_half_a_deploy_that_stopped_the_predecessor_and_then_fails_goes_back_to_last_good(yard: Yard) -> None:
    """Somebody was killed after the old one had been stopped and the bad one had been started."""
    first, second = yard.placement("1.0"), yard.placement("2.0", Character.BAD)
    await yard.deploy(first)
    change = await yard.change(second, first)
    with anyio.CancelScope() as scope:

        def interrupt(line: Any) -> None:
            yard.said.append(line)
            if line.step == "prove":
                scope.cancel()

        await yard.driver.apply(yard.action(change, key="k" * 64), report=interrupt)
    assert (await yard.worn()).phase is Phase.IN_TRANSIT
    yard.kill((await yard.workload()).instance)
    outcome = await yard.send(replace(change, replaces=footing(await yard.standing())), key="k" * 64)
    assert not outcome.as_wanted
    assert yard.serves() == "1.0"


async def test_secrets_are_resolved_again_for_a_predecessor_whose_supervisor_is_gone(yard: Yard) -> None:
    yard.secrets["env:TOKEN"] = "hush"
    first = yard.placement("1.0", environment=(("PORT", str(yard.port)), ("TOKEN", TOKEN)))
    await yard.deploy(first)
    await yard.kill_supervisor()
    outcome = await yard.deploy(yard.placement("2.0", Character.BAD), first)
    assert (outcome.result, yard.serves()) == (Result.REVERTED, "1.0")


# -- beside ------------------------------------------------------------------------------------------------------------


async def test_without_a_fixed_port_the_successor_starts_beside(yard: Yard) -> None:
    first, second = yard.placement("1.0", floating=True), yard.placement("2.0", floating=True)
    await yard.deploy(first)
    before = await yard.workload(first)
    seen: list[list[str]] = []
    receipt = await yard.driver.apply(
        yard.action(await yard.change(second, first)), report=lambda _: seen.append(yard.alive())
    )
    assert receipt.outcomes[0].result is Result.CHANGED
    assert all(before.instance in alive for alive in seen[:-1])  # it served until the last but the sticker
    assert yard.alive() == [receipt.outcomes[0].instance]
    assert (await yard.workload(second)).health.state is HealthState.HEALTHY
    assert not [line for line in yard.said if "without a listener" in line.message]


async def test_beside_a_release_that_fails_its_proof_the_predecessor_never_noticed(yard: Yard) -> None:
    first = yard.placement("1.0", floating=True)
    await yard.deploy(first)
    alive = yard.alive()
    outcome = await yard.deploy(yard.placement("2.0", Character.BAD, floating=True), first)
    assert (outcome.result, yard.alive()) == (Result.REVERTED, alive)


# -- stopped, restarted, removed ---------------------------------------------------------------------------------------


async def test_declared_stopped_is_made_and_not_started(yard: Yard) -> None:
    stopped = yard.placement("1.0", running=False)
    assert (await yard.deploy(stopped)).result is Result.CHANGED
    workload = await yard.workload(stopped)
    assert (workload.artifact, workload.configuration, workload.state) == (*stopped.content, WorkloadState.STOPPED)
    assert yard.alive() == []
    assert (await yard.worn()).phase is Phase.PROVEN
    assert (await yard.deploy(replace(stopped, running=True), stopped)).result is Result.CHANGED
    assert yard.serves() == "1.0"


async def test_what_runs_and_is_declared_stopped_is_stopped(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    assert (await yard.deploy(replace(placement, running=False), placement)).result is Result.CHANGED
    assert (yard.alive(), (await yard.workload()).state) == ([], WorkloadState.STOPPED)


async def test_a_restart_changes_the_instance_and_nothing_else(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    before = await yard.workload()
    outcome = await yard.restart(placement)
    workload = await yard.workload(placement)
    assert (outcome.result, yard.alive()) == (Result.CHANGED, [workload.instance])
    assert workload.instance != before.instance
    assert (workload.artifact, workload.configuration) == placement.content


async def test_a_restart_under_a_key_that_has_restarted_is_not_another(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    await yard.restart(placement, key="r" * 64)
    alive = yard.alive()
    assert (await yard.restart(placement, key="r" * 64)).result is Result.UNCHANGED
    assert yard.alive() == alive


async def test_killed_by_hand_without_a_policy_it_is_stopped_and_a_restart_heals_it(yard: Yard) -> None:
    placement = yard.placement("1.0", restart="never")
    await yard.deploy(placement)
    yard.kill((await yard.workload()).instance)
    stopped = await yard.until(lambda workload: workload.exit_code == 137)
    assert stopped.state is WorkloadState.STOPPED
    assert (await yard.restart(placement)).result is Result.CHANGED
    assert yard.serves() == "1.0"


async def test_killed_by_hand_with_a_policy_the_supervisor_heals_it(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    before = await yard.workload()
    yard.kill(before.instance)
    healed = await yard.until(lambda workload: workload.instance != before.instance and good(workload), placement)
    assert healed.restarts == 1


async def test_after_its_supervisor_was_killed_a_restart_brings_the_secrets_again(yard: Yard) -> None:
    yard.secrets["env:TOKEN"] = "hush"
    placement = yard.placement("1.0", environment=(("PORT", str(yard.port)), ("TOKEN", TOKEN)))
    await yard.deploy(placement)
    await yard.kill_supervisor()
    assert (await yard.restart(placement)).result is Result.CHANGED
    assert b"TOKEN=hush" in yard.environment((await yard.workload()).instance)


async def test_a_removal_takes_everything_and_a_second_one_nothing(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    assert (await yard.remove(placement)).result is Result.CHANGED
    assert await yard.standing() is None
    assert (yard.alive(), (yard.place / "sticker.json").exists()) == ([], False)
    assert (await yard.remove(placement)).result is Result.UNCHANGED


def supervise(yard: Yard, directory: Path, program: str) -> None:
    (directory / "host.py").write_text(program)
    argv = [sys.executable, "-I", "-S", str(directory / "host.py"), "supervise", str(yard.place)]
    subprocess.run(argv, check=True)


async def test_a_supervisor_of_another_version_of_this_file_is_replaced_at_the_next_deploy(
    yard: Yard, tmp_path: Path
) -> None:
    """As after an upgrade: its workload goes on until the next deploy."""
    first, second = yard.placement("1.0"), yard.placement("2.0")
    await yard.deploy(replace(first, running=False))
    supervise(yard, tmp_path, HOST.read_text() + "\n# an older version\n")
    older = yard.state()["version"]
    await yard.deploy(second, first)
    assert yard.state()["version"] != older
    assert yard.serves() == "2.0"


# -- what is not done --------------------------------------------------------------------------------------------------


async def test_what_the_change_does_not_replace_is_a_conflict(yard: Yard) -> None:
    first, second = yard.placement("1.0"), yard.placement("2.0")
    planned = await yard.change(second)
    await yard.deploy(first)
    files, alive = yard.files(), yard.alive()
    with pytest.raises(Conflict):
        await yard.send(planned)
    assert (yard.files(), yard.alive()) == (files, alive)


async def test_a_lower_fence_is_stale_even_after_a_removal(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement, fence=5)
    await yard.remove(placement, fence=6)
    with pytest.raises(StaleFence):
        await yard.deploy(placement, fence=5)


async def test_a_placement_under_change_is_busy_for_another_driver(yard: Yard) -> None:
    placement = yard.placement("1.0")
    other = ProcessDriver(yard.tools)
    change = await yard.change(placement)
    refused: list[str] = []

    async with anyio.create_task_group() as group:

        async def interfere() -> None:
            with pytest.raises(Busy) as busy:
                await other.apply(yard.action(change), report=yard.said.append)
            refused.append(str(busy.value))

        def report(line: Any) -> None:
            if line.step == "mark":
                group.start_soon(interfere)

        await yard.driver.apply(yard.action(change), report=report)
    assert "another action holds" in refused[0]
    await other.aclose()


async def test_different_placements_of_one_target_change_together(yard: Yard) -> None:
    first = yard.placement("1.0", floating=True)
    second = replace(first, id=replace(first.id, slot=SlotName("canary")))
    changes = [await yard.change(first), await yard.change(second)]
    async with anyio.create_task_group() as group:
        for change in changes:
            group.start_soon(yard.send, change)
    found = (await yard.driver.observe([Look(target=yard.target, placements=(first, second))]))[yard.target.id]
    assert [(standing.slot, standing.workload.health.state) for standing in found.standings if standing.workload] == [
        ("canary", HealthState.HEALTHY),
        ("live", HealthState.HEALTHY),
    ]


async def test_what_would_not_be_enforced_is_refused_before_anything_is_touched(yard: Yard) -> None:
    placement = yard.placement("1.0", volumes=(Volume(source="/srv", destination="/data"),))
    with pytest.raises(InvalidAction, match="volumes are not of a plain host"):
        await yard.deploy(placement)
    assert not yard.root.exists()


async def test_what_it_did_not_start_it_does_not_adopt(yard: Yard) -> None:
    change = await yard.change(yard.placement("1.0"), adopts="123:456")
    with pytest.raises(InvalidAction, match="cannot take over what it did not start"):
        await yard.send(change)


async def test_secrets_that_cannot_be_resolved_leave_everything_as_it_was(yard: Yard) -> None:
    first = yard.placement("1.0")
    await yard.deploy(first)
    sticker, alive = await yard.worn(), yard.alive()
    second = yard.placement("2.0", environment=(("PORT", str(yard.port)), ("TOKEN", TOKEN)))
    with pytest.raises(Refused, match="env:TOKEN cannot be resolved"):
        await yard.deploy(second, first)
    assert (await yard.worn(), yard.alive()) == (sticker, alive)


async def test_a_root_that_is_anothers_is_refused_and_cannot_be_seen(yard: Yard) -> None:
    await yard.deploy(yard.placement("1.0"))
    intruder = yard.target_at(yard.root, "web-2")
    (found,) = (await yard.driver.observe([Look(target=intruder)])).values()
    assert found.unseen is not None
    assert "belongs to target default/web-1" in found.unseen
    files = yard.files()
    placement = yard.placement("1.0")
    placement = replace(placement, id=replace(placement.id, target=intruder.id))
    change = Deploy(placement=placement, replaces=None, stamp=Stamp(sequence=1, previous=None))
    with pytest.raises(Refused, match="belongs to target default/web-1"):
        await yard.driver.apply(replace(yard.action(change), target=intruder), report=yard.said.append)
    assert yard.files() == files


async def test_a_connection_that_makes_no_sense_is_unseen_and_invalid(yard: Yard) -> None:
    change = await yard.change(yard.placement("1.0"))
    yard.target = yard.target_at(yard.root, "web-1", address="nowhere")
    (found,) = (await yard.driver.observe([Look(target=yard.target)])).values()
    assert found.unseen is not None
    assert "address" in found.unseen
    with pytest.raises(InvalidAction, match="address"):
        await yard.send(change)


async def test_out_of_time_the_outcome_is_unknown_and_the_next_action_finishes(yard: Yard) -> None:
    first = yard.placement("1.0", Character.STUBBORN, stop_grace=timedelta(seconds=3))
    second = yard.placement("2.0")
    await yard.deploy(first)
    change = await yard.change(second, first)
    with pytest.raises(OutcomeUnknown):
        await yard.send(change, key="k" * 64, deadline=0.7)
    with pytest.raises(Busy, match="an earlier order is still being carried out"):
        await yard.deploy(first, first)
    assert (await yard.persist(change, key="k" * 64)).as_wanted
    assert (yard.serves(), yard.alive()) == ("2.0", [(await yard.workload()).instance])


async def test_no_secret_is_left_in_any_file_or_argument_of_a_host(yard: Yard) -> None:
    yard.secrets["env:TOKEN"] = "canary-5ecr3t"
    await yard.deploy(yard.placement("1.0", environment=(("PORT", str(yard.port)), ("TOKEN", TOKEN))))
    assert yard.says(b"canary-5ecr3t") == []
    assert not any("canary-5ecr3t" in line.message for line in yard.said)


def as_a_file(yard: Yard, version: str, **declared: Any) -> Placement:
    yard.secrets["env:TOKEN"] = "canary-5ecr3t"
    return yard.placement(version, secrets=(SecretFile(name="token", secret=TOKEN),), **declared)


def handed(yard: Yard, instance: str) -> Path:
    """The file in which the workload finds its secret."""
    variables = dict(line.split(b"=", 1) for line in yard.environment(instance).split(b"\0") if line)
    return Path(variables[b"CREDENTIALS_DIRECTORY"].decode(), "token")


async def test_a_secret_as_a_file_is_in_memory_alone_and_goes_with_its_release(yard: Yard) -> None:
    first, second = as_a_file(yard, "1.0"), as_a_file(yard, "2.0")
    before = handed(yard, str((await yard.deploy(first)).instance))
    assert (before.read_text(), before.stat().st_mode & 0o777) == ("canary-5ecr3t", 0o400)
    assert (await yard.deploy(first)).result is Result.UNCHANGED
    after = handed(yard, str((await yard.deploy(second, first)).instance))
    assert (after.read_text(), before.parent.exists()) == ("canary-5ecr3t", False)
    assert b"canary" not in yard.environment((await yard.workload()).instance)
    assert yard.says(b"canary-5ecr3t") == []
    await yard.remove(second)
    assert not after.parent.exists()


async def test_a_predecessor_finds_its_secret_in_a_file_again(yard: Yard) -> None:
    first = as_a_file(yard, "1.0")
    await yard.deploy(first)
    assert (await yard.deploy(yard.placement("2.0", Character.BAD), first)).result is Result.REVERTED
    assert handed(yard, (await yard.workload()).instance).read_text() == "canary-5ecr3t"


async def test_after_its_supervisor_was_killed_a_restart_brings_the_file_again(yard: Yard) -> None:
    placement = as_a_file(yard, "1.0")
    await yard.deploy(placement)
    await yard.kill_supervisor()
    assert (await yard.restart(placement)).result is Result.CHANGED
    assert handed(yard, (await yard.workload()).instance).read_text() == "canary-5ecr3t"


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"secrets": (SecretFile(name="token", secret=TOKEN, path="/etc/token"),)}, "token has the path /etc/token"),
        (
            {
                "secrets": (SecretFile(name="token", secret=TOKEN),),
                "environment": (("CREDENTIALS_DIRECTORY", "/x"),),
            },
            "environment CREDENTIALS_DIRECTORY",
        ),
    ],
)
async def test_what_a_file_cannot_be_is_refused_before_anything(
    yard: Yard, declared: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidAction, match=sentence):
        await yard.deploy(yard.placement("1.0", **declared))
    assert not yard.root.exists()


# -- seeing ------------------------------------------------------------------------------------------------------------


async def test_a_swap_by_hand_shows_beside_the_sticker(yard: Yard) -> None:
    first, second = yard.placement("1.0"), yard.placement("2.0")
    await yard.deploy(first)
    await yard.deploy(second, first)
    kept = next(
        path.name for path in (yard.place / "releases").iterdir() if path.name.startswith(first.content[0][7:19])
    )
    yard.swap(kept)
    workload, sticker = await yard.workload(), await yard.worn()
    assert (workload.artifact, workload.configuration) == first.content
    assert (sticker.claim.content, sticker.phase) == (second.content, Phase.PROVEN)
    assert (await yard.deploy(second, second)).result is Result.CHANGED
    assert yard.serves() == "2.0"


async def test_a_file_changed_by_hand_shows_and_a_deploy_repairs_it(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    (yard.place / "current/tree/version").write_text("9.9 good\n")
    workload = await yard.workload(placement)
    assert (workload.artifact, workload.differences) == (None, ("file version: found changed, wanted as unpacked",))
    assert (await yard.deploy(placement, placement)).result is Result.CHANGED
    assert ((await yard.workload()).artifact, yard.serves()) == (placement.content[0], "1.0")
    standing = await yard.standing()
    assert standing is not None
    assert standing.kept == ()


def impersonate(port: int) -> subprocess.Popen[bytes]:
    """Somebody else who answers 200 there, whatever is asked."""
    script = (
        "import http.server, sys\n"
        "class Yes(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "    def log_message(self, *_): pass\n"
        "server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Yes)\n"
        "print('up', flush=True); server.serve_forever()"
    )
    impostor = subprocess.Popen([sys.executable, "-S", "-c", script, str(port)], stdout=subprocess.PIPE)
    assert impostor.stdout is not None
    impostor.stdout.readline()
    return impostor


async def test_an_impostor_on_the_port_is_never_healthy(yard: Yard) -> None:
    placement = yard.placement("1.0", command=("sleep", "600"))
    with impersonate(yard.port) as impostor:
        outcome = await yard.deploy(placement)
        impostor.kill()
    assert outcome.result is Result.REVERTED
    assert f"port {yard.port} is not held by the workload's own processes" in outcome.detail


async def test_the_predecessor_that_still_holds_the_port_is_never_the_new_one(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    question = yard.health(yard.port)
    workload = await yard.workload(placement)
    assert workload.health.state is HealthState.HEALTHY
    sleeper = yard.placement("2.0", command=("sleep", "600"), health=None, floating=True)
    await yard.deploy(sleeper)  # beside, so that the first goes on until it is settled
    with socket.create_server(("127.0.0.1", yard.port)):
        found = await yard.workload(replace(sleeper, health=question))
    assert found.health.state is HealthState.UNHEALTHY
    assert found.health.detail == f"port {yard.port} is not held by the workload's own processes"


async def test_nobody_on_the_port_is_unhealthy(yard: Yard) -> None:
    sleeper = yard.placement("1.0", command=("sleep", "600"), health=None)
    await yard.deploy(sleeper)
    found = await yard.workload(replace(sleeper, health=yard.health(yard.port)))
    assert (found.health.state, found.health.detail) == (
        HealthState.UNHEALTHY,
        f"nothing listens on port {yard.port}",
    )


async def test_a_port_that_changes_hands_during_the_answer_proves_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    see = Line.see

    async def changed(self: Line, do: str, *where: Any, **fields: Any) -> dict[str, Any]:
        answer = await see(self, do, *where, **fields)
        return {"found": [{"who": "ours", "inodes": [1]}]} if do == "listens" else answer

    monkeypatch.setattr(Line, "see", changed)
    assert (await yard.workload(placement)).health.state is HealthState.UNHEALTHY


async def test_a_health_command_is_asked_inside_the_workload(yard: Yard) -> None:
    def declared(*argv: str) -> Health:
        return Health(check=CommandCheck(argv=argv), timeout=timedelta(seconds=5), interval=timedelta(milliseconds=50))

    placement = yard.placement("1.0", health=declared("test", "-f", "version"))
    assert (await yard.deploy(placement)).result is Result.CHANGED
    found = await yard.workload(replace(placement, health=declared("test", "-f", "nothing")))
    assert found.health.state is HealthState.UNHEALTHY
    assert found.health.detail == "command test -f nothing exits 0: exit code 1"


async def test_a_tcp_check_is_asked_of_the_workloads_own_port(yard: Yard) -> None:
    placement = yard.placement("1.0")
    placement = replace(placement, health=replace(yard.health(yard.port), check=TcpCheck(port=yard.port)))
    assert (await yard.deploy(placement)).result is Result.CHANGED
    assert (await yard.workload(placement)).health.state is HealthState.HEALTHY


async def test_last_good_that_fails_its_proof_gives_way_to_what_stood(yard: Yard) -> None:
    """A person swapped it; what was good once is not any more, and nothing better than the person's is known."""
    good = yard.placement("1.0", Character.BAD, health=None)
    await yard.deploy(good)
    other = yard.placement("2.0")
    await yard.deploy(other, good)
    wanted = replace(good, health=yard.health(yard.port, deadline=timedelta(seconds=0.5)))
    outcome = await yard.deploy(wanted, wanted)
    assert (outcome.result, yard.serves()) == (Result.UNPROVEN, "2.0")


async def test_what_was_stopped_and_fails_its_proof_is_left_as_it_is(yard: Yard) -> None:
    bad = yard.placement("1.0", Character.BAD, health=None)
    await yard.deploy(bad)
    wanted = replace(bad, health=yard.health(yard.port, deadline=timedelta(seconds=0.5)))
    outcome = await yard.send(await yard.change(wanted, wanted, anew=True))
    assert (outcome.result, len(yard.alive())) == (Result.UNPROVEN, 1)


async def test_what_is_unwell_is_made_anew_once(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    before = yard.alive()
    change = await yard.change(placement, placement, anew=True)
    assert (await yard.send(change, key="a" * 64)).result is Result.CHANGED
    assert yard.alive() != before
    again = yard.alive()
    assert (await yard.send(change, key="a" * 64)).result is Result.UNCHANGED
    assert yard.alive() == again


async def test_an_unchanged_target_is_seen_as_equal(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    look = Look(target=yard.target, placements=(placement,))
    assert await yard.driver.observe([look]) == await yard.driver.observe([look])


async def test_all_targets_are_seen_in_one_request(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    await yard.deploy(yard.placement("1.0"))
    asked: list[str] = []
    answer = host.Session.answer

    def counted(self: host.Session, request: Any) -> Any:
        asked.append(request["do"])
        return answer(self, request)

    monkeypatch.setattr(host.Session, "answer", counted)
    targets = [yard.target, *(yard.target_at(yard.root.parent / f"t{number}", f"t{number}") for number in range(20))]
    found = await yard.driver.observe([Look(target=target) for target in targets])
    assert (len(found), asked) == (21, ["look"])


async def test_one_target_that_cannot_be_seen_hides_no_other(yard: Yard) -> None:
    await yard.deploy(yard.placement("1.0"))
    (yard.root.parent / "file").write_text("no directory")
    broken = yard.target_at(yard.root.parent / "file", "web-2")
    found = await yard.driver.observe([Look(target=broken), Look(target=yard.target)])
    assert found[broken.id].unseen is not None
    assert found[yard.target.id].standings[0].workload is not None


UNLEASHED = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0); print('up', flush=True); time.sleep(600)"


async def test_what_outlives_its_supervisor_shows_and_is_replaced_under_a_new_one(yard: Yard) -> None:
    placement = yard.placement("1.0", command=(sys.executable, "-c", UNLEASHED), health=None)
    before = (await yard.deploy(placement)).instance
    await yard.until(lambda workload: (yard.place / "logs/output.log").exists())
    yard.kill(yard.state()["supervisor"])
    found = await yard.until(lambda workload: workload.configuration is None)
    assert (found.instance, found.state) == (before, WorkloadState.RUNNING)
    assert found.differences == ("supervisor: found nothing, wanted one",)
    outcome = await yard.deploy(placement, placement)
    assert outcome.result is Result.CHANGED
    assert outcome.instance != before
    await yard.until(lambda workload: yard.alive() == [outcome.instance])


async def test_an_unreadable_sticker_is_a_problem_and_not_a_sticker(yard: Yard) -> None:
    await yard.deploy(yard.placement("1.0"))
    (yard.place / "sticker.json").write_text("{}")
    standing = await yard.standing()
    assert standing is not None
    assert standing.worn is not None
    assert (standing.worn.envelope, standing.worn.problem) == (None, "not a sticker file: KeyError")


# -- watching and telling ----------------------------------------------------------------------------------------------


async def told(yard: Yard, happens: Callable[[], object]) -> float:
    """Seconds from what happens to the target until its watcher tells of it."""
    other = yard.target_at(yard.root.parent / "other", "web-2")
    with anyio.fail_after(30):
        async with aclosing(yard.driver.watch([other, yard.target])) as watched, anyio.create_task_group() as group:
            began: list[float] = []

            async def cause() -> None:
                await anyio.sleep(0.5)  # what went before has been noticed
                began.append(anyio.current_time())
                happens()

            group.start_soon(cause)
            async for target in watched:
                if began:
                    assert target == yard.target.id
                    return anyio.current_time() - began[0]
    raise AssertionError("the watch ended")


async def test_a_workload_killed_by_hand_is_told_within_a_second(yard: Yard) -> None:
    await yard.deploy(yard.placement("1.0", restart="never"))
    instance = (await yard.workload()).instance
    assert await told(yard, lambda: yard.kill(instance)) < 1


async def test_a_supervisor_killed_by_hand_is_told_within_a_second(yard: Yard) -> None:
    await yard.deploy(yard.placement("1.0"))
    instance = yard.state()["supervisor"]
    assert await told(yard, lambda: yard.kill(instance)) < 1


async def test_a_sticker_edited_by_hand_is_told_within_a_second(yard: Yard) -> None:
    await yard.deploy(yard.placement("1.0"))
    assert await told(yard, lambda: (yard.place / "sticker.json").write_text("{}")) < 1


async def test_a_log_is_told_from_its_tail_and_followed(yard: Yard) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    await yard.restart(placement)
    assert [line async for line in yard.driver.logs(yard.target, yard.id, tail=1, follow=False)] == ["shop 1.0 listens"]
    lines: list[str] = []
    with anyio.fail_after(30):
        async with aclosing(yard.driver.logs(yard.target, yard.id, tail=10, follow=True)) as followed:
            async for line in followed:
                lines.append(line)
                if len(lines) == 2:
                    await yard.restart(placement)
                if len(lines) == 3:
                    break
    assert lines == ["shop 1.0 listens"] * 3


async def test_nothing_was_printed_where_nothing_stands(yard: Yard) -> None:
    assert [line async for line in yard.driver.logs(yard.target, yard.id, tail=9, follow=False)] == []
