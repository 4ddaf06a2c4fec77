"""Containers read as placements: which one serves, which are kept, what an interrupted action left, what is not ours.

Which container serves is read from its sticker's holder first, because the holder is the journal of the last action:

    holder in transit                     the one it names, which the action was replacing and may have to put back;
                                          nothing, when it names none
    holder proven, its container runs     that one
    else a container runs                 the oldest that answers to the placement's name, or the oldest
    else the proven one, stopped          that one: stopped by somebody's hand, or by its own
    no holder                             the newest
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from drivers.docker import compare, render
from drivers.docker.compare import Inspected
from stickers import codec, names
from stickers.names import ActionKey, Digest, InstallationId, PlacementId
from stickers.observation import Health, HealthState, Standing, Unmanaged, Workload, WorkloadState, Worn
from stickers.sticker import Phase

RUNNING: Final = frozenset({"running", "restarting", "paused"})
UNCHECKED: Final = Health(state=HealthState.UNCHECKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One container as the engine lists it. `mark` changes whenever an inspection could answer otherwise; what can
    change without it (limits, restart policy) is covered by events and by age."""

    id: str
    name: str
    labels: Mapping[str, str]
    state: str
    image: str
    image_id: str
    mark: tuple[object, ...] = field(compare=False)

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    @property
    def started(self) -> bool:
        return self.state != "created"

    @property
    def sequence(self) -> int:
        return _number(self.labels.get(render.SEQUENCE))

    @property
    def fence(self) -> int:
        return _number(self.labels.get(render.FENCE))

    @property
    def content(self) -> tuple[Digest, Digest]:
        return Digest(self.labels.get(render.ARTIFACT, "")), Digest(self.labels.get(render.CONFIGURATION, ""))

    @property
    def phase(self) -> str:
        return self.labels.get(render.PHASE, "")

    @property
    def instance(self) -> str:
        return self.labels.get(render.INSTANCE, "")

    @property
    def adopts(self) -> bool:
        return render.ADOPTED in self.labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All containers of one placement: holders by sequence, the highest first; workloads, the newest first."""

    id: PlacementId
    holders: tuple[Listed, ...] = ()
    workloads: tuple[Listed, ...] = ()

    @property
    def holder(self) -> Listed | None:
        return self.holders[0] if self.holders else None

    @property
    def fence(self) -> int:
        return max((one.fence for one in (*self.holders, *self.workloads)), default=0)

    @property
    def sequence(self) -> int:
        return max((one.sequence for one in (*self.holders, *self.workloads)), default=0)

    @property
    def in_transit(self) -> bool:
        return self.holder is not None and self.holder.phase == Phase.IN_TRANSIT

    @property
    def named(self) -> Listed | None:
        """The container the sticker speaks of, where it still exists."""
        return next((one for one in self.workloads if self.holder and one.id == self.holder.instance), None)


def listed(entry: Mapping[str, Any]) -> Listed:
    """One entry of the engine's container list."""
    endpoints = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    seen = sorted((name, (endpoint or {}).get("EndpointID", "")) for name, endpoint in endpoints.items())
    return Listed(
        id=entry["Id"],
        name=(entry.get("Names") or ["/"])[0].lstrip("/"),
        labels=entry.get("Labels") or {},
        state=entry.get("State", ""),
        image=entry.get("Image", ""),
        image_id=entry.get("ImageID", ""),
        mark=(entry.get("State"), steady(entry.get("Status", "")), tuple(seen)),
    )


_AGES = re.compile(r"^(Up|Exited \(\d+\)|Restarting \(\d+\))[^()]*")


@lru_cache(4096)  # many containers have one text, and have it for minutes
def steady(status: str) -> str:
    """The engine's status text without the age in it: ``Up 3 minutes (healthy)`` is ``Up (healthy)``."""
    return _AGES.sub(r"\1 ", status).strip()


