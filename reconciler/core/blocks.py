"""Why nothing happens to a drifted placement: one ordered table, first match wins, each row with its sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from desired_state.model import DesiredState, Placement, Policy, Suspension
from drivers.contract import Capabilities, Footing
from reconciler.core.intent import REMEDY, Blocked, Code, Grant
from reconciler.core.judge import Drift, Verdict
from reconciler.core.known import NOTHING_REMEMBERED, Known, Memory, Trust
from reconciler.core.retry import GIVES_UP_AFTER
from stickers import digest
from stickers.names import ComponentName, EnvironmentId, InstallationId, PlacementId, TargetId
from stickers.observation import Workload
from stickers.sticker import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a plan stands on beside the state: powers per runtime, who we are, and the time."""

    powers: Mapping[str, Capabilities]
    installation: InstallationId
    now: datetime


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that one drift is planned by."""

    desired: DesiredState
    known: Known
    ground: Ground
    grant: Grant
    held: str | None  # why the release is not advanced
    removal: str | None  # the hash that confirms, where there are removals
    over_limit: bool
    homeward: bool = False

    @classmethod
    def of(
        cls,
        drifted: Sequence[Drift],
        desired: DesiredState,
        known: Known,
        ground: Ground,
        grant: Grant,
        homeward: bool = False,
    ) -> Scene:
        undeclared = [drift for drift in drifted if _undeclared(drift)]
        total = len(desired.placements) + len(undeclared)
        return cls(
            desired=desired,
            known=known,
            ground=ground,
            grant=grant,
            held=_held(desired, known),
            removal=removal_hash(desired.environment.id, undeclared) if undeclared else None,
            over_limit=len(undeclared) * 100 > desired.environment.sync.removal_limit * total,
            homeward=homeward,
        )

    def memory(self, id: PlacementId) -> Memory:
        return self.known.memories.get(id, NOTHING_REMEMBERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """`until` says when the block ends by itself."""

    condition: Callable[[Drift, Scene], bool]
    code: Code
    reason: Callable[[Drift, Scene], str]
    until: Callable[[Drift, Scene], datetime | None] = lambda drift, scene: None


def _held(desired: DesiredState, known: Known) -> str | None:
    if not known.refused:
        return None
    refused = (known.refused[placement.trial] for placement in desired.placements if placement.trial in known.refused)
    return next(refused, None)


def _undeclared(drift: Drift) -> bool:
    """Ours, wanted by nobody, and seen to stand there."""
    return drift.declared is None and drift.verdict in (Verdict.FOREIGN, Verdict.IN_TRANSIT)


def _active(drift: Drift, scene: Scene) -> bool:
    """In transit by an action of a job that is still active."""
    sticker = drift.sticker if drift.trust is Trust.VALID else None
    if drift.verdict is not Verdict.IN_TRANSIT:
        return False
    if sticker is None or sticker.phase is not Phase.IN_TRANSIT or sticker.key in scene.known.active_keys:
        return True
    workload = workload_of(drift)
    return workload is not None and workload.key in scene.known.active_keys


def _granted(drift: Drift, scene: Scene) -> bool:
    grant = scene.grant
    if grant.targets is not None and drift.id.target not in grant.targets:
        return False
    if _undeclared(drift):
        return grant.advance or _confirmed(scene)
    return grant.heal if drift.heal else grant.advance


def _confirmed(scene: Scene) -> bool:
    return scene.grant.removal is not None and scene.grant.removal == scene.removal


def _suspension(scene: Scene) -> Suspension | None:
    """The suspension in force, by document or by hand; the one that lasts longer when both are."""
    both = (scene.desired.environment.suspend, scene.known.suspended)
    in_force = [one for one in both if one is not None and (one.until is None or one.until > scene.ground.now)]
    return max(in_force, key=lambda one: (one.until is None, one.until or scene.ground.now), default=None)


_STRICTNESS: Final = (Policy.AUTOMATIC, Policy.ASK, Policy.REPORT)


def _policy(drift: Drift, scene: Scene) -> Policy:
    """The strictest that applies; what nobody declares is the business of `prune`."""
    sync = scene.desired.environment.sync
    if drift.declared is None:
        return Policy.AUTOMATIC
    applying = [sync.heal if drift.heal else sync.mode]
    if drift.verdict is Verdict.AHEAD:
        applying.append(sync.ahead)
    return max(applying, key=_STRICTNESS.index)


def _policy_words(drift: Drift, scene: Scene) -> str:
    what = "healing" if drift.heal else "advancing"
    ahead = ", or going back from a later release," if drift.verdict is Verdict.AHEAD else ""
    return f"the policy for {what}{ahead} is `{_policy(drift, scene)}`"


def _ails(drift: Drift) -> bool:
    """What is right stands there and does not serve: the trouble is its own."""
    return drift.verdict is Verdict.UNHEALTHY or (drift.verdict is Verdict.STOPPED and goal(drift).running)


def _tried(drift: Drift) -> bool:
    """Whether the heals that were tried before count; a newer desire is never held up by those of an older one."""
    return drift.heal or _ails(drift)


def _waits(drift: Drift, scene: Scene) -> bool:
    until = scene.memory(drift.id).not_before
    return _tried(drift) and until is not None and until > scene.ground.now


def _circuit(drift: Drift, scene: Scene) -> datetime | None:
    until = scene.known.circuits.get(drift.id.target)
    return until if until is not None and until > scene.ground.now else None


BLOCKS: Final[tuple[BlockRow, ...]] = (
    BlockRow(
        condition=lambda drift, scene: drift.verdict is Verdict.UNKNOWN,
        code=Code.UNSEEN,
        reason=lambda drift, scene: f"{drift.rule}: {drift.reason}" if drift.reason else drift.rule,
    ),
    BlockRow(
        condition=lambda drift, scene: drift.verdict is Verdict.UNMANAGED,
        code=Code.UNMANAGED,
        reason=lambda drift, scene: f"it is not ours: {drift.reason}",
    ),
    BlockRow(
        condition=_active,
        code=Code.IN_TRANSIT,
        reason=lambda drift, scene: f"an action of the active job is under way, {drift.reason}",
    ),
    BlockRow(
        condition=lambda drift, scene: _suspension(scene) is not None and not _granted(drift, scene),
        code=Code.SUSPENDED,
        reason=lambda drift, scene: f"the environment is suspended: {_why(_suspension(scene))}",
        until=lambda drift, scene: _until(_suspension(scene)),
    ),
    BlockRow(
        condition=lambda drift, scene: _undeclared(drift) and scene.held is not None,
        code=Code.REFUSED,
        reason=lambda drift, scene: f"the release that no longer declares it was refused: {scene.held}",
    ),
    BlockRow(
        condition=lambda drift, scene: _undeclared(drift) and not scene.desired.environment.sync.prune,
        code=Code.NOT_PRUNED,
        reason=lambda drift, scene: "nobody declares it, and the environment does not prune",
    ),
    BlockRow(
        condition=lambda drift, scene: _undeclared(drift) and scene.over_limit and not _confirmed(scene),
        code=Code.REMOVAL_LIMIT,
        reason=lambda drift, scene: (
            f"more than {scene.desired.environment.sync.removal_limit} % of the placements would be removed at once"
        ),
    ),
    BlockRow(
        condition=lambda drift, scene: drift.declared is not None and drift.wanted is None,
        code=Code.REFUSED,
        reason=lambda drift, scene: f"refused, and nothing has run here in health before: {scene.held}",
    ),
    BlockRow(
        condition=lambda drift, scene: _policy(drift, scene) is Policy.REPORT and not _granted(drift, scene),
        code=Code.POLICY_REPORT,
        reason=_policy_words,
    ),
    BlockRow(
        condition=lambda drift, scene: _policy(drift, scene) is Policy.ASK and not _granted(drift, scene),
        code=Code.POLICY_ASK,
        reason=_policy_words,
    ),
    BlockRow(
        condition=lambda drift, scene: _circuit(drift, scene) is not None and not _granted(drift, scene),
        code=Code.CIRCUIT_OPEN,
        reason=lambda drift, scene: "the target failed several times in a row and is left alone for a while",
        until=_circuit,
    ),
    BlockRow(
        condition=lambda drift, scene: (
            _ails(drift) and scene.memory(drift.id).attempts >= GIVES_UP_AFTER and not _granted(drift, scene)
        ),
        code=Code.GAVE_UP,
        reason=lambda drift, scene: f"gave up after {scene.memory(drift.id).attempts} heals, {drift.reason}",
    ),
    BlockRow(
        condition=lambda drift, scene: _waits(drift, scene) and not _granted(drift, scene),
        code=Code.BACKOFF,
        reason=lambda drift, scene: f"healed {scene.memory(drift.id).attempts} times and it did not hold",
        until=lambda drift, scene: scene.memory(drift.id).not_before,
    ),
)
ADOPTS_NOT: Final = BlockRow(
    condition=lambda drift, scene: True,
    code=Code.UNMANAGED,
    reason=lambda drift, scene: (
        "nothing unmanaged runs the declared artifact there, or the runtime cannot take it over"
    ),
)


def block(drift: Drift, scene: Scene) -> BlockRow | None:
    return next((row for row in BLOCKS if row.condition(drift, scene)), None)


def block_or_wait(
    drift: Drift, scene: Scene, row: BlockRow | None, waiting: Mapping[PlacementId, ComponentName]
) -> Blocked | None:
    if row is not None:
        return refusal(drift, scene, row)
    if drift.id not in waiting:
        return None
    reason = f"it comes after {waiting[drift.id]}, which is not done and blocked"
    return Blocked(id=drift.id, code=Code.AFTER, reason=reason, verdict=drift.verdict, remedy=REMEDY[Code.AFTER])


def refusal(drift: Drift, scene: Scene, row: BlockRow) -> Blocked:
    _, _, environment = scene.desired.environment.id.partition("/")
    return Blocked(
        id=drift.id,
        code=row.code,
        reason=row.reason(drift, scene),
        until=row.until(drift, scene),
        verdict=drift.verdict,
        remedy=REMEDY[row.code].format(environment=environment, removal=scene.removal),
    )


def _why(suspension: Suspension | None) -> str:
    return suspension.reason if suspension else ""


def _until(suspension: Suspension | None) -> datetime | None:
    return suspension.until if suspension else None


def waiting(
    drifted: Sequence[Drift], blocked: Mapping[PlacementId, BlockRow], desired: DesiredState
) -> dict[PlacementId, ComponentName]:
    """Advances of components that come after one which is blocked where it was seen, or was seen nowhere. Heals restore
    what ran beside it already and do not wait."""
    after = desired.environment.after
    if not after:
        return {}
    undone = _undone(drifted, blocked, desired)
    waiting: dict[PlacementId, ComponentName] = {}
    depth = levels(desired)
    for drift in sorted(drifted, key=lambda each: depth.get(each.id.component, 0)):
        if drift.declared is None or drift.heal or drift.id in blocked:
            continue
        first = next((name for name in after.get(drift.id.component, ()) if name in undone), None)
        if first is not None:
            waiting[drift.id] = first
            undone[drift.id.component] = None
    return waiting


def _undone(
    drifted: Sequence[Drift], blocked: Mapping[PlacementId, BlockRow], desired: DesiredState
) -> dict[ComponentName, None]:
    declared = [drift for drift in drifted if drift.declared is not None and drift.id in blocked]
    undone = {drift.id.component: None for drift in declared if not drift.blind}
    unseen: dict[ComponentName, int] = {}
    for drift in declared:
        if drift.blind:
            unseen[drift.id.component] = unseen.get(drift.id.component, 0) + 1
    if not unseen:
        return undone
    everywhere = dict.fromkeys(unseen, 0)
    for placement in desired.placements:
        if placement.id.component in everywhere:
            everywhere[placement.id.component] += 1
    return undone | {name: None for name, count in unseen.items() if count == everywhere[name]}


# -- what a drift stands on -------------------------------------------------------------------------------------------


def goal(drift: Drift) -> Placement:
    goal = drift.wanted or drift.declared
    assert goal is not None, f"{drift.id} is wanted by nobody"
    return goal


def workload_of(drift: Drift) -> Workload | None:
    return drift.standing.workload if drift.standing else None


def footing(drift: Drift) -> Footing | None:
    workload = workload_of(drift)
    if workload is None:
        return None
    return Footing(instance=workload.instance, artifact=workload.artifact, configuration=workload.configuration)


def removal_hash(environment: EnvironmentId, undeclared: Iterable[Drift]) -> str:
    """What `--confirm-removal` names: exactly these placements, with exactly this content."""
    rows = sorted([str(drift.id), *foot_words(footing(drift))] for drift in undeclared)
    return digest.short(digest.of([environment, rows]))


def foot_words(footing: Footing | None) -> list[str]:
    return [footing.instance, footing.artifact or "", footing.configuration or ""] if footing else []


# -- the order of components ------------------------------------------------------------------------------------------


def levels(desired: DesiredState) -> dict[ComponentName, int]:
    """How many components deep each one comes after others."""
    after = desired.environment.after
    levels: dict[ComponentName, int] = {}

    def level(name: ComponentName, path: tuple[ComponentName, ...]) -> int:
        if name not in levels:
            before = [one for one in after.get(name, ()) if one not in path]  # a ring is refused where it is declared
            levels[name] = 1 + max((level(one, (*path, name)) for one in before), default=-1)
        return levels[name]

    for name in after:
        level(name, (name,))
    return levels


def power(target: TargetId, scene: Scene) -> Capabilities | None:
    record = scene.desired.target_of.get(target) or scene.known.targets.get(target)
    return scene.ground.powers.get(record.hands) if record else None
