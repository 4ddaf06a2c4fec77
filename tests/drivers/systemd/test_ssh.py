"""The systemd driver on a machine of its own, reached through an SSH server there: nothing is shared but the line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from desired_state.load import load
from desired_state.model import Target
from desired_state.sources.base import Tree
from drivers import registry
from drivers.contract import Result
from drivers.systemd.driver import SystemdDriver
from stickers.names import EnvironmentId
from stickers.observation import HealthState, WorkloadState
from tests.drivers.process.far import eventually
from tests.drivers.systemd.ground import Ground
from tests.harness.apps import Character
from tests.harness.machine import Machine
from tests.harness.sshd import Sshd

pytestmark = pytest.mark.anyio
EXAMPLE = Path(__file__).parents[3] / "examples" / "systemd.yaml"


class Inside(Sshd):
    """A server that systemd runs on the machine; its keys lie in the directory that both see."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.shared / f"sshd-{uuid4().hex[:8]}")
        self.machine, self.unit = machine, f"foreign-{self.directory.name}.service"

    def start(self) -> None:
        configuration = self._written()
        self.machine.run("mkdir", "-p", "/run/sshd")
        argv = ["systemd-run", "--quiet", f"--unit={self.unit}", "/usr/sbin/sshd", "-D", "-e", "-f", str(configuration)]
        self.machine.run(*argv)
        eventually(self._listens)

    def cut(self) -> None:
        """All connections are gone, and so is whoever spoke in them; the server comes back."""
        self.machine.run("systemctl", "kill", "--signal=KILL", self.unit)
        self.machine.run("systemctl", "reset-failed", self.unit, check=False)
        self.start()


@pytest.fixture
def server(machine: Machine) -> Iterator[Inside]:
    found = Inside(machine)
    found.start()
    yield found
    machine.run("systemctl", "stop", found.unit, check=False)


class Far(Ground):
    """A root that only the machine sees."""

    def __init__(self, machine: Machine, server: Inside, images: Path) -> None:
        self.server = server
        super().__init__(machine, Path(f"/srv/{server.directory.name}/target"), images)
        self.secrets[f"file:{server.key_file}"] = server.key_file.read_text()

    def new_driver(self) -> SystemdDriver:
        return SystemdDriver(self.tools)

    def target_at(self, root: Path, name: str, **connection: Any) -> Target:
        return super().target_at(root, name, **self.server.connection(), **connection)


@pytest.fixture
async def far(machine: Machine, server: Inside, images: Path) -> AsyncIterator[Far]:
    found = Far(machine, server, images)
    try:
        yield found
    finally:
        await found.driver.aclose()
        machine.run("rm", "-rf", str(found.root.parent))


async def test_a_release_is_brought_started_replaced_and_taken_away(far: Far) -> None:
    one, two = far.placement("1.0"), far.placement("2.0")
    assert (await far.deploy(one)).result is Result.CHANGED
    assert (await far.deploy(two, one)).result is Result.CHANGED
    assert far.serves() == "2.0"
    seen = await far.workload(two)
    assert (seen.state, seen.health.state, seen.differences) == (WorkloadState.RUNNING, HealthState.HEALTHY, ())
    assert (await far.deploy(two, two)).result is Result.UNCHANGED
    assert not far.root.exists()
    assert (await far.remove(two)).result is Result.CHANGED
    assert "holdfast-web" not in far.machine.run("systemctl", "list-unit-files", "--no-legend")


async def test_the_example_runs_as_it_declares(far: Far) -> None:
    """With the program, the port and the secret of these tests: the example's are its reader's own."""
    models = {"systemd": registry.connection_model("systemd")}
    what = load(Tree(files={"fleet.yaml": EXAMPLE.read_bytes()}, revision="1"), models)
    desired = what.environments[EnvironmentId("default/production")]
    example = next(one for one in desired.placements if one.id.component == "web").configuration
    far.secrets["file:/etc/holdfast/db-password"] = "correct horse"
    plain = far.placement("1.0")
    own = {name: getattr(plain.configuration, name) for name in ("command", "ports", "environment")}
    wanted = replace(plain, configuration=replace(example, **own))
    outcome = await far.deploy(wanted)
    assert outcome.result is Result.CHANGED, outcome.detail
    seen = await far.workload(wanted)
    assert (seen.state, seen.health.state, seen.differences) == (WorkloadState.RUNNING, HealthState.HEALTHY, ())
    shown = far.machine.run(
        "systemctl", "show", "--property=User,MemoryMax,CPUQuotaPerSecUSec,Restart", "holdfast-web-*"
    )
    assert set(shown.split()) == {
        "User=www-data",
        "MemoryMax=268435456",
        "CPUQuotaPerSecUSec=1.500000s",
        "Restart=always",
    }
    assert (await far.remove(wanted)).result is Result.CHANGED


async def test_what_is_not_proven_is_put_back(far: Far) -> None:
    one = far.placement("1.0")
    await far.deploy(one)
    assert (await far.deploy(far.placement("2.0", Character.BAD), one)).result is Result.REVERTED
    assert far.serves() == "1.0"


async def test_what_was_printed_over_there_can_be_read_here(far: Far) -> None:
    await far.deploy(far.placement("1.0"))
    lines = [line async for line in far.driver.logs(far.target, far.id, tail=5, follow=False)]
    assert lines == ["shop 1.0 listens"]


async def test_a_stop_by_hand_is_told(far: Far) -> None:
    await far.deploy(far.placement("1.0"))
    told = anyio.Event()

    async def watch() -> None:
        async for _ in far.driver.watch([far.target]):
            told.set()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.sleep(1)
        far.machine.run("systemctl", "stop", "holdfast-web-*")
        with anyio.fail_after(20):
            await told.wait()
        group.cancel_scope.cancel()


async def test_an_action_goes_on_when_the_connection_is_cut_between_stop_and_start(
    far: Far, server: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd was given the job; whoever comes back looks, and finishes under the same key."""
    from drivers.process import hands

    one, two = far.placement("1.0"), far.placement("2.0")
    await far.deploy(one)
    ordered = hands.Hands._order
    cuts: list[Any] = []

    async def cut(self: hands.Hands, id: Any, order: Any) -> dict[str, Any]:
        if not cuts:
            cuts.append(order)
            await self.line("order", self._where(id), order=order)
            await anyio.to_thread.run_sync(server.cut)
            return await self.line.wait("awaited", {}, token=0, timeout=1)
        return await ordered(self, id, order)

    monkeypatch.setattr(hands.Hands, "_order", cut)
    assert (await far.deploy(two, one)).result is Result.CHANGED
    assert cuts
    assert far.serves() == "2.0"