def groups(containers: Iterable[Listed], installation: InstallationId) -> dict[PlacementId, Group]:
    """The containers of this installation by placement; an adopted one belongs where the holder names it."""
    by_id = {one.id: one for one in containers}
    found: dict[PlacementId, list[Listed]] = {}
    for one in by_id.values():
        if one.labels.get(render.INSTALLATION) == installation and (id := placement_of(one.labels)) is not None:
            found.setdefault(id, []).append(one)
    for id, members in found.items():
        top = group(id, members).holder
        if top is not None and top.adopts and top.instance in by_id:
            members.append(by_id[top.instance])
    return {id: group(id, members) for id, members in found.items()}


def group(id: PlacementId, members: Iterable[Listed]) -> Group:
    newest_first = sorted(members, key=lambda one: (one.sequence, one.id), reverse=True)
    return Group(
        id=id,
        holders=tuple(one for one in newest_first if one.labels.get(render.ROLE) == render.STICKER),
        workloads=tuple(one for one in newest_first if one.labels.get(render.ROLE) != render.STICKER),
    )


def placement_of(labels: Mapping[str, str]) -> PlacementId | None:
    try:
        project, _, target = labels.get(render.TARGET, "").partition("/")
        return PlacementId(
            names.target_id(project, target),
            names.ComponentName(names.name(labels.get(render.COMPONENT, ""))),
            names.SlotName(names.name(labels.get(render.SLOT, ""))),
        )
    except names.InvalidName:
        return None


def candidates(group: Group) -> tuple[Listed, ...]:
    """The containers that may be the one that serves; whoever chooses among several has inspected them."""
    named = group.named
    if group.in_transit:
        assert group.holder is not None
        if named is not None or not group.holder.instance:
            return (named,) if named else ()
    if named is not None and named.running:
        return (named,)
    if running := tuple(one for one in group.workloads if one.running):
        return running
    if group.holder is not None:
        return (named,) if named else ()
    return tuple(one for one in group.workloads if one.started)[:1] or group.workloads[:1]


def serving(group: Group, inspected: Mapping[str, Inspected]) -> Listed | None:
    """The one container of the placement that serves, or would."""
    oldest_first = [one for one in reversed(candidates(group)) if one.id in inspected]
    answering = [one for one in oldest_first if reachable(inspected[one.id], specification(record_of(one, group)))]
    return next(iter((*answering, *oldest_first)), None)


def reachable(container: Inspected, wanted: render.Specification | None) -> bool:
    """Whether it answers to the placement's name on every network that is declared for it."""
    declared = (wanted or {}).get("networks") or {}
    return compare.networks(container, declared).items() >= declared.items()


def record_of(one: Listed, group: Group) -> Mapping[str, str]:
    """The labels that say what the container was made as; of one that was adopted its holder has them."""
    holder = group.holder
    adopted = holder is not None and holder.adopts and holder.instance == one.id
    return holder.labels if adopted and holder else one.labels


