"""The script driver keeps the contract of drivers, with somebody's own tool doing the work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from desired_state.health import Health
from desired_state.model import Configuration, Port, Target
from drivers.conformance import Bench, Conformance, Power, Raw, Version
from drivers.process import host
from drivers.script.driver import ScriptDriver
from stickers.names import ActionKey, Artifact, Digest, EnvironmentId, PlacementId, target_id
from tests.drivers.plain import FolderBench, healthy
from tests.drivers.process.far import eventually
from tests.harness import apps, leftovers
from tests.harness.apps import Character

TOOL = Path(__file__).parent / "tool.py"
POWERS = frozenset({Power.FIXED, Power.SWAPS, Power.UNREACHABLE, Power.INTRUDES})


def command(action: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(TOOL), action]


class ScriptBench(FolderBench):
    """One root on this machine and a folder of applications; its hands are signals and files."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.root, self.apps = directory / "target", directory / "apps"
        self.apps.mkdir()
        self.ports: dict[str, int] = {}
        self.artifacts: dict[Version, Artifact] = {}
        self.strangers: list[subprocess.Popen[bytes]] = []

    @property
    def powers(self) -> frozenset[Power]:
        return POWERS

    @property
    def target(self) -> Target:
        return self._target("kit", self.root)

    def _target(self, name: str, root: Path) -> Target:
        commands = {action: command(action) for action in ("version", "deploy", "remove", "restart")}
        return Target(
            id=target_id("default", name),
            environment=EnvironmentId("default/kit"),
            driver="script",
            connection={"root": str(root), "inputs": {"APPS": str(self.apps)}, **commands},
        )

    def unreachable(self) -> Target:
        (self.apps / "file").write_text("no directory")
        return self._target("far", self.apps / "file" / "root")

    def driver(self) -> ScriptDriver:
        return ScriptDriver(self.tools)

    def artifact(self, version: Version) -> Artifact:
        if version not in self.artifacts:
            digest = Digest(f"sha256:{list(Version).index(version) + 1:064x}")
            folder = self.apps / digest.replace(":", "-")
            folder.mkdir()
            character = Character.BAD if version is Version.BAD else Character.GOOD
            (folder / "app.py").write_text(apps.PROGRAM)
            (folder / "version").write_text(f"{version} {character}\n")
            self.artifacts[version] = Artifact(apps.REPOSITORY, digest)
        return self.artifacts[version]

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        port = self.port(component)
        environment = (("PORT", str(port)),)
        return Configuration(ports=(Port(container=port, host=port),) if fixed else (), environment=environment)

    def health(self, component: str, *, fixed: bool) -> Health:
        return healthy(self.port(component))

    # -- eyes --------------------------------------------------------------------------------------------------------

    def app(self, id: PlacementId) -> dict[str, Any] | None:
        file = self.place(id) / "app.json"
        return json.loads(file.read_text()) if file.exists() else None

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        found = self.app(id)
        if found is None:
            return ()
        instance = f"{found['pid']}:{found['ticks']}"
        running = host.living(instance) is not None
        artifact, key = Digest(found["artifact"]), ActionKey(found["key"])
        return (Raw(instance=instance, artifact=artifact, running=running, key=key),)

    # -- hands -------------------------------------------------------------------------------------------------------

    async def stop(self, id: PlacementId) -> None:
        found = self.app(id)
        assert found is not None
        await anyio.to_thread.run_sync(kill, found)

    async def remove(self, id: PlacementId) -> None:
        await self.stop(id)
        (self.place(id) / "app.json").unlink()

    async def swap(self, id: PlacementId, version: Version) -> None:
        """A person uses the same tool."""
        await anyio.to_thread.run_sync(self._swap, id, version)

    def _swap(self, id: PlacementId, version: Version) -> None:
        variables = {"PORT": str(self.ports[id.component])}
        placement = {"artifact": str(self.artifact(version)), "running": True}
        order = {"key": "by-hand", "placement": {**placement, "configuration": {"environment": variables}}}
        environment = {"HOLDFAST_DIRECTORY": str(self.place(id)), "APPS": str(self.apps)}
        subprocess.run(command("deploy"), input=json.dumps(order).encode(), env=environment, check=True)

    async def intrude(self, name: str) -> None:
        """Somebody's own program, named like ours."""
        self._intrude(name)

    def _intrude(self, name: str) -> None:
        argv = ["sh", "-c", "exec sleep 600", name, str(self.root)]
        self.strangers.append(subprocess.Popen(argv))

    async def intruders(self) -> frozenset[str]:
        found = [host.process(stranger.pid) for stranger in self.strangers]
        return frozenset(process.instance for process in found if process is not None and process.lives)

    def close(self) -> None:
        for stranger in self.strangers:
            stranger.kill()
            stranger.wait()


def kill(found: dict[str, Any]) -> None:
    os.kill(found["pid"], signal.SIGKILL)
    eventually(lambda: host.living(f"{found['pid']}:{found['ticks']}") is None)


class TestScript(Conformance):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        directory = Path(tempfile.mkdtemp(prefix="hf-script-"))
        bench = ScriptBench(directory)
        try:
            yield bench
        finally:
            bench.close()
            end(directory)
            shutil.rmtree(directory)


def end(directory: Path) -> None:
    """What the tool has started stays when the tests are done, unless somebody ends it."""
    for file in directory.glob("target/*/*/app.json"):
        pid = json.loads(file.read_text())["pid"]
        if pid and host.process(pid):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 5
    while leftovers.of(directory) and time.monotonic() < until:
        time.sleep(0.01)
    leftovers.end(directory, 1)
