"""The systemd driver keeps the contract of drivers, under a real systemd."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Port, Target
from drivers.conformance import Bench, Conformance, Power, Raw, Version
from drivers.oci import artifacts
from drivers.oci.unpack import unpack
from drivers.process import render
from drivers.process.host import Place
from drivers.systemd import host
from stickers import codec
from stickers.names import ActionKey, Artifact, Digest, EnvironmentId, PlacementId, target_id
from stickers.signature import Envelope
from tests.drivers.process.far import free_port
from tests.drivers.systemd.beyond import Beyond
from tests.harness import apps
from tests.harness.apps import Character
from tests.harness.machine import Machine

POWERS = frozenset(Power) - {Power.ADOPTS}
COMMAND = ("python3", "-I", "-S", "app.py")  # the machine's own


class SystemdBench(Bench):
    """One root on the machine. Its hands are files and systemctl."""

    def __init__(self, machine: Machine, root: Path, images: Path) -> None:
        super().__init__()
        self.machine, self.root, self.images = machine, root, images
        self.ports: dict[str, int] = {}
        self.packed: dict[Version, Artifact] = {}

    @property
    def powers(self) -> frozenset[Power]:
        return POWERS

    @property
    def target(self) -> Target:
        return self._target("kit", self.root)

    def _target(self, name: str, root: Path) -> Target:
        return Target(
            id=target_id("default", name),
            environment=EnvironmentId("default/kit"),
            driver="systemd",
            connection={"root": str(root), "artifacts": f"oci:{self.images}"},
        )

    def unreachable(self) -> Target:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        (self.root.parent / "file").write_text("no directory")
        return self._target("far", self.root.parent / "file" / "root")

    def driver(self) -> Beyond:
        return Beyond(self.tools, self.machine)

    def artifact(self, version: Version) -> Artifact:
        if version not in self.packed:
            character = Character.BAD if version is Version.BAD else Character.GOOD
            self.packed[version] = apps.pack(self.images, version, character)
        return self.packed[version]

    async def lose_source(self) -> None:
        for version in Version:
            self.artifact(version)
        self.images.rename(self.images.with_name("lost"))

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        plain: dict[str, Any] = {"command": COMMAND, "stop_grace": timedelta(seconds=2)}
        if not fixed:
            return Configuration(ports=(Port(container=8080),), **plain)
        port = self.ports.setdefault(component, free_port())
        return Configuration(ports=(Port(container=port, host=port),), environment=(("PORT", str(port)),), **plain)

    def health(self, component: str, *, fixed: bool) -> Health:
        port = self.ports.setdefault(component, free_port()) if fixed else 8080
        return Health(
            check=HttpCheck(port=port, path="/health"),
            interval=timedelta(milliseconds=50),
            timeout=timedelta(seconds=1),
            successes=2,
            deadline=timedelta(seconds=2),
        )

    # -- eyes --------------------------------------------------------------------------------------------------------

    def place(self, id: PlacementId) -> Path:
        return self.root.resolve() / self.tools.installation / render.folder(id)

    def starts(self, id: PlacementId) -> dict[str, dict[str, Any]]:
        """The latest start of every release that is still there, by the name of its unit."""
        files = self.place(id).glob("releases/*/start.json")
        place = Place(str(self.place(id)))
        return {host.unit_of(place, file.parent.name): json.loads(file.read_text()) for file in files}

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        return await anyio.to_thread.run_sync(self._raw, id)

    def _raw(self, id: PlacementId) -> tuple[Raw, ...]:
        starts = self.starts(id)
        active = self.machine.run("systemctl", "is-active", "--", *starts, check=False).split() if starts else []
        return tuple(
            Raw(
                instance=start["instance"],
                artifact=Digest(start["artifact"]),
                running=state == "active",
                key=ActionKey(start["key"]) if start["key"] else None,
            )
            for start, state in zip(starts.values(), active, strict=True)
        )

    async def answering(self, id: PlacementId) -> Version | None:
        current = os.path.basename(os.readlink(self.place(id) / "current"))
        starts = self.starts(id)
        unit = host.unit_of(Place(str(self.place(id))), current)
        ports = list(starts[unit]["ports"].values()) if unit in starts else []
        return await anyio.to_thread.run_sync(self._ask, ports[0]) if ports else None

    def _ask(self, port: int) -> Version | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                return Version(answer.read().decode().split()[1])
        except OSError:
            return None

    # -- hands -------------------------------------------------------------------------------------------------------

    async def stop(self, id: PlacementId) -> None:
        await anyio.to_thread.run_sync(self._stop, id)

    def _stop(self, id: PlacementId) -> None:
        self.machine.run("systemctl", "stop", "--", *self.starts(id))

    async def remove(self, id: PlacementId) -> None:
        await anyio.to_thread.run_sync(self._remove, id)

    def _remove(self, id: PlacementId) -> None:
        self._stop(id)
        for unit in self.starts(id):
            self.machine.run("systemctl", "disable", "--quiet", "--", unit)
            self.machine.run("rm", f"{host.INSTALLED}/{unit}")
        (self.place(id) / "current").unlink()
        shutil.rmtree(self.place(id) / "releases")

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        sticker = self.place(id) / "sticker.json"
        sticker.unlink(missing_ok=True)
        if envelope is not None:
            sticker.write_bytes(codec.to_file(envelope))

    async def garble(self, id: PlacementId) -> None:
        (self.place(id) / "sticker.json").write_text("{")

    async def swap(self, id: PlacementId, version: Version) -> None:
        """A person unpacks the version over the tree from which the unit runs, and restarts it."""
        layers = self.root / "layers"
        layers.mkdir()
        fetched = await artifacts.fetch(self.artifact(version), f"oci:{self.images}", layers)
        tree = self.place(id) / "current" / "tree"
        shutil.rmtree(tree)
        unpack(fetched.layers, tree)
        shutil.rmtree(layers)
        await anyio.to_thread.run_sync(self._restart, id)

    def _restart(self, id: PlacementId) -> None:
        self.machine.run("systemctl", "restart", "--", *self.starts(id))

    async def intrude(self, name: str) -> None:
        """Somebody's own unit, named like ours, and another with our marks of another root."""
        await anyio.to_thread.run_sync(self._intrude, name)

    def _intrude(self, name: str) -> None:
        elsewhere = Place(f"{self.root}-other/{self.tools.installation}/{name}")
        unit = host.unit_of(elsewhere, "aaaaaaaaaaaa-bbbbbbbbbbbb")
        for found in (f"holdfast-{name}.service", unit):
            argv = ["systemd-run", "--quiet", f"--unit={found}", "sleep", "600", str(self.root)]
            self.machine.run(*argv)
        self.intruding = (f"holdfast-{name}.service", unit)

    async def intruders(self) -> frozenset[str]:
        argv = ["systemctl", "show", "--property=InvocationID", "--value", "--", *self.intruding]
        return frozenset((await anyio.to_thread.run_sync(lambda: self.machine.run(*argv))).split())


class TestSystemd(Conformance):
    @pytest.fixture
    def bench(self, machine: Machine, root: Path, images: Path) -> Bench:
        return SystemdBench(machine, root, images)
