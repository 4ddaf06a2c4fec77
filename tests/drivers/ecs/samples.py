"""A service, its template and placements, for tests that need no ECS."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any, Final

from desired_state.health import Health, TcpCheck
from desired_state.model import Configuration, Placement, RuntimeHealthcheck
from stickers import digest, names
from stickers.names import Artifact, ComponentName, EnvironmentId, InstallationId, PlacementId, ReleaseName

INSTALLATION: Final = InstallationId("shop-installation")
TARGET: Final = names.target_id("shop", "web")
ENVOY: Final = "registry.example.com/envoy@" + digest.of_bytes(b"envoy")
ROLE: Final = "arn:aws:iam::123456789012:role/shop-execution"
SECRET: Final = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop-db"

TEMPLATE: Final[dict[str, Any]] = {
    "family": "shop",
    "networkMode": "awsvpc",
    "cpu": "512",
    "memory": "1024",
    "executionRoleArn": ROLE,
    "tags": [{"key": "team", "value": "shop"}],
    "containerDefinitions": [
        {
            "name": "app",
            "essential": True,
            "portMappings": [{"containerPort": 8080}],
            "environment": [{"name": "REGION", "value": "eu-central-1"}],
            "secrets": [{"name": "PASSWORD", "valueFrom": SECRET}],
            "dockerLabels": {"team": "shop"},
        },
        {"name": "worker", "essential": True},
        {"name": "proxy", "image": ENVOY, "essential": False},
    ],
}
CONTAINERS: Final = {"app": "api", "worker": "jobs"}
CONNECTION: Final[dict[str, Any]] = {
    "cluster": "production",
    "service": "shop",
    "region": "eu-central-1",
    "task_definition": TEMPLATE,
    "containers": CONTAINERS,
}

FULL: Final = Configuration(
    command=("serve", "--verbose"),
    environment=(("LOG_LEVEL", "info"),),
    user="1000",
    memory=64 << 20,
    cpus=250,
    stop_grace=timedelta(milliseconds=2500),
    healthcheck=RuntimeHealthcheck(argv=("/bin/check", "-q"), interval=timedelta(seconds=5), retries=2),
)


def template(**changed: Any) -> dict[str, Any]:
    return copy.deepcopy(TEMPLATE) | changed


def container(name: str = "app", **changed: Any) -> dict[str, Any]:
    """The template with one container changed; None takes a field away."""
    body = template()
    for one in body["containerDefinitions"]:
        if one["name"] == name:
            one.update(changed)
    return body


def placement(
    version: str = "one", component: str = "api", configuration: Configuration = FULL, **changed: Any
) -> Placement:
    fields: dict[str, Any] = {
        "id": PlacementId(TARGET, ComponentName(component)),
        "environment": EnvironmentId("shop/prod"),
        "release": ReleaseName(f"shop@{version}"),
        "artifact": Artifact(f"registry.example.com/shop/{component}", digest.of_bytes(version.encode())),
        "configuration": configuration,
        "health": Health(check=TcpCheck(port=8080)),
    }
    return Placement(**fields | changed)
