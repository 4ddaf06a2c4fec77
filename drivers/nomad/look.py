"""A job, its allocations and the stickers' Variables read as placements.

What stands for a component is what the job says now: Nomad replaces a task in its job, and keeps what the job said
before as earlier versions. How it runs is read from the allocations of its group that were made for the same key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from drivers.nomad import compare, render
from drivers.nomad.render import Job, Part
from stickers import codec, digest, names
from stickers.names import LIVE, ActionKey, ComponentName, Digest, InstallationId, PlacementId, TargetId
from stickers.observation import Health, HealthState, Standing, Unmanaged, Workload, WorkloadState, Worn

Json = Mapping[str, Any]
Content = tuple[Digest, Digest]

FORMAT: Final = "format"
ENVELOPE: Final = "envelope"
FENCE: Final = "fence"
PHASE: Final = "phase"
KEPT: Final = "kept"  # contents that served before, the newest first
BEFORE: Final = "before"  # while in transit: the content that served before the first try
LONGEST: Final = 128  # characters of a Variable's path
UNCHECKED: Final = Health(state=HealthState.UNCHECKED)
ENDED: Final = frozenset({"complete", "failed", "lost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One job as it was read: its versions, the newest first, its allocations, and deployments where asked for."""

    job: Job | None
    versions: Sequence[Job] = ()
    allocations: Sequence[Json] = ()
    deployments: Sequence[Json] = ()
    exhausted: str = ""  # why Nomad could place nothing, in its words

    @property
    def index(self) -> int:
        return int(self.job["JobModifyIndex"]) if self.job is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The Variable that holds a sticker. `index` 0: there is none."""

    index: int = 0
    items: Mapping[str, str]

    @property
    def fence(self) -> int:
        text = self.items.get(FENCE, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0

    @property
    def in_transit(self) -> bool:
        return self.items.get(PHASE) == "in_transit"

    @property
    def kept(self) -> tuple[Content, ...]:
        return _contents(self.items.get(KEPT, ""))

    @property
    def before(self) -> Content | None:
        return next(iter(_contents(self.items.get(BEFORE, ""))), None)

    @property
    def worn(self) -> Worn | None:
        if not self.index:
            return None
        labels = {codec.LABEL_FORMAT: self.items.get(FORMAT, ""), codec.LABEL: self.items.get(ENVELOPE, "")}
        try:
            return Worn(envelope=codec.from_labels(labels))
        except codec.Unreadable as problem:
            return Worn(envelope=None, problem=str(problem))


def holder(variable: Json | None) -> Holder:
    if variable is None:
        return Holder(items={})
    return Holder(index=int(variable["ModifyIndex"]), items=variable.get("Items") or {})


def path(installation: InstallationId, id: PlacementId) -> str:
    """Where the placement's sticker is kept, in a namespace that several installations may share."""
    root = f"holdfast/{digest.short(digest.of([installation, id.target]))}"
    told = f"{root}/{id.component}" if id.slot == LIVE else f"{root}/{id.component}/{id.slot}"
    return told if len(told) <= LONGEST else f"{root}/{digest.short(digest.of(id))}"


def contents(found: Sequence[Content]) -> str:
    return json.dumps([list(one) for one in found], separators=(",", ":"))


def _contents(text: str) -> tuple[Content, ...]:
    try:
        return tuple((Digest(str(one[0])), Digest(str(one[1]))) for one in json.loads(text or "[]"))
    except (ValueError, TypeError, IndexError, KeyError):
        return ()


# -- versions ---------------------------------------------------------------------------------------------------------


def version_with(
    scene: Scene, id: PlacementId, installation: InstallationId, content: Content
) -> tuple[Job, Part] | None:
    """The newest version of the job in which the component ran this content, as it had been rendered."""
    for version in scene.versions:
        part = render.parts(version, installation, id.target).get(id.component)
        if part is not None and part.content == content and not compare.differences(version, part):
            return version, part
    return None


