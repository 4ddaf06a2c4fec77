"""The kit's bench on the contract server: one job, each component in a group of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import anyio

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Target
from drivers.conformance import Bench, Power, Raw, Version
from drivers.contract import Driver
from drivers.nomad import look, render
from drivers.nomad.driver import NomadDriver
from stickers import digest, names
from stickers.names import Artifact, Digest, EnvironmentId, PlacementId
from stickers.signature import Envelope
from tests.drivers.nomad.server import Allocation, Behaviour, Server, image

COMPONENTS: Final = ("api", "api-admin", "web")
SOON: Final = {"MinHealthyTime": 10_000_000, "HealthyDeadline": 400_000_000, "HealthCheck": "task_states"}


def artifact(version: Version) -> Artifact:
    return Artifact("registry.example.com/kit", digest.of_bytes(f"kit {version}".encode()))


def template(job: str, **update: Any) -> dict[str, Any]:
    return {
        "ID": job,
        "Datacenters": ["dc1"],
        "Update": SOON | update,
        "TaskGroups": [
            {
                "Name": component,
                "Networks": [{"Mode": "bridge", "DynamicPorts": [{"Label": "http", "To": 8080}]}],
                "Tasks": [{"Name": component, "Driver": "docker", "Config": {"ports": ["http"]}}],
            }
            for component in COMPONENTS
        ],
    }


class NomadBench(Bench):
    patience = timedelta(seconds=60)
    pause = timedelta(milliseconds=10)

    def __init__(self, server: Server, **update: Any) -> None:
        super().__init__()
        self.server, self.agent, self.update = server, server.agent, update
        self.agent.behaviours[artifact(Version.BAD).digest] = Behaviour.SILENT

    @property
    def powers(self) -> frozenset[Power]:
        canaries = {Power.BESIDE, Power.ANSWERS} if self.update.get("Canary") else set()
        return frozenset({Power.SWAPS, Power.UNREACHABLE, Power.INTRUDES, Power.EVENTS, Power.LOGS, *canaries})

    @property
    def target(self) -> Target:
        return Target(
            id=names.target_id("default", "cluster"),
            environment=EnvironmentId("default/kit"),
            driver="nomad",
            connection={
                "address": self.server.address,
                "job": "kit",
                "template": template("kit", **self.update),
                "tasks": {f"{component}/{component}": component for component in COMPONENTS},
            },
        )

    def unreachable(self) -> Target:
        nowhere = {**self.target.connection, "address": "http://127.0.0.1:9"}
        return replace(self.target, id=names.target_id("default", "far"), connection=nowhere)

    def driver(self) -> Driver:
        return NomadDriver(self.tools)

    def artifact(self, version: Version) -> Artifact:
        return artifact(version)

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        return Configuration(stop_grace=timedelta(seconds=3))

    def health(self, component: str, *, fixed: bool) -> Health:
        return Health(
            check=HttpCheck(port=8080, path="/health"),
            interval=timedelta(milliseconds=20),
            timeout=timedelta(seconds=1),
            successes=2,
            deadline=timedelta(seconds=1),
        )

    # -- eyes -------------------------------------------------------------------------------------------------------

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        with self.agent.lock:
            found: dict[str, Raw] = {}
            for job, part, runs in self._seen(id):
                name = look.instance(job, part)
                before = found.get(name)
                found[name] = Raw(
                    instance=name,
                    artifact=render.artifact(part) or Digest(""),
                    running=runs or (before is not None and before.running),
                    key=part.key,
                )
            return tuple(found.values())

    def _seen(self, id: PlacementId) -> Iterator[tuple[render.Job, render.Part, bool]]:
        """What the job says now, and whatever an allocation still runs."""
        if "kit" in self.agent.versions and "kit" not in self.agent.purged:
            job = self.agent.versions["kit"][0]
            part = self._part(job, id)
            if part is not None:
                yield job, part, False
        for one in self.agent.allocations:
            part = self._part(one.job, id) if one.job["ID"] == "kit" else None
            if part is not None and part.group["Name"] == one.group and one.client in ("pending", "running"):
                yield one.job, part, one.client == "running"

    def _part(self, job: render.Job, id: PlacementId) -> render.Part | None:
        return render.parts(job, self.tools.installation, id.target).get(id.component)

    async def answering(self, id: PlacementId) -> Version | None:
        """Whoever is in the service: what runs, but no canary that was not promoted."""
        with self.agent.lock:
            serving = [one for one in self._running(id) if not one.canary]
            said = {image(one).partition("@")[2] for one in serving}
        return next((version for version in Version if artifact(version).digest in said), None)

    def _running(self, id: PlacementId) -> list[Allocation]:
        mine = [one for one in self.agent.allocations if one.job["ID"] == "kit" and one.group == id.component]
        return [one for one in mine if one.client == "running"]

    # -- hands ------------------------------------------------------------------------------------------------------

    async def _until(self, id: PlacementId, running: bool) -> None:
        while True:
            with self.agent.lock:
                if bool(self._running(id)) == running:
                    return
            await anyio.sleep(0.01)

    async def stop(self, id: PlacementId) -> None:
        with self.agent.lock:
            self.agent.scale("kit", id.component, 0)
        await self._until(id, False)

    async def remove(self, id: PlacementId) -> None:
        with self.agent.lock:
            left = render.without_component(self.agent.job("kit"), id, self.tools.installation)
            if left is None:
                self.agent.deregister("kit", purge=True)
            else:
                self.agent.put(left)
        await self._until(id, False)

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        self._write(id, None if envelope is None else {look.ENVELOPE: str(envelope)})

    async def garble(self, id: PlacementId) -> None:
        self._write(id, {look.FORMAT: "nobody.knows/v9"})

    def _write(self, id: PlacementId, items: dict[str, str] | None) -> None:
        path = look.path(self.tools.installation, id)
        with self.agent.lock:
            if items is None:
                self.agent.delete_variable(path, None)
                return
            known = self.agent.variables.get(path, {"Items": {look.FORMAT: "holdfast.sticker/v1"}})
            self.agent.put_variable(path, {"Items": {**known["Items"], **items}}, None)

    async def swap(self, id: PlacementId, version: Version) -> None:
        with self.agent.lock:
            job = copy.deepcopy(self.agent.job("kit"))
            part = self._part(job, id)
            assert part is not None
            part.task["Config"]["image"] = str(artifact(version))
            self.agent.put(job)
        await anyio.sleep(0.2)

    async def intrude(self, name: str) -> None:
        """A job whose name begins alike, and whose task calls itself almost ours."""
        job = template(f"kit-{name}")
        for group in job["TaskGroups"]:
            group["Tasks"][0]["Config"]["image"] = str(artifact(Version.ONE))
            group["Tasks"][0]["Meta"] = {render.COMPONENT: name, render.TARGET: self.target.id}
        with self.agent.lock:
            self.agent.register({"Job": job})
        await anyio.sleep(0.2)

    async def intruders(self) -> frozenset[str]:
        with self.agent.lock:
            strange = [one for one in self.agent.allocations if one.job["ID"] != "kit" and one.client == "running"]
            return frozenset(f"{one.id} since {one.started}" for one in strange)
