"""Engines behind SSH: the driver keeps its contract through a real SSH server, whose host is this machine."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from desired_state.model import Target
from drivers.conformance import Bench, Clause
from drivers.conformance.mixin import checks
from drivers.contract import Driver, Grade, Look
from drivers.docker.connection import Connection
from drivers.docker.driver import DockerDriver
from drivers.secrets import file
from stickers.names import target_id
from tests.drivers.docker.test_conformance import DockerBench
from tests.drivers.docker.yard import Yard
from tests.harness.sshd import Relay, Sshd, free_port, relayed, sshd_or_skip

KEPT = (
    "a_deploy_on_an_empty_target_runs_and_labels",
    "twice_is_once",
    "a_replacement_leaves_one_workload",
    "a_fixed_port_is_handed_over",
    "a_stale_fence_changes_nothing",
    "a_failed_first_deploy_leaves_nothing",
    "a_cancellation_comes_through",
    "a_removal_leaves_nothing",
    "a_hand_change_is_told",
    "what_a_workload_prints_can_be_followed",
    "what_cannot_be_reached_is_unseen_and_holds_up_nobody",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd_or_skip() as started:
        yield started


class SshBench(DockerBench):
    """The engine that the bench's own hands reach here, and the driver only through the server."""

    def __init__(self, yard: Yard, server: Sshd) -> None:
        super().__init__(yard)
        self.server, self.tools = server, replace(self.tools, secret=file.read)
        self.drivers: list[DockerDriver] = []

    @property
    def target(self) -> Target:
        return replace(self.yard.target, connection=self.server.connection(engine=self.yard.engine))

    def unreachable(self) -> Target:
        nowhere = self.server.connection(engine=self.yard.engine, port=free_port())
        return replace(self.target, id=target_id("default", "far"), connection=nowhere)

    def driver(self) -> Driver:
        self.drivers.append(DockerDriver(self.tools))
        return self.drivers[-1]


@pytest.fixture
async def bench(yard: Yard, server: Sshd, without_traffic: None) -> AsyncIterator[SshBench]:
    bench = SshBench(yard, server)
    yield bench
    for driver in bench.drivers:
        await driver.aclose()


@pytest.mark.parametrize("clause", [clause for clause in checks() if str(clause) in KEPT], ids=str)
async def test_keeps(bench: Bench, clause: Clause) -> None:
    await clause.check(bench)


def test_every_clause_that_is_meant_is_there() -> None:
    assert {str(clause) for clause in checks()} >= set(KEPT)


@pytest.fixture
async def relay(server: Sshd) -> AsyncIterator[Relay]:
    async with relayed(server) as line:
        yield line


async def seen(driver: DockerDriver, target: Target) -> str | None:
    return (await driver.observe([Look(target=target)]))[target.id].unseen


@pytest.fixture
async def driver(yard: Yard) -> AsyncIterator[DockerDriver]:
    found = DockerDriver(replace(yard.tools, secret=file.read))
    yield found
    await found.aclose()


async def test_an_engine_is_seen_again_after_its_connection_was_cut(
    yard: Yard, relay: Relay, driver: DockerDriver
) -> None:
    target = replace(yard.target, connection=relay.connection(engine=yard.engine))
    assert await seen(driver, target) is None
    relay.cut()
    await asyncio.sleep(0.1)
    assert await seen(driver, target) is None
    assert relay.taken == 2


async def test_all_that_is_asked_goes_over_one_connection(yard: Yard, relay: Relay, driver: DockerDriver) -> None:
    targets = [
        replace(yard.target, id=target_id("default", f"t{number}"), connection=relay.connection(engine=engine))
        for number, engine in enumerate((yard.engine, yard.engine, "unix:///no/such.sock"))
    ]
    found = await driver.observe([Look(target=target) for target in targets])
    assert [found[target.id].unseen is None for target in targets] == [True, True, False]
    assert "/no/such.sock cannot be reached there" in str(found[targets[2].id].unseen)
    assert relay.taken == 1


async def test_why_a_host_is_not_spoken_to_is_said(yard: Yard, server: Sshd, driver: DockerDriver) -> None:
    wrong = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"
    target = replace(yard.target, connection=server.connection(engine=yard.engine, known_hosts=[wrong]))
    assert "the host key has changed: expected" in str(await seen(driver, target))


async def test_the_socket_is_ours_alone_and_goes_with_the_driver(
    yard: Yard, server: Sshd, driver: DockerDriver
) -> None:
    target = replace(yard.target, connection=server.connection(engine=yard.engine))
    assert await seen(driver, target) is None
    socket = Path(driver._host(target).engine.connection.engine.removeprefix("unix://"))
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    await driver.aclose()
    assert not socket.parent.exists()


async def test_the_doctor_asks_an_engine_behind_ssh_and_takes_its_room_for_nobody_elses(
    yard: Yard, server: Sshd, driver: DockerDriver
) -> None:
    target = replace(yard.target, connection=server.connection(engine=yard.engine))
    found = {one.about: one for one in await driver.examine(Look(target=target))}
    assert found["engine"].sentence.endswith("by way of ssh")
    assert (found["version"].grade, found["disk"].grade) == (Grade.OK, Grade.UNKNOWN)
    nowhere = replace(target, connection=server.connection(engine=yard.engine, port=free_port()))
    (lost,) = await driver.examine(Look(target=nowhere))
    assert (lost.about, lost.grade) == ("host", Grade.UNKNOWN)
    assert "the connection is refused" in lost.sentence


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"
REST: dict[str, Any] = {"agent": True, "known_hosts": [KEY]}


def test_one_word_says_via_user_host_and_port() -> None:
    long = {"via": "ssh", "user": "deploy", "host": "web-1", "port": 2222, "engine": "unix:///run/docker.sock", **REST}
    short = {"engine": "ssh://deploy@web-1:2222/run/docker.sock", **REST}
    assert Connection.model_validate(short) == Connection.model_validate(long)
    plain = Connection.model_validate({"engine": "ssh://deploy@[::1]", **REST})
    assert (plain.host, plain.engine) == ("::1", "unix:///var/run/docker.sock")
    assert Connection.model_validate(plain.model_dump(mode="json", exclude_defaults=True)) == plain


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"engine": "ssh://deploy@web-1", "agent": True}, "known_hosts or host_ca is needed"),
        ({"engine": "ssh://deploy@web-1", "host": "web-2", **REST}, "host is said twice"),
        ({"engine": "ssh://web-1", **REST}, "ssh://user@host"),
        ({"engine": "ssh://deploy:word@web-1", **REST}, "user"),
        ({"via": "ssh", "engine": "tcp://web-1:2376", "host": "web-1", "user": "deploy", **REST}, "unix:// socket"),
        ({"engine": "unix:///run/docker.sock", **REST}, "for via: ssh only"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Connection.model_validate(wrong)