def since(scene: Scene, installation: InstallationId, id: PlacementId) -> tuple[int, ...]:
    """The versions since what stands was put into the job, the newest first."""
    return tuple(_since(scene, installation, id))


def _since(scene: Scene, installation: InstallationId, id: PlacementId) -> Iterator[int]:
    key: ActionKey | None = None
    for index, version in enumerate(scene.versions):
        part = render.parts(version, installation, id.target).get(id.component)
        if part is None or (index and part.key != key):
            return
        key = part.key
        yield int(version["Version"])


# -- what stands ------------------------------------------------------------------------------------------------------


def instance(job: Job, part: Part) -> str:
    """Names what one action made; allocations of it come and go."""
    by = part.key[:16] if part.key else f"v{job.get('Version', 0)}"
    return f"{by}@{job['ID']}/{'/'.join(part.place)}"


def workload(
    scene: Scene, installation: InstallationId, id: PlacementId, *, canaries: bool = False, health: Health = UNCHECKED
) -> Workload | None:
    """What stands for the placement; `canaries`: those alone are asked for, what they are to replace goes on."""
    job = scene.job
    part = render.parts(job, installation, id.target).get(id.component)
    if job is None or part is None:
        return None
    differences = compare.differences(job, part)
    own, state = members(scene, installation, id), _state(scene, installation, id, canaries=canaries)
    tasks = [task for task in (_task(one, part) for one in own if _is_live(one)) if task]
    return Workload(
        instance=instance(job, part),
        artifact=render.artifact(part),
        configuration=None if differences else part.content[1],
        state=state,
        health=health,
        key=part.key,
        started_at=max((at for at in (moment(task.get("StartedAt")) for task in tasks) if at), default=None),
        restarts=sum(int(task.get("Restarts") or 0) for task in tasks) + sum(_has_failed(one) for one in own),
        exit_code=_exit_code(own, part) if state is WorkloadState.STOPPED else None,
        differences=differences,
    )


def members(scene: Scene, installation: InstallationId, id: PlacementId) -> tuple[Json, ...]:
    """The allocations that were made for what stands."""
    part = render.parts(scene.job, installation, id.target).get(id.component)
    if part is None:
        return ()
    versions = {
        int(version["Version"])
        for version in scene.versions
        if (there := render.parts(version, installation, id.target).get(id.component)) and there.key == part.key
    }
    group = part.group["Name"]
    return tuple(one for one in scene.allocations if one["TaskGroup"] == group and one["JobVersion"] in versions)


def live(scene: Scene, installation: InstallationId, id: PlacementId) -> tuple[Json, ...]:
    """Those of them whose task runs."""
    part = render.parts(scene.job, installation, id.target).get(id.component)
    if part is None:
        return ()
    return tuple(one for one in members(scene, installation, id) if _is_live(one) and _is_up(one, part))


def _state(scene: Scene, installation: InstallationId, id: PlacementId, *, canaries: bool) -> WorkloadState:
    assert scene.job is not None
    part = render.parts(scene.job, installation, id.target)[id.component]
    group = part.group["Name"]
    wanted = 0 if scene.job.get("Stop") else part.count
    if wanted == 0:
        ending = [one for one in scene.allocations if one["TaskGroup"] == group and one["ClientStatus"] == "running"]
        return WorkloadState.RUNNING if ending else WorkloadState.STOPPED
    if canaries and (found := deployment(scene, installation, id)) is not None:
        wanted = int(found["TaskGroups"][group].get("DesiredCanaries") or 0) or wanted
    own = members(scene, installation, id)
    if len(live(scene, installation, id)) >= wanted:
        return WorkloadState.RUNNING
    standing = [one for one in own if _is_live(one)]
    if any((_task(one, part) or {}).get("Restarts") for one in standing):
        return WorkloadState.RESTARTING
    if standing or not own or any(one.get("FollowupEvalID") or one["ClientStatus"] not in ENDED for one in own):
        return WorkloadState.STARTING
    return WorkloadState.STOPPED


