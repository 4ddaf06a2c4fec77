"""Templates and placements of a job, for tests that need no cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from desired_state.model import Configuration, Placement
from desired_state.secrets import SecretRef
from drivers.nomad import render
from drivers.nomad.connection import Place
from stickers import digest, names
from stickers.names import ActionKey, Artifact, ComponentName, EnvironmentId, InstallationId, PlacementId, ReleaseName

INSTALLATION: Final = InstallationId("shop-installation")
TARGET: Final = names.target_id("shop", "cluster")
KEY: Final = ActionKey("ab" * 32)
PASSWORD: Final = SecretRef(reference="vault:kv/shop#password", version="7")
LOGGER: Final = f"registry.example.com/logger@{digest.of_bytes(b'logger')}"
PLACES: Final = {"api": Place("front", "api"), "web": Place("front", "web"), "worker": Place("back", "worker")}

FULL: Final = Configuration(
    command=("serve", "--verbose"),
    environment=(("LOG_LEVEL", "info"), ("PASSWORD", PASSWORD)),
    user="1000:1000",
    memory=256 << 20,
    cpus=2000,
    stop_grace=timedelta(seconds=30),
)


def template() -> dict[str, Any]:
    """Two components in one group beside a logger of no component, and one in a group of its own."""
    return {
        "Job": {
            "ID": "shop",
            "Type": "service",
            "Datacenters": ["dc1"],
            "Update": {"MaxParallel": 1, "AutoRevert": True},
            "TaskGroups": [
                {
                    "Name": "front",
                    "Count": 2,
                    "Networks": [{"Mode": "bridge", "DynamicPorts": [{"Label": "http", "To": 8080}]}],
                    "Tasks": [
                        {"Name": "api", "Driver": "docker", "Env": {"REGION": "eu"}, "Config": {"ports": ["http"]}},
                        {"Name": "web", "Driver": "docker"},
                        {"Name": "logger", "Driver": "docker", "Config": {"image": LOGGER}},
                    ],
                },
                {"Name": "back", "Tasks": [{"Name": "worker", "Driver": "podman", "Resources": {"CPU": 100}}]},
            ],
        }
    }


def outline(**changed: Any) -> render.Outline:
    body = template()
    body["Job"] |= changed
    return render.outline(body, job="shop", namespace="default", region=None, places=PLACES)


def artifact(component: str, version: str = "one") -> Artifact:
    return Artifact(f"registry.example.com/shop/{component}", digest.of_bytes(f"{component} {version}".encode()))


def placement(component: str = "api", version: str = "one", **changed: Any) -> Placement:
    made = Placement(
        id=PlacementId(TARGET, ComponentName(component)),
        environment=EnvironmentId("shop/prod"),
        release=ReleaseName(f"shop@{version}"),
        artifact=artifact(component, version),
        configuration=Configuration(),
    )
    return replace(made, **changed)


def origin(key: str = KEY, fence: int = 3) -> render.Origin:
    return render.Origin(installation=INSTALLATION, target=TARGET, key=ActionKey(key), fence=fence)


def job(*placements: Placement, found: render.Job | None = None) -> render.Job:
    """A job in which these were deployed one after the other."""
    for one in placements:
        found = render.with_components(outline(), [one], origin(), found)
    assert found is not None
    return found


def part(found: render.Job, component: str = "api") -> render.Part:
    return render.parts(found, INSTALLATION, TARGET)[ComponentName(component)]
