"""What ECS says of one service, read as placements. Pure: nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from drivers.ecs import render, tags
from drivers.ecs.render import Container, Template
from drivers.ecs.revisions import Revision, short, tags_of
from stickers import digest, names
from stickers.names import LIVE, ActionKey, ComponentName, Digest, InstallationId, TargetId
from stickers.observation import Health, HealthState, Standing, Workload, WorkloadState

JUST: Final = timedelta(seconds=30)  # between a failed deployment and the rollback that follows it by itself
FAILED: Final = "deployment failed: "  # of events
ROLLING_BACK: Final = "rolling back to deployment"  # of events, and of a deployment until it is completed
UNCHECKED: Final = Health(state=HealthState.UNCHECKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment of a service. `rollout` is empty where ECS does not say."""

    id: str
    primary: bool
    definition: str
    rollout: str
    reason: str
    created: datetime | None
    failed: int
    running: int
    desired: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service as it was described."""

    arn: str
    name: str
    status: str
    desired: int
    running: int
    controller: str
    breaker: bool
    deployments: tuple[Deployment, ...]
    tags: Mapping[str, str]
    events: tuple[tuple[datetime, str], ...] = ()  # the newest first

    @property
    def primary(self) -> Deployment | None:
        return next((one for one in self.deployments if one.primary), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A service, the revision it is brought to, and whose it is. `kept` are the revisions its tags name."""

    service: Service
    revision: Revision
    kept: Mapping[str, Revision]
    installation: InstallationId
    target: TargetId

    @property
    def primary(self) -> Deployment:
        found = self.service.primary
        assert found is not None  # a view is made of services that have one
        return found

    @property
    def stranger(self) -> str | None:
        """Whose the service is, if it is not ours."""
        owner = self.service.tags.get(tags.OWNER)
        return owner if owner not in (None, tags.owner(self.installation, self.target)) else None


def service(described: Mapping[str, Any]) -> Service:
    return Service(
        arn=described["serviceArn"],
        name=described["serviceName"],
        status=described.get("status", ""),
        desired=described.get("desiredCount", 0),
        running=described.get("runningCount", 0),
        controller=described.get("deploymentController", {}).get("type", "ECS"),
        breaker=bool(described.get("deploymentConfiguration", {}).get("deploymentCircuitBreaker", {}).get("enable")),
        deployments=tuple(_deployment(one) for one in described.get("deployments", ())),
        tags=tags_of(described.get("tags", ())),
        events=tuple(
            (event["createdAt"].astimezone(UTC), event.get("message", ""))
            for event in described.get("events", ())
            if event.get("createdAt")
        ),
    )


def _deployment(described: Mapping[str, Any]) -> Deployment:
    created = described.get("createdAt")
    return Deployment(
        id=described.get("id", ""),
        primary=described.get("status") == "PRIMARY",
        definition=described.get("taskDefinition", ""),
        rollout=described.get("rolloutState", ""),
        reason=described.get("rolloutStateReason", ""),
        created=created.astimezone(UTC) if created else None,
        failed=described.get("failedTasks", 0),
        running=described.get("runningCount", 0),
        desired=described.get("desiredCount", 0),
    )


# -- one component ----------------------------------------------------------------------------------------------------


def standing(view: View, container: str, component: ComponentName, template: Template | None) -> Standing:
    """One component as it stands. With the template of today, what was registered from another differs."""
    work = tags.work(view.service.tags, component)
    found = workload(view, container, component, template)
    current = (found.artifact, found.configuration) if found else None
    return Standing(
        component=component,
        slot=LIVE,
        worn=tags.worn(view.service.tags, component),
        workload=found,
        kept=tuple(one for one in kept_contents(view, container, component) if one != current),
        fence=work.fence if work else 0,
    )


def is_empty(standing: Standing) -> bool:
    return standing.workload is None and standing.worn is None and not standing.kept


def workload(view: View, container: str, component: ComponentName, template: Template | None = None) -> Workload | None:
    """What the service is brought to for the component; None where it has no container of it, or where none of its
    tasks are to run and nobody says that we stopped them."""
    found = view.revision.containers.get(container)
    work = tags.work(view.service.tags, component)
    if found is None or (view.service.desired == 0 and view.service.running == 0 and work is None):
        return None
    artifact, differences = _artifact(found), list(_differences(view, container, component, template))
    key = maker(view, container, work)
    return Workload(
        instance=instance(view, container, key),
        artifact=artifact,
        configuration=None if differences else Digest(_labels(found)[render.CONFIGURATION]),
        state=state(view),
        health=_own_health(view),
        key=key,
        started_at=view.primary.created,
        restarts=view.primary.failed,
        differences=(*differences, *rollbacks(view)),
    )


