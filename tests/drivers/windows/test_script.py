"""The script driver keeps the contract of drivers on a Windows behind WinRM, with somebody's own tool in memory."""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from desired_state.health import CommandCheck, Health, HttpCheck
from desired_state.model import Configuration, Port, Target
from drivers.conformance import Bench, Conformance, Power, Raw, Version
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Grade, Look, Result
from drivers.errors import Busy
from drivers.process import render as plain
from drivers.script.connection import Connection
from drivers.script.driver import ScriptDriver
from stickers import codec
from stickers.names import ActionKey, Artifact, Digest, EnvironmentId, PlacementId, target_id
from stickers.observation import HealthState
from stickers.signature import Envelope
from tests.drivers.windows.test_conformance import ROOT, admitted_tools, connection
from tests.drivers.windows.world import App, Helper, World
from tests.harness import apps, wsman

TOOL = "C:\\tools\\tool.exe"
POWERS = frozenset({Power.SWAPS, Power.UNREACHABLE})  # whose port it is, is the tool's part


class Tool:
    """One program of that host, as `tests.drivers.script.tool` is one of this machine."""

    def __init__(self, versions: Mapping[str, Version]) -> None:
        self.versions, self._pids = versions, itertools.count(100)
        self.slow = threading.Event()
        self.said: list[tuple[str, dict[str, str], str]] = []

    def __call__(self, world: World, directory: str, command: Mapping[str, Any]) -> tuple[int | None, str]:
        self.said.append((command["arguments"], dict(command["environment"]), command["stdin"]))
        if self.slow.is_set() and command["arguments"] == "deploy":
            time.sleep(1.0)
        with world.lock:
            return 0, str(getattr(self, f"_{command['arguments']}")(world, directory, command["stdin"]))

    def _version(self, world: World, directory: str, stdin: str) -> str:
        one = world.apps.get(directory)
        if one is None:
            return ""
        told = {"artifact": one.artifact, "instance": str(one.pid), "started_at": one.started_at}
        return json.dumps({**told, "state": "running" if one.up else "stopped"})

    def _deploy(self, world: World, directory: str, stdin: str) -> str:
        said = json.loads(stdin)
        placement, artifact = said["placement"], said["placement"]["artifact"].rpartition("@")[2]
        version = self.versions[artifact]
        port = int(placement["configuration"]["environment"]["PORT"])
        character = "bad" if version is Version.BAD else "good"
        made = App(artifact, version, character, said["key"], port, next(self._pids), placement["running"], time.time())
        world.apps[directory] = made
        return "done"

    _restart = _deploy

    def _remove(self, world: World, directory: str, stdin: str) -> str:
        world.apps.pop(directory, None)
        return ""

    def _health(self, world: World, directory: str, stdin: str) -> str:
        return "fine"


class ScriptBench(Bench):
    pause = timedelta(milliseconds=5)
    doomed = timedelta(milliseconds=250)

    def __init__(self, world: World, server: wsman.Server) -> None:
        super().__init__(admitted_tools())
        self.world, self.server = world, server
        self.ports: dict[str, int] = {}
        self.versions = {f"sha256:{number:064x}": version for number, version in enumerate(Version, start=1)}
        self.tool = world.programs[TOOL] = Tool(self.versions)

    @property
    def powers(self) -> frozenset[Power]:
        return POWERS

    @property
    def target(self) -> Target:
        return self._target("kit", connection(self.server))

    def _target(self, name: str, said: dict[str, Any], **more: Any) -> Target:
        commands = {action: [TOOL, action] for action in ("version", "deploy", "remove", "restart")}
        found = {**said, **commands, "inputs": {"REGION": "north"}, **more}
        environment = EnvironmentId("default/kit")
        return Target(id=target_id("default", name), environment=environment, driver="script", connection=found)

    def unreachable(self) -> Target:
        return self._target("far", connection(self.server, port=1, connect_timeout="1s"))

    def driver(self) -> ScriptDriver:
        return ScriptDriver(self.tools)

    def artifact(self, version: Version) -> Artifact:
        digest = next(digest for digest, one in self.versions.items() if one is version)
        return Artifact(apps.REPOSITORY, Digest(digest))

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        port = self.ports.setdefault(component, 8000 + len(self.ports))
        ports = (Port(container=port, host=port),) if fixed else ()
        return Configuration(ports=ports, environment=(("PORT", str(port)),))

    def health(self, component: str, *, fixed: bool) -> Health:
        return Health(
            check=HttpCheck(port=self.ports.setdefault(component, 8000 + len(self.ports)), path="/health"),
            interval=timedelta(milliseconds=20),
            timeout=timedelta(seconds=2),
            successes=2,
            deadline=timedelta(seconds=5),
        )

    def at(self, id: PlacementId) -> str:
        return f"{ROOT}\\{plain.folder(id)}"

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        one = self.world.apps.get(self.at(id))
        if one is None:
            return ()
        return (Raw(instance=str(one.pid), artifact=Digest(one.artifact), running=one.up, key=ActionKey(one.key)),)

    async def stop(self, id: PlacementId) -> None:
        self.world.apps[self.at(id)].up = False

    async def remove(self, id: PlacementId) -> None:
        del self.world.apps[self.at(id)]

    def _files(self, id: PlacementId) -> dict[str, str]:
        return self.world.roots[ROOT].places[plain.folder(id)].files

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        self._files(id).pop("sticker.json", None)
        if envelope is not None:
            self._files(id)["sticker.json"] = codec.to_file(envelope).decode()

    async def garble(self, id: PlacementId) -> None:
        self._files(id)["sticker.json"] = "{"

    async def swap(self, id: PlacementId, version: Version) -> None:
        self.world.apps[self.at(id)].artifact = self.artifact(version).digest


