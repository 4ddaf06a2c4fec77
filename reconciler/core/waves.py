"""From moves to waves: components in their order, targets in groups that the strategy allows, one hash over it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from desired_state.model import DesiredState
from drivers.contract import Change, Deploy, Remove, Restart, Unit
from reconciler.core import blocks
from reconciler.core.blocks import Scene
from reconciler.core.intent import Blocked, ChangeKind, Code, Intent, JobKind, Plan, Wave
from reconciler.core.moves import Move
from stickers import digest
from stickers.names import ActionKey, EnvironmentId, TargetId
from stickers.observation import HealthState, Workload, WorkloadState


def planned(kind: JobKind, moves: Sequence[Move], blocked: tuple[Blocked, ...], scene: Scene) -> Plan:
    waves = _waves(moves, scene)
    waits = any(one.code is Code.REMOVAL_LIMIT for one in blocked)
    return Plan(
        environment=scene.desired.environment.id,
        desired_digest=scene.desired.digest,
        kind=kind,
        waves=waves,
        blocked=blocked,
        hash=_hash(waves, blocked, scene.desired),
        removal=scene.removal if waits else None,
    )


def kind_of(moves: Sequence[Move]) -> JobKind:
    declared = [move.cause for move in moves if move.cause.kind is not ChangeKind.REMOVE]
    if any(not cause.heal for cause in declared):
        return JobKind.DEPLOY
    return JobKind.REMOVE if moves and not declared else JobKind.HEAL


def _waves(moves: Sequence[Move], scene: Scene) -> tuple[Wave, ...]:
    size = scene.desired.environment.strategy.size(len(scene.desired.targets))
    waves: list[Wave] = []
    for number, stage in enumerate(_stages(moves, scene)):
        targets = sorted(_by_target(stage).items(), key=lambda item: _serves(item[1]))
        for start in range(0, len(targets), size):
            intents = [one for target, group in targets[start : start + size] for one in _intents(target, group, scene)]
            waves.append(Wave(intents=tuple(intents), stage=number))
    return tuple(waves)


def _stages(moves: Sequence[Move], scene: Scene) -> list[list[Move]]:
    """By the order of components, reversed on the way back; removals last."""
    depth = blocks.levels(scene.desired)
    sign = -1 if scene.homeward else 1
    last = 1 + max(depth.values(), default=0)
    stages: dict[int, list[Move]] = {}
    for move in moves:
        removal = move.cause.kind is ChangeKind.REMOVE and not scene.homeward
        stage = last if removal else sign * depth.get(move.drift.id.component, 0)
        stages.setdefault(stage, []).append(move)
    return [stages[stage] for stage in sorted(stages)]


def _by_target(moves: Sequence[Move]) -> dict[TargetId, list[Move]]:
    found: dict[TargetId, list[Move]] = {}
    for move in moves:
        found.setdefault(move.drift.id.target, []).append(move)
    return found


def _serves(moves: Sequence[Move]) -> bool:
    """Targets where something does not serve anyway come first: the fleet loses nothing while they change."""
    return not any(_dark(blocks.workload_of(move.drift)) for move in moves)


def _dark(workload: Workload | None) -> bool:
    if workload is None or workload.health.state is HealthState.UNHEALTHY:
        return True
    return workload.state in (WorkloadState.STOPPED, WorkloadState.RESTARTING)


def _intents(target: TargetId, moves: Sequence[Move], scene: Scene) -> list[Intent]:
    power = blocks.power(target, scene)
    groups = [moves] if power is not None and power.unit is Unit.TARGET else [[move] for move in moves]
    return [
        Intent(
            target=target,
            changes=tuple(move.change for move in group),
            causes=tuple(move.cause for move in group),
        )
        for group in groups
    ]


# -- what is named by a hash ------------------------------------------------------------------------------------------


def action_key(environment: EnvironmentId, number: int, intent: Intent, direction: str) -> ActionKey:
    """The idempotency key of one action: derived from what it names, so that it can be derived again. A second heal of
    the same placement is another job, hence another key."""
    named = [environment, number, intent.target, direction, [_identity(change) for change in intent.changes]]
    return ActionKey(digest.of(named).removeprefix("sha256:"))


def _hash(waves: Sequence[Wave], blocked: Sequence[Blocked], desired: DesiredState) -> str:
    """What is not ours is left out: a stranger that comes or goes changes nothing that would be done."""
    shape = [
        [wave.stage, [[intent.target, *(_line(_identity(one)) for one in intent.changes)] for intent in wave.intents]]
        for wave in waves
    ]
    held = [[str(one.id), one.code] for one in blocked if one.code is not Code.UNMANAGED]
    return digest.of([desired.environment.id, desired.digest, shape, held])


def _identity(change: Change) -> list[str]:
    """What a change is, without when and under which number: kind, placement, content, footing."""
    match change:
        case Deploy() | Restart():
            wanted = [change.placement.release, *change.placement.content]
        case Remove():
            wanted = []
        case _:
            assert_never(change)
    return [change.verb, str(change.id), *wanted, *blocks.foot_words(change.replaces)]


def _line(parts: Sequence[str]) -> str:
    """One text for several, each with its length in front, so that no two lists give the same one."""
    return "".join([f"{len(part)}:{part}" for part in parts])
