"""The kit's bench on one job of an agent, each component in a group of its own. Everything goes through the agent's
HTTP API, so that it is one bench for the contract server and for a real agent."""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote, urlsplit

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

COMPONENTS: Final = ("api", "api-admin", "web")
SOON: Final = {"MinHealthyTime": 10_000_000, "HealthyDeadline": 400_000_000, "HealthCheck": "task_states"}
ENDED: Final = ("complete", "failed", "lost")


def artifact(version: Version) -> Artifact:
    return Artifact("registry.example.com/kit", digest.of_bytes(f"kit {version}".encode()))


@dataclass(frozen=True, kw_only=True)
class Site:
    """An agent, and what can be deployed there. `deadline` is how long a bad version is waited for."""

    address: str
    token: str | None = None
    job: str = "kit"
    artifacts: Mapping[Version, Artifact] = field(default_factory=lambda: {one: artifact(one) for one in Version})
    update: Mapping[str, Any] = field(default_factory=lambda: dict(SOON))
    deadline: timedelta = timedelta(seconds=1)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of the agent; None where it knows nothing of that name."""
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            headers = {"X-Nomad-Token": self.token} if self.token else {}
            connection.request(method, f"/v1/{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return json.loads(content) if content else None


def template(job: str, update: Mapping[str, Any] = SOON) -> dict[str, Any]:
    return {
        "ID": job,
        "Datacenters": ["*"],
        "Update": dict(update),
        "TaskGroups": [
            {
                "Name": component,
                "Networks": [{"DynamicPorts": [{"Label": "http", "To": 8080}]}],
                "Tasks": [{"Name": component, "Driver": "docker", "Config": {"ports": ["http"], "init": True}}],
            }
            for component in COMPONENTS
        ],
    }


class NomadBench(Bench):
    patience = timedelta(seconds=60)
    pause = timedelta(milliseconds=10)

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site

    @property
    def powers(self) -> frozenset[Power]:
        canaries = {Power.BESIDE, Power.ANSWERS} if self.site.update.get("Canary") else set()
        return frozenset({Power.SWAPS, Power.UNREACHABLE, Power.INTRUDES, Power.EVENTS, Power.LOGS, *canaries})

    @property
    def target(self) -> Target:
        return Target(
            id=names.target_id("default", "cluster"),
            environment=EnvironmentId("default/kit"),
            driver="nomad",
            connection={
                "address": self.site.address,
                "job": self.site.job,
                "template": template(self.site.job, self.site.update),
                "tasks": {f"{component}/{component}": component for component in COMPONENTS},
            },
        )

    def unreachable(self) -> Target:
        nowhere = {**self.target.connection, "address": "http://127.0.0.1:9"}
        return replace(self.target, id=names.target_id("default", "far"), connection=nowhere)

    def driver(self) -> Driver:
        return NomadDriver(self.tools)

    def artifact(self, version: Version) -> Artifact:
        return self.site.artifacts[version]

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        return Configuration(stop_grace=timedelta(seconds=3))

    def health(self, component: str, *, fixed: bool) -> Health:
        return Health(
            check=HttpCheck(port=8080, path="/cgi-bin/health"),
            interval=timedelta(milliseconds=20),
            timeout=timedelta(seconds=1),
            successes=2,
            deadline=self.site.deadline,
        )

    # -- eyes -------------------------------------------------------------------------------------------------------

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
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
        job = self._job()
        part = self._part(job, id) if job else None
        if job is not None and part is not None:
            yield job, part, False
        for one in self._allocations(id):
            made = self.site.ask("GET", f"allocation/{one['ID']}")["Job"]
            part = self._part(made, id)
            if part is not None:
                yield made, part, one["ClientStatus"] == "running"

    def _job(self) -> render.Job | None:
        found: render.Job | None = self.site.ask("GET", f"job/{self._name}")
        return found

    @property
    def _name(self) -> str:
        return quote(self.site.job, safe="")

    def _allocations(self, id: PlacementId, job: str | None = None) -> list[dict[str, Any]]:
        found = self.site.ask("GET", f"job/{job or self._name}/allocations") or []
        return [one for one in found if one["TaskGroup"] == id.component and one["ClientStatus"] not in ENDED]

    def _part(self, job: render.Job, id: PlacementId) -> render.Part | None:
        return render.parts(job, self.tools.installation, id.target).get(id.component)

    async def answering(self, id: PlacementId) -> Version | None:
        """Whoever is in the service: what runs, but no canary that was not promoted."""
        serving = {
            one["JobVersion"]
            for one in self._allocations(id)
            if one["ClientStatus"] == "running" and not (one.get("DeploymentStatus") or {}).get("Canary")
        }
        for version in self.site.ask("GET", f"job/{self._name}/versions")["Versions"] if serving else ():
            part = self._part(version, id)
            if part is not None and version["Version"] in serving:
                return next(one for one in Version if self.artifact(one).digest == render.artifact(part))
        return None

    # -- hands ------------------------------------------------------------------------------------------------------

    async def _ended(self, id: PlacementId) -> None:
        for _ in range(3000):
            if not self._allocations(id):
                return
            await anyio.sleep(0.01)

    async def stop(self, id: PlacementId) -> None:
        scale = {"Count": 0, "Target": {"Job": self.site.job, "Group": id.component}}
        self.site.ask("POST", f"job/{self._name}/scale", scale)
        await self._ended(id)

    async def remove(self, id: PlacementId) -> None:
        job = self._job()
        assert job is not None
        left = render.without_component(job, id, self.tools.installation)
        if left is None:
            self.site.ask("DELETE", f"job/{self._name}?purge=true")
        else:
            self.register(left)
        await self._ended(id)

    def register(self, job: render.Job) -> None:
        self.site.ask("POST", "jobs", {"Job": job})

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        self._write(id, None if envelope is None else {look.ENVELOPE: str(envelope)})

    async def garble(self, id: PlacementId) -> None:
        self._write(id, {look.FORMAT: "nobody.knows/v9"})

    def _write(self, id: PlacementId, items: dict[str, str] | None) -> None:
        path = look.path(self.tools.installation, id)
        if items is None:
            self.site.ask("DELETE", f"var/{path}?namespace=default")
            return
        known = self.site.ask("GET", f"var/{path}?namespace=default") or {"Items": {look.FORMAT: "holdfast.sticker/v1"}}
        body = {"Namespace": "default", "Path": path, "Items": {**known["Items"], **items}}
        self.site.ask("PUT", f"var/{path}?namespace=default", body)

    async def swap(self, id: PlacementId, version: Version) -> None:
        job = copy.deepcopy(self._job())
        part = self._part(job, id) if job else None
        assert job is not None
        assert part is not None
        part.task["Config"]["image"] = str(self.artifact(version))
        self.register(job)
        await anyio.sleep(0.2)

    async def intrude(self, name: str) -> None:
        """A job whose name begins alike, and whose task calls itself almost ours."""
        job = template(f"{self.site.job}-{name}", self.site.update)
        job["TaskGroups"] = job["TaskGroups"][:1]
        task = job["TaskGroups"][0]["Tasks"][0]
        task["Config"]["image"] = str(self.artifact(Version.ONE))
        task["Meta"] = {render.COMPONENT: name, render.TARGET: self.target.id}
        self.register(job)
        for _ in range(1500):
            if await self.intruders():
                return
            await anyio.sleep(0.02)

    async def intruders(self) -> frozenset[str]:
        strange = self.site.ask("GET", f"job/{self.site.job}-api/allocations") or []
        running = [one for one in strange if one["ClientStatus"] == "running"]
        return frozenset(f"{one['ID']} since {one['TaskStates']['api']['StartedAt']}" for one in running)

    def clear(self) -> None:
        """Nothing of the kit is left at the agent."""
        for job in (self._name, f"{self._name}-api"):
            if self.site.ask("GET", f"job/{job}") is not None:
                self.site.ask("DELETE", f"job/{job}?purge=true")
        for component in COMPONENTS:
            self._write(PlacementId(self.target.id, names.ComponentName(component)), None)
