"""Events of an engine, read as containers something has happened to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drivers.docker import render
from stickers.names import InstallationId, TargetId

# No exec_*: the engine tells of each run of a container's own health check. No create: what was made is not started.
FILTERS: Final[Mapping[str, list[str]]] = {
    "type": ["container", "network"],
    "event": [
        *("start", "die", "stop", "kill", "oom", "pause", "unpause", "restart", "destroy", "rename", "update"),
        *("health_status", "connect", "disconnect"),
    ],
}


def container_of(event: Mapping[str, Any]) -> str:
    """The container's id, or the empty text."""
    actor = event.get("Actor") or {}
    if event.get("Type") == "network":
        return str((actor.get("Attributes") or {}).get("container", ""))
    return str(actor.get("ID", ""))


def target_of(event: Mapping[str, Any], installation: InstallationId) -> TargetId | None:
    """The target its labels name; a network's events carry no labels, and neither does an adopted container."""
    attributes = (event.get("Actor") or {}).get("Attributes") or {}
    if attributes.get(render.INSTALLATION) != installation or render.TARGET not in attributes:
        return None
    return TargetId(attributes[render.TARGET])
