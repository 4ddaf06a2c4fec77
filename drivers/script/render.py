"""What commands are told: one JSON object about one placement. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.process import render
from stickers.names import PlacementId

Document = Mapping[str, Any]  # a placement as it is recorded on the host: secrets as references


def document(placement: Placement) -> dict[str, Any]:
    return {
        "release": str(placement.release),
        "artifact": str(placement.artifact),
        "configuration": render.document(placement.configuration),
        "running": placement.running,
    }


def secrets(found: Document) -> Iterator[tuple[str, SecretRef]]:
    """Variables and the references of their values."""
    for name, value in found["configuration"].get("environment", []):
        if not isinstance(value, str):
            yield name, SecretRef(reference=value["reference"], version=value.get("version"))


def told(action: str, key: str, id: PlacementId, found: Document, values: Mapping[str, str]) -> dict[str, Any]:
    """What the command reads on its standard input; `values` are those of the secrets, by variable."""
    configuration = dict(found["configuration"])
    variables = {name: values.get(name, value) for name, value in configuration.get("environment", [])}
    return {
        "action": action,
        "key": key,
        "target": str(id.target),
        "component": str(id.component),
        "slot": str(id.slot),
        "placement": {**found, "configuration": {**configuration, "environment": variables}},
    }
