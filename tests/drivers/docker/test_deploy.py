"""What is declared is what the engine runs, all of it; and what was changed by hand is seen and healed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import pytest

from desired_state.health import CommandCheck, HttpCheck, TcpCheck
from desired_state.model import Port, RestartPolicy, RuntimeHealthcheck, Volume
from desired_state.secrets import SecretRef
from drivers import probes
from drivers.contract import Result
from drivers.docker import render
from drivers.errors import Conflict, Refused
from stickers import digest
from stickers.names import Artifact
from stickers.observation import HealthState, WorkloadState
from tests.drivers.docker.daemon import Daemon, elsewhere, health
from tests.drivers.docker.yard import Container, Yard
from tests.harness import images
from tests.harness.images import App
from tests.harness.registry import running_registry

pytestmark = pytest.mark.usefixtures("without_traffic")

TOKEN = SecretRef(reference="env:TOKEN", version="1")
LOGIN = SecretRef(reference="env:LOGIN")


@pytest.fixture
async def daemon(yard: Yard) -> AsyncIterator[Daemon]:
    yard.tools = replace(yard.tools, secret=_secret)
    async with Daemon(yard) as daemon:
        yield daemon


async def _secret(reference: SecretRef) -> str:
    return {TOKEN: "t0ken\nwith lines", LOGIN: "shop:s3cret:with:colons"}[reference]


def everything(yard: Yard) -> dict[str, Any]:
    """A configuration that declares all there is."""
    return {
        "command": ("--busy",),
        "environment": (("LOG_LEVEL", "info"), ("TOKEN", TOKEN)),
        "ports": (Port(container=8080, host=yard.free_port()), Port(container=9090)),
        "volumes": (
            Volume(source=f"data-{yard.mark}", destination="/data"),
            Volume(source="/etc/hostname", destination="/host", read_only=True),
        ),
        "networks": (yard.network, f"{yard.network}-b"),
        "user": "0:0",
        "restart": RestartPolicy.ALWAYS,
        "memory": 64 << 20,
        "cpus": 500,
        "healthcheck": RuntimeHealthcheck(argv=("/bin/busybox", "true"), interval=timedelta(seconds=1)),
    }


async def test_all_that_is_declared_is_what_runs(daemon: Daemon, yard: Yard) -> None:
    wanted = daemon.placement(images.ONE, **everything(yard))
    outcome = await daemon.deploy(wanted)
    assert outcome.result is Result.CHANGED, outcome
    seen = await daemon.workload(wanted)
    assert ((seen.artifact, seen.configuration), seen.differences) == (wanted.content, ())
    (own,) = yard.running()
    assert own["Config"]["Cmd"] == ["--busy"]
    assert "TOKEN=t0ken\nwith lines" in own["Config"]["Env"]
    assert (own["HostConfig"]["Memory"], own["HostConfig"]["NanoCpus"], own["HostConfig"]["Init"]) == (
        64 << 20,
        500_000_000,
        True,
    )
    assert own["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert sorted(own["NetworkSettings"]["Networks"]) == [yard.network, f"{yard.network}-b"]
    check = HttpCheck(port=8080, path="/", body="one")
    answer = await probes.ask(check, "127.0.0.1", wanted.configuration.ports[0].host or 0, timedelta(seconds=5))
    assert answer.state is HealthState.HEALTHY, answer


async def test_no_secret_is_anywhere_but_in_the_environment_of_the_workload(daemon: Daemon, yard: Yard) -> None:
    wanted = daemon.placement(images.ONE, environment=(("TOKEN", TOKEN),))
    outcome = await daemon.deploy(wanted)
    told = [str(outcome), str(daemon.said), str(await daemon.observe(wanted))]
    for one in yard.containers():
        one["Config"].pop("Env")
        told.append(json.dumps(one))
    assert not any("t0ken" in text for text in told)


def _restarted_otherwise(yard: Yard, own: Container) -> None:
    yard.client.update_container(own["Id"], restart_policy={"Name": "always", "MaximumRetryCount": 0})


def _given_more_memory(yard: Yard, own: Container) -> None:
    yard.client.update_container(own["Id"], mem_limit=128 << 20)


def _taken_off_the_network(yard: Yard, own: Container) -> None:
    yard.client.disconnect_container_from_network(own["Id"], yard.network)


def _robbed_of_its_name(yard: Yard, own: Container) -> None:
    yard.client.disconnect_container_from_network(own["Id"], yard.network)
    yard.client.connect_container_to_network(own["Id"], yard.network)


def _made_again_with_another_value(yard: Yard, own: Container) -> None:
    yard.client.start(yard.remade(own, Env=["LOG_LEVEL=debug"]))


def _made_again_with_a_volume(yard: Yard, own: Container) -> None:
    yard.client.start(yard.remade(own, HostConfig=own["HostConfig"] | {"Tmpfs": {"/scratch": ""}}))


@pytest.mark.parametrize(
    ("hand", "where"),
    [
        (_restarted_otherwise, "restart"),
        (_given_more_memory, "memory"),
        (_taken_off_the_network, "networks"),
        (_robbed_of_its_name, "networks"),
        (_made_again_with_another_value, "environment.LOG_LEVEL"),
        (_made_again_with_a_volume, "volumes./scratch"),
    ],
)
async def test_what_a_hand_changed_is_seen_and_healed(
    daemon: Daemon, yard: Yard, hand: Callable[[Yard, Container], None], where: str
) -> None:
    words: dict[str, Any] = {"environment": (("LOG_LEVEL", "info"),), "memory": 64 << 20}
    wanted = await daemon.deployed(daemon.placement(images.ONE, **words))
    (own,) = yard.running()
    hand(yard, own)
    async with Daemon(yard) as fresh:  # without what was remembered of before the change
        seen = await fresh.workload(wanted)
        assert seen.configuration is None
        assert any(sentence.startswith(where) for sentence in seen.differences), seen.differences
        await fresh.deployed(wanted, wanted)
        assert (await fresh.workload(wanted)).configuration == wanted.configuration_digest
    assert len(yard.running()) == 1


async def test_a_version_that_is_swapped_by_hand_is_told_by_its_digest(daemon: Daemon, yard: Yard) -> None:
    wanted = await daemon.deployed(daemon.placement(images.ONE))
    (own,) = yard.running()
    two = yard.pulled(images.TWO)
    yard.client.start(yard.remade(own, Image=str(two)))
    seen = await daemon.workload(wanted)
    assert (seen.artifact, seen.configuration) == (two.digest, None)


class TestImages:
    async def test_a_digest_that_nobody_has_touches_nothing(self, daemon: Daemon, yard: Yard) -> None:
        one = await daemon.deployed(daemon.placement(images.ONE))
        nowhere = Artifact(one.artifact.repository, digest.of_bytes(b"never made"))
        before = [one["Id"] for one in yard.containers()]
        with pytest.raises(Refused, match="manifest unknown"):
            await daemon.deploy(replace(one, artifact=nowhere), one)
        assert [one["Id"] for one in yard.containers()] == before

    async def test_an_image_that_is_there_under_another_repository_is_not_taken_for_it(
        self, daemon: Daemon, yard: Yard
    ) -> None:
        there = yard.pulled(images.ONE)
        other = Artifact(f"{yard.registry}/test/{yard.mark}/other", there.digest)
        with pytest.raises(Refused):
            await daemon.deploy(replace(daemon.placement(images.ONE), artifact=other))
        images.pushed(yard.registry, images.ONE, f"test/{yard.mark}/other")
        await daemon.deployed(replace(daemon.placement(images.ONE), artifact=other))
        yard.client.remove_container(yard.running()[0]["Id"], force=True)

    async def test_credentials_are_resolved_for_the_pull_and_kept_nowhere(
        self, daemon: Daemon, yard: Yard, tmp_path: Path
    ) -> None:
        users = tmp_path / "users"
        users.write_text("shop:$2b$04$abcdefghijklmnopqrstuu/RcPheG5Bboq6i7MyIjQPaaSOeR71ra\n")
        with running_registry(users) as address:
            artifact = images.pushed(address, images.ONE, yard.repository, login="shop:s3cret:with:colons")
            closed = replace(daemon.placement(images.ONE), artifact=artifact)
            with pytest.raises(Refused) as refusal:
                await daemon.deploy(closed)
            assert "s3cret" not in str(refusal.value)
            open_ = replace(closed, configuration=replace(closed.configuration, registry_credentials=LOGIN))
            await daemon.deployed(open_)
        assert open_.configuration_digest == closed.configuration_digest
        assert not any("s3cret" in json.dumps(one) for one in yard.containers())

    async def test_what_is_collected_takes_its_image_along(self, daemon: Daemon, yard: Yard) -> None:
        first, second, third = (App(version=f"{number}-{yard.mark}") for number in (1, 2, 3))
        one = await daemon.deployed(daemon.placement(first), keep=0)
        two = await daemon.deployed(daemon.placement(second), one, keep=0)
        assert _has(yard, one.artifact)
        await daemon.deployed(daemon.placement(third), two, keep=0)
        assert [_has(yard, placement.artifact) for placement in (one, two)] == [False, True]

    async def test_an_image_that_failed_is_collected(self, daemon: Daemon, yard: Yard) -> None:
        one = await daemon.deployed(daemon.placement(images.ONE))
        app = App(version=f"bad-{yard.mark}", health=500)
        bad = replace(daemon.placement(app), health=health(seconds=0.3))
        assert (await daemon.deploy(bad, one)).result is Result.REVERTED
        assert not _has(yard, bad.artifact)

    async def test_an_image_that_somebody_else_uses_stays(self, daemon: Daemon, yard: Yard) -> None:
        apps = [App(version=f"{number}-{yard.mark}") for number in (1, 2)]
        one, two = (yard.pulled(app) for app in apps)
        yard.stranger(f"user-of-{yard.mark}", str(one))
        yard.client.tag(str(two), f"named-{yard.mark}", "kept")
        for app in apps:
            await daemon.remove(await daemon.deployed(daemon.placement(app)))
        assert [_has(yard, artifact) for artifact in (one, two)] == [True, True]
        yard.client.remove_image(f"named-{yard.mark}:kept")

    async def test_a_worn_sticker_keeps_the_image_when_the_workload_is_gone(self, daemon: Daemon, yard: Yard) -> None:
        """An image of this test alone: of one that others have named too, a name can be taken off at any time."""
        app = App(version=f"worn-{yard.mark}")
        one = await daemon.deployed(daemon.placement(app))
        yard.client.remove_container(yard.running()[0]["Id"], force=True)
        with pytest.raises(docker.errors.APIError, match="is using its referenced image"):
            yard.client.remove_image(str(one.artifact))
        yard.lose_source(app)
        await daemon.deployed(one, one)


def _has(yard: Yard, artifact: Artifact) -> bool:
    return any(str(artifact) in (image["RepoDigests"] or ()) for image in yard.client.images())


class TestHealth:
    async def test_the_containers_own_check_is_waited_for(self, daemon: Daemon, yard: Yard) -> None:
        check = RuntimeHealthcheck(argv=("/bin/busybox", "test", "-e", "/tmp/well"), interval=timedelta(seconds=1))
        app = App(version="slowly", before="(/bin/busybox sleep 1; /bin/busybox mkdir -p /tmp/well) &")
        wanted = replace(daemon.placement(app, healthcheck=check), health=None)
        await daemon.deployed(wanted)
        assert (await daemon.workload(wanted)).health.state is HealthState.HEALTHY

    async def test_the_containers_own_check_outweighs_the_declared_one(self, daemon: Daemon) -> None:
        check = RuntimeHealthcheck(argv=("/bin/busybox", "false"), interval=timedelta(milliseconds=100), retries=1)
        wanted = replace(daemon.placement(images.ONE, healthcheck=check), health=health(seconds=2))
        outcome = await daemon.deploy(wanted)
        assert outcome.result is Result.REVERTED
        assert "own health check" in outcome.detail

    @pytest.mark.parametrize(
        ("argv", "seconds", "state"),
        [
            (("/bin/busybox", "true"), 10, HealthState.HEALTHY),
            (("/bin/busybox", "false"), 10, HealthState.UNHEALTHY),
            (("/bin/busybox", "sleep", "9"), 0.3, HealthState.UNHEALTHY),
            (("/no/such/program",), 10, HealthState.UNHEALTHY),
        ],
    )
    async def test_a_command_is_run_inside(
        self, daemon: Daemon, argv: tuple[str, ...], seconds: float, state: HealthState
    ) -> None:
        wanted = await daemon.deployed(daemon.placement(images.ONE))
        asked = replace(health(CommandCheck(argv=argv)), timeout=timedelta(seconds=seconds))
        assert (await daemon.workload(replace(wanted, health=asked))).health.state is state

    async def test_a_port_is_asked_at_the_container_itself(self, daemon: Daemon) -> None:
        wanted = replace(daemon.placement(images.ONE), health=health(TcpCheck(port=8080)))
        await daemon.deployed(wanted)
        closed = replace(wanted, health=health(TcpCheck(port=8081)))
        assert (await daemon.workload(closed)).health.state is HealthState.UNHEALTHY

    async def test_a_published_port_is_asked_where_an_address_is_given(self, yard: Yard) -> None:
        async with Daemon(yard, target=elsewhere(yard, "far", address="127.0.0.1")) as daemon:
            wanted = daemon.placement(images.ONE, ports=(Port(container=8080),))
            await daemon.deployed(wanted)
            hidden = replace(wanted, health=health(HttpCheck(port=9999)))
            seen = (await daemon.workload(hidden)).health
        assert (seen.state, seen.detail) == (HealthState.UNKNOWN, "port 9999 is not published")

    async def test_an_answer_is_of_the_container_and_not_of_what_holds_its_port(
        self, daemon: Daemon, yard: Yard
    ) -> None:
        """An impostor answers on the host's port; the container itself is asked, and is not well."""
        port = yard.free_port()
        bad = replace(
            daemon.placement(images.BAD, ports=(Port(container=8080, host=port),)), health=health(seconds=0.5)
        )
        image = str(yard.pulled(images.ONE))
        bound = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
        yard.stranger(f"impostor-{yard.mark}", image, HostConfig={"PortBindings": bound}, ExposedPorts={"8080/tcp": {}})
        assert (await daemon.deploy(bad)).result is Result.REVERTED


