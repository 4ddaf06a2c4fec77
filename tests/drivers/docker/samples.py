"""Placements, and containers as an engine would describe them, for tests that need no engine."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any, Final

from desired_state.model import (
    Configuration,
    Placement,
    Port,
    RestartPolicy,
    RuntimeHealthcheck,
    Volume,
)
from desired_state.secrets import SecretRef
from drivers.docker import render
from stickers import digest, names
from stickers.names import ActionKey, Artifact, ComponentName, EnvironmentId, InstallationId, PlacementId, ReleaseName

INSTALLATION: Final = InstallationId("shop-installation")
ID: Final = PlacementId(names.target_id("shop", "web-1"), ComponentName("api"))
ARTIFACT: Final = Artifact("registry.example.com/shop/api", digest.of_bytes(b"api"))
PASSWORD: Final = SecretRef(reference="vault:kv/shop#password", version="7")
IMAGE_ID: Final = str(digest.of_bytes(b"image"))

FULL: Final = Configuration(
    command=("serve", "--verbose"),
    environment=(("LOG_LEVEL", "info"), ("PASSWORD", PASSWORD)),
    ports=(Port(container=8080, host=8081), Port(container=9090, address="::1")),
    volumes=(
        Volume(source="/etc/shop", destination="/config", read_only=True),
        Volume(source="shop-data", destination="/data"),
    ),
    networks=("front", "shop"),
    user="1000:1000",
    restart=RestartPolicy.ON_FAILURE,
    memory=64 << 20,
    cpus=1500,
    stop_grace=timedelta(seconds=2.5),
    healthcheck=RuntimeHealthcheck(argv=("/bin/check", "-q"), interval=timedelta(seconds=5), retries=2),
)


def placement(configuration: Configuration = FULL, *, id: PlacementId = ID, running: bool = True) -> Placement:
    return Placement(
        id=id,
        environment=EnvironmentId("shop/prod"),
        release=ReleaseName("shop@1.0"),
        artifact=ARTIFACT,
        configuration=configuration,
        running=running,
    )


def origin(sequence: int = 4, *, key: str = "ab" * 32, fence: int = 3) -> render.Origin:
    return render.Origin(installation=INSTALLATION, id=ID, key=ActionKey(key), fence=fence, sequence=sequence)


def image(**config: Any) -> dict[str, Any]:
    """The image as the engine inspects it."""
    own: dict[str, Any] = {"Env": ["PATH=/bin"], "Cmd": None, "Entrypoint": ["/serve"], "Volumes": None, "User": ""}
    return {"Id": IMAGE_ID, "RepoDigests": [str(ARTIFACT)], "RepoTags": [], "Config": own | config}


def container(of: Placement, **origin_words: Any) -> dict[str, Any]:
    """What the engine would answer for a container made as rendered, with the image's defaults filled in."""
    body = render.workload(of, origin(**origin_words), {PASSWORD: "s3cret"}, reachable=True)
    config, defaults = copy.deepcopy(body.config), image()["Config"]
    host, networking = config.pop("HostConfig"), config.pop("NetworkingConfig", {})
    networks = dict(networking.get("EndpointsConfig") or {"bridge": {}})
    networks |= {name: {"Aliases": [render.alias(of.id)]} for name in body.networks}
    config["Env"] = [*config["Env"], *defaults["Env"]]
    return {
        "Id": f"{hash((of.id, str(origin_words))) & (1 << 64) - 1:064x}",
        "Name": "/" + body.name,
        "Image": IMAGE_ID,
        "Config": {"Cmd": defaults["Cmd"], "Entrypoint": defaults["Entrypoint"], "User": "", "Healthcheck": None}
        | config,
        "HostConfig": {"Privileged": False, "Memory": 0, "NanoCpus": 0} | host,
        "State": {"Running": True, "Status": "running", "StartedAt": "2026-11-21T10:00:00.123456789Z", "ExitCode": 0},
        "RestartCount": 0,
        "NetworkSettings": {"Networks": networks, "Ports": {}},
        "Mounts": [_mounted(mount) for mount in host["Mounts"]],
    }


def _mounted(mount: dict[str, Any]) -> dict[str, Any]:
    named = {"Name": mount["Source"], "Source": f"/var/lib/docker/volumes/{mount['Source']}/_data"}
    where = named if mount["Type"] == "volume" else {"Source": mount["Source"]}
    return {"Type": mount["Type"], "Destination": mount["Target"], "RW": not mount["ReadOnly"], **where}
