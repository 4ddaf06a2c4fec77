"""Compose projects on a host behind a real SSH server: files and program there, the engine through the tunnel, and an
action that is cut off gone on with, nothing doubled."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.hooks import Hook, Hooks, Where
from desired_state.model import Target
from desired_state.secrets import SecretFile, SecretRef
from drivers.compose.driver import ComposeDriver
from drivers.conformance import Bench, Clause
from drivers.conformance.bench import Version
from drivers.conformance.mixin import checks
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Driver, Errand, Grade, Look, Progress, Result, Run, Step
from drivers.docker.files import IN_MEMORY, file_system
from drivers.process import journey
from drivers.secrets import file
from stickers.names import target_id
from tests.drivers.compose.bench import ComposeBench
from tests.drivers.compose.yard import Yard
from tests.drivers.process.conftest import oldest
from tests.harness.sshd import Relay, Sshd, free_port, relayed, sshd_or_skip

KEPT = (
    "a_deploy_on_an_empty_target_runs_and_labels",
    "twice_is_once",
    "a_replacement_leaves_one_workload",
    "an_action_of_several_changes_answers_each",
    "a_stale_fence_changes_nothing",
    "a_failed_proof_puts_the_predecessor_back_in_place",
    "a_removal_leaves_nothing",
    "what_cannot_be_reached_is_unseen_and_holds_up_nobody",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd_or_skip() as started:
        yield started


@pytest.fixture
async def relay(server: Sshd) -> AsyncIterator[Relay]:
    async with relayed(server) as line:
        yield line


class FarBench(ComposeBench):
    """Its own hands work here, and the driver only through the server."""

    def __init__(self, yard: Yard, way: Sshd | Relay) -> None:
        super().__init__(yard)
        self.way, self.tools = way, replace(self.tools, secret=file.read)
        self.drivers: list[ComposeDriver] = []
        self.said: dict[str, Any] = {}

    @property
    def target(self) -> Target:
        plain = super().target
        return replace(plain, connection={**plain.connection, **self.way.connection(**self.said)})

    def unreachable(self) -> Target:
        nowhere = {**self.target.connection, "port": free_port()}
        return replace(self.target, id=target_id("default", "far"), connection=nowhere)

    def driver(self) -> Driver:
        self.drivers.append(ComposeDriver(self.tools))
        return self.drivers[-1]


@pytest.fixture
async def bench(yard: Yard, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FarBench]:
    monkeypatch.setattr(journey, "PAUSE", 0.05)
    bench = FarBench(yard, relay)
    yield bench
    for driver in bench.drivers:
        await driver.aclose()


@pytest.mark.parametrize("clause", [clause for clause in checks() if str(clause) in KEPT], ids=str)
async def test_keeps(bench: Bench, clause: Clause) -> None:
    await clause.check(bench)


def test_every_clause_that_is_meant_is_there() -> None:
    assert {str(clause) for clause in checks()} >= set(KEPT)


@pytest.mark.parametrize("program", ["first"], indirect=True)
async def test_version_one_is_run_there_too(bench: FarBench) -> None:
    stage = Stage(bench)
    wish = Wish()
    await stage.deployed(wish)
    await stage.must_stand(stage.placement(wish))


async def test_a_secret_as_a_file_is_kept_in_the_memory_of_the_host(
    bench: FarBench, yard: Yard, tmp_path: Path
) -> None:
    memory = Path(f"/dev/shm/holdfast-{yard.mark}")
    if file_system(str(memory), Path("/proc/self/mounts").read_text()) not in IN_MEMORY:
        pytest.skip("/dev/shm is not in memory here")
    (tmp_path / "secret").write_text("c4nary")
    yard.memory, stage = str(memory), Stage(bench)
    try:
        change = await stage.deploy(Wish())
        token = SecretFile(name="token", secret=SecretRef(reference=f"file:{tmp_path}/secret"))
        configuration = replace(change.placement.configuration, secrets=(token,))
        outcome = await stage.one(replace(change, placement=replace(change.placement, configuration=configuration)))
        assert outcome.result is Result.CHANGED, outcome.detail
        (own,) = yard.running()
        made = yard.client.exec_create(own["Id"], ["/bin/busybox", "cat", token.inside])
        assert yard.client.exec_start(made["Id"]) == b"c4nary"
    finally:
        await stage.aclose()
        shutil.rmtree(memory, ignore_errors=True)


class Calls:
    """A compose program in front of the real one, which remembers how often it began and ended something."""

    def __init__(self, yard: Yard, directory: Path, seconds: float = 0.0) -> None:
        self.begun, self.ended = directory / "begun", directory / "ended"
        path, real = directory / "compose", yard.program
        noted = f'echo "$*" >> {self.begun}; {real} "$@"; code=$?; sleep {seconds}; echo x >> {self.ended}; exit $code'
        path.write_text(f'#!/bin/sh\ncase "$*" in *version*) exec {real} "$@";; *) {noted};; esac\n')
        path.chmod(0o700)
        yard.program = str(path)

    async def there(self) -> None:
        for _ in range(1000):
            if self.begun.exists():
                return
            await anyio.sleep(0.02)
        raise AssertionError("compose was not begun")


async def test_compose_goes_on_when_the_connection_is_cut_and_nobody_acts_beside_it(
    bench: FarBench, relay: Relay, tmp_path: Path
) -> None:
    calls = Calls(bench.yard, tmp_path, seconds=1.5)
    stage = Stage(bench)
    wish = Wish()
    action = stage.action(await stage.deploy(wish))
    said: list[Progress] = []
    receipts = []

    async def deploy() -> None:
        receipts.append(await stage.driver.apply(action, report=said.append))

    async with anyio.create_task_group() as group:
        group.start_soon(deploy)
        await calls.there()
        relay.cut()
        await anyio.sleep(0.5)
        assert not calls.ended.exists()  # it goes on there, and nobody has begun another meanwhile
        assert len(calls.begun.read_text().splitlines()) == 1
    assert receipts[0].as_wanted
    assert "compose, begun before, ended with exit code 0" in [one.message for one in said]
    assert len(await stage.raw()) == 1
    await stage.must_stand(stage.placement(wish))


@pytest.mark.parametrize("step", [Step.PREPARE, Step.MARK, Step.START, Step.PROVE, Step.SETTLE, Step.STICKER])
async def test_a_cut_at_any_step_is_gone_on_from(bench: FarBench, relay: Relay, step: Step) -> None:
    stage = Stage(bench)
    before = await stage.deployed(Wish(version=Version.ONE))
    wish = Wish(version=Version.TWO)
    action = stage.action(await stage.deploy(wish, before=before))
    taken = relay.taken
    cut = False

    def report(progress: Progress) -> None:
        nonlocal cut
        if not cut and progress.step is step:
            cut = True
            relay.cut()

    receipt = await stage.driver.apply(action, report=report)
    assert cut
    assert relay.taken > taken
    assert receipt.as_wanted, receipt.outcomes
    await stage.must_stand(stage.placement(wish))
    assert [raw.key for raw in await stage.raw()] == [action.key]


async def test_the_lock_is_kept_on_the_host_with_its_hash_beside_it_and_the_last_good_one(bench: FarBench) -> None:
    stage = Stage(bench)
    before = await stage.deployed(Wish(version=Version.ONE))
    first = bench.yard.folder.lock.resolve()
    await stage.deployed(Wish(version=Version.TWO), before=before)
    second = bench.yard.folder.lock.resolve()
    assert first != second
    for lock in (first, second):
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()
        assert lock.name == f"{digest}.yaml"
        assert lock.with_name(f"{lock.name}.sha256").read_text() == f"{digest}  {lock.name}\n"


async def test_a_second_turn_does_nothing(bench: FarBench, tmp_path: Path) -> None:
    stage = Stage(bench)
    wish = Wish()
    await stage.deployed(wish)
    calls = Calls(bench.yard, tmp_path)
    receipt = await stage.apply(stage.action(await stage.deploy(wish)))
    assert not receipt.changed
    assert not calls.begun.exists()


async def test_all_that_is_asked_goes_over_one_connection(bench: FarBench, relay: Relay) -> None:
    stage = Stage(bench)
    await stage.deployed(Wish())
    await stage.observe()
    assert relay.taken == 1


async def test_what_a_far_host_lacks_is_told(bench: FarBench) -> None:
    bench.yard.program = "/no/such/compose"
    found = {one.about: one for one in await bench.driver().examine(Look(target=bench.target))}  # type: ignore[attr-defined]
    assert (found["program"].grade, found["files"].grade) == (Grade.MISSING, Grade.OK)
    assert found["engine"].sentence.endswith("by way of ssh")
    assert found["disk"].grade is not Grade.UNKNOWN
    (lost,) = await bench.driver().examine(Look(target=bench.unreachable()))  # type: ignore[attr-defined]
    assert (lost.about, lost.grade) == ("host", Grade.UNKNOWN)


async def test_looking_leaves_nothing_on_a_host(bench: FarBench) -> None:
    target = bench.target
    assert (await bench.driver().observe([Look(target=target)]))[target.id].unseen is None
    assert not bench.yard.root.exists()


def test_what_is_said_of_the_way_is_checked() -> None:
    from pydantic import ValidationError

    from drivers.compose.connection import Connection

    plain: dict[str, Any] = {"root": "/srv/holdfast", "template": {"services": {"web": {}}}}
    with pytest.raises(ValidationError, match="for via: ssh only"):
        Connection.model_validate({**plain, "host": "web-1"})
    with pytest.raises(ValidationError, match="known_hosts or host_ca is needed"):
        Connection.model_validate({**plain, "via": "ssh", "host": "web-1", "user": "deploy", "agent": True})


async def test_a_hook_runs_on_the_engines_host_and_not_in_a_container(bench: FarBench, tmp_path: Path) -> None:
    async def hook(hook: Hook, about: Mapping[str, str], there: Run | None = None, /) -> str | None:
        assert there is not None
        ended = await there(Errand(argv=hook.argv, environment={"TOLD": about["key"]}, within=hook.deadline))
        return None if ended.exit_code == 0 else ended.why

    bench.tools = replace(bench.tools, hook=hook)
    bench.said = {"hooks": True}
    stage = Stage(bench)
    deploy = await stage.deploy(Wish())
    command = f"import os; open({str(tmp_path / 'told')!r}, 'w').write(os.environ['TOLD'])"
    there = Hook(argv=(sys.executable, "-S", "-c", command), where=Where.TARGET)
    action = stage.action(replace(deploy, placement=replace(deploy.placement, hooks=Hooks(post_deploy=there))))
    receipt = await stage.apply(action)
    assert receipt.as_wanted, receipt.outcomes
    assert (tmp_path / "told").read_text() == action.key


async def test_the_oldest_python_will_do(bench: FarBench) -> None:
    found = oldest()
    if found is None:
        pytest.skip("no Python 3.8 on this machine: neither pyenv nor PATH has one")
    bench.said = {"python": found}
    stage = Stage(bench)
    wish = Wish()
    await stage.deployed(wish)
    await stage.must_stand(stage.placement(wish))
