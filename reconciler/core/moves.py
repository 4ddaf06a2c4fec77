"""One placement's way from what was found to what is wanted: its change, and its cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from desired_state.model import Placement
from drivers.contract import Change, Deploy, Remove, Restart, Stamp, claim_of
from reconciler.core import blocks, judge
from reconciler.core.blocks import Scene
from reconciler.core.intent import Cause, ChangeKind, Content
from reconciler.core.judge import Drift, Verdict
from reconciler.core.known import Memory, Reading, Trust
from stickers.names import Digest, EnvironmentName, ReleaseName, TargetName, split_id
from stickers.sticker import Claim

UNTOLD: Final = Digest("sha256:" + "0" * 64)  # in the claim of what is removed, where nothing tells its content
UNTOLD_RELEASE: Final = ReleaseName("untold@0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One placement's change with its cause."""

    drift: Drift
    change: Change
    cause: Cause


def move(drift: Drift, scene: Scene) -> Move:
    kind = _change_kind(drift, scene)
    return Move(drift=drift, change=_change(drift, kind, scene), cause=cause(drift, kind, scene))


def _change_kind(drift: Drift, scene: Scene) -> ChangeKind:
    if drift.declared is None:
        return ChangeKind.REMOVE
    match drift.verdict:
        case Verdict.UNLABELLED:
            return ChangeKind.LABEL
        case Verdict.STOPPED:
            return ChangeKind.RESTART if blocks.goal(drift).running else ChangeKind.STOP
        case Verdict.UNHEALTHY if scene.memory(drift.id).attempts == 0:
            return ChangeKind.RESTART
    return ChangeKind.DEPLOY


def _change(drift: Drift, kind: ChangeKind, scene: Scene) -> Change:
    standing, memory = blocks.footing(drift), scene.memory(drift.id)
    mark = stamp(memory, Reading(trust=drift.trust, sticker=drift.sticker))
    if kind is ChangeKind.REMOVE:
        return Remove(id=drift.id, claim=_worn_claim(drift, scene), replaces=standing, stamp=mark)
    if kind is ChangeKind.RESTART and standing is not None:
        return Restart(placement=blocks.goal(drift), replaces=standing, stamp=mark)
    return Deploy(
        placement=blocks.goal(drift),
        replaces=standing,
        stamp=mark,
        predecessor=blocks.goal(drift) if scene.homeward else memory.last_good,
        keep=scene.desired.environment.keep,
        anew=drift.verdict is Verdict.UNHEALTHY,
    )


def cause(drift: Drift, kind: ChangeKind, scene: Scene) -> Cause:
    wanted = None if kind is ChangeKind.REMOVE else blocks.goal(drift)
    return Cause(
        id=drift.id,
        kind=kind,
        verdict=drift.verdict,
        heal=drift.heal,
        found=_found(drift, scene),
        wanted=content(wanted) if wanted else None,
        rule=drift.rule,
        reason=drift.reason,
        differences=drift.differences,
    )


def _found(drift: Drift, scene: Scene) -> Content | None:
    workload = blocks.workload_of(drift)
    if workload is None:
        return None
    believed = drift.sticker if drift.trust is Trust.VALID else None
    release = judge.running_release(workload, believed, scene.memory(drift.id))
    return Content(release=release, artifact=workload.artifact, configuration=workload.configuration)


def _worn_claim(drift: Drift, scene: Scene) -> Claim:
    """What is worn until it is removed: by the sticker, else by what is remembered, else by what runs."""
    last_good = scene.memory(drift.id).last_good
    if drift.sticker is not None and drift.trust is Trust.VALID:
        return drift.sticker.claim
    if last_good is not None:
        return claim_of(last_good, scene.ground.installation)
    workload = blocks.workload_of(drift)
    project, environment = split_id(scene.desired.environment.id)
    return Claim(
        installation=scene.ground.installation,
        project=project,
        environment=EnvironmentName(environment),
        target=TargetName(split_id(drift.id.target)[1]),
        component=drift.id.component,
        slot=drift.id.slot,
        release=UNTOLD_RELEASE,
        artifact=(workload and workload.artifact) or UNTOLD,
        configuration=(workload and workload.configuration) or UNTOLD,
    )


def content(placement: Placement) -> Content:
    artifact, configuration = placement.content
    return Content(release=placement.release, artifact=artifact, configuration=configuration)


def stamp(memory: Memory, worn: Reading) -> Stamp:
    """The first free sequence number, above what is remembered and what was verified on the target."""
    sticker = worn.sticker if worn.trust in (Trust.VALID, Trust.REPLAYED) else None
    highest = max(memory.sequence, sticker.sequence if sticker else 0)
    previous = sticker.digest if sticker and worn.trust is Trust.VALID else None
    return Stamp(sequence=highest + 1, previous=previous)
