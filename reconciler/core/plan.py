"""The plan: waves of actions in order, and what is blocked and why. The same input gives the same plan, with the same
hash, on every machine.

    drifts ──> blocks.BLOCKS (ordered table) ──> blocked
                  │
                  └──> moves ──> stages (`after`) ──> waves (`strategy`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, assert_never

from desired_state.model import DesiredState, Placement
from drivers.contract import Capabilities, Change, Deploy, Footing, Remove, Restart
from reconciler.core import blocks, moves, waves
from reconciler.core.blocks import ADOPTS_NOT, BLOCKS, BlockRow, Ground, Scene, removal_hash
from reconciler.core.intent import (
    NO_GRANT,
    REMEDY,
    Blocked,
    Cause,
    ChangeKind,
    Code,
    Content,
    Grant,
    Intent,
    JobKind,
    Plan,
    Wave,
)
from reconciler.core.judge import Case, Drift, Verdict, judge
from reconciler.core.known import Known, Reading
from reconciler.core.moves import Move, stamp
from reconciler.core.waves import action_key
from stickers.names import InstallationId, PlacementId, TargetId

__all__ = [
    "BLOCKS",
    "NO_GRANT",
    "REMEDY",
    "Blocked",
    "Cause",
    "ChangeKind",
    "Code",
    "Content",
    "Grant",
    "Intent",
    "JobKind",
    "Plan",
    "Wave",
    "action_key",
    "adopt",
    "back",
    "plan",
    "removal_hash",
    "stamp",
]


def plan(
    drifts: Sequence[Drift],
    desired: DesiredState,
    known: Known,
    *,
    powers: Mapping[str, Capabilities],
    installation: InstallationId,
    now: datetime,
    grant: Grant = NO_GRANT,
) -> Plan:
    """What closes the gap, as far as policy and `grant` allow. `drifts` are all of the environment's, or only those not
    in sync. Removals come last, so that a release that fails has removed nothing."""
    drifted = [drift for drift in drifts if drift.drifted]
    scene = Scene.of(drifted, desired, known, Ground(powers=powers, installation=installation, now=now), grant)
    blocked = {drift.id: row for drift in drifted if (row := blocks.block(drift, scene))}
    after = blocks.waiting(drifted, blocked, desired)
    going = [moves.move(drift, scene) for drift in drifted if drift.id not in blocked and drift.id not in after]
    staying = [blocks.block_or_wait(drift, scene, blocked.get(drift.id), after) for drift in drifted]
    return waves.planned(waves.kind_of(going), going, tuple(one for one in staying if one), scene)


def back(
    touched: Sequence[Drift],
    desired: DesiredState,
    known: Known,
    *,
    powers: Mapping[str, Capabilities],
    installation: InstallationId,
    now: datetime,
    undo: Plan | None = None,
) -> Plan:
    """The way back of what a job touched, by the same strategy, to what each placement last ran in health *before*
    `undo` was carried out: the predecessors that plan names, so that a wave which went well comes back too. Without
    `undo`, to what is remembered. Where nothing stood before, what was brought is removed. Components that come after
    others go back before them. No policy, suspension or back-off holds a way back up."""
    ground = Ground(powers=powers, installation=installation, now=now)
    scene = Scene.of(touched, desired, known, ground, NO_GRANT, homeward=True)
    goals = _goals(undo)
    ways = [_way_back(drift, goals.get(drift.id), scene) for drift in touched]
    going = [way for way in ways if isinstance(way, Move)]
    staying = tuple(way for way in ways if isinstance(way, Blocked))
    return waves.planned(JobKind.ROLLBACK, going, staying, scene)


def adopt(
    drifts: Sequence[Drift],
    desired: DesiredState,
    known: Known,
    *,
    powers: Mapping[str, Capabilities],
    installation: InstallationId,
    now: datetime,
) -> Plan:
    """What is declared, missing, and runs there unmanaged with the declared artifact is taken over as it is; a workload
    whose configuration turns out to differ is a conflict, never a restart. The rest is blocked."""
    ground = Ground(powers=powers, installation=installation, now=now)
    drifted = [drift for drift in drifts if drift.drifted]
    scene = Scene.of(drifted, desired, known, ground, NO_GRANT)
    pairs = _adoptable(drifted, scene)
    going = [_adoption(drift, pairs[drift.id], scene) for drift in drifted if drift.id in pairs]
    taken = {*pairs, *(pair.id for pair in pairs.values())}
    staying = tuple(blocks.refusal(drift, scene, ADOPTS_NOT) for drift in drifted if drift.id not in taken)
    return waves.planned(JobKind.ADOPT, going, staying, scene)


# -- the way back -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """What stood before a change: its proven placement, if there was one, and whether anything stood at all."""

    good: Placement | None
    empty: bool


def _goals(undo: Plan | None) -> dict[PlacementId, _Before]:
    changes = [change for intent in undo.intents for change in intent.changes] if undo else []
    return {change.id: before for change in changes if (before := _before(change))}


def _before(change: Change) -> _Before | None:
    match change:
        case Deploy():
            return _Before(good=change.predecessor, empty=change.replaces is None)
        case Restart():
            return _Before(good=change.placement, empty=False)
        case Remove():
            return None
        case _:
            assert_never(change)


def _way_back(drift: Drift, before: _Before | None, scene: Scene) -> Move | Blocked | None:
    goal = before.good if before else scene.memory(drift.id).last_good
    if drift.blind:
        return blocks.refusal(drift, scene, BLOCKS[0])
    if goal is None:
        return _way_out(drift, before, scene)
    seen = _rejudged(drift, goal, scene)
    if not seen.drifted:
        return None
    if seen.verdict is Verdict.UNKNOWN:
        return blocks.refusal(seen, scene, BLOCKS[0])
    return moves.move(seen, scene)


def _way_out(drift: Drift, before: _Before | None, scene: Scene) -> Move | Blocked | None:
    """Nothing good to go back to: what was brought where nothing stood is taken away, anything else stays."""
    if drift.standing is None or (drift.standing.workload is None and drift.standing.worn is None):
        return None
    if before is None or not before.empty:
        return blocks.refusal(drift, scene, _NO_WAY_BACK)
    return moves.move(replace(drift, declared=None, wanted=None), scene)


def _rejudged(drift: Drift, goal: Placement, scene: Scene) -> Drift:
    """The drift, judged by what is gone back to. No action is under way any more when the way back is planned."""
    case = Case(
        id=drift.id,
        wanted=goal,
        declared=goal,
        standing=drift.standing,
        reading=Reading(trust=drift.trust, sticker=drift.sticker),
        memory=replace(scene.memory(drift.id), last_good=goal),
    )
    return judge(case)


_NO_WAY_BACK: Final = BlockRow(
    condition=lambda drift, scene: True,
    code=Code.NO_LAST_GOOD,
    reason=lambda drift, scene: "nothing has run here in health before, and what stood here was not ours to remove",
)


# -- adoption ---------------------------------------------------------------------------------------------------------


def _adoptable(drifted: Sequence[Drift], scene: Scene) -> dict[PlacementId, Drift]:
    """For each placement that is declared and missing, the one unmanaged workload on its target that runs its artifact;
    where two could be meant, none is."""
    by_target: dict[TargetId, list[Drift]] = {}
    for drift in drifted:
        by_target.setdefault(drift.id.target, []).append(drift)
    fits = [
        (drift, candidate)
        for drift in drifted
        if drift.verdict is Verdict.MISSING
        for candidate in by_target[drift.id.target]
        if _fits(drift, candidate, scene)
    ]
    meant = Counter(id for drift, candidate in fits for id in (drift.id, candidate.id))
    return {drift.id: candidate for drift, candidate in fits if meant[drift.id] == meant[candidate.id] == 1}


def _fits(drift: Drift, candidate: Drift, scene: Scene) -> bool:
    if drift.wanted is None or candidate.unmanaged is None:
        return False
    power = blocks.power(drift.id.target, scene)
    return power is not None and power.adopts and drift.wanted.artifact.digest in candidate.unmanaged.digests


def _adoption(drift: Drift, candidate: Drift, scene: Scene) -> Move:
    wanted, unmanaged = blocks.goal(drift), candidate.unmanaged
    assert unmanaged is not None
    change = Deploy(
        placement=wanted,
        replaces=Footing(instance=unmanaged.instance, artifact=wanted.content[0], configuration=wanted.content[1]),
        stamp=stamp(scene.memory(drift.id), Reading(trust=drift.trust, sticker=drift.sticker)),
        predecessor=scene.memory(drift.id).last_good,
        keep=scene.desired.environment.keep,
        adopts=unmanaged.name,
    )
    why = replace(
        moves.cause(drift, ChangeKind.ADOPT, scene),
        found=Content(release=None, artifact=wanted.content[0], configuration=None),
        reason=f"{unmanaged.name} runs it, unmanaged",
    )
    return Move(drift=drift, change=change, cause=why)
