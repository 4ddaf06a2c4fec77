"""The lock file: what compose is told, as a pure function of the placements, the template and the target. No time, no
key and no number of a try is in it, so the same wish gives the same bytes, and compose finds nothing to do.

Its services are pieces, each made of one placement alone. A piece that is kept goes into the next lock as it is, so
that what is not changed is told to compose in the very same words.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from desired_state.model import Configuration, Placement, Port, RestartPolicy, RuntimeHealthcheck, Volume
from desired_state.secrets import SecretFile, SecretRef
from drivers.compose import template
from drivers.compose.template import Part, Service
from drivers.docker import render
from drivers.docker.connection import SECRETS
from stickers import digest
from stickers.names import LIVE, Digest, InstallationId, PlacementId, TargetId, split_id

HEAD: Final = "# Written by Holdfast, named by the hash of its bytes. Whatever is edited here is not read.\n"
HELD: Final = "HOLDFAST_SECRET_"  # variables that hold values of secrets while compose runs
DEFAULT: Final = "default"  # the network of services that name none


class Clash(ValueError):
    """Two services mean different things by one name; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One service of a lock, as plain data, with the networks and volumes it names. `secrets` maps the variables in it
    to what they hold, `files` the names of files in `folder` of the engine's host; a value of a secret is in none of
    this."""

    service: str
    artifact: Digest
    configuration: Digest
    running: bool
    said: Mapping[str, Any]
    networks: Mapping[str, Any] = field(default_factory=dict)
    volumes: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, SecretRef] = field(default_factory=dict)
    files: Mapping[str, SecretRef] = field(default_factory=dict)
    folder: str = ""

    @property
    def content(self) -> tuple[Digest, Digest]:
        return self.artifact, self.configuration

    @property
    def image(self) -> str:
        return str(self.said["image"])

    @property
    def labels(self) -> Mapping[str, str]:
        """Those its container carries."""
        return {name: template.literal(value) for name, value in self.said["labels"].items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a project stands: its own name is made of the installation and the target, so that no two share one.
    `memory` is the directory of the engine's host in which its secrets are files."""

    installation: InstallationId
    target: TargetId
    memory: str = SECRETS

    @property
    def project(self) -> str:
        owner = digest.short(digest.of([self.installation, self.target]))
        return f"holdfast-{split_id(self.target)[1]}-{owner}"

    @property
    def labels(self) -> dict[str, str]:
        return {render.INSTALLATION: self.installation, render.TARGET: self.target}


def service_name(id: PlacementId) -> str:
    """Components have no dot in their names, so no slot of one is taken for another."""
    return str(id.component) if id.slot == LIVE else f"{id.component}.{id.slot}"


# -- the file ---------------------------------------------------------------------------------------------------------


def lock(place: Place, pieces: Iterable[Piece]) -> bytes:
    """The whole file; raises `Clash`. A service waits for those it depends on as far as they stand in it."""
    ordered = sorted(pieces, key=lambda piece: piece.service)
    names = {piece.service for piece in ordered}
    whole: dict[str, Any] = {"services": {piece.service: _among(names, piece.said) for piece in ordered}}
    whole["networks"] = _shared("network", place, ((piece.service, piece.networks) for piece in ordered))
    whole["volumes"] = _shared("volume", place, ((piece.service, piece.volumes) for piece in ordered))
    return (HEAD + yaml({name: said for name, said in whole.items() if said})).encode()


