"""Commands on a host behind a real SSH server: the contract is kept there, and a command that was begun goes on when
the connection is lost."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from desired_state.hooks import Hook, Hooks, Where
from desired_state.model import Target
from drivers.conformance import Bench, Clause
from drivers.conformance.bench import Version
from drivers.conformance.mixin import checks
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Errand, Grade, Look, Run, Step
from drivers.process import journey
from drivers.script.driver import ScriptDriver
from drivers.secrets import file
from stickers.names import target_id
from tests.drivers.process.conftest import oldest
from tests.drivers.script.test_conformance import TOOL, ScriptBench, end
from tests.harness.sshd import Relay, Sshd, free_port, relayed, sshd_or_skip

pytestmark = pytest.mark.anyio

KEPT = (
    "a_deploy_on_an_empty_target_runs_and_labels",
    "twice_is_once",
    "a_replacement_leaves_one_workload",
    "a_stale_fence_changes_nothing",
    "a_failed_proof_puts_the_predecessor_back_in_place",
    "a_crash_at_any_moment_is_finished",
    "a_cancellation_comes_through",
    "a_removal_leaves_nothing",
    "what_cannot_be_reached_is_unseen_and_holds_up_nobody",
)
SLOW = """\
import os, subprocess, sys, time
open(os.environ["APPS"] + "/begun", "a").write("x")
time.sleep(1)
sys.exit(subprocess.run([sys.executable, "-I", "-S", %r, "deploy"]).returncode)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd_or_skip() as started:
        yield started


@pytest.fixture
async def relay(server: Sshd) -> AsyncIterator[Relay]:
    async with relayed(server) as line:
        yield line


class FarBench(ScriptBench):
    """Its own hands work here, and the driver only through the server."""

    def __init__(self, directory: Path, way: Sshd | Relay) -> None:
        super().__init__(directory)
        self.way, self.tools = way, replace(self.tools, secret=file.read)
        self.drivers: list[ScriptDriver] = []
        self.said: dict[str, object] = {}

    def _target(self, name: str, root: Path) -> Target:
        plain = super()._target(name, root)
        return replace(plain, connection={**plain.connection, **self.way.connection(), **self.said})

    def unreachable(self) -> Target:
        nowhere = {**self.target.connection, "port": free_port()}
        return replace(self.target, id=target_id("default", "far"), connection=nowhere)

    def driver(self) -> ScriptDriver:
        self.drivers.append(super().driver())
        return self.drivers[-1]


@pytest.fixture
async def bench(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FarBench]:
    monkeypatch.setattr(journey, "PAUSE", 0.05)
    directory = Path(tempfile.mkdtemp(prefix="hf-script-"))
    found = FarBench(directory, relay)
    try:
        yield found
    finally:
        for driver in found.drivers:
            await driver.aclose()
        found.close()
        end(directory)
        shutil.rmtree(directory)


@pytest.mark.parametrize("clause", [clause for clause in checks() if str(clause) in KEPT], ids=str)
async def test_keeps(bench: Bench, clause: Clause) -> None:
    await clause.check(bench)


def test_every_clause_that_is_meant_is_there() -> None:
    assert {str(clause) for clause in checks()} >= set(KEPT)


async def there(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        await anyio.sleep(0.02)
    raise AssertionError(f"{path} did not come")


async def test_a_command_that_was_begun_before_a_cut_is_not_begun_again(bench: FarBench, relay: Relay) -> None:
    bench.said = {"deploy": [*bench.target.connection["deploy"][:3], "-c", SLOW % str(TOOL)]}
    stage = Stage(bench)
    wish = Wish(version=Version.ONE)
    action = stage.action(await stage.deploy(wish))
    receipts = []

    async def deploy() -> None:
        receipts.append(await stage.apply(action))

    async with anyio.create_task_group() as group:
        group.start_soon(deploy)
        await there(bench.apps / "begun")
        relay.cut()
    assert receipts[0].as_wanted
    assert (bench.apps / "begun").read_text() == "x"
    assert relay.taken == 2
    await stage.must_stand(stage.placement(wish))


@pytest.mark.parametrize("step", [Step.MARK, Step.START, Step.PROVE, Step.STICKER])
async def test_a_cut_at_any_step_is_gone_on_from(bench: FarBench, relay: Relay, step: Step) -> None:
    stage = Stage(bench)
    before = await stage.deployed(Wish(version=Version.ONE))
    wish = Wish(version=Version.TWO)
    action = stage.action(await stage.deploy(wish, before=before))
    cut = False

    def report(progress: object) -> None:
        nonlocal cut
        if not cut and getattr(progress, "step", None) is step:
            cut = True
            relay.cut()

    receipt = await stage.driver.apply(action, report=report)
    assert cut
    assert receipt.as_wanted
    await stage.must_stand(stage.placement(wish))
    assert [raw.artifact for raw in await stage.raw()] == [bench.artifact(Version.TWO).digest]


async def test_what_a_far_host_lacks_is_told(bench: FarBench) -> None:
    bench.said = {"restart": ["/no/such/program"]}
    found = {one.about: one for one in await bench.driver().examine(Look(target=bench.target))}
    assert {about for about, one in found.items() if one.grade is Grade.MISSING} == {"restart"}
    assert "/no/such/program" in found["restart"].sentence
    assert {"root", "disk", "clock", "deploy", "version", "remove"} <= set(found)


async def test_a_host_that_is_not_there_is_unknown_to_the_doctor(bench: FarBench) -> None:
    (found,) = await bench.driver().examine(Look(target=bench.unreachable()))
    assert (found.about, found.grade) == ("host", Grade.UNKNOWN)


async def test_looking_leaves_nothing_on_a_host(bench: FarBench) -> None:
    target = bench.target
    assert (await bench.driver().observe([Look(target=target)]))[target.id].unseen is None
    assert not bench.root.exists()


async def test_a_hook_runs_on_the_host_beside_the_commands(bench: FarBench) -> None:
    async def hook(hook: Hook, about: Mapping[str, str], there: Run | None = None, /) -> str | None:
        assert there is not None
        ended = await there(Errand(argv=hook.argv, environment={"TOLD": about["key"]}, within=hook.deadline))
        return None if ended.exit_code == 0 else ended.why

    bench.tools, bench.said = replace(bench.tools, hook=hook), {"hooks": True}
    stage = Stage(bench)
    deploy = await stage.deploy(Wish())
    command = f"import os; open({str(bench.apps / 'told')!r}, 'w').write(os.environ['TOLD'])"
    there = Hook(argv=(sys.executable, "-S", "-c", command), where=Where.TARGET)
    action = stage.action(replace(deploy, placement=replace(deploy.placement, hooks=Hooks(pre_deploy=there))))
    assert (await stage.apply(action)).as_wanted
    assert (bench.apps / "told").read_text() == action.key


async def test_the_oldest_python_will_do(bench: FarBench) -> None:
    found = oldest()
    if found is None:
        pytest.skip("no Python 3.8 on this machine: neither pyenv nor PATH has one")
    bench.said = {"python": found}
    stage = Stage(bench)
    wish = Wish()
    await stage.deployed(wish)
    await stage.must_stand(stage.placement(wish))
