"""Templates and placements, for tests that need no engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from desired_state.model import Configuration, Placement
from desired_state.secrets import SecretRef
from drivers.compose.connection import Connection
from drivers.compose.lock import Piece, Place, piece
from drivers.compose.template import Part
from stickers import digest, names
from stickers.names import Artifact, ComponentName, EnvironmentId, InstallationId, PlacementId, ReleaseName

PLACE: Final = Place(installation=InstallationId("shop-installation"), target=names.target_id("shop", "web-1"))
PASSWORD: Final = SecretRef(reference="vault:kv/shop#password", version="7")

TEMPLATE: Final[dict[str, Any]] = {
    "services": {
        "api": {
            "image": "shop/api:latest",
            "command": ["serve", "--port", "8080"],
            "environment": {"LOG_LEVEL": "info", "PRICE": "5 $$", "WORKERS": 4},
            "ports": ["127.0.0.1:8081:8080", "9090"],
            "volumes": ["data:/data", "/etc/shop:/config:ro"],
            "networks": {"front": {"aliases": ["shop"]}, "back": None},
            "depends_on": ["db", "mail"],
            "healthcheck": {"test": ["CMD-SHELL", "check || exit 1"], "interval": "5s", "retries": 2},
            "labels": {"team": "shop"},
            "mem_limit": "64m",
            "cpus": 0.5,
            "read_only": True,
            "tmpfs": ["/tmp"],
            "cap_drop": ["ALL"],
        },
        "db": {"volumes": ["database:/var/lib/db"], "networks": ["back"]},
        "mail": {},
    },
    "networks": {"front": {"external": True, "name": "proxy"}, "back": {"internal": True}},
    "volumes": {"data": None, "database": None},
}


def connection(template: dict[str, Any] = TEMPLATE, **more: Any) -> Connection:
    return Connection.model_validate({"root": "/srv/holdfast", "template": template, "host_mounts": ["/etc"], **more})


def placement(component: str = "api", template: dict[str, Any] = TEMPLATE, **configuration: Any) -> Placement:
    """As it is resolved for a target with this template."""
    own = {"stop_grace": timedelta(seconds=2), **configuration}
    text = connection(template).template_of(component)
    return Placement(
        id=PlacementId(PLACE.target, ComponentName(component)),
        environment=EnvironmentId("shop/prod"),
        release=ReleaseName("shop@1.0"),
        artifact=Artifact(f"registry.example.com/shop/{component}", digest.of_bytes(component.encode())),
        configuration=Configuration(template=text, **own),
    )


def made(wanted: Placement) -> Piece:
    assert wanted.configuration.template is not None
    return piece(PLACE, wanted, Part.read(wanted.configuration.template))
