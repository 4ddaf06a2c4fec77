"""The windows driver keeps the contract of drivers, through pypsrp and TLS, on a Windows in memory."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Port, Target
from desired_state.secrets import SecretRef
from drivers.conformance import Bench, Conformance, Power, Raw, Version, proper_tools
from drivers.contract import Tools
from drivers.process import render as plain
from drivers.windows import render
from drivers.windows.driver import WindowsDriver
from stickers import codec
from stickers.names import ActionKey, Digest, EnvironmentId, PlacementId, target_id
from stickers.signature import Envelope
from tests.drivers.plain import PackedBench
from tests.drivers.windows.world import Helper, Place, Service, World
from tests.harness import wsman

POWERS = frozenset({Power.FIXED, Power.SWAPS, Power.SOURCE, Power.UNREACHABLE, Power.INTRUDES})
ROOT = "C:\\holdfast\\kit"


def connection(server: wsman.Server, **said: Any) -> dict[str, Any]:
    return {
        "via": "winrm",
        "host": "127.0.0.1",
        "port": server.port,
        "user": wsman.USER,
        "password": {"secret": "env:PASSWORD"},
        "ca": str(server.certificates.ca),
        "root": ROOT,
        **said,
    }


def admitted_tools() -> Tools:
    from dataclasses import replace

    async def secret(reference: SecretRef) -> str:
        return {"env:PASSWORD": wsman.PASSWORD, "env:WRONG": "wrong"}[reference.reference]

    return replace(proper_tools(), secret=secret)


class WindowsBench(PackedBench):
    """One root on a Windows in memory; its hands reach into that memory."""

    pause = timedelta(milliseconds=5)
    doomed = timedelta(milliseconds=250)

    def __init__(self, world: World, server: wsman.Server, directory: Path) -> None:
        super().__init__(admitted_tools())
        self.world, self.server, self.images = world, server, directory / "images"

    @property
    def powers(self) -> frozenset[Power]:
        return POWERS

    @property
    def target(self) -> Target:
        return self._target("kit", connection(self.server, artifacts=f"oci:{self.images}"))

    def _target(self, name: str, said: dict[str, Any]) -> Target:
        environment = EnvironmentId("default/kit")
        return Target(id=target_id("default", name), environment=environment, driver="windows", connection=said)

    def unreachable(self) -> Target:
        with socket.create_server(("127.0.0.1", 0)) as ear:
            port = ear.getsockname()[1]
        return self._target("far", connection(self.server, port=port, connect_timeout="1s"))

    def driver(self) -> WindowsDriver:
        return WindowsDriver(self.tools)

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        port = self.ports.setdefault(component, 8000 + len(self.ports))
        return Configuration(
            command=("bin\\app.exe", "--name", 'a "b" \\'),
            environment=(("PORT", str(port)),),
            ports=(Port(container=port, host=port),) if fixed else (),
        )

    def health(self, component: str, *, fixed: bool) -> Health:
        return Health(
            check=HttpCheck(port=self.ports.setdefault(component, 8000 + len(self.ports)), path="/health"),
            interval=timedelta(milliseconds=20),
            timeout=timedelta(seconds=2),
            successes=2,
            deadline=timedelta(seconds=5),
        )

    # -- eyes --------------------------------------------------------------------------------------------------------

    def place(self, id: PlacementId) -> Place:
        return self.world.roots[ROOT].places[plain.folder(id)]

    def services(self, id: PlacementId) -> dict[str, Service]:
        start = f"{render.prefix(self.tools.installation, id.target)}-{plain.folder(id)}-"
        return {
            name: one
            for name, one in self.world.services.items()
            if name.startswith(start) and len(name) == len(start) + 16
        }

    def record(self, id: PlacementId) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.place(id).files.get("record.json", "{}"))
        return found

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        with self.world.lock:
            if ROOT not in self.world.roots or plain.folder(id) not in self.world.roots[ROOT].places:
                return ()
            return tuple(self._raw(id, name, one) for name, one in self.services(id).items())

    def _raw(self, id: PlacementId, name: str, service: Service) -> Raw:
        release = name.rpartition("-")[2]
        said = json.loads(self.place(id).releases[release]["specification"])
        key = self.record(id)["keys"].get(release)
        artifact, running = Digest(said["artifact"].rpartition("@")[2]), service.state == "Running"
        instance = f"{release}-{(key or 'nobody')[:12]}"
        return Raw(instance=instance, artifact=artifact, running=running, key=ActionKey(key) if key else None)

    def serving(self, id: PlacementId) -> str:
        return next(name for name, one in self.services(id).items() if one.state == "Running")

    # -- hands -------------------------------------------------------------------------------------------------------

    async def stop(self, id: PlacementId) -> None:
        with self.world.lock:
            self.world.stop(self.serving(id))

    async def remove(self, id: PlacementId) -> None:
        with self.world.lock:
            del self.world.services[self.serving(id)]

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        files = self.place(id).files
        files.pop("sticker.json", None)
        if envelope is not None:
            files["sticker.json"] = codec.to_file(envelope).decode()

    async def garble(self, id: PlacementId) -> None:
        self.place(id).files["sticker.json"] = "{"

    async def swap(self, id: PlacementId, version: Version) -> None:
        """Somebody has the service run another program."""
        with self.world.lock:
            self.world.services[self.serving(id)].command = f"C:\\elsewhere\\{version}.exe"

    async def intrude(self, name: str) -> None:
        for number, like in enumerate((name, f"holdfast-{name}", f"holdfast-0123456789ab-{name}-0123456789abcdef")):
            self.world.services[like] = Service("C:\\theirs.exe", "LocalSystem", state="Running", pid=100 + number)

    async def intruders(self) -> frozenset[str]:
        ours = {"C:\\theirs.exe"}
        return frozenset(f"{name} {one}" for name, one in self.world.services.items() if one.command in ours)


class TestWindows(Conformance):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        world, directory = World(), Path(tempfile.mkdtemp(prefix="hf-windows-"))
        try:
            with wsman.running(lambda line: Helper(world, line)) as server:
                yield WindowsBench(world, server, directory)
        finally:
            shutil.rmtree(directory)
