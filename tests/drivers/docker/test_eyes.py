"""Looking at an engine again and again: little is asked, nothing that changes is missed, health is what is declared."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import anyio
import pytest

from desired_state.health import CommandCheck, TcpCheck
from desired_state.model import Placement, Port
from drivers.contract import Look
from drivers.docker import eyes
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine
from drivers.errors import Unreachable
from stickers.names import TargetId
from stickers.observation import HealthState, WorkloadState
from tests.drivers.docker.daemon import Daemon, elsewhere, health
from tests.drivers.docker.yard import Yard
from tests.harness import images

ALWAYS: Any = {"Name": "always", "MaximumRetryCount": 0}
UNLESS_STOPPED: Any = {"Name": "unless-stopped", "MaximumRetryCount": 0}

pytestmark = pytest.mark.usefixtures("without_traffic")


@dataclass
class Counting:
    """What an engine was asked."""

    asked: Counter[str] = field(default_factory=Counter)

    def engine(self, connection: Connection) -> Engine:
        return _CountingEngine(connection, self.asked)


class _CountingEngine(Engine):
    def __init__(self, connection: Connection, asked: Counter[str]) -> None:
        super().__init__(connection)
        self._counted = asked

    async def listing(self) -> bytes:
        self._counted["list"] += 1
        return await super().listing()

    async def container(self, id: str) -> Any:
        self._counted["inspect"] += 1
        return await super().container(id)

    async def image(self, reference: str) -> Any:
        self._counted["image"] += 1
        return await super().image(reference)

    async def run(self, id: str, argv: Any, within: float) -> int | None:
        self._counted["run"] += 1
        return await super().run(id, argv, within)


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
async def daemon(yard: Yard, counting: Counting) -> AsyncIterator[Daemon]:
    async with Daemon(yard, engines=counting.engine) as daemon:
        yield daemon


def unchecked(placement: Placement) -> Placement:
    return replace(placement, health=None)


async def test_an_unchanged_engine_costs_one_list_and_gives_an_equal_observation(
    daemon: Daemon, counting: Counting
) -> None:
    wanted = await daemon.deployed(unchecked(daemon.placement(images.ONE)))
    first = await daemon.observe(wanted)
    counting.asked.clear()
    again = [await daemon.observe(wanted) for _ in range(5)]
    assert counting.asked == {"list": 5}
    assert all(seen.standings == first.standings for seen in again)
    assert again[-1].at > first.at


async def test_only_what_changed_is_inspected(daemon: Daemon, yard: Yard, counting: Counting) -> None:
    wanted = [await daemon.deployed(unchecked(daemon.placement(images.ONE, name))) for name in ("api", "web")]
    await daemon.observe(*wanted)
    counting.asked.clear()
    yard.client.stop(yard.running(wanted[1].id)[0]["Id"], timeout=1)
    seen = await daemon.observe(*wanted)
    assert counting.asked["inspect"] == 1
    assert [one.workload.state for one in seen.standings if one.workload] == [
        WorkloadState.RUNNING,
        WorkloadState.STOPPED,
    ]


async def test_what_a_look_failed_to_see_is_seen_by_the_next(
    daemon: Daemon, yard: Yard, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await daemon.deployed(unchecked(daemon.placement(images.ONE)))
    await daemon.observe(wanted)
    yard.client.kill(yard.running()[0]["Id"])

    async def lost(*_: object) -> None:
        raise Unreachable("the engine does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(_CountingEngine, "container", lost)
        assert (await daemon.observe(wanted)).unseen is not None
    assert (await daemon.workload(wanted)).state is not WorkloadState.RUNNING


async def test_a_restart_between_two_looks_is_seen(daemon: Daemon, yard: Yard) -> None:
    wanted = await daemon.deployed(unchecked(daemon.placement(images.ONE)))
    before = await daemon.workload(wanted)
    yard.client.restart(before.instance, timeout=1)
    after = await daemon.workload(wanted)
    assert after.started_at != before.started_at


async def test_what_no_list_shows_is_seen_when_it_is_told_or_old(
    daemon: Daemon, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await daemon.deployed(unchecked(daemon.placement(images.ONE)))
    instance = (await daemon.workload(wanted)).instance
    yard.client.update_container(instance, restart_policy=ALWAYS)
    assert (await daemon.workload(wanted)).configuration is not None  # nothing has told of it
    daemon.driver._host(daemon.target).eyes.forget(instance)
    assert (await daemon.workload(wanted)).configuration is None
    yard.client.update_container(instance, restart_policy=UNLESS_STOPPED)
    monkeypatch.setattr(eyes, "AGE", 0.0)
    async with Daemon(yard) as fresh:
        assert (await fresh.workload(wanted)).configuration is not None
        yard.client.update_container(instance, restart_policy=ALWAYS)
        found = (await fresh.workload(wanted)).differences
    assert found == ("restart: found 'always', wanted 'unless-stopped'",)


async def test_what_was_seen_while_an_action_was_under_way_is_not_what_its_sticker_stands_beside(
    daemon: Daemon, yard: Yard
) -> None:
    """In the gap a container has another policy than its own, and no list shows that it has its own again."""
    wanted = await daemon.deployed(unchecked(daemon.placement(images.ONE)))
    instance = (await daemon.workload(wanted)).instance
    yard.client.update_container(instance, restart_policy=ALWAYS)
    async with Daemon(yard) as other:
        assert (await other.workload(wanted)).configuration is None
        yard.client.update_container(instance, restart_policy=UNLESS_STOPPED)
        yard.client.remove_container(yard.holders()[0]["Id"])
        assert (await other.workload(wanted)).configuration is not None


async def test_our_own_action_is_seen_at_the_next_look(daemon: Daemon, yard: Yard) -> None:
    """Limits that an action put right show in no list either."""
    wanted = await daemon.deployed(unchecked(daemon.placement(images.ONE)))
    yard.client.update_container((await daemon.workload(wanted)).instance, restart_policy=ALWAYS)
    daemon.driver._host(daemon.target).eyes.forget_target(daemon.target.id)
    assert (await daemon.workload(wanted)).configuration is None
    await daemon.deployed(wanted, wanted)
    assert (await daemon.workload(wanted)).configuration == wanted.configuration_digest


async def test_health_is_asked_as_it_is_declared_today(daemon: Daemon) -> None:
    wanted = await daemon.deployed(daemon.placement(images.ONE))
    states = []
    for port in (8080, 8081):
        declared = replace(wanted, health=health(TcpCheck(port=port)))
        states.append((await daemon.workload(declared)).health.state)
    states.append((await daemon.workload(unchecked(wanted))).health.state)
    assert states == [HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.UNCHECKED]


async def test_an_answer_is_good_for_its_interval_and_no_longer(daemon: Daemon, yard: Yard) -> None:
    rules = replace(health(TcpCheck(port=8080)), interval=timedelta(seconds=0.4))
    wanted = replace(await daemon.deployed(daemon.placement(images.ONE)), health=rules)
    first = (await daemon.workload(wanted)).health
    assert (await daemon.workload(wanted)).health.checked_at == first.checked_at
    await anyio.sleep(0.45)
    later = (await daemon.workload(wanted)).health
    assert later.checked_at != first.checked_at
    assert later == first


async def test_a_command_is_not_run_at_every_look(daemon: Daemon, counting: Counting) -> None:
    rules = health(CommandCheck(argv=("/bin/busybox", "true")))
    wanted = replace(await daemon.deployed(daemon.placement(images.ONE)), health=rules)
    counting.asked.clear()
    for _ in range(3):
        assert (await daemon.workload(wanted)).health.state is HealthState.HEALTHY
        await anyio.sleep(0.06)
    assert counting.asked["run"] == 1


async def test_what_does_not_run_is_not_asked(daemon: Daemon, yard: Yard) -> None:
    wanted = await daemon.deployed(daemon.placement(images.ONE))
    yard.client.stop(yard.running()[0]["Id"], timeout=1)
    seen = await daemon.workload(wanted)
    assert (seen.state, seen.health.state) == (WorkloadState.STOPPED, HealthState.UNCHECKED)


async def test_targets_of_one_engine_share_one_list(yard: Yard, counting: Counting) -> None:
    async with Daemon(yard, engines=counting.engine) as daemon:
        targets = [yard.target, elsewhere(yard, "second"), elsewhere(yard, "third")]
        seen = await daemon.driver.observe([Look(target=target) for target in targets])
    assert seen.keys() == {target.id for target in targets}
    assert counting.asked["list"] == 1


async def test_an_engine_that_is_away_takes_no_other_with_it(daemon: Daemon, yard: Yard) -> None:
    away = elsewhere(yard, "away", engine=f"unix:///tmp/holdfast-{yard.mark}.sock")
    seen = await daemon.driver.observe([Look(target=away), Look(target=yard.target)])
    assert seen[away.id].unseen is not None
    assert seen[yard.target.id].unseen is None


async def test_what_is_not_ours_is_listed_while_it_runs(daemon: Daemon, yard: Yard) -> None:
    artifact = yard.pulled(images.ONE)
    theirs = yard.stranger(f"theirs-{yard.mark}", str(artifact))
    found = [one for one in (await daemon.observe()).unmanaged if one.instance == theirs]
    assert [(one.name, one.state) for one in found] == [(f"theirs-{yard.mark}", WorkloadState.RUNNING)]
    assert artifact.digest in found[0].digests
    yard.client.stop(theirs, timeout=0)
    assert not [one for one in (await daemon.observe()).unmanaged if one.instance == theirs]


async def told(daemon: Daemon, happening: Any, *, within: float = 60) -> TargetId | None:
    """The first target the watcher tells of when that happens."""
    async with daemon.watching() as answer:
        await anyio.to_thread.run_sync(happening)
        return await answer(within)


class TestEvents:
    async def test_what_happens_to_ours_is_told(self, daemon: Daemon, yard: Yard) -> None:
        await daemon.observe(await daemon.deployed(daemon.placement(images.ONE)))  # a network's events name no target
        instance = yard.running()[0]["Id"]
        network, client = yard.network, yard.client
        for happening in (
            lambda: client.kill(instance),
            lambda: client.start(instance),
            lambda: client.update_container(instance, restart_policy=ALWAYS),
            lambda: client.disconnect_container_from_network(instance, network),
            lambda: client.remove_container(yard.holders()[0]["Id"]),
            lambda: client.remove_container(instance, force=True),
        ):
            assert await told(daemon, happening) == daemon.target.id

    async def test_a_told_change_is_seen_at_the_next_look(self, daemon: Daemon, yard: Yard) -> None:
        wanted = await daemon.deployed(unchecked(daemon.placement(images.ONE)))
        instance = (await daemon.workload(wanted)).instance
        await told(daemon, lambda: yard.client.update_container(instance, restart_policy=ALWAYS))
        assert (await daemon.workload(wanted)).configuration is None

    async def test_neither_strangers_nor_checks_inside_are_told(self, daemon: Daemon, yard: Yard) -> None:
        await daemon.deployed(daemon.placement(images.ONE))
        instance, image = yard.running()[0]["Id"], str(yard.pulled(images.ONE))

        def noise() -> None:
            yard.stranger(f"noise-{yard.mark}", image)
            yard.client.exec_start(yard.client.exec_create(instance, ["/bin/busybox", "true"])["Id"])

        assert await told(daemon, noise, within=1) is None

    async def test_an_adopted_container_is_told_of_too(self, daemon: Daemon, yard: Yard) -> None:
        wanted = unchecked(daemon.placement(images.ONE, ports=()))
        own = {"StopTimeout": 2, "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}}
        theirs = yard.stranger(f"theirs-{yard.mark}", str(yard.pulled(images.ONE)), **own)
        await daemon.deployed(wanted, adopts=theirs)
        await daemon.observe(wanted)
        assert await told(daemon, lambda: yard.client.kill(theirs)) == daemon.target.id

    async def test_a_watch_ends_at_once_when_it_is_left(self, daemon: Daemon) -> None:
        await daemon.observe()
        async with daemon.watching():
            began = time.monotonic()
        assert time.monotonic() - began < 2


async def test_an_adopted_container_comes_back_when_its_successor_fails(daemon: Daemon, yard: Yard) -> None:
    """It has no labels: what it is and how it restarts is known from the sticker's holder alone."""
    port = yard.free_port()
    wanted = daemon.placement(images.ONE, ports=(Port(container=8080, host=port),))
    bound = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
    own = {"StopTimeout": 2, "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}, "PortBindings": bound}}
    theirs = yard.stranger(f"theirs-{yard.mark}", str(yard.pulled(images.ONE)), ExposedPorts={"8080/tcp": {}}, **own)
    await daemon.deployed(wanted, adopts=theirs)
    bad = replace(daemon.placement(images.BAD, ports=wanted.configuration.ports), health=health(seconds=0.3))
    outcome = await daemon.deploy(bad, wanted)
    assert outcome.instance == theirs, outcome
    seen = await daemon.workload(wanted)
    assert (seen.instance, seen.configuration, seen.health.state) == (
        theirs,
        wanted.configuration_digest,
        HealthState.HEALTHY,
    )
    assert yard.client.inspect_container(theirs)["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
