"""What is sent to Nomad, as plain data: a job from its template, with every image by digest.

A job holds several components, and an action may change one of them: what others run is taken from the job as it
stands, to the letter, so that Nomad finds nothing to change there. A task says in its own meta what it was made as and
by whom; meta of a group or of the job would restart whatever else is in it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from desired_state.health import CommandCheck
from desired_state.model import Configuration, Placement, RestartPolicy
from desired_state.secrets import SecretRef
from drivers.errors import Refused
from drivers.nomad.connection import Place
from stickers import digest, names
from stickers.names import LIVE, ActionKey, ComponentName, Digest, InstallationId, PlacementId, TargetId

INSTALLATION: Final = "holdfast_installation"
TARGET: Final = "holdfast_target"
COMPONENT: Final = "holdfast_component"
KEY: Final = "holdfast_key"
FENCE: Final = "holdfast_fence"
ARTIFACT: Final = "holdfast_artifact"
CONFIGURATION: Final = "holdfast_configuration"
SPECIFICATION: Final = "holdfast_specification"
OURS: Final = "holdfast_"

DRIVERS: Final = frozenset({"docker", "podman"})  # whose tasks have an image
LONG: Final = 200  # characters; what is longer stands in a specification as its digest
MIB: Final = 1 << 20

Job = dict[str, Any]
Group = dict[str, Any]
Task = dict[str, Any]

_IDENTITY: Final = frozenset({"ID", "Name", "Namespace", "Region", "TaskGroups"})
_REPLACED: Final = re.compile(r"\$\{")
_ITEM: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*_[0-9a-f]{12}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A template that has been read and holds what is declared of it."""

    job: str
    namespace: str
    region: str | None
    template: Job
    places: Mapping[str, Place]

    def place(self, id: PlacementId) -> Place:
        if id.slot != LIVE:
            raise Refused(f"{id}: a job has the slot {LIVE} alone")
        place = self.places.get(id.component)
        if place is None:
            raise Refused(f"tasks: no task of job {self.job} is given for component {id.component}")
        return place


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who makes a task, for which target and in which action."""

    installation: InstallationId
    target: TargetId
    key: ActionKey
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One component as it stands in a job."""

    group: Group
    task: Task

    @property
    def meta(self) -> Mapping[str, str]:
        return _meta(self.task)

    @property
    def content(self) -> tuple[Digest, Digest]:
        return Digest(self.meta.get(ARTIFACT, "")), Digest(self.meta.get(CONFIGURATION, ""))

    @property
    def key(self) -> ActionKey | None:
        return ActionKey(self.meta[KEY]) if KEY in self.meta else None

    @property
    def fence(self) -> int:
        text = self.meta.get(FENCE, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0

    @property
    def place(self) -> Place:
        return Place(self.group["Name"], self.task["Name"])

    @property
    def count(self) -> int:
        return count(self.group)


# -- the template -----------------------------------------------------------------------------------------------------


def outline(
    template: Mapping[str, Any], *, job: str, namespace: str, region: str | None, places: Mapping[str, Place]
) -> Outline:
    """The template, checked: what it cannot mean here is refused, and the field named."""
    found: Job = copy.deepcopy(dict(template.get("Job", template)))
    if found.get("ID", job) != job:
        raise Refused(f"template: ID is {str(found['ID'])[:80]!r}, the target's job is {job!r}")
    if found.get("Type", "service") != "service":
        raise Refused(f"template: Type {str(found['Type'])[:40]!r}; only a service is deployed, watched and put back")
    for name, wanted in (("Namespace", namespace), ("Region", region)):
        if found.get(name) not in (None, "", wanted) and not (name == "Region" and wanted is None):
            raise Refused(f"template: {name} is {str(found[name])[:80]!r}, the target's is {wanted!r}")
    for reason in _unfit(found, places):
        raise Refused(f"template: {reason}")
    return Outline(job=job, namespace=namespace, region=region, template=found, places=places)


def _unfit(template: Job, places: Mapping[str, Place]) -> Iterator[str]:
    wanted = {place: component for component, place in places.items()}
    seen = set()
    for group in template.get("TaskGroups") or ():
        for task in group.get("Tasks") or ():
            place = Place(str(group.get("Name")), str(task.get("Name")))
            if place in seen:
                yield f"{place.group}/{place.task} is there twice"
            seen.add(place)
            yield from _unfit_task("/".join(place), task, mapped=place in wanted)
    for place in sorted(wanted.keys() - seen):
        yield f"has no task {place.group}/{place.task}, which is to run component {wanted[place]}"


def _unfit_task(path: str, task: Task, *, mapped: bool) -> Iterator[str]:
    image, driver = (task.get("Config") or {}).get("image"), task.get("Driver")
    if any(name.startswith(OURS) for name in _meta(task)):
        yield f"{path}: Meta beginning with {OURS} is ours"
    if mapped and driver not in DRIVERS:
        yield f"{path}: Driver {str(driver)[:40]!r} runs no image; expected one of {', '.join(sorted(DRIVERS))}"
    elif mapped and image is not None and not names.REPOSITORY.fullmatch(str(image)):
        yield f"{path}: image {str(image)[:80]!r}: the release says what runs; name the repository alone, or nothing"
    elif not mapped and driver in DRIVERS and not _is_pinned(image):
        yield f"{path}: image {str(image)[:80]!r} is given no component and is not pinned by digest"


def _is_pinned(image: object) -> bool:
    try:
        names.Artifact.parse(str(image))
    except names.InvalidName:
        return False
    return True


# -- what is in a job -------------------------------------------------------------------------------------------------


def parts(job: Job | None, installation: InstallationId, target: TargetId) -> dict[ComponentName, Part]:
    """The components of this target in a job, by what their tasks say of themselves."""
    found = {}
    for group in (job or {}).get("TaskGroups") or ():
        for task in group.get("Tasks") or ():
            meta = _meta(task)
            if (meta.get(INSTALLATION), meta.get(TARGET)) == (installation, target) and COMPONENT in meta:
                found[ComponentName(meta[COMPONENT])] = Part(group=group, task=task)
    return found


def artifact(part: Part) -> Digest | None:
    """What the job itself says that the task runs."""
    _, _, found = str((part.task.get("Config") or {}).get("image", "")).partition("@")
    return Digest(found) if names.DIGEST.fullmatch(found) else None


# -- a job with a component changed -----------------------------------------------------------------------------------


def with_components(outline: Outline, placements: Sequence[Placement], origin: Origin, found: Job | None) -> Job:
    """The job, in which these components are as declared, and the others are as they were found."""
    _run_together(outline, placements, parts(found, origin.installation, origin.target))
    for placement in placements:
        found = _with_component(outline, placement, origin, found)
    assert found is not None
    return found


def _run_together(outline: Outline, placements: Sequence[Placement], standing: Mapping[ComponentName, Part]) -> None:
    """Tasks of one group run, or stand still, together."""
    declared = {placement.id.component: placement for placement in placements}
    for placement in placements:
        group = outline.place(placement.id).group
        for name, place in outline.places.items():
            other = declared.get(ComponentName(name))
            runs = other.running if other else name in standing and name != placement.id.component
            if place.group == group and runs and not placement.running:
                raise Refused(f"{placement.id}: state stopped: its group {group} also runs {name}")


def _with_component(outline: Outline, placement: Placement, origin: Origin, found: Job | None) -> Job:
    standing = parts(found, origin.installation, origin.target)
    place = outline.place(placement.id)
    group = _shell(outline, place.group)
    others = {name: part for name, part in standing.items() if name != placement.id.component}
    own = rendered(outline, placement, origin)
    group["Tasks"] = list(_tasks(outline, place, own, others))
    group["Count"] = _wanted_count(outline, placement, found)
    return _assembled(outline, placement.id, others, found, group)


def with_part(outline: Outline, id: PlacementId, part: Part, found: Job | None, origin: Origin) -> Job:
    """The job, in which this component is as it was in an earlier version."""
    others = parts(found, origin.installation, origin.target)
    others.pop(id.component, None)
    group = copy.deepcopy(part.group)
    now = {other.task["Name"]: other.task for other in others.values() if other.group["Name"] == group["Name"]}
    kept = [task for task in group["Tasks"] if task["Name"] == part.task["Name"] or COMPONENT not in _meta(task)]
    group["Tasks"] = [*kept, *copy.deepcopy(list(now.values()))]
    group["Tasks"].sort(key=lambda task: _order(outline, group["Name"]).get(task["Name"], 0))
    return _assembled(outline, id, others, found, group)


def _order(outline: Outline, group: str) -> dict[str, int]:
    return {task["Name"]: index for index, task in enumerate(_declared_tasks(outline, group))}


def without_component(found: Job, id: PlacementId, installation: InstallationId) -> Job | None:
    """The job without this component; None where no other of the target is left in it."""
    standing = parts(found, installation, id.target)
    others = {name for name in standing if name != id.component}
    if not others:
        return None
    job = copy.deepcopy(found)
    kept = []
    for group in job["TaskGroups"]:
        held = [task for task in group["Tasks"] if COMPONENT in _meta(task)]
        group["Tasks"] = [task for task in group["Tasks"] if not _is_of(task, id, installation)]
        if not held or any(not _is_of(task, id, installation) for task in held):
            kept.append(group)
    return job | {"TaskGroups": kept}


def at_count(job: Job, component: Part, wanted: int) -> Job:
    """The job with the group of this component at so many; where somebody has stopped the whole job, the other groups
    stay stopped."""
    changed = copy.deepcopy(job)
    for group in changed["TaskGroups"]:
        if group["Name"] == component.group["Name"]:
            group["Count"] = wanted
        elif job.get("Stop"):
            group["Count"] = 0
    return changed | {"Stop": False}


def _meta(task: Task) -> Mapping[str, str]:
    return task.get("Meta") or {}


def _is_of(task: Task, id: PlacementId, installation: InstallationId) -> bool:
    meta = _meta(task)
    return (meta.get(INSTALLATION), meta.get(TARGET), meta.get(COMPONENT)) == (installation, id.target, id.component)


def _assembled(
    outline: Outline, id: PlacementId, others: Mapping[ComponentName, Part], found: Job | None, group: Group
) -> Job:
    """The template's own fields around the groups: `group` new, those of other components as they were found, those
    of no component as the template says."""
    held = {part.group["Name"]: part.group for part in others.values()}
    mapped = {place.group for place in outline.places.values()}
    by_name: dict[str, Group] = {}
    for declared in outline.template["TaskGroups"]:
        name = declared["Name"]
        if name == group["Name"]:
            by_name[name] = group
        elif name in held:
            by_name[name] = _left(held.pop(name), others, stopped=bool((found or {}).get("Stop")))
        elif name not in mapped:
            by_name[name] = copy.deepcopy(declared)
    by_name.setdefault(group["Name"], group)
    for name, left in held.items():  # the template has lost it, and the component is still ours
        by_name.setdefault(name, _left(left, others, stopped=bool((found or {}).get("Stop"))))
    job = {name: copy.deepcopy(value) for name, value in outline.template.items() if name not in _IDENTITY}
    job |= {"ID": outline.job, "Name": outline.template.get("Name") or outline.job, "Namespace": outline.namespace}
    job |= {"Region": outline.region} if outline.region else {}
    return job | {"TaskGroups": list(by_name.values())}


def _left(group: Group, others: Mapping[ComponentName, Part], *, stopped: bool) -> Group:
    """A group of other components, to the letter; where somebody has stopped the whole job, they stay stopped."""
    names_of_others = {part.task["Name"] for part in others.values() if part.group["Name"] == group["Name"]}
    left = copy.deepcopy(group)
    left["Tasks"] = [task for task in left["Tasks"] if task["Name"] in names_of_others or COMPONENT not in _meta(task)]
    return left | {"Count": 0} if stopped else left


def _shell(outline: Outline, name: str) -> Group:
    """A group of the template without its tasks."""
    declared = next(group for group in outline.template["TaskGroups"] if group["Name"] == name)
    return {field: copy.deepcopy(value) for field, value in declared.items() if field != "Tasks"}


def _tasks(outline: Outline, place: Place, own: Task, others: Mapping[ComponentName, Part]) -> Iterator[Task]:
    of = {there: component for component, there in outline.places.items()}
    for task in _declared_tasks(outline, place.group):
        there = Place(place.group, task["Name"])
        if there == place:
            yield own
        elif there not in of:
            yield copy.deepcopy(task)
        elif (part := others.get(ComponentName(of[there]))) is not None and part.place == there:
            yield copy.deepcopy(part.task)


def _declared_tasks(outline: Outline, group: str) -> list[Task]:
    return next((list(one["Tasks"]) for one in outline.template["TaskGroups"] if one["Name"] == group), [])


def _wanted_count(outline: Outline, placement: Placement, found: Job | None) -> int:
    """As the template says; a group that is scaled by others keeps what they made of it."""
    if not placement.running:
        return 0
    group = _shell(outline, outline.place(placement.id).group)
    if group.get("Scaling"):
        for standing in (found or {}).get("TaskGroups") or ():
            if standing["Name"] == group["Name"] and count(standing) > 0:
                return count(standing)
    return max(1, count(group))


def declared_count(outline: Outline, id: PlacementId) -> int:
    return max(1, count(_shell(outline, outline.place(id).group)))


def count(group: Group) -> int:
    return 1 if group.get("Count") is None else int(group["Count"])


# -- one task ---------------------------------------------------------------------------------------------------------


def rendered(outline: Outline, placement: Placement, origin: Origin) -> Task:
    """The component's task, with the meta that says what it was made as."""
    place = outline.place(placement.id)
    task = _content(outline, placement, place)
    specification = _specification(outline, place, task)
    task["Meta"] = {
        **_meta(task),
        INSTALLATION: origin.installation,
        TARGET: origin.target,
        COMPONENT: placement.id.component,
        KEY: origin.key,
        FENCE: str(origin.fence),
        ARTIFACT: placement.artifact.digest,
        CONFIGURATION: placement.configuration_digest,
        SPECIFICATION: digest.canonical(specification).decode(),
    }
    return task


def _content(outline: Outline, placement: Placement, place: Place) -> Task:
    wanted = placement.configuration
    for reason in _unfit_configuration(placement):
        raise Refused(f"{placement.id}: {reason}")
    declared = next(one for one in _declared_tasks(outline, place.group) if one["Name"] == place.task)
    task = copy.deepcopy(declared)
    named = (task.get("Config") or {}).get("image")
    if named is not None and named != placement.artifact.repository:
        raise Refused(f"template: {'/'.join(place)}: image {named!r} is not {placement.artifact.repository!r}")
    task["Config"] = {**(task.get("Config") or {}), "image": str(placement.artifact), **_command(wanted)}
    plain = {name: value for name, value in wanted.environment if isinstance(value, str)}
    if plain:
        task["Env"] = {**(task.get("Env") or {}), **plain}
    if secrets := secret_items(wanted):
        task["Templates"] = [*(task.get("Templates") or ()), _secrets_file(secrets_path(outline, place), secrets)]
    task["KillTimeout"] = wanted.stop_grace // timedelta(microseconds=1) * 1000
    if wanted.user is not None:
        task["User"] = wanted.user
    if resources := _resources(wanted):
        task["Resources"] = {**(task.get("Resources") or {}), **resources}
    return task


def _unfit_configuration(placement: Placement) -> Iterator[str]:
    wanted = placement.configuration
    for field in ("ports", "volumes", "networks"):
        if getattr(wanted, field):
            yield f"{field}: the group's own blocks of the template say them for Nomad"
    if wanted.restart is not RestartPolicy.UNLESS_STOPPED:
        yield f"restart {wanted.restart}: the template's RestartPolicy and ReschedulePolicy say it for Nomad"
    if wanted.healthcheck is not None:
        yield "healthcheck: the checks of the template's services are Nomad's own"
    if wanted.registry_credentials is not None:
        yield "registry_credentials: whoever may read the job would read them; give them to Nomad's clients"
    if wanted.memory is not None and wanted.memory % MIB:
        yield f"memory {wanted.memory}: Nomad counts whole MiB"
    if wanted.cpus is not None and wanted.cpus % 1000:
        yield f"cpus {wanted.cpus / 1000:g}: Nomad reserves whole cores; shares in MHz are said in the template"
    if any(_REPLACED.search(word) for word in wanted.command or ()):
        yield "command: Nomad would replace what stands in ${…}; only the template may use that"
    for name, value in wanted.environment:
        if isinstance(value, str) and _REPLACED.search(value):
            yield f"environment {name}: Nomad would replace what stands in ${{…}}; only the template may use that"
        if isinstance(value, SecretRef) and not _VARIABLE.fullmatch(name):
            yield f"environment {name[:80]!r}: the name of a secret is made of letters, digits and _"
    if placement.health is not None and isinstance(placement.health.check, CommandCheck):
        yield "health: a command is not run through Nomad; ask by http or tcp, or by a check of the template's service"


def _command(wanted: Configuration) -> dict[str, Any]:
    if wanted.command is None:
        return {}
    if not wanted.command:
        raise Refused("command: is empty")
    return {"command": wanted.command[0], "args": list(wanted.command[1:])}


def _resources(wanted: Configuration) -> dict[str, int]:
    memory = {} if wanted.memory is None else {"MemoryMB": wanted.memory // MIB}
    return memory if wanted.cpus is None else memory | {"Cores": wanted.cpus // 1000}


# -- secrets ----------------------------------------------------------------------------------------------------------


def secrets_path(outline: Outline, place: Place) -> str:
    """The Variable that this task, and no other, may read by its own identity."""
    path = f"nomad/jobs/{outline.job}/{place.group}/{place.task}"
    if not re.fullmatch(r"[A-Za-z0-9_~/-]{1,128}", path):
        raise Refused(
            f"environment: secrets of {'/'.join(place)} cannot be kept at {path[:160]!r}, no path of a Variable"
        )
    return path


def secret_items(wanted: Configuration) -> dict[str, tuple[str, SecretRef]]:
    """Item of the Variable -> the variable of the environment, and the secret. Another reference or version is another
    item, so that what runs, and what is kept, goes on with its own."""
    return {
        f"{name}_{digest.short(digest.of(digest.plain(value)))}": (name, value)
        for name, value in wanted.environment
        if isinstance(value, SecretRef)
    }


def is_secret_item(item: str) -> bool:
    return _ITEM.fullmatch(item) is not None


def _secrets_file(path: str, items: Mapping[str, tuple[str, SecretRef]]) -> dict[str, Any]:
    """Values never stand in the job: the client writes them to the task's own secrets directory, in memory."""
    lines = "".join(f"{name}={{{{ .{item}.Value | toJSON }}}}\n" for item, (name, _) in sorted(items.items()))
    return {
        "EmbeddedTmpl": f'{{{{ with nomadVar "{path}" }}}}\n{lines}{{{{ end }}}}\n',
        "DestPath": "${NOMAD_SECRETS_DIR}/holdfast.env",
        "Envvars": True,
        "ChangeMode": "noop",
    }


# -- the specification ------------------------------------------------------------------------------------------------


def _specification(outline: Outline, place: Place, task: Task) -> dict[str, Any]:
    """Everything of the job that decides how this component runs, in the terms that `drivers.nomad.compare` reads from
    a job that stands."""
    beside = [
        one for one in _declared_tasks(outline, place.group) if Place(place.group, one["Name"]) not in _mapped(outline)
    ]
    return {
        "job": {name: shortened(value) for name, value in outline.template.items() if name not in _IDENTITY},
        "group": shortened(_shell(outline, place.group)),
        "task": shortened(task),
        "beside": {one["Name"]: shortened(one) for one in beside},
    }


def _mapped(outline: Outline) -> set[Place]:
    return set(outline.places.values())


def shortened(value: Any) -> Any:
    """Plain data whose long texts are their digests, and whose fractions are texts."""
    match value:
        case dict():
            return {str(key): shortened(item) for key, item in value.items()}
        case list() | tuple():
            return [shortened(item) for item in value]
        case str() if len(value) > LONG:
            return digest.of_bytes(value.encode())
        case float():
            return repr(value)
    return value
