"""What a placement means to a plain host, as plain data: the specification beside each unpacked release, and what is
declared that a plain host cannot give. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from desired_state.health import CommandCheck, Health
from desired_state.model import Configuration, Placement
from desired_state.secrets import SecretRef
from stickers import digest
from stickers.names import LIVE, InstallationId, PlacementId

OURS: Final = "HOLDFAST_"
FOUND: Final = "CREDENTIALS_DIRECTORY"  # the variable that names the directory of secrets, as systemd's own does
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def document(configuration: Configuration) -> dict[str, Any]:
    """The configuration as it is digested: whoever reads it can compute the configuration digest from it."""
    content = digest.plain(configuration)
    assert isinstance(content, dict)
    del content["registry_credentials"]
    return {name: value for name, value in content.items() if value not in (None, [])}


def specification(
    placement: Placement, installation: InstallationId, inherited: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The release beside which it stands, without secret values. `inherited` is the command of the image's own
    configuration, used where none is declared."""
    return {
        "installation": str(installation),
        "target": str(placement.id.target),
        "component": str(placement.id.component),
        "slot": str(placement.id.slot),
        "artifact": str(placement.artifact),
        "configuration": document(placement.configuration),
        "command": list(placement.configuration.command or inherited),
    }


def unsupported(placement: Placement) -> tuple[str, ...]:
    """Sentences: what is declared and would not be enforced. Empty when everything would be."""
    declared = placement.configuration
    return (*beyond_a_host(declared), *_parts_of_cores(declared), *files(declared))


def _parts_of_cores(declared: Configuration) -> Iterator[str]:
    if declared.cpus is not None and (declared.cpus <= 0 or declared.cpus % 1000):
        yield f"cpus {declared.cpus / 1000:g}: processors are given in whole cores here"


def files(declared: Configuration) -> Iterator[str]:
    """What of its secrets cannot be a file as it is declared."""
    for file in declared.secrets:
        if file.path is not None:
            yield f"secrets: {file.name} has the path {file.path[:80]}, and a program finds it as ${FOUND}/{file.name}"
    if declared.secrets and any(name == FOUND for name, _ in declared.environment):
        yield f"environment {FOUND}: it is given where there are secrets as files, and leads to them"


def beyond_a_host(declared: Configuration) -> Iterator[str]:
    """What no plain host can give, whoever keeps its workloads running."""
    if declared.volumes:
        yield "volumes are not of a plain host: a workload sees the host's own files"
    if declared.networks:
        yield "networks are not of a plain host: a workload uses the host's own"
    if declared.healthcheck is not None:
        yield "a runtime's own health check is not of a plain host: declare health"
    if declared.user is not None and not _USER.fullmatch(declared.user):
        yield f"user {declared.user[:40]!r}: expected user or user:group"
    for port in declared.ports:
        if port.host not in (None, port.container):
            yield f"port {port.host}:{port.container}: the workload binds its port itself, so both must be equal"
    for name, value in declared.environment:
        yield from _wrong_variable(name, value)
    if any("\0" in word for word in declared.command or ()):
        yield "command: a word contains NUL"


def _wrong_variable(name: str, value: str | SecretRef) -> Iterator[str]:
    if not _VARIABLE.fullmatch(name):
        yield f"environment {name[:40]!r} is not the name of a variable"
    if name.startswith(OURS):
        yield f"environment {name[:40]}: names that begin with {OURS} are given by this driver"
    if isinstance(value, str) and "\0" in value:
        yield f"environment {name[:40]}: its value contains NUL"


def secrets(configuration: Configuration) -> dict[str, SecretRef]:
    """The references that have to be resolved, by the name under which the host asks for their values."""
    found = [value for _, value in configuration.environment if isinstance(value, SecretRef)]
    found += [file.secret for file in configuration.secrets]
    return {f"{reference.reference}@{reference.version or ''}": reference for reference in found}


def asked_port(health: Health | None) -> int | None:
    """The port of the workload that its health check asks."""
    return None if health is None or isinstance(health.check, CommandCheck) else health.check.port


def fixed(placement: Placement) -> bool:
    """Whether two instances would fight for a port, so that the predecessor has to end before it can start."""
    floating = {port.container for port in placement.configuration.ports if port.host is None}
    asked = asked_port(placement.health)
    return any(port.host is not None for port in placement.configuration.ports) or (
        asked is not None and asked not in floating
    )


def folder(id: PlacementId) -> str:
    """The name of the placement's directory."""
    return str(id.component) if id.slot == LIVE else f"{id.component}.{id.slot}"


def place(id: PlacementId, installation: InstallationId, root: str) -> Mapping[str, str]:
    """How a request names the placement."""
    return {
        "root": root,
        "installation": str(installation),
        "target": str(id.target),
        "component": str(id.component),
        "slot": str(id.slot),
    }