def unlocked(text: str, place: Place, placement: Placement) -> Piece | None:
    """The piece of the placement in a lock of this project that was kept; None where it says something else."""
    from yaml import CSafeLoader, YAMLError, load  # only where something goes back to what was kept

    try:
        whole = load(text, CSafeLoader)
        said = whole["services"][service_name(placement.id)]
        labels = said["labels"]
        content = labels[render.ARTIFACT], labels[render.CONFIGURATION]
    except (YAMLError, KeyError, TypeError):
        return None
    if content != placement.content or labels[render.INSTALLATION] != place.installation:
        return None
    mounts = said.get("volumes", ())
    named = {mount["source"] for mount in mounts if mount["type"] == "volume"}
    sources = {mount["target"]: template.literal(mount["source"]) for mount in mounts}
    files = placement.configuration.secrets
    if any(_escaped(file.inside) not in sources for file in files):
        return None
    secrets = (value for _, value in placement.configuration.environment if isinstance(value, SecretRef))
    return Piece(
        service=service_name(placement.id),
        artifact=placement.artifact.digest,
        configuration=placement.configuration_digest,
        running=placement.running,
        said=said,
        networks=_unshared(whole.get("networks"), said.get("networks", ())),
        volumes=_unshared(whole.get("volumes"), named),
        secrets={_variable(value): value for value in secrets},
        files={file.name: file.secret for file in files},
        folder=os.path.dirname(sources[_escaped(files[0].inside)]) if files else "",
    )


def _unshared(said: Mapping[str, Mapping[str, Any]] | None, names: Iterable[str]) -> dict[str, Any]:
    """Networks or volumes as a piece names them: without the labels that the whole gives them."""
    return {name: {key: value for key, value in (said or {})[name].items() if key != "labels"} for name in names}


def hash_of(content: bytes) -> str:
    """Of the final bytes, as `sha256sum` says it."""
    return hashlib.sha256(content).hexdigest()


def _among(names: set[str], said: Mapping[str, Any]) -> dict[str, Any]:
    others = [name for name in said.get("depends_on", ()) if name in names]
    rest = {name: value for name, value in said.items() if name != "depends_on"}
    return rest | ({"depends_on": others} if others else {})


