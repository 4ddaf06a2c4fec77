"""The process driver keeps the contract of drivers, on real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from desired_state.health import Health
from desired_state.model import Configuration, Port, Target
from drivers.conformance import Bench, Conformance, Power, Raw, Version
from drivers.oci import artifacts
from drivers.oci.unpack import unpack
from drivers.process import host, render
from drivers.process.driver import ProcessDriver
from stickers.names import ActionKey, Digest, EnvironmentId, PlacementId, target_id
from tests.drivers.plain import FolderBench, PackedBench, healthy, version_at

POWERS = frozenset(Power) - {Power.ADOPTS}


class ProcessBench(PackedBench, FolderBench):
    """One root on this machine. Its hands are files, signals and `host.py ctl`."""

    def __init__(self, root: Path, images: Path) -> None:
        super().__init__()
        self.root, self.images = root, images
        self.strangers: list[subprocess.Popen[bytes]] = []

    @property
    def powers(self) -> frozenset[Power]:
        return POWERS

    @property
    def target(self) -> Target:
        return self._target("kit", self.root)

    def _target(self, name: str, root: Path) -> Target:
        connection = {"root": str(root), "artifacts": f"oci:{self.images}", "python": sys.executable}
        return Target(
            id=target_id("default", name),
            environment=EnvironmentId("default/kit"),
            driver="process",
            connection=connection,
        )

    def unreachable(self) -> Target:
        self.images.parent.joinpath("file").write_text("no directory")
        return self._target("far", self.images.parent / "file" / "root")

    def driver(self) -> ProcessDriver:
        return ProcessDriver(self.tools)

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        if not fixed:
            return Configuration(ports=(Port(container=8080),), stop_grace=timedelta(seconds=2))
        port = self.port(component)
        ports, environment = (Port(container=port, host=port),), (("PORT", str(port)),)
        return Configuration(ports=ports, environment=environment, stop_grace=timedelta(seconds=2))

    def health(self, component: str, *, fixed: bool) -> Health:
        return healthy(self.port(component) if fixed else 8080)

    # -- eyes --------------------------------------------------------------------------------------------------------

    def state(self, id: PlacementId) -> list[dict[str, Any]]:
        """The latest run of every release that is still there."""
        file = self.place(id) / "supervisor/state.json"
        runs = json.loads(file.read_text())["runs"] if file.exists() else []
        kept = {run["release"]: run for run in runs if (self.place(id) / "releases" / run["release"]).is_dir()}
        return list(kept.values())

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        return tuple(
            Raw(
                instance=run["instance"],
                artifact=Digest(run["artifact"]),
                running=host.living(run["instance"]) is not None,
                key=ActionKey(run["key"]) if run["key"] else None,
            )
            for run in self.state(id)
        )

    async def answering(self, id: PlacementId) -> Version | None:
        current = os.path.basename(os.readlink(self.place(id) / "current"))
        ports = [port for run in self.state(id) if run["release"] == current for port in run["ports"].values()]
        return await version_at(ports[0]) if ports else None

    # -- hands -------------------------------------------------------------------------------------------------------

    def ctl(self, id: PlacementId, verb: str) -> None:
        subprocess.run(
            [sys.executable, host.__file__, "ctl", str(self.place(id)), verb], check=True, capture_output=True
        )

    async def stop(self, id: PlacementId) -> None:
        await anyio.to_thread.run_sync(self.ctl, id, "stop")

    async def remove(self, id: PlacementId) -> None:
        await anyio.to_thread.run_sync(self._remove, id)

    def _remove(self, id: PlacementId) -> None:
        self.ctl(id, "stop")
        (self.place(id) / "current").unlink()
        shutil.rmtree(self.place(id) / "releases")

    async def swap(self, id: PlacementId, version: Version) -> None:
        """A person unpacks the version beside, points `current` at it and restarts."""
        session = host.Session()
        try:
            release = await self._unpacked(session, id, version)
        finally:
            session.close()
        (self.place(id) / "current").unlink()
        (self.place(id) / "current").symlink_to(f"releases/{release}")
        await anyio.to_thread.run_sync(self.ctl, id, "restart")

    async def _unpacked(self, session: host.Session, id: PlacementId, version: Version) -> str:
        where = {**render.place(id, self.tools.installation, str(self.root)), "fence": 1}
        ask = partial(_ask, session, where)
        ask("hold")
        staged = ask("stage")
        fetched = await artifacts.fetch(self.artifact(version), f"oci:{self.images}", Path(staged["layers"]))
        unpack(fetched.layers, Path(staged["tree"]))
        running = json.loads((self.place(id) / "current/specification.json").read_text())
        specification = {**running, "artifact": str(self.artifact(version))}
        return str(ask("seal", staging=staged["staging"], specification=specification)["release"])

    async def intrude(self, name: str) -> None:
        """Somebody's own program, named like ours, with a directory beside ours and a mark of another root."""
        await anyio.to_thread.run_sync(self._intrude, name)

    def _intrude(self, name: str) -> None:
        mark = f"{self.root}-other/{self.tools.installation}/{name}#1-1"
        argv = [name, "600", str(self.place(PlacementId(self.target.id, name)))]  # type: ignore[arg-type]
        self.strangers.append(subprocess.Popen(["sh", "-c", "exec sleep 600", *argv], env={host.MARK: mark}))

    async def intruders(self) -> frozenset[str]:
        found = [host.process(stranger.pid) for stranger in self.strangers]
        return frozenset(process.instance for process in found if process is not None and process.lives)

    def close(self) -> None:
        for stranger in self.strangers:
            stranger.kill()
            stranger.wait()


def _ask(session: host.Session, where: dict[str, Any], do: str, **fields: Any) -> dict[str, Any]:
    answer = session.answer({"do": do, **where, **fields})
    assert "error" not in answer, answer
    found: dict[str, Any] = answer["answer"]
    return found


class TestProcess(Conformance):
    @pytest.fixture
    async def bench(self, root: Path, images: Path) -> AsyncIterator[Bench]:
        bench = ProcessBench(root, images)
        try:
            yield bench
        finally:
            bench.close()
