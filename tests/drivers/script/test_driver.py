"""What the script driver does beyond the contract, with commands of a few lines."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from pydantic import ValidationError

from desired_state.health import CommandCheck, Health
from desired_state.model import Placement, Target
from desired_state.secrets import SecretRef
from drivers.contract import Look, Result
from drivers.errors import Busy
from drivers.script.connection import Connection
from drivers.script.driver import ScriptDriver
from stickers.names import target_id
from stickers.observation import HealthState, WorkloadState
from tests.drivers.process.far import eventually
from tests.drivers.process.yard import ENVIRONMENT, Yard

pytestmark = pytest.mark.anyio

VERSION = """\
import os
if os.path.exists("stands"):
    print(open("stands").read())
"""
DEPLOY = """\
import json, os, sys
order = json.load(sys.stdin)
open("told", "w").write(json.dumps([order, dict(os.environ)]))
open("stands", "w").write(json.dumps({"artifact": order["placement"]["artifact"]}))
"""
REMOVE = """\
import os
if os.path.exists("stands"):
    os.unlink("stands")
"""


def command(script: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", script]


class Shop(Yard):
    """A target of commands that can be changed from one action to the next."""

    def __init__(self, directory: Path) -> None:
        self.commands: dict[str, Any] = {
            "version": command(VERSION),
            "deploy": command(DEPLOY),
            "remove": command(REMOVE),
        }
        super().__init__(directory / "target", directory / "images")
        self.scripts = ScriptDriver(self.tools)
        self.driver = self.scripts  # type: ignore[assignment]  # as a yard, but without watching and logs

    def target_at(self, root: Path, name: str, **connection: Any) -> Target:
        found = {"root": str(root), **self.commands, **connection}
        return Target(id=target_id("default", name), environment=ENVIRONMENT, driver="script", connection=found)

    def uses(self, **said: Any) -> None:
        self.commands.update(said)
        self.target = self.target_at(self.root, "web-1")

    def told(self) -> tuple[dict[str, Any], dict[str, str]]:
        order, environment = json.loads((self.place / "told").read_text())
        return order, environment

    def wanted(self, version: str, **declared: Any) -> Placement:
        return self.placement(version, **{"health": None, **declared})


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    directory = Path(tempfile.mkdtemp(prefix="hf-script-"))
    found = Shop(directory)
    try:
        yield found
    finally:
        await found.scripts.aclose()
        shutil.rmtree(directory)


async def test_a_command_is_told_what_is_wanted_and_nothing_is_inherited(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "x")
    shop.uses(inputs={"REGION": "north"})
    one = shop.wanted("1.0", environment=(("COLOUR", "red"),))
    await shop.deploy(one)
    order, environment = shop.told()
    assert order["placement"]["artifact"] == str(one.artifact)
    assert order["placement"]["configuration"]["environment"] == {"COLOUR": "red"}
    assert (order["action"], order["component"], order["placement"]["running"]) == ("deploy", "web", True)
    ours = {name for name in environment if name.startswith("HOLDFAST_")}
    assert set(environment) - ours <= {"PATH", "REGION", "LC_CTYPE"}
    assert environment["HOLDFAST_DIRECTORY"] == str(shop.place)


async def test_a_secret_is_told_and_not_recorded(shop: Shop) -> None:
    shop.secrets["env:TOKEN"] = "hunter2"
    shop.uses(deploy=command(DEPLOY.replace('open("told"', 'open("/dev/null"')))
    await shop.deploy(shop.wanted("1.0", environment=(("TOKEN", SecretRef(reference="env:TOKEN")),)))
    files = [path for path in shop.root.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert files == []
    shop.uses(deploy=command(DEPLOY))
    await shop.deploy(shop.wanted("2.0", environment=(("TOKEN", SecretRef(reference="env:TOKEN")),)))
    assert shop.told()[0]["placement"]["configuration"]["environment"] == {"TOKEN": "hunter2"}


async def test_a_command_that_fails_is_reported_in_its_own_words_and_undone(shop: Shop) -> None:
    one = shop.wanted("1.0")
    await shop.deploy(one)
    failing = DEPLOY + f"if '{shop.wanted('2.0').artifact.digest}' in str(order): sys.exit('no room on the disk')\n"
    shop.uses(deploy=command(failing))
    outcome = await shop.deploy(shop.wanted("2.0"), one)
    assert outcome.result is Result.REVERTED
    assert any("no room on the disk" in said.message for said in shop.said)
    assert (await shop.workload()).artifact == one.artifact.digest


async def test_a_command_that_hangs_is_ended_and_undone(shop: Shop) -> None:
    one, two = shop.wanted("1.0"), shop.wanted("2.0")
    await shop.deploy(one)
    shop.uses(deploy=command(DEPLOY + f"if '{two.artifact.digest}' in str(order):\n import time; time.sleep(60)\n"))
    shop.uses(within="1s")
    assert (await shop.deploy(two, one)).result is Result.REVERTED
    assert (await shop.workload()).artifact == one.artifact.digest


async def test_what_cannot_be_told_is_unseen_and_not_gone(shop: Shop) -> None:
    await shop.deploy(shop.wanted("1.0"))
    for script in ("import sys; sys.exit(2)", "print('version one')", 'print(\'{"artifact": "latest"}\')'):
        shop.uses(version=command(script))
        seen = (await shop.scripts.observe([Look(target=shop.target)]))[shop.target.id]
        assert seen.unseen is not None, script


async def test_what_was_deployed_by_hand_is_seen(shop: Shop) -> None:
    one, two = shop.wanted("1.0"), shop.wanted("2.0")
    await shop.deploy(one)
    (shop.place / "stands").write_text(json.dumps({"artifact": str(two.artifact)}))
    seen = await shop.workload()
    assert (seen.artifact, seen.configuration) == (two.artifact.digest, None)
    assert seen.differences == ("artifact: found one that was not asked for",)


@pytest.mark.parametrize(("code", "state"), [(0, HealthState.HEALTHY), (4, HealthState.UNHEALTHY)])
async def test_the_health_command_and_the_declared_check_must_both_be_well(
    shop: Shop, code: int, state: HealthState
) -> None:
    await shop.deploy(shop.wanted("1.0"))
    shop.uses(health=command("import sys; sys.exit(0)"))
    asked = Health(check=CommandCheck(argv=tuple(command(f"import sys; sys.exit({code})"))))
    assert (await shop.workload(shop.wanted("1.0", health=asked))).health.state is state
    shop.uses(health=command("import sys; sys.exit(1)"))
    assert (await shop.workload(shop.wanted("1.0", health=asked))).health.state is HealthState.UNHEALTHY


async def test_a_command_goes_on_without_us_and_keeps_others_out(shop: Shop) -> None:
    """The action is given up in the middle of its command: the placement is busy until that has ended, and what it did
    is not done once more."""
    one = shop.wanted("1.0")
    shop.uses(deploy=command("import time; open('runs', 'a').write('x'); time.sleep(2)\n" + DEPLOY))
    change = await shop.change(one)
    with anyio.move_on_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(shop.persist, change)
            await anyio.to_thread.run_sync(eventually, (shop.place / "runs").exists)
            group.cancel_scope.cancel()
    with pytest.raises(Busy):
        await shop.send(change, key=f"{1:064x}")
    assert (await shop.persist(change, key=f"{1:064x}")).as_wanted
    assert (await shop.workload()).state is WorkloadState.RUNNING
    assert (shop.place / "runs").read_text() == "x"


async def test_what_a_command_leaves_running_keeps_nobody_out(shop: Shop) -> None:
    leaving = "import subprocess; child = subprocess.Popen(['sleep', '3'], close_fds=False)\n" + DEPLOY
    shop.uses(deploy=command(leaving))
    one = shop.wanted("1.0")
    with anyio.fail_after(20):
        await shop.deploy(one)
        assert (await shop.deploy(one, one)).result is Result.UNCHANGED


@pytest.mark.parametrize(
    "wrong",
    [
        {"deploy": "/bin/deploy --now"},
        {"deploy": ["deploy"]},
        {"deploy": []},
        {"inputs": {"HOLDFAST_KEY": "x"}},
        {"inputs": {"A-B": "x"}},
        {"within": "2d"},
        {"rollback": ["/bin/true"]},
    ],
)
def test_a_connection_that_says_it_otherwise_is_refused(wrong: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"root": "/srv/shop", **{name: ["/bin/x"] for name in ("version", "deploy", "remove")}}
    assert Connection.model_validate(plain).seconds == timedelta(minutes=10).total_seconds()
    with pytest.raises(ValidationError):
        Connection.model_validate({**plain, **wrong})
