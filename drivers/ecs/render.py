"""What is sent to ECS, as plain data: from a template and placements to a task definition that is named by its content.

A template says what the task is (network, roles, logs, secrets, volumes, sidecars); a placement says which image its
container runs and how. Nothing is said in both: what is declared twice is refused, not merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Final

from desired_state.health import CommandCheck
from desired_state.model import Configuration, Placement, RestartPolicy, RuntimeHealthcheck
from desired_state.secrets import SecretRef
from drivers.ecs import fields
from stickers import digest, names
from stickers.names import LIVE, Digest, InstallationId

# labels of a container: they are part of the task definition, which nobody can change once it is registered
INSTALLATION: Final = "holdfast.installation"
TARGET: Final = "holdfast.target"
COMPONENT: Final = "holdfast.component"
ARTIFACT: Final = "holdfast.artifact"
CONFIGURATION: Final = "holdfast.configuration"
TEMPLATE: Final = "holdfast.template"  # what the template said of this container
CONTENT: Final = "holdfast.content"  # of the container as it was rendered, before ECS fills in its defaults

OURS: Final = "holdfast"
MOST_TAGS: Final = 50  # that ECS takes on anything

_FAMILY: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_TAG: Final = re.compile(r"[\w .:/=+@-]*")
_MIB: Final = 1024 * 1024

Container = Mapping[str, Any]  # as RegisterTaskDefinition and DescribeTaskDefinition word it


class WrongTemplate(ValueError):
    """A template that cannot be used; the text names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template that was read and found good. `task` is everything beside family, tags and containers."""

    family: str
    task: Mapping[str, Any]
    tags: Mapping[str, str]
    containers: Mapping[str, Container]  # in the order of the template
    component_of: Mapping[str, str]  # container -> component, for those that run one

    @property
    def digest(self) -> Digest:
        """Of what the template says beside the containers that run components."""
        return digest.of({"family": self.family, "task": self.task, "sidecars": self.sidecars})

    @property
    def sidecars(self) -> dict[str, Container]:
        return {name: one for name, one in self.containers.items() if name not in self.component_of}

    def container_digest(self, name: str) -> str:
        return digest.short(digest.of(self.containers[name]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A task definition to be registered, unless one of this content is."""

    family: str
    content: Digest
    request: Mapping[str, Any] = field(compare=False)  # parameters of RegisterTaskDefinition, without tags


# -- the template -----------------------------------------------------------------------------------------------------