@pytest.fixture
def bench() -> Iterator[ScriptBench]:
    world = World()
    with tempfile.TemporaryDirectory(prefix="hf-script-"), wsman.running(lambda line: Helper(world, line)) as server:
        yield ScriptBench(world, server)


class TestScriptOverWinRm(Conformance):
    @pytest.fixture
    def bench(self, bench: ScriptBench) -> Bench:
        return bench


@pytest.mark.anyio
async def test_a_command_is_told_what_is_wanted_as_data(bench: ScriptBench) -> None:
    stage = Stage(bench)
    await stage.deployed(Wish(colour='a "b" & calc.exe'))
    arguments, environment, stdin = next(said for said in bench.tool.said if said[0] == "deploy")
    assert arguments == "deploy"
    assert json.loads(stdin)["placement"]["configuration"]["environment"]["KIT_COLOUR"] == 'a "b" & calc.exe'
    assert (environment["REGION"], environment["HOLDFAST_ACTION"]) == ("north", "deploy")
    assert environment["HOLDFAST_DIRECTORY"] == f"{ROOT}\\api"
    await stage.aclose()


@pytest.mark.anyio
async def test_a_command_goes_on_without_us_and_keeps_others_out(bench: ScriptBench) -> None:
    stage = Stage(bench)
    bench.tool.slow.set()
    action = stage.action(await stage.deploy(Wish()))
    with anyio.move_on_after(0.6):
        await stage.apply(action)
    with pytest.raises(Busy):
        await stage.apply(action)
    receipt = await stage.persist(action)
    assert receipt.outcomes[0].as_wanted
    assert sum(said[0] == "deploy" for said in bench.tool.said) == 1
    await stage.aclose()


@pytest.mark.anyio
async def test_what_cannot_be_told_is_unseen_and_not_gone(bench: ScriptBench) -> None:
    stage = Stage(bench)
    await stage.deployed(Wish())
    bench.world.programs[TOOL] = lambda world, directory, command: (2, "")
    seen = await stage.observe(stage.placement(Wish()))
    assert seen.unseen is not None
    assert seen.unseen.endswith("ended with exit code 2, so what stands cannot be told")
    await stage.aclose()


@pytest.mark.anyio
async def test_health_commands_are_run_there(bench: ScriptBench) -> None:
    stage = Stage(bench)
    one = await stage.deployed(Wish())
    asked = Health(check=CommandCheck(argv=("C:\\nowhere.exe",)))
    target = bench._target("kit", connection(bench.server), health=[TOOL, "health"])
    look = Look(target=target, placements=(replace(one, health=asked),))
    seen = (await stage.driver.observe([look]))[target.id].standings[0].workload
    assert seen is not None
    assert seen.health.state is HealthState.UNHEALTHY
    assert seen.health.detail == "command C:\\nowhere.exe exits 0: exit code 127"
    assert any(said[0] == "health" for said in bench.tool.said)
    assert (await stage.one(await stage.deploy(Wish()))).result is Result.UNCHANGED
    await stage.aclose()


@pytest.mark.anyio
async def test_the_doctor_looks_at_the_host_and_at_every_command(bench: ScriptBench) -> None:
    stage = Stage(bench)
    target = replace(bench.target, connection={**bench.target.connection, "remove": ["C:\\tools\\gone.exe"]})
    bench.world.skew_ms, bench.world.administrator = 90_000, False
    found = {one.about: one for one in await stage.driver.examine(Look(target=target))}
    assert {about for about, one in found.items() if one.grade is Grade.OK} == {
        *("powershell", "root", "disk", "version", "deploy", "restart"),
    }
    assert found["clock"].grade is Grade.WARNING
    assert found["remove"].grade is Grade.MISSING
    assert found["remove"].sentence == "C:\\tools\\gone.exe is no program that can be run on the target"
    assert len(found) == 8
    await stage.aclose()


@pytest.mark.anyio
async def test_the_doctor_tells_a_root_of_somebody_else(bench: ScriptBench) -> None:
    stage = Stage(bench)
    await stage.deployed(Wish())
    other = replace(bench.target, id=target_id("default", "other"))
    found = {one.about: one for one in await stage.driver.examine(Look(target=other))}
    assert found["root"].grade is Grade.MISSING
    assert "belongs to target default/kit" in found["root"].sentence
    await stage.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "grade", "remedy"),
    [
        ({"password": {"secret": "env:WRONG"}}, Grade.MISSING, "look at user, password and auth"),
        ({"port": 1}, Grade.UNKNOWN, "look whether its winrm listens"),
    ],
)
async def test_the_doctor_says_why_the_host_is_not_reached(
    bench: ScriptBench, said: dict[str, Any], grade: Grade, remedy: str
) -> None:
    stage = Stage(bench)
    found = await stage.driver.examine(Look(target=bench._target("kit", connection(bench.server, **said))))
    assert [(one.about, one.grade) for one in found] == [("host", grade)]
    assert str(found[0].remedy).startswith(remedy)
    await stage.aclose()


@pytest.mark.parametrize("program", ["C:\\tools\\deploy.cmd", "deploy.exe", "/bin/sh", 'C:\\a" b.exe'])
def test_what_a_shell_would_read_is_no_program(program: str) -> None:
    commands = {name: [program] for name in ("version", "deploy", "remove")}
    said = {"via": "winrm", "host": "win-1", "user": "u", "password": {"secret": "env:P"}, "root": ROOT, **commands}
    with pytest.raises(ValidationError, match="program"):
        Connection.model_validate(said)