def _is_live(one: Json) -> bool:
    return one["DesiredStatus"] == "run" and one["ClientStatus"] not in ENDED


def _has_failed(one: Json) -> bool:
    return bool(one["ClientStatus"] in ("failed", "lost"))


def _task(one: Json, part: Part) -> Json | None:
    found: Json | None = (one.get("TaskStates") or {}).get(part.task["Name"])
    return found


def _is_up(one: Json, part: Part) -> bool:
    return one["ClientStatus"] == "running" and (_task(one, part) or {}).get("State") == "running"


def _exit_code(own: Sequence[Json], part: Part) -> int | None:
    newest = max(own, key=lambda one: int(one.get("CreateIndex") or 0), default=None)
    events = ((_task(newest, part) or {}).get("Events") or ()) if newest is not None else ()
    codes = [int(event.get("ExitCode") or 0) for event in events if event.get("Type") == "Terminated"]
    return codes[-1] if codes else None


# -- deployments ------------------------------------------------------------------------------------------------------


def deployment(scene: Scene, installation: InstallationId, id: PlacementId) -> Json | None:
    """The deployment that belongs to the version in which this component was put into the job: not the latest, which
    may be another's."""
    part = render.parts(scene.job, installation, id.target).get(id.component)
    versions = since(scene, installation, id)
    if part is None or not versions:
        return None
    for one in scene.deployments:
        if one["JobVersion"] == versions[-1] and part.group["Name"] in (one.get("TaskGroups") or {}):
            return one
    return None


def awaits_promotion(found: Json | None, group: str) -> bool:
    """Canaries that nobody promotes but somebody who has looked at them."""
    said = ((found or {}).get("TaskGroups") or {}).get(group) or {}
    waiting = int(said.get("DesiredCanaries") or 0) > 0 and not said.get("Promoted") and not said.get("AutoPromote")
    return waiting and (found or {}).get("Status") == "running"


def own_word(scene: Scene, installation: InstallationId, id: PlacementId, *, canaries: bool = False) -> Health | None:
    """What Nomad says of the deployment; None where it has nothing more to say."""
    part = render.parts(scene.job, installation, id.target).get(id.component)
    if part is None:
        return None
    if scene.exhausted and not live(scene, installation, id):
        return Health(state=HealthState.UNKNOWN, detail=f"Nomad has not placed it: {scene.exhausted}")
    found, group = deployment(scene, installation, id), part.group["Name"]
    if found is None or found["Status"] in ("successful", "cancelled"):
        return None
    if found["Status"] == "failed":
        said = str(found.get("StatusDescription") or "")[:200]
        return Health(state=HealthState.UNHEALTHY, detail=f"Nomad's deployment failed: {said}")
    counts = found["TaskGroups"][group]
    if awaits_promotion(found, group):
        wanted = int(counts["DesiredCanaries"])
        if canaries and _healthy_canaries(scene, installation, id) >= wanted:
            return None
        if not canaries:
            return Health(state=HealthState.UNKNOWN, detail="Nomad's deployment waits for its canaries to be promoted")
    else:
        wanted = int(counts.get("DesiredTotal") or 0)
        if int(counts.get("HealthyAllocs") or 0) >= wanted:
            return None
    if int(counts.get("UnhealthyAllocs") or 0):
        return Health(state=HealthState.UNHEALTHY, detail="Nomad calls an allocation of its deployment unhealthy")
    said = f"Nomad's deployment is {found['Status']}, not all of {wanted} are called healthy"
    return Health(state=HealthState.UNKNOWN, detail=said)


def _healthy_canaries(scene: Scene, installation: InstallationId, id: PlacementId) -> int:
    states = [one.get("DeploymentStatus") or {} for one in members(scene, installation, id) if _is_live(one)]
    return sum(1 for state in states if state.get("Canary") and state.get("Healthy"))


