"""What needs an engine that may be halted and restarted: TLS, reboots in the middle, an engine that hangs."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from desired_state.model import Port, RestartPolicy, Target
from drivers.contract import Result
from drivers.docker import driver as driver_module
from drivers.errors import Unreachable
from stickers.observation import WorkloadState
from tests.drivers.docker import certificates
from tests.drivers.docker.daemon import Daemon, elsewhere, health
from tests.drivers.docker.test_crashes import MOST, killed_at
from tests.drivers.docker.yard import PORTS, Yard
from tests.harness import images
from tests.harness.engine import Engine, NoEngine, running_engine

PORT = secrets.choice(PORTS)  # of the engine's TLS; other runs of these tests choose others


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("papers")
    certificates.write(directory)
    return directory


@pytest.fixture(scope="module")
def own(papers: Path) -> Iterator[Engine]:
    tls = [f"--tlscacert={papers}/ca.pem", f"--tlscert={papers}/engine.pem", f"--tlskey={papers}/engine-key.pem"]
    try:
        with running_engine(f"--host=tcp://127.0.0.1:{PORT}", "--tlsverify", *tls) as engine:
            yield engine
    except NoEngine as reason:
        pytest.skip(f"no Docker engine: {reason}")


@pytest.fixture
def yard(own: Engine, registry: str) -> Iterator[Yard]:
    yard = Yard(own.address, registry)
    try:
        yield yard
    finally:
        yard.clear()


class TestTls:
    async def test_an_engine_is_reached_by_its_certificate_and_ours(self, yard: Yard, papers: Path) -> None:
        async with Daemon(yard, target=_remote(yard, papers)) as daemon:
            one = await daemon.deployed(daemon.placement(images.ONE, ports=(Port(container=8080),)))
            two = await daemon.deployed(daemon.placement(images.TWO, ports=(Port(container=8080),)), one)
            assert (await daemon.workload(two)).configuration == two.configuration_digest
            await _must_tell(daemon, yard)

    async def test_whoever_has_no_certificate_of_ours_sees_nothing(
        self, yard: Yard, papers: Path, tmp_path: Path
    ) -> None:
        certificates.write(tmp_path)  # of another authority
        strange = {"cert": f"{tmp_path}/client.pem", "key": f"{tmp_path}/client-key.pem"}
        for tls in (strange, {"ca": f"{tmp_path}/ca.pem"}, {"key": f"{tmp_path}/missing.pem"}):
            async with Daemon(yard, target=_remote(yard, papers, **tls)) as daemon:
                seen = await daemon.observe()
                assert seen.unseen is not None
                assert seen.standings == ()


def _remote(yard: Yard, papers: Path, **tls: str) -> Target:
    own = {"ca": f"{papers}/ca.pem", "cert": f"{papers}/client.pem", "key": f"{papers}/client-key.pem"}
    return elsewhere(yard, "remote", engine=f"tcp://127.0.0.1:{PORT}", tls=own | tls)


async def _must_tell(daemon: Daemon, yard: Yard) -> None:
    async with daemon.watching() as answer:
        await anyio.to_thread.run_sync(yard.client.kill, yard.running(daemon.id())[0]["Id"])
        assert await answer(20) == daemon.target.id


@pytest.mark.parametrize("policy", [RestartPolicy.UNLESS_STOPPED, RestartPolicy.ALWAYS, RestartPolicy.ON_FAILURE])
async def test_a_reboot_in_the_gap_brings_back_the_one_that_was_proven(
    own: Engine, yard: Yard, policy: RestartPolicy, without_traffic: None
) -> None:
    """Killed with the old one stopped and the new one not started, and the host reboots: the old one serves, alone."""
    async with Daemon(yard) as daemon:
        ports = (Port(container=8080, host=yard.free_port()),)
        one = await daemon.deployed(daemon.placement(images.ONE, ports=ports, restart=policy))
        two = daemon.placement(images.TWO, ports=ports, restart=policy)
        action = daemon.action(await daemon.change(two, one))
        assert await killed_at(yard, action, _call_in_the_gap())
        assert yard.running() == []
        own.restart()
        assert await _running(yard) == [str(one.artifact)]
        assert (await daemon.apply(action)).result is Result.CHANGED
        assert await _running(yard) == [str(two.artifact)]
        own.restart()
        assert await _running(yard) == [str(two.artifact)], "what is kept came up beside what serves"
        seen = await daemon.workload(two)
        assert (seen.state, seen.configuration) == (WorkloadState.RUNNING, two.configuration_digest)


def _call_in_the_gap() -> int:
    """Of the changing calls: sticker made and removed, container made, policy set, old one stopped; then the start."""
    return 5


async def _running(yard: Yard) -> list[str]:
    """Images of what runs when the engine has started what it starts, and a moment later: whatever else comes up."""
    for _ in range(200):
        if yard.running():
            break
        await anyio.sleep(0.05)
    await anyio.sleep(0.3)
    return [one["Config"]["Image"] for one in yard.running()]


async def test_a_reboot_at_any_moment_leaves_one_that_serves(own: Engine, yard: Yard, without_traffic: None) -> None:
    async with Daemon(yard) as daemon:
        ports = (Port(container=8080, host=yard.free_port()),)
        here, there = (
            daemon.placement(app, ports=ports, restart=RestartPolicy.ALWAYS) for app in (images.ONE, images.TWO)
        )
        await daemon.deployed(here)
        for call in range(MOST):
            action = daemon.action(await daemon.change(there, here))
            died = await killed_at(yard, action, call)
            own.restart()
            assert len(await _running(yard)) == 1
            assert (await daemon.apply(action)).as_wanted
            assert [one["Config"]["Image"] for one in yard.running()] == [str(there.artifact)]
            here, there = there, here
            if not died:
                return
    raise AssertionError(f"never carried out in {MOST} calls")


async def test_a_reboot_while_what_stood_is_put_back_leaves_one_that_serves(
    own: Engine, yard: Yard, without_traffic: None
) -> None:
    """Killed on the way back, with the failed one stopped and the old one not started, and the host reboots."""
    async with Daemon(yard) as daemon:
        ports = (Port(container=8080, host=yard.free_port()),)
        one = await daemon.deployed(daemon.placement(images.ONE, ports=ports))
        bad = replace(daemon.placement(images.BAD, ports=ports), health=health(seconds=0.2))
        for call in (9, 10, 11):  # those around the end of the failed one and the start of the old
            action = daemon.action(await daemon.change(bad, one))
            assert await killed_at(yard, action, call)
            own.restart()
            assert len(await _running(yard)) == 1
            assert (await daemon.apply(action)).result is Result.REVERTED
            assert [own["Config"]["Image"] for own in yard.running()] == [str(one.artifact)]
            assert (await daemon.workload(one)).configuration == one.configuration_digest


async def test_an_engine_that_hangs_is_unseen_and_seen_again(
    own: Engine, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "WITHIN", 0.5)
    async with Daemon(yard) as daemon:
        one = await daemon.deployed(daemon.placement(images.ONE))
        own.send(signal.SIGSTOP)
        try:
            began = time.monotonic()
            seen = await daemon.observe(one)
            assert seen.unseen == "the engine did not answer within 0.5 s"
            assert time.monotonic() - began < 3
        finally:
            own.send(signal.SIGCONT)
        assert (await daemon.workload(one)).state is WorkloadState.RUNNING


async def test_an_engine_that_ends_ends_the_watch_and_is_found_again(own: Engine, yard: Yard) -> None:
    async with Daemon(yard) as daemon:
        one = await daemon.deployed(daemon.placement(images.ONE))
        with pytest.raises(ExceptionGroup) as ended, anyio.fail_after(20):
            async with daemon.watching():
                await anyio.to_thread.run_sync(own.stop)
                await anyio.sleep_forever()
        assert ended.group_contains(Unreachable)
        assert (await daemon.observe(one)).unseen is not None
        own.start()
        assert (await daemon.observe(one)).unseen is None