def _shared(what: str, place: Place, used: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    found: dict[str, tuple[str, Any]] = {}
    for service, things in used:
        for name, said in things.items():
            first, same = found.setdefault(name, (service, said))
            if said != same:
                raise Clash(f"the {what} {name} means one thing to {first} and another to {service}: deploy both")
    labels = {name: _escaped(value) for name, value in place.labels.items()}
    return {
        name: dict(said) if said.get("external") else {**said, "labels": labels}
        for name, (_, said) in sorted(found.items())
    }


def yaml(node: Mapping[str, Any]) -> str:
    """Plain data as YAML that every reader reads alike."""
    return "".join(_lines(node))


def _lines(node: Mapping[str, Any] | list[Any], indent: str = "") -> Iterator[str]:
    """Block YAML in which every text and every key stands in double quotes, so that no reader takes one for more."""
    items = [(f"{_scalar(key)}:", node[key]) for key in sorted(node)] if isinstance(node, Mapping) else None
    for head, value in items if items is not None else [("-", item) for item in node]:
        if isinstance(value, Mapping | list) and value:
            yield f"{indent}{head}\n"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{head} {_scalar(value)}\n"


def _scalar(value: object) -> str:
    """JSON is YAML, but for what it escapes by halves of a surrogate pair."""
    return json.dumps(value, ensure_ascii=False)


# -- one service ------------------------------------------------------------------------------------------------------


def piece(place: Place, placement: Placement, part: Part) -> Piece:
    """The service of this placement: what the template says, below what the component's own declaration says."""
    wanted = replace(placement, configuration=effective(placement.configuration, part.service))
    own, folder = wanted.configuration, files_of(place, placement)
    _refuse_two_at_one_place(own, part.service)
    named = sorted({volume.source for volume in own.volumes if not volume.source.startswith("/")})
    service = _configured(wanted) | _templated(part.service)
    service["volumes"] = [*service["volumes"], *(_mount(_file(file, folder)) for file in own.secrets)]
    service["networks"] = _networks(wanted, part.service)
    service["labels"] = {
        name: _escaped(value) for name, value in _labels(place, placement, _specification(place, wanted, part)).items()
    } | dict(part.service.labels)
    return Piece(
        service=service_name(placement.id),
        artifact=placement.artifact.digest,
        configuration=placement.configuration_digest,
        running=placement.running,
        said={name: value for name, value in service.items() if value not in (None, [], {})},
        networks={name: _definition(part.networks.get(name)) for name in own.networks},
        volumes={name: _definition(part.volumes.get(name)) for name in named},
        secrets={_variable(value): value for _, value in own.environment if isinstance(value, SecretRef)},
        files={file.name: file.secret for file in own.secrets},
        folder=folder if own.secrets else "",
    )


def files_of(place: Place, placement: Placement) -> str:
    """The directory with the secrets of one content of a service: another configuration has another."""
    short = digest.short(placement.configuration_digest)
    return f"{place.memory}/{place.project}-{service_name(placement.id)}-{short}"


def _file(file: SecretFile, folder: str) -> Volume:
    return Volume(source=f"{folder}/{file.name}", destination=file.inside, read_only=True)


def _refuse_two_at_one_place(own: Configuration, said: Service) -> None:
    taken = {volume.destination for volume in own.volumes} | set(said.tmpfs)
    for file in own.secrets:
        if file.inside in taken:
            raise ValueError(f"secrets: {file.name} would be at {file.inside}, where a volume is")


def effective(own: Configuration, said: Service) -> Configuration:
    """The component's configuration with what only the template says; of the environment, variable by variable."""
    said_environment = {name: template.literal(value) for name, value in said.environment.items()}
    return replace(
        own,
        command=own.command if own.command is not None else _literals(said.command),
        environment=tuple(sorted((said_environment | dict(own.environment)).items())),
        ports=own.ports or tuple(map(_said_port, said.ports)),
        volumes=own.volumes or tuple(map(_said_volume, said.volumes)),
        networks=own.networks or tuple(sorted(said.networks)) or (DEFAULT,),
        user=own.user if own.user is not None else _literal(said.user),
        memory=own.memory if own.memory is not None else said.mem_limit,
        cpus=own.cpus if own.cpus is not None or said.cpus is None else int(Decimal(said.cpus) * 1000),
        healthcheck=own.healthcheck or (_said_healthcheck(said.healthcheck) if said.healthcheck else None),
    )


def _said_port(port: template.Port) -> Port:
    return Port(container=port.target, host=port.published, address=port.host_ip, protocol=port.protocol)


def _said_volume(mount: template.Mount) -> Volume:
    source, destination = template.literal(mount.source), template.literal(mount.target)
    return Volume(source=source, destination=destination, read_only=mount.read_only)


def _said_healthcheck(said: template.Healthcheck) -> RuntimeHealthcheck:
    argv = _literals(said.test) or ()
    return RuntimeHealthcheck(
        argv=argv[1:] if argv[0] == "CMD" else argv,
        interval=_span(said.interval),
        timeout=_span(said.timeout),
        retries=said.retries,
        start_period=_span(said.start_period),
    )


def _span(text: str) -> timedelta:
    return timedelta(milliseconds=template.milliseconds(text))


# -- in the words of compose ------------------------------------------------------------------------------------------


def _configured(wanted: Placement) -> dict[str, Any]:
    own = wanted.configuration
    return {
        "image": str(wanted.artifact),
        "command": None if own.command is None else _escaped_all(own.command),
        "environment": {name: _value(value) for name, value in own.environment},
        "ports": [_port(port) for port in own.ports],
        "volumes": [_mount(volume) for volume in own.volumes],
        "user": None if own.user is None else _escaped(own.user),
        "mem_limit": own.memory,
        "cpus": None if own.cpus is None else own.cpus / 1000,
        "healthcheck": None if own.healthcheck is None else _healthcheck(own.healthcheck),
        "restart": "no" if own.restart is RestartPolicy.NEVER else own.restart.value,
        "stop_grace_period": f"{render.seconds(own.stop_grace)}s",
    }


def _templated(said: Service) -> dict[str, Any]:
    """What only a template can say; its texts are compose's own already."""
    return {
        "entrypoint": said.entrypoint,
        "tmpfs": said.tmpfs,
        "depends_on": sorted(said.depends_on),
        "working_dir": said.working_dir,
        "hostname": said.hostname,
        "init": said.init,
        "read_only": said.read_only or None,
        "stop_signal": said.stop_signal,
        "cap_drop": said.cap_drop,
        "security_opt": said.security_opt,
        "logging": said.logging.model_dump(mode="json", exclude_defaults=True) if said.logging else None,
    }


def _networks(wanted: Placement, said: Service) -> dict[str, Any]:
    alias = render.alias(wanted.id)
    more = {name: attachment.aliases for name, attachment in said.networks.items()}
    return {name: {"aliases": [alias, *more.get(name, ())]} for name in wanted.configuration.networks}


def _labels(place: Place, placement: Placement, specification: Mapping[str, Any]) -> dict[str, str]:
    return render.placement_labels(place.installation, placement.id) | {
        render.ROLE: render.WORKLOAD,
        render.ARTIFACT: placement.artifact.digest,
        render.CONFIGURATION: placement.configuration_digest,
        render.SPECIFICATION: render.text(specification),
    }


def _value(value: str | SecretRef) -> str:
    """Without its variable compose refuses, rather than running something with an empty secret."""
    return f"${{{_variable(value)}?is not given}}" if isinstance(value, SecretRef) else _escaped(value)


def _variable(secret: SecretRef) -> str:
    return HELD + digest.of([secret.reference, secret.version]).removeprefix("sha256:")[:16].upper()


def _port(port: Port) -> str:
    address = f"[{port.address}]" if ":" in port.address else port.address
    return f"{address}:{port.host or ''}:{port.container}/{port.protocol}"


def _mount(volume: Volume) -> dict[str, Any]:
    kind = "bind" if volume.source.startswith("/") else "volume"
    source, target = _escaped(volume.source), _escaped(volume.destination)
    return {"type": kind, "source": source, "target": target} | ({"read_only": True} if volume.read_only else {})


def _healthcheck(check: RuntimeHealthcheck) -> dict[str, Any]:
    shell = check.argv[0] == "CMD-SHELL"
    return {
        "test": [*([] if shell else ["CMD"]), *_escaped_all(check.argv)],
        "interval": _milliseconds(check.interval),
        "timeout": _milliseconds(check.timeout),
        "retries": check.retries,
        "start_period": _milliseconds(check.start_period),
    }


def _milliseconds(span: timedelta) -> str:
    return f"{span // timedelta(milliseconds=1)}ms"


def _definition(shared: template.Shared | None) -> dict[str, Any]:
    return shared.model_dump(mode="json", exclude_defaults=True) if shared is not None else {}


def _escaped(text: str) -> str:
    return text.replace("$", "$$")


def _escaped_all(texts: Iterable[str]) -> list[str]:
    return [_escaped(text) for text in texts]


# -- in the words of the engine ---------------------------------------------------------------------------------------


def _specification(place: Place, wanted: Placement, part: Part) -> dict[str, Any]:
    """What the container should be, in the terms that `drivers.docker.compare` reads from a running one."""
    said, own = part.service, wanted.configuration
    scratch = {path: {"kind": "tmpfs", "source": "", "read_only": False} for path in said.tmpfs}
    return dict(render.specification(wanted)) | {
        "entrypoint": None if said.entrypoint is None else list(_literals(said.entrypoint) or ()),
        "networks": {_full_name(place, name, part.networks): render.alias(wanted.id) for name in own.networks},
        "volumes": scratch | {volume.destination: _seen_volume(place, part, volume) for volume in own.volumes},
        "working_dir": _literal(said.working_dir),
        "read_only": said.read_only,
        "cap_drop": sorted(said.cap_drop),
        "security_opt": sorted(said.security_opt),
        "init": said.init,
        "stop_signal": _literal(said.stop_signal),
    }


def _seen_volume(place: Place, part: Part, volume: Volume) -> dict[str, Any]:
    if volume.source.startswith("/"):
        return {"kind": "bind", "source": volume.source, "read_only": volume.read_only}
    source = _full_name(place, volume.source, part.volumes)
    return {"kind": "volume", "source": source, "read_only": volume.read_only}


def _full_name(place: Place, name: str, known: Mapping[str, template.Shared]) -> str:
    """The name the engine knows a network or a volume by."""
    shared = known.get(name)
    return template.literal(shared.name) if shared and shared.name else f"{place.project}_{name}"


def _literals(words: list[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(template.literal(word) for word in words)


def _literal(text: str | None) -> str | None:
    return None if text is None else template.literal(text)