def specification(record: Mapping[str, str]) -> render.Specification | None:
    try:
        found = json.loads(record.get(render.SPECIFICATION, ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def standing(group: Group, workload: Workload | None) -> Standing:
    """The placement as seen, around the workload that serves."""
    serves = workload.instance if workload else ""
    own = next((one for one in group.workloads if one.id == serves), None)
    kept = [one for one in group.workloads if one is not own and is_kept(one, own)]
    others = [one.name for one in group.workloads if one is not own and one not in kept]
    return Standing(
        component=group.id.component,
        slot=group.id.slot,
        worn=worn(group.holder),
        workload=workload,
        kept=tuple(one.content for one in kept),
        debris=tuple(sorted([*others, *(one.name for one in group.holders[1:])])),
        fence=group.fence,
    )


def is_kept(one: Listed, serving: Listed | None) -> bool:
    """A predecessor: it served before the one that serves now, and is stopped. What is newer never came to serve."""
    return one.started and not one.running and (serving is None or one.sequence < serving.sequence)


def worn(holder: Listed | None) -> Worn | None:
    if holder is None:
        return None
    try:
        return Worn(envelope=codec.from_labels(holder.labels))
    except codec.Unreadable as problem:
        return Worn(envelope=None, problem=str(problem))


def workload(
    container: Inspected,
    image: Inspected | None,
    record: Mapping[str, str],
    health: Health = UNCHECKED,
    *,
    named: bool = True,
) -> Workload:
    """What the engine says of the container, compared with the record of what it should be. `image` is None where the
    engine no longer has it; `named` as in `compare.differences`."""
    state = container["State"]
    wanted, running = specification(record), _state(state)
    differences: tuple[str, ...] = ("nothing is recorded beside the container",)
    if wanted is not None:
        differences = compare.differences(wanted, container, image, named=named)
    return Workload(
        instance=container["Id"],
        artifact=artifact(container, image, record.get(render.ARTIFACT, "")),
        configuration=None if differences else Digest(record.get(render.CONFIGURATION, "")),
        state=running,
        health=health,
        key=_key(container["Config"].get("Labels") or {}),
        started_at=moment(state.get("StartedAt")),
        restarts=container.get("RestartCount") or 0,
        exit_code=state.get("ExitCode") if running is WorkloadState.STOPPED else None,
        differences=differences,
    )


def _key(labels: Mapping[str, str]) -> ActionKey | None:
    return ActionKey(labels[render.KEY]) if render.KEY in labels else None


def kept(
    group: Group, serving: str, *, since: int, good: tuple[Digest, Digest] | None, keep: int
) -> tuple[Listed, ...]:
    """The predecessors that stay beside what serves: the newest `keep`, and the last good content. What was made after
    `since` never came to serve."""
    former = [one for one in group.workloads if one.id != serving and one.started and one.sequence <= since]
    return tuple(one for index, one in enumerate(former) if index < keep or one.content == good)


def artifact(container: Inspected, image: Inspected | None, recorded: str) -> Digest | None:
    """The digest of what runs, by the engine's word: the reference it was made from, or those its image is known by."""
    _, at, digest = container["Config"].get("Image", "").partition("@")
    if at and names.DIGEST.fullmatch(digest):
        return Digest(digest)
    known = digests(image)
    if recorded in known:
        return Digest(recorded)
    return known[0] if len(known) == 1 else None


def digests(image: Inspected | None) -> tuple[Digest, ...]:
    found = {text.partition("@")[2] for text in (image or {}).get("RepoDigests") or ()}
    return tuple(Digest(digest) for digest in sorted(found) if names.DIGEST.fullmatch(digest))


def unmanaged(one: Listed, image: Inspected | None) -> Unmanaged:
    state = {"running": WorkloadState.RUNNING, "restarting": WorkloadState.RESTARTING}
    return Unmanaged(
        name=one.name,
        instance=one.id,
        artifact=one.image,
        state=state.get(one.state, WorkloadState.STOPPED),
        digests=digests(image),
    )


def runtime_health(state: Mapping[str, Any]) -> Health | None:
    """What the container's own health check says; None where it has none."""
    status = (state.get("Health") or {}).get("Status", "none")
    match status:
        case "healthy":
            return Health(state=HealthState.HEALTHY, detail="the container's own health check")
        case "unhealthy":
            return Health(state=HealthState.UNHEALTHY, detail="the container's own health check fails")
        case "starting":
            return Health(state=HealthState.UNKNOWN, detail="the container's own health check has not answered yet")
        case _:
            return None


def moment(text: str | None) -> datetime | None:
    """A time as the engine writes it, nanoseconds cut to microseconds; its zero time is None."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", text))


def _state(state: Mapping[str, Any]) -> WorkloadState:
    if state.get("Restarting"):
        return WorkloadState.RESTARTING
    if not state.get("Running") or state.get("Paused"):
        return WorkloadState.STOPPED
    starting = (state.get("Health") or {}).get("Status") == "starting"
    return WorkloadState.STARTING if starting else WorkloadState.RUNNING


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else 0