# -- checks -----------------------------------------------------------------------------------------------------------


def is_checked(scene: Scene, installation: InstallationId, id: PlacementId) -> bool:
    """Whether Nomad itself asks a service of the component's group. What Consul asks is not told by Nomad."""
    part = render.parts(scene.job, installation, id.target).get(id.component)
    services = [
        *((part.group.get("Services") or ()) if part else ()),
        *((part.task.get("Services") or ()) if part else ()),
    ]
    return any(service.get("Provider") == "nomad" and service.get("Checks") for service in services)


def worst_check(checks: Sequence[Json]) -> Health | None:
    """The first that fails, or has not answered; None where all are well."""
    for status, state, words in _CHECKED:
        names_of_them = sorted(f"{one.get('Check')}" for one in checks if one.get("Status") == status)
        if names_of_them:
            return Health(state=state, detail=f"Nomad's own check {names_of_them[0][:80]!r} {words}")
    return None


_CHECKED: Final = (
    ("failure", HealthState.UNHEALTHY, "fails"),
    ("pending", HealthState.UNKNOWN, "has not answered yet"),
)


# -- the whole --------------------------------------------------------------------------------------------------------


def standing(
    scene: Scene, installation: InstallationId, id: PlacementId, held: Holder, found: Workload | None
) -> Standing:
    part = render.parts(scene.job, installation, id.target).get(id.component)
    serving = part.content if part is not None else None
    kept = (one for one in held.kept if one != serving and version_with(scene, id, installation, one))
    return Standing(
        component=id.component,
        slot=id.slot,
        worn=held.worn,
        workload=found,
        kept=tuple(kept),
        fence=max(held.fence, part.fence if part is not None else 0),
    )


def unmanaged(scene: Scene, installation: InstallationId, target: TargetId) -> tuple[Unmanaged, ...]:
    """Tasks of the job that are of no installation, as far as they have an image."""
    found = []
    for group in (scene.job or {}).get("TaskGroups") or ():
        for task in group.get("Tasks") or ():
            meta, image = task.get("Meta") or {}, (task.get("Config") or {}).get("image")
            if image and render.INSTALLATION not in meta and not _has_ours(group):
                found.append(_unmanaged(scene, group, task, str(image)))
    return tuple(sorted(found, key=lambda one: one.name))


def _has_ours(group: render.Group) -> bool:
    return any(render.INSTALLATION in (task.get("Meta") or {}) for task in group.get("Tasks") or ())


def _unmanaged(scene: Scene, group: render.Group, task: render.Task, image: str) -> Unmanaged:
    name, _, pinned = f"{group['Name']}/{task['Name']}", *image.partition("@")[1:]
    runs = any(one["TaskGroup"] == group["Name"] and one["ClientStatus"] == "running" for one in scene.allocations)
    return Unmanaged(
        name=name,
        instance=f"{(scene.job or {})['ID']}/{name}",
        artifact=image,
        state=WorkloadState.RUNNING if runs else WorkloadState.STOPPED,
        digests=(Digest(pinned),) if names.DIGEST.fullmatch(pinned) else (),
    )


def is_strange(job: Job | None, installation: InstallationId, target: TargetId) -> bool:
    """A job of this name that holds something, and nothing of this target."""
    return job is not None and bool(job.get("TaskGroups")) and not render.parts(job, installation, target)


def moment(text: str | None) -> datetime | None:
    """A time as Nomad writes it, nanoseconds cut to microseconds; its zero time is None."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", text))


def component_ids(
    scene: Scene, installation: InstallationId, target: TargetId, mapped: Sequence[str]
) -> list[PlacementId]:
    """Every placement of the target that may wear something: those that are mapped, and those that stand."""
    there = {*map(ComponentName, mapped), *render.parts(scene.job, installation, target)}
    return [PlacementId(target, component) for component in sorted(there)]
