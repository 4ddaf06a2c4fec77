"""One service in the fake ECS, which three components may share, and hands that go around the driver."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Placement, Target
from desired_state.secrets import SecretRef
from drivers.conformance import proper_tools
from drivers.contract import Tools
from drivers.ecs import look, revisions, tags
from drivers.ecs.look import View
from stickers import digest, names
from stickers.names import Artifact, ComponentName, EnvironmentId, PlacementId, ReleaseName
from tests.drivers.ecs.fake import REGION, App, FakeEcs, Service

PORTS = {"api": 8080, "web": 8081, "api-admin": 8082}
REPOSITORY = "registry.example.com/kit"
APPS = {
    "one": App("one"),
    "two": App("two"),
    "three": App("three"),
    "bad": App("bad", status=500),
    "crashing": App("crashing", runs=False),
}
SOON = timedelta(milliseconds=700)  # for what never gets well
SECRETS = {"env:KEY": "AKIAFAKE", "env:SECRET": "not-a-secret"}
CREDENTIALS = {"access_key_id": {"secret": "env:KEY"}, "secret_access_key": {"secret": "env:SECRET"}}

_clusters = count(1)


async def secret(reference: SecretRef) -> str:
    return SECRETS[reference.reference]


def tools() -> Tools:
    return replace(proper_tools(), secret=secret)


def artifact(version: str) -> Artifact:
    return Artifact(REPOSITORY, digest.of_bytes(version.encode()))


def health(component: str = "api", **changed: Any) -> Health:
    asked = Health(
        check=HttpCheck(port=PORTS[component]),
        interval=timedelta(milliseconds=20),
        timeout=timedelta(seconds=2),
        successes=2,
        deadline=timedelta(seconds=10),
    )
    return replace(asked, **changed)


class Yard:
    """A cluster of its own, with the service `shop` at a definition that is nobody's, and no task."""

    def __init__(self, ecs: FakeEcs, *, breaker: bool = False) -> None:
        self.ecs, self.tools, self.cluster = ecs, tools(), f"cluster-{next(_clusters)}"
        ecs.apps |= {str(artifact(version)): app for version, app in APPS.items()}
        self.family = f"{self.cluster}-shop"
        self.bootstrap = self._register("bootstrap", [{"name": "nothing", "image": "busybox"}])
        self.breaker = breaker
        self.service = ecs.ask(lambda: ecs.create(self.cluster, "shop", self.bootstrap, breaker=breaker))

    def close(self) -> None:
        self.ecs.ask(lambda: self.ecs.forget(self.cluster))

    def _register(self, family: str, containers: list[dict[str, Any]], **more: Any) -> str:
        body = {"family": family, "containerDefinitions": containers} | more
        return self.ecs.ask(lambda: self.ecs.register(body))

    @property
    def connection(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "service": "shop",
            "region": REGION,
            "endpoint": self.ecs.endpoint,
            "credentials": CREDENTIALS,
            "containers": {component: component for component in PORTS},
            "task_definition": {
                "family": self.family,
                "networkMode": "awsvpc",
                "containerDefinitions": [
                    {"name": component, "portMappings": [{"containerPort": port}]} for component, port in PORTS.items()
                ],
            },
        }

    def target(self, name: str = "shop", **changed: Any) -> Target:
        return Target(
            id=names.target_id("default", name),
            environment=EnvironmentId("default/kit"),
            driver="ecs",
            connection=self.connection | changed,
        )

    def placement(self, version: str = "one", component: str = "api", **changed: Any) -> Placement:
        fields: dict[str, Any] = {
            "id": PlacementId(names.target_id("default", "shop"), ComponentName(component)),
            "environment": EnvironmentId("default/kit"),
            "release": ReleaseName(f"kit@{version}"),
            "artifact": artifact(version),
            "configuration": self.configuration(component),
            "health": health(component, **({"deadline": SOON} if version in ("bad", "crashing") else {})),
        }
        return Placement(**fields | changed)

    def configuration(self, component: str) -> Configuration:
        return Configuration(environment=(("PORT", str(PORTS[component])),), stop_grace=timedelta(seconds=1))

    # -- eyes ---------------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """What the driver would see, read without it."""

        def read() -> View:
            said = self.ecs.DescribeServices({"cluster": self.cluster, "services": ["shop"], "include": ["TAGS"]})
            service = look.service(_timed(said["services"][0]))
            return View(
                service=service,
                revision=self._revision(service.deployments[0].definition),
                kept={},
                installation=self.tools.installation,
                target=self.target().id,
            )

        return self.ecs.ask(read)

    def _revision(self, arn: str) -> revisions.Revision:
        return revisions.revision(self.ecs.definitions[arn], self.ecs.definition_tags[arn])

    @property
    def images(self) -> dict[str, str]:
        """Container -> image, of what the service is brought to."""
        arn = self.service.deployments[0].definition
        return {one["name"]: one["image"] for one in self.ecs.definitions[arn]["containerDefinitions"]}

    @property
    def running(self) -> int:
        """Tasks of the primary deployment."""
        primary = self.service.deployments[0].id
        return sum(task.status == "RUNNING" and task.deployment == primary for task in list(self.service.tasks))

    def revisions_of(self, family: str) -> list[str]:
        return [arn for arn in self.ecs.definitions if f"/{family}:" in arn]

    # -- hands --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        self.ecs.ask(lambda: setattr(self.service, "desired", 0))

    def update(self, definition: str, **more: Any) -> None:
        said = {"cluster": self.cluster, "service": "shop", "taskDefinition": definition} | more
        self.ecs.ask(lambda: self.ecs.UpdateService(said))

    def swap(self, component: str, version: str) -> None:
        """A new revision made by hand from the one that runs: everything is copied, labels and tags too."""
        arn = self.service.deployments[0].definition
        body = copy.deepcopy(self.ecs.definitions[arn])
        for one in body["containerDefinitions"]:
            if one["name"] == component:
                one["image"] = str(artifact(version))
        body |= {"tags": [{"key": key, "value": value} for key, value in self.ecs.definition_tags[arn].items()]}
        self.update(self.ecs.ask(lambda: self.ecs.register(body)))

    def wear(self, component: str, text: dict[str, str] | None) -> None:
        """Other tags in the place of a sticker's."""

        def written() -> None:
            for key in tags.chunk_keys(self.service.tags, ComponentName(component)):
                del self.service.tags[key]
            self.service.tags.update(text or {})

        self.ecs.ask(written)

    def stranger(self, name: str) -> Service:
        """A service of somebody else, of the same cluster and almost the same names."""
        image = str(artifact("one"))
        arn = self._register(f"{self.family}-{name}", [{"name": name, "image": image, "dockerLabels": {"a": "b"}}])
        return self.ecs.ask(lambda: self.ecs.create(self.cluster, f"shop-{name}", arn, desired=1))


def _timed(described: dict[str, Any]) -> dict[str, Any]:
    """As the SDK would read it: times are no times in JSON."""
    return described | {"deployments": [{**one, "createdAt": None} for one in described["deployments"]], "events": []}