def template(body: object, component_of: Mapping[str, str], family: str) -> Template:
    """The template, if it is good. `family` is the name of the task definition where the template gives none."""
    for sentence in fields.unknown(body):
        raise WrongTemplate(sentence)
    assert isinstance(body, dict)
    said = {name: value for name, value in body.items() if value is not None}
    containers = _containers(said.pop("containerDefinitions", None))
    found = Template(
        family=_family(said.pop("family", family)),
        tags=_tags(said.pop("tags", ())),
        task=said,
        containers=containers,
        component_of=component_of,
    )
    for name in component_of:
        if name not in containers:
            near = get_close_matches(name, containers, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise WrongTemplate(f"containers: the template has no container {name}{hint}")
    for sentence in (wrong for name in containers for wrong in _wrong_container(found, name)):
        raise WrongTemplate(sentence)
    _hashable(body)
    return found


def _containers(said: Any) -> dict[str, Container]:
    if not isinstance(said, list) or not said:
        raise WrongTemplate("containerDefinitions: expected at least one container")
    found: dict[str, Container] = {}
    for index, one in enumerate(said):
        name = one.get("name")
        if not isinstance(name, str) or not name or name in found:
            raise WrongTemplate(f"containerDefinitions[{index}].name: expected a name of its own")
        found[name] = {key: value for key, value in one.items() if value is not None}
    return found


def _family(said: object) -> str:
    if not isinstance(said, str) or not _FAMILY.fullmatch(said):
        raise WrongTemplate("family: expected letters, digits, hyphens and underscores")
    return said


def _tags(said: Iterable[Any]) -> dict[str, str]:
    found = {str(one.get("key")): str(one.get("value", "")) for one in said}
    for key, value in found.items():
        if key.startswith((OURS, "aws:")) or not _TAG.fullmatch(key + value):
            raise WrongTemplate(f"tags: {key[:40]!r} is not a tag that can be given")
    return found


def _wrong_container(template: Template, name: str) -> Iterator[str]:
    said = template.containers[name]
    if any(str(key).startswith(OURS) for key in _mapping(said, "dockerLabels")):
        yield f"container {name}: dockerLabels that begin with {OURS} are given by this driver"
    if name not in template.component_of:
        yield from _wrong_sidecar(name, said)
        return
    if "image" in said:
        yield f"container {name}: image is given by the release, leave it out of the template"
    if "stopTimeout" in said:
        yield f"container {name}: stopTimeout is given by the component's stop_grace, leave it out of the template"


def _wrong_sidecar(name: str, said: Container) -> Iterator[str]:
    image = str(said.get("image", ""))
    repository, at, pinned = image.partition("@")
    last = repository.rpartition("/")[2]
    if at and names.DIGEST.fullmatch(pinned):
        return
    if ":" not in last or last.endswith(":latest"):
        yield f"container {name}: image {image[:120]!r} is whatever is latest; expected repository@sha256:…"
    else:
        yield f"container {name}: image {image[:120]!r} can move under its tag; expected repository@sha256:…"


def _mapping(said: Container, field: str) -> Mapping[str, Any]:
    found = said.get(field, {})
    if not isinstance(found, dict):
        raise WrongTemplate(f"container {said.get('name')}: {field}: expected a map")
    return found


def _named(said: Container, field: str) -> dict[str, Any]:
    """A list of maps with a `name`, by name."""
    return {str(one.get("name")): one for one in said.get(field, ())}


def _hashable(body: object) -> None:
    try:
        digest.of(body)
    except (TypeError, ValueError) as error:
        raise WrongTemplate(f"the template has no canonical form: {error}") from None


# -- what is not done here --------------------------------------------------------------------------------------------


def unsupported(placement: Placement) -> Iterator[str]:
    """A sentence for each thing that is declared and that ECS, or this driver, would not enforce."""
    declared = placement.configuration
    if placement.id.slot != LIVE:
        yield f"slot {placement.id.slot}: a service has the slot {LIVE} only"
    for name, value in declared.environment:
        if isinstance(value, SecretRef):
            yield f"environment {name}: a secret would stand in the task definition; name it in the template's secrets"
    for said, name, where in (
        (declared.ports, "ports", "portMappings"),
        (declared.volumes, "volumes", "volumes and mountPoints"),
        (declared.networks, "networks", "networkMode, and the service's own network"),
        (declared.registry_credentials, "registry_credentials", "repositoryCredentials, or the execution role"),
    ):
        if said:
            yield f"{name}: belongs to the template's {where}"
    if declared.restart in (RestartPolicy.NEVER, RestartPolicy.ON_FAILURE):
        yield f"restart {declared.restart}: a service starts its tasks again whenever they end"
    if declared.memory is not None and declared.memory % _MIB:
        yield f"memory {declared.memory}: ECS counts in whole MiB"
    if placement.health is not None and isinstance(placement.health.check, CommandCheck):
        yield "health: a command cannot be run in a task from here; declare it as the component's healthcheck"


def unasked(template: Template, placement: Placement) -> Iterator[str]:
    """Why the declared health could not be asked at any task."""
    mode = template.task.get("networkMode", "bridge")
    if placement.health is not None and mode != "awsvpc":
        yield f"health: tasks in networkMode {mode} have no address of their own; declare the component's healthcheck"


# -- containers -------------------------------------------------------------------------------------------------------


def container(template: Template, placement: Placement, installation: InstallationId) -> dict[str, Any]:
    """The container that runs the placement. Raises `WrongTemplate` where something is declared twice."""
    name = next(name for name, component in template.component_of.items() if component == placement.id.component)
    said, declared = template.containers[name], _declared(placement.configuration)
    for twice in sorted(said.keys() & declared.keys() - {"environment"}):
        raise WrongTemplate(f"container {name}: {twice} is given by the template and by the configuration")
    made = {**said, **declared, "image": str(placement.artifact), "environment": _environment(said, placement)}
    labels = {
        **_mapping(said, "dockerLabels"),
        INSTALLATION: installation,
        TARGET: placement.id.target,
        COMPONENT: placement.id.component,
        ARTIFACT: placement.artifact.digest,
        CONFIGURATION: placement.configuration_digest,
        TEMPLATE: template.container_digest(name),
    }
    return made | {"dockerLabels": labels | {CONTENT: digest.of({**made, "dockerLabels": labels})}}


def _declared(wanted: Configuration) -> dict[str, Any]:
    found: dict[str, Any] = {"stopTimeout": _seconds(wanted.stop_grace)}
    if wanted.command is not None:
        found["command"] = list(wanted.command)
    if wanted.user is not None:
        found["user"] = wanted.user
    if wanted.memory is not None:
        found["memory"] = wanted.memory // _MIB
    if wanted.cpus is not None:
        found["cpu"] = -(-wanted.cpus * 1024 // 1000)  # a core has 1024 units
    if wanted.healthcheck is not None:
        found["healthCheck"] = _healthcheck(wanted.healthcheck)
    return found


def _environment(said: Container, placement: Placement) -> list[dict[str, str]]:
    given = {name: one.get("value") for name, one in _named(said, "environment").items()}
    secret = _named(said, "secrets")
    for name, value in placement.configuration.environment:
        if name in given or name in secret:
            raise WrongTemplate(
                f"container {said['name']}: the variable {name} is given by the template and by the configuration"
            )
        given[name] = value
    return [{"name": name, "value": str(value)} for name, value in sorted(given.items())]


def _healthcheck(check: RuntimeHealthcheck) -> dict[str, Any]:
    return {
        "command": ["CMD", *check.argv],
        "interval": _seconds(check.interval),
        "timeout": _seconds(check.timeout),
        "retries": check.retries,
        "startPeriod": _seconds(check.start_period),
    }


def _seconds(span: timedelta) -> int:
    """Whole seconds, rounded up: ECS knows no others."""
    return -(-span // timedelta(seconds=1))


# -- the task definition ----------------------------------------------------------------------------------------------


def definition(template: Template, running: Mapping[str, Container]) -> Definition:
    """The task definition of these containers, by name, and the template's sidecars."""
    chosen = {
        name: running.get(name, one)
        for name, one in template.containers.items()
        if name in running or name not in template.component_of
    }
    for name, one in chosen.items():
        for needed in (str(each.get("containerName")) for each in one.get("dependsOn", ())):
            if needed not in chosen:
                raise WrongTemplate(f"container {name}: dependsOn {needed}, which is not placed on this target")
    content = digest.of(
        {
            "template": template.digest,
            "containers": {name: identity(one) for name, one in chosen.items() if name in running},
        }
    )
    request = {
        **template.task,
        "family": template.family,
        "containerDefinitions": [dict(one) for one in chosen.values()],
    }
    return Definition(family=template.family, content=content, request=request)


def identity(container: Container) -> Digest:
    """What tells one content of a container from another: as it was rendered where it was rendered by us, else as ECS
    tells it."""
    found = container.get("dockerLabels", {}).get(CONTENT)
    return Digest(found) if found else digest.of(dict(container))


def disowned(container: Container) -> Container:
    """The container without our labels: whoever copied it by hand copied a record that may not be true any more."""
    labels = {key: value for key, value in container.get("dockerLabels", {}).items() if not key.startswith(OURS)}
    rest = {key: value for key, value in container.items() if key != "dockerLabels"}
    return rest | {"dockerLabels": labels} if labels else rest