def maker(view: View, container: str, work: tags.Work | None) -> ActionKey | None:
    """The action that made what stands: the one on its way, once a deployment has followed the one it found."""
    if work is None:
        return None
    content = content_of(view.revision, container)
    if work.deed is not None and work.deed.content == content and work.deed.since != view.primary.id:
        return work.deed.key
    return work.key if work.content == content else None


def instance(view: View, container: str, key: ActionKey | None) -> str:
    """Tasks come and go, and a deployment of another component replaces them too: what stands is named by its content
    and by the action that brought it."""
    made = f".{key[:12]}" if key else ""
    return f"{view.service.name}/{container}@{content_of(view.revision, container)}{made}"


def content_of(revision: Revision, container: str) -> str:
    found = revision.containers[container]
    return digest.short(render.identity(found if revision.intact else render.disowned(found)))


def contents(revision: Revision, container: str, component: ComponentName) -> tuple[Digest, Digest] | None:
    """Artifact and configuration of the component in a revision, where they are known."""
    found = revision.containers.get(container)
    if found is None or not revision.intact or _labels(found).get(render.COMPONENT) != component:
        return None
    artifact, configuration = _artifact(found), _labels(found).get(render.CONFIGURATION)
    return (artifact, Digest(configuration)) if artifact and configuration else None


def kept_contents(view: View, container: str, component: ComponentName) -> list[tuple[Digest, Digest]]:
    kept = [view.kept[name] for name in tags.kept(view.service.tags, component) if name in view.kept]
    found = [contents(revision, container, component) for revision in kept]
    return list(dict.fromkeys(one for one in found if one is not None))


def _labels(container: Container) -> Mapping[str, str]:
    labels: Mapping[str, str] = container.get("dockerLabels", {})
    return labels


def _artifact(container: Container) -> Digest | None:
    """What the task definition itself has run, whatever its labels say."""
    pinned = str(container.get("image", "")).partition("@")[2]
    return Digest(pinned) if names.DIGEST.fullmatch(pinned) else None


def _differences(view: View, container: str, component: ComponentName, template: Template | None) -> Iterator[str]:
    """Why the recorded configuration cannot be taken for what runs."""
    revision, labels = view.revision, _labels(view.revision.containers[container])
    if not revision.intact:
        yield f"{revision.name} was not registered by us"
        return
    owned = (labels.get(render.INSTALLATION), labels.get(render.TARGET), labels.get(render.COMPONENT))
    if owned != (view.installation, view.target, component) or render.CONFIGURATION not in labels:
        yield f"container {container} of {revision.name} was not made for this placement"
        return
    if template is None:
        return
    if labels.get(render.TEMPLATE) != template.container_digest(container):
        yield f"the template of container {container} has changed since {revision.name} was registered"
    if revision.template != template.digest:
        yield f"the template of the task has changed since {revision.name} was registered"


# -- how it goes ------------------------------------------------------------------------------------------------------


def state(view: View) -> WorkloadState:
    """A rollout that ECS has given up will not go on, whatever still runs of what was before."""
    service, primary = view.service, view.primary
    if service.desired == 0:
        return WorkloadState.STOPPED if service.running == 0 else WorkloadState.RUNNING
    if primary.rollout == "FAILED":
        return WorkloadState.STOPPED
    if is_rolling(view):
        return WorkloadState.STARTING
    return WorkloadState.RUNNING if service.running > 0 else WorkloadState.RESTARTING


def is_rolling(view: View) -> bool:
    """Whether the primary deployment is still on its way."""
    primary = view.primary
    if primary.rollout:
        return primary.rollout == "IN_PROGRESS"
    return len(view.service.deployments) > 1 or primary.running != primary.desired


def rollbacks(view: View) -> tuple[str, ...]:
    """What ECS itself has given up or taken back."""
    given_up = [
        f"ECS gave up the rollout of {short(one.definition)}: {one.reason or 'its tasks do not run'}"
        for one in view.service.deployments
        if one.rollout == "FAILED"
    ]
    return (*given_up, *_taken_back(view))


def _taken_back(view: View) -> Iterator[str]:
    """A deployment forgets that it was a rollback once it is completed; the events before it still tell."""
    primary = view.primary
    told = [text for at, text in view.service.events if primary.created and abs(primary.created - at) < JUST]
    failed = next((text.partition(FAILED)[2].rstrip(".") for text in told if FAILED in text), "")
    if ROLLING_BACK in primary.reason.lower() or any(ROLLING_BACK in text for text in told):
        yield f"ECS's circuit breaker rolled back to {short(primary.definition)}" + (f": {failed}" if failed else "")
    elif failed:
        yield f"a deployment before this one of {short(primary.definition)} failed: {failed}"


def _own_health(view: View) -> Health:
    if view.primary.rollout == "FAILED":
        return Health(state=HealthState.UNHEALTHY, detail="; ".join(rollbacks(view)))
    return UNCHECKED