class TestFailures:
    @pytest.mark.parametrize(
        ("app", "words"),
        [
            (images.CRASHING, "exited with code 3"),
            (App(version="gone", config={"Entrypoint": ["/no/such/program"]}), "exited with code 127"),
        ],
    )
    @pytest.mark.parametrize("fixed", [False, True])
    async def test_what_does_not_stay_up_is_undone(
        self, daemon: Daemon, yard: Yard, app: App, words: str, fixed: bool
    ) -> None:
        where: dict[str, Any] = {"restart": RestartPolicy.NEVER}
        if fixed:
            where["ports"] = (Port(container=8080, host=yard.free_port()),)
        one = await daemon.deployed(daemon.placement(images.ONE, **where))
        outcome = await daemon.deploy(daemon.placement(app, **where), one)
        assert outcome.result is Result.REVERTED, outcome
        assert words in outcome.detail
        assert [own["Config"]["Image"] for own in yard.running()] == [str(one.artifact)]
        assert (await daemon.workload(one)).configuration == one.configuration_digest

    async def test_a_crash_loop_is_undone(self, daemon: Daemon, yard: Yard) -> None:
        one = await daemon.deployed(daemon.placement(images.ONE))
        looping = replace(daemon.placement(images.CRASHING, restart=RestartPolicy.ALWAYS), health=health(seconds=4))
        assert (await daemon.deploy(looping, one)).result is Result.REVERTED
        assert len(yard.workloads()) == 1

    async def test_a_port_that_a_stranger_holds_puts_the_predecessor_back(self, daemon: Daemon, yard: Yard) -> None:
        ours, theirs = yard.free_port(), yard.free_port()
        one = await daemon.deployed(daemon.placement(images.ONE, ports=(Port(container=8080, host=ours),)))
        bound = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(theirs)}]}
        image = str(yard.pulled(images.ONE))
        yard.stranger(f"holds-{yard.mark}", image, HostConfig={"PortBindings": bound}, ExposedPorts={"8080/tcp": {}})
        ports = (Port(container=8080, host=ours), Port(container=9090, host=theirs))
        outcome = await daemon.deploy(daemon.placement(images.TWO, ports=ports), one)
        assert outcome.result is Result.REVERTED, outcome
        assert (await daemon.workload(one)).health.state is HealthState.HEALTHY

    async def test_a_restart_that_fails_is_unproven(self, daemon: Daemon, yard: Yard) -> None:
        once = App(version="once", before="[ -e /tmp/been ] && exit 4; /bin/busybox mkdir -p /tmp/been")
        wanted = await daemon.deployed(daemon.placement(once, restart=RestartPolicy.NEVER))
        outcome = await daemon.restart(wanted)
        assert outcome.result is Result.UNPROVEN
        assert "exited with code 4" in outcome.detail


