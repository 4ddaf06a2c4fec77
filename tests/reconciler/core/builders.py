"""Builders of declared and observed fleets, for tests and benchmarks of the core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from desired_state.health import Health, HttpCheck
from desired_state.model import (
    Configuration,
    DesiredState,
    Environment,
    Placement,
    Release,
    ReleaseComponent,
    Target,
)
from drivers.contract import Capabilities, Unit, claim_of
from reconciler.core.drift import Memory, Reading, Seen, Trust
from stickers import digest
from stickers.names import (
    ActionKey,
    Artifact,
    ComponentName,
    Digest,
    EnvironmentId,
    EvidenceId,
    InstallationId,
    JobId,
    PlacementId,
    ReleaseName,
    TargetId,
)
from stickers.observation import (
    Health as Answer,
)
from stickers.observation import (
    HealthState,
    Observation,
    Standing,
    Workload,
    WorkloadState,
    Worn,
)
from stickers.sticker import Phase, Sticker

NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
HERE: Final = InstallationId("holdfast-1")
PROD: Final = EnvironmentId("default/prod")
POWERS: Final[Mapping[str, Capabilities]] = {
    "docker": Capabilities(unit=Unit.COMPONENT, adopts=True),
    "compose": Capabilities(unit=Unit.TARGET),
}
CHECK: Final = Health(check=HttpCheck(port=8080, path="/health"))
KEY: Final = ActionKey("a" * 64)
OTHER_KEY: Final = ActionKey("b" * 64)


def artifact(name: str) -> Artifact:
    return Artifact(f"registry.example.com/shop/{name}", digest.of(name))


def configuration(level: str = "info") -> Configuration:
    return Configuration(environment=(("LOG_LEVEL", level),))


def place(target: int | str, component: str = "api") -> PlacementId:
    name = target if isinstance(target, str) else f"web-{target:05}"
    return PlacementId(TargetId(f"default/{name}"), ComponentName(component))


def placement(id: PlacementId, version: str = "1.0.0", **changes: Any) -> Placement:
    """What is declared for it in that version of the shop."""
    made = Placement(
        id=id,
        environment=PROD,
        release=ReleaseName(f"shop@{version}"),
        artifact=artifact(f"{id.component}-{version}"),
        configuration=configuration(),
        health=CHECK,
    )
    return replace(made, **changes)


def desired(
    placements: Iterable[Placement], *, driver: str = "docker", targets: int = 0, **changes: Any
) -> DesiredState:
    """The placements, on just their targets or on at least so many; `changes` are of the environment."""
    placements = tuple(placements)
    names = dict.fromkeys(each.id.target for each in placements)
    names |= dict.fromkeys(place(number).target for number in range(targets))
    release = placements[0].release if placements else ReleaseName("shop@1.0.0")
    parts = {each.id.component: ReleaseComponent(artifact=each.artifact) for each in placements}
    return DesiredState(
        environment=replace(Environment(id=PROD, release=release), **changes),
        release=Release(project="default", name=release, components=parts),
        targets=tuple(Target(id=name, environment=PROD, driver=driver) for name in names),
        placements=placements,
        revision="r1",
    )


def fleet(targets: int, version: str = "1.0.0", components: Iterable[str] = ("api",), **changes: Any) -> DesiredState:
    """So many targets, each with all of the components."""
    names = tuple(components)
    return desired([placement(place(n, name), version) for n in range(targets) for name in names], **changes)


def sticker(of: Placement, **changes: Any) -> Sticker:
    """The proven sticker that it should wear."""
    made = Sticker(
        claim=claim_of(of, HERE),
        phase=Phase.PROVEN,
        job=JobId("default/prod:1"),
        key=KEY,
        fence=1,
        sequence=2,
        previous=None,
        revision="r1",
        evidence=EvidenceId("sha256:" + "e" * 64),
        written_at=NOW,
    )
    return replace(made, **changes)


def workload(of: Placement, **changes: Any) -> Workload:
    """What runs when it runs as declared."""
    state = WorkloadState.RUNNING if of.running else WorkloadState.STOPPED
    health = HealthState.HEALTHY if of.running and of.health else HealthState.UNCHECKED
    made = Workload(
        instance=f"{of.id.target}-{of.id.component}-1",
        artifact=of.artifact.digest,
        configuration=of.configuration_digest,
        state=state,
        health=Answer(state=health),
        key=KEY,
        started_at=NOW - timedelta(hours=1),
    )
    return replace(made, **changes)


def standing(id: PlacementId, runs: Workload | None, *, worn: bool = True) -> Standing:
    envelope = Worn(envelope=f"sealed {id}") if worn else None
    return Standing(component=id.component, slot=id.slot, worn=envelope, workload=runs)


def valid(label: Sticker) -> Reading:
    return Reading(trust=Trust.VALID, sticker=label)


def as_declared(of: Placement) -> tuple[Standing, Reading]:
    return standing(of.id, workload(of)), valid(sticker(of))


def sight(target: TargetId, *parts: tuple[Standing, Reading], at: datetime = NOW, **changes: Any) -> Seen:
    """One target as seen: its standings, each with its sticker as read."""
    standings = tuple(one for one, _ in parts)
    readings = {PlacementId(target, one.component, one.slot): read for one, read in parts}
    return Seen(observation=Observation(target=target, at=at, standings=standings, **changes), readings=readings)


def unseen(target: TargetId, *, at: datetime = NOW) -> Seen:
    return Seen(observation=Observation(target=target, at=at, unseen="connection refused"))


def all_as(state: DesiredState, *, at: datetime = NOW) -> dict[TargetId, Seen]:
    """The whole fleet, in sync."""
    return {
        target: sight(target, *[as_declared(each) for each in placements], at=at)
        for target, placements in state.by_target.items()
    }


def proven(state: DesiredState) -> dict[PlacementId, Memory]:
    """What is remembered once all of it has run in health."""
    return {each.id: Memory(last_good=each, sequence=2) for each in state.placements}


def some_digest(name: str) -> Digest:
    return digest.of(name)
