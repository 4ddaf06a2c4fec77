"""The systemd driver keeps the contract of drivers, under a real systemd."""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from desired_state.health import Health
from desired_state.model import Configuration, Port, Target
from drivers.conformance import Bench, Conformance, Power, Raw, Version
from drivers.oci import artifacts
from drivers.oci.unpack import unpack
from drivers.process.host import Place
from drivers.systemd import host
from stickers.names import ActionKey, Digest, EnvironmentId, PlacementId, target_id
from tests.drivers.plain import FolderBench, PackedBench, healthy, version_at
from tests.drivers.systemd.beyond import Beyond
from tests.harness.machine import Machine

POWERS = frozenset(Power) - {Power.ADOPTS}
COMMAND = ("python3", "-I", "-S", "app.py")  # the machine's own


class SystemdBench(PackedBench, FolderBench):
    """One root on the machine. Its hands are files and systemctl."""

    def __init__(self, machine: Machine, root: Path, images: Path) -> None:
        super().__init__()
        self.machine, self.root, self.images = machine, root, images

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

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        plain: dict[str, Any] = {"command": COMMAND, "stop_grace": timedelta(seconds=2)}
        if not fixed:
            return Configuration(ports=(Port(container=8080),), **plain)
        port = self.port(component)
        return Configuration(ports=(Port(container=port, host=port),), environment=(("PORT", str(port)),), **plain)

    def health(self, component: str, *, fixed: bool) -> Health:
        return healthy(self.port(component) if fixed else 8080)

    # -- eyes --------------------------------------------------------------------------------------------------------

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
        return await version_at(ports[0]) if ports else None

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