class TestVolumesAndPolicies:
    async def test_a_volume_that_is_written_to_belongs_to_one_at_a_time_and_stays(
        self, daemon: Daemon, yard: Yard
    ) -> None:
        volume = (Volume(source=f"data-{yard.mark}", destination="/data"),)
        one = await daemon.deployed(daemon.placement(images.ONE, volumes=volume))
        yard.client.exec_start(
            yard.client.exec_create(yard.running()[0]["Id"], ["/bin/busybox", "mkdir", "/data/kept"])["Id"]
        )
        two = await daemon.deployed(daemon.placement(images.TWO, volumes=volume), one)
        old, new = sorted(yard.workloads(), key=lambda one: one["State"]["StartedAt"])
        assert old["State"]["FinishedAt"] <= new["State"]["StartedAt"]
        probe = replace(two, health=health(CommandCheck(argv=("/bin/busybox", "test", "-d", "/data/kept"))))
        assert (await daemon.workload(probe)).health.state is HealthState.HEALTHY

    @pytest.mark.parametrize("policy", [RestartPolicy.ALWAYS, RestartPolicy.ON_FAILURE, RestartPolicy.UNLESS_STOPPED])
    @pytest.mark.parametrize("fixed", [False, True])
    async def test_only_what_serves_comes_back_when_the_engine_restarts(
        self, daemon: Daemon, yard: Yard, policy: RestartPolicy, fixed: bool
    ) -> None:
        where: dict[str, Any] = {"ports": (Port(container=8080, host=yard.free_port()),)} if fixed else {}
        one = await daemon.deployed(daemon.placement(images.ONE, restart=policy, **where))
        await daemon.deployed(daemon.placement(images.TWO, restart=policy, **where), one)
        policies = {own["State"]["Running"]: own["HostConfig"]["RestartPolicy"]["Name"] for own in yard.workloads()}
        assert policies == {True: policy.value, False: "no"}

    async def test_what_was_put_back_has_its_policy_again(self, daemon: Daemon, yard: Yard) -> None:
        where: dict[str, Any] = {"ports": (Port(container=8080, host=yard.free_port()),)}
        one = await daemon.deployed(daemon.placement(images.ONE, restart=RestartPolicy.ON_FAILURE, **where))
        bad = replace(daemon.placement(images.BAD, **where), health=health(seconds=0.3))
        await daemon.deploy(bad, one)
        assert [own["HostConfig"]["RestartPolicy"]["Name"] for own in yard.running()] == ["on-failure"]


