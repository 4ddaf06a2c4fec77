"""What is sent to the engine, as plain data: from a placement to its specification, labels, names and create bodies.

Every workload runs under the engine's own init (`Init: true`): as process 1 it would ignore the signals it does not
handle, and each stop would last the whole grace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from desired_state.model import Configuration, Placement, Port, RestartPolicy, RuntimeHealthcheck, Volume
from desired_state.secrets import SecretFile, SecretRef
from stickers import codec, digest
from stickers.names import LIVE, ActionKey, InstallationId, PlacementId
from stickers.signature import Envelope
from stickers.sticker import Phase

INSTALLATION: Final = "holdfast.installation"
TARGET: Final = "holdfast.target"
COMPONENT: Final = "holdfast.component"
SLOT: Final = "holdfast.slot"
ROLE: Final = "holdfast.role"
KEY: Final = "holdfast.key"
FENCE: Final = "holdfast.fence"
SEQUENCE: Final = "holdfast.sequence"
ARTIFACT: Final = "holdfast.artifact"
CONFIGURATION: Final = "holdfast.configuration"
SPECIFICATION: Final = "holdfast.specification"
PHASE: Final = "holdfast.phase"  # of the sticker, for whoever looks without keys
INSTANCE: Final = "holdfast.instance"  # the container the sticker speaks of; while in transit, the one to put back
ADOPTED: Final = "holdfast.adopted"  # that container carries no labels of ours; the holder carries its record

IDENTITY: Final = (INSTALLATION, TARGET, COMPONENT, SLOT, KEY, ROLE)  # equal: made by the same action for the same

WORKLOAD: Final = "workload"
STICKER: Final = "sticker"
FILES: Final = "files"  # a container that is never started, through which files are put on the engine's host

NEVER: Final = {"Name": "no", "MaximumRetryCount": 0}
ALWAYS: Final = {"Name": "always", "MaximumRetryCount": 0}

ROOM: Final = "/holdfast"  # where that container has the directory

Specification = Mapping[str, Any]  # JSON data: what a container should be, secrets as references


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who makes a container, for which placement and in which action. `sequence` orders the containers of one
    placement: the number of the sticker the action began with."""

    installation: InstallationId
    id: PlacementId
    key: ActionKey
    fence: int
    sequence: int

    @property
    def labels(self) -> dict[str, str]:
        return placement_labels(self.installation, self.id) | {
            KEY: self.key,
            FENCE: str(self.fence),
            SEQUENCE: str(self.sequence),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A container to be created. `networks` are those it is connected to before it starts, beside the first, which
    the engine connects when it creates."""

    name: str
    config: dict[str, Any]
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a sticker's holder holds: the envelope, and which container it speaks of. `adopted` is the record of a
    container that was adopted and carries no labels of ours."""

    phase: Phase
    envelope: Envelope
    image: str
    instance: str = ""
    adopted: Mapping[str, str] | None = None


def placement_labels(installation: InstallationId, id: PlacementId) -> dict[str, str]:
    """The labels that find everything of one placement."""
    return {INSTALLATION: installation, TARGET: id.target, COMPONENT: id.component, SLOT: id.slot}


def record(placement: Placement) -> dict[str, str]:
    """The labels that say what a container was made, or adopted, as."""
    return {
        ARTIFACT: placement.artifact.digest,
        CONFIGURATION: placement.configuration_digest,
        SPECIFICATION: text(specification(placement)),
    }


def workload_name(installation: InstallationId, id: PlacementId, key: ActionKey) -> str:
    """One name for one placement and action: the engine lets nobody else have it, so it is a mutex."""
    return f"{_stem(installation, id)}-{key[:12]}"


def holder_name(installation: InstallationId, id: PlacementId, sequence: int) -> str:
    return f"{_stem(installation, id)}-sticker-{sequence}"


def _stem(installation: InstallationId, id: PlacementId) -> str:
    """Names are unique on an engine that several targets and installations may share."""
    owner = digest.short(digest.of([installation, id]))
    return f"holdfast-{id.target.partition('/')[2]}-{alias(id)}-{owner}"


def alias(id: PlacementId) -> str:
    """The name under which the placement is reached on its networks."""
    return id.component if id.slot == LIVE else f"{id.component}-{id.slot}"


def specification(placement: Placement) -> Specification:
    """What the container should be, in the terms that `drivers.docker.compare` reads from a running one."""
    wanted = placement.configuration
    return {
        "image": str(placement.artifact),
        "command": None if wanted.command is None else list(wanted.command),
        "environment": {name: _reference(value) for name, value in wanted.environment},
        "ports": _port_texts(wanted.ports),
        "volumes": {volume.destination: _volume(volume) for volume in wanted.volumes},
        "networks": {network: alias(placement.id) for network in wanted.networks},
        "user": wanted.user,
        "restart": wanted.restart.value,
        "memory": wanted.memory,
        "cpus": wanted.cpus,
        "stop_grace": seconds(wanted.stop_grace),
        "healthcheck": None if wanted.healthcheck is None else _healthcheck(wanted.healthcheck),
        "entrypoint": None,
        "privileged": False,
    } | ({"secrets": {file.inside: _reference(file.secret) for file in wanted.secrets}} if wanted.secrets else {})


def text(specification: Specification) -> str:
    """The specification as it stands in a label."""
    return digest.canonical(dict(specification)).decode()


def workload(
    placement: Placement, origin: Origin, secrets: Mapping[SecretRef, str], *, reachable: bool, files: str = ""
) -> Body:
    """The container to create. `reachable`: it answers to the placement's name from its first moment, because nothing
    else serves; otherwise that name is moved to it once it is proven. `files` is the directory of the engine's host
    with its secrets."""
    wanted, networks = placement.configuration, placement.configuration.networks
    config = _content(wanted, secrets) | {
        "Image": str(placement.artifact),
        "Labels": origin.labels | {ROLE: WORKLOAD} | record(placement),
        "HostConfig": _host(wanted, files),
    }
    if networks:
        config["NetworkingConfig"] = {"EndpointsConfig": {networks[0]: endpoint(placement.id, reachable=reachable)}}
    return Body(
        name=workload_name(origin.installation, origin.id, origin.key), config=config, networks=tuple(networks[1:])
    )


def endpoint(id: PlacementId, *, reachable: bool) -> dict[str, Any]:
    return {"Aliases": [alias(id)]} if reachable else {}


def holder(origin: Origin, holding: Holding) -> Body:
    """The never-started container that wears a sticker and pins the image. It has no network and no restart policy,
    and its command does not exist, so that nothing can come of starting it."""
    labels = origin.labels | codec.to_labels(holding.envelope)
    labels |= {ROLE: STICKER, PHASE: holding.phase.value, INSTANCE: holding.instance}
    labels |= {ADOPTED: "true", **holding.adopted} if holding.adopted else {}
    return Body(
        name=holder_name(origin.installation, origin.id, origin.sequence),
        config={
            "Image": holding.image,
            "Entrypoint": ["/holdfast/sticker"],
            "Cmd": [],
            "Labels": labels,
            "HostConfig": {"NetworkMode": "none", "RestartPolicy": NEVER},
        },
    )


def filler(installation: InstallationId, id: PlacementId, image: str, directory: str) -> Body:
    """The never-started container through which secrets are put into a directory of the engine's host. It is of the
    placement's own image, so that nothing else has to be had there, and nothing would come of starting it."""
    return Body(
        name=f"{_stem(installation, id)}-files",
        config={
            "Image": image,
            "Entrypoint": ["/holdfast/files"],
            "Cmd": [],
            "Labels": {INSTALLATION: installation, ROLE: FILES},
            "HostConfig": {"NetworkMode": "none", "RestartPolicy": NEVER, "Binds": [f"{directory}:{ROOM}"]},
        },
    )


def restart_policy(name: str) -> dict[str, Any]:
    """A specification's `restart` as the engine words it."""
    return NEVER if name == RestartPolicy.NEVER else {"Name": name, "MaximumRetryCount": 0}


def seconds(span: timedelta) -> int:
    """Whole seconds, rounded up: the engine knows no others."""
    return -(-span // timedelta(seconds=1))


def _content(wanted: Configuration, secrets: Mapping[SecretRef, str]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "Env": [f"{name}={_value(value, secrets)}" for name, value in wanted.environment],
        "ExposedPorts": {_container_port(port): {} for port in wanted.ports},
        "StopTimeout": seconds(wanted.stop_grace),
    }
    if wanted.command is not None:
        content["Cmd"] = list(wanted.command)
    if wanted.user is not None:
        content["User"] = wanted.user
    if wanted.healthcheck is not None:
        content["Healthcheck"] = _engine_healthcheck(wanted.healthcheck)
    return content


def _host(wanted: Configuration, files: str) -> dict[str, Any]:
    host: dict[str, Any] = {
        "Init": True,
        "PortBindings": _bindings(wanted.ports),
        "Mounts": [*map(_mount, wanted.volumes), *(_secret_mount(file, files) for file in wanted.secrets)],
        "RestartPolicy": restart_policy(wanted.restart),
    }
    if wanted.networks:
        host["NetworkMode"] = wanted.networks[0]
    if wanted.memory is not None:
        host["Memory"] = wanted.memory
    if wanted.cpus is not None:
        host["NanoCpus"] = wanted.cpus * 1_000_000
    return host


def _value(value: str | SecretRef, secrets: Mapping[SecretRef, str]) -> str:
    return secrets[value] if isinstance(value, SecretRef) else value


def _reference(value: str | SecretRef) -> object:
    return {"secret": value.reference, "version": value.version} if isinstance(value, SecretRef) else value


def _container_port(port: Port) -> str:
    return f"{port.container}/{port.protocol}"


def _port_texts(ports: tuple[Port, ...]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for port in ports:
        texts.setdefault(_container_port(port), []).append(f"{port.address}:{port.host or ''}")
    return {name: sorted(found) for name, found in texts.items()}


def _bindings(ports: tuple[Port, ...]) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        binding = {"HostIp": port.address, "HostPort": str(port.host or "")}
        bindings.setdefault(_container_port(port), []).append(binding)
    return bindings


def _volume(volume: Volume) -> dict[str, object]:
    return {"kind": _kind(volume), "source": volume.source, "read_only": volume.read_only}


def _mount(volume: Volume) -> dict[str, Any]:
    return {
        "Type": _kind(volume),
        "Source": volume.source,
        "Target": volume.destination,
        "ReadOnly": volume.read_only,
    }


def _secret_mount(file: SecretFile, files: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": f"{files}/{file.name}", "Target": file.inside, "ReadOnly": True}


def _kind(volume: Volume) -> str:
    return "bind" if volume.source.startswith("/") else "volume"


def _healthcheck(check: RuntimeHealthcheck) -> dict[str, object]:
    return {
        "argv": list(check.argv),
        "interval": _milliseconds(check.interval),
        "timeout": _milliseconds(check.timeout),
        "retries": check.retries,
        "start_period": _milliseconds(check.start_period),
    }


def _engine_healthcheck(check: RuntimeHealthcheck) -> dict[str, Any]:
    return {
        "Test": ["CMD", *check.argv],
        "Interval": _milliseconds(check.interval) * 1_000_000,
        "Timeout": _milliseconds(check.timeout) * 1_000_000,
        "Retries": check.retries,
        "StartPeriod": _milliseconds(check.start_period) * 1_000_000,
    }


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