async def test_a_removal_leaves_neither_images_nor_nameless_volumes(daemon: Daemon, yard: Yard) -> None:
    app = App(version=f"caching-{yard.mark}", config={"Volumes": {"/cache": {}}})
    volumes = {volume["Name"] for volume in yard.client.volumes()["Volumes"] or ()}
    wanted = await daemon.deployed(daemon.placement(app))
    (own,) = yard.running()
    nameless = {mount["Name"] for mount in own["Mounts"]}
    assert nameless - volumes
    await daemon.remove(wanted)
    assert yard.containers() == []
    assert not _has(yard, wanted.artifact)
    assert not nameless & {volume["Name"] for volume in yard.client.volumes()["Volumes"] or ()}


async def test_two_targets_of_one_engine_are_not_each_others(daemon: Daemon, yard: Yard) -> None:
    await daemon.deployed(daemon.placement(images.ONE, ports=()))
    async with Daemon(yard, target=elsewhere(yard, "second")) as second:
        assert await second.standing() is None
        two = await second.deployed(second.placement(images.TWO, ports=()))
        seen = await second.observe(two)
        await second.remove(two)
    assert [one.component for one in seen.standings] == ["api"]
    assert not any(one.instance in {own["Id"] for own in yard.workloads()} for one in seen.unmanaged)
    assert [own["Config"]["Labels"][render.TARGET] for own in yard.running()] == [yard.target.id]


async def test_a_stopped_placement_is_started_by_its_own_container(daemon: Daemon, yard: Yard) -> None:
    stopped = replace(daemon.placement(images.ONE), running=False)
    await daemon.deployed(stopped)
    (made,) = yard.workloads()
    await daemon.deployed(replace(stopped, running=True), stopped)
    assert [own["Id"] for own in yard.running()] == [made["Id"]]
    assert (await daemon.workload(stopped)).state is WorkloadState.RUNNING


async def test_a_stranger_under_our_name_is_a_conflict(daemon: Daemon, yard: Yard) -> None:
    wanted = daemon.placement(images.ONE)
    action = daemon.action(await daemon.change(wanted))
    name = render.workload_name(yard.tools.installation, wanted.id, action.key)
    theirs = yard.stranger(name, str(yard.pulled(images.ONE)))
    with pytest.raises(Conflict, match="not ours"):
        await daemon.apply(action)
    assert [one["Id"] for one in yard.strangers()] == [theirs]
