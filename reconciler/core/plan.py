"""The plan: waves of actions in order, and what is blocked and why. The same input gives the same plan, with the same
hash, on every machine.

    drifts ──> BLOCKS (ordered table) ──> blocked
                  │
                  └──> changes ──> stages (`after`) ──> waves (`strategy`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never

from desired_state.model import DesiredState, Placement, Policy, Suspension
from drivers.contract import Capabilities, Change, Deploy, Footing, Remove, Restart, Stamp, Unit, claim_of
from reconciler.core import drift as drifts_of
from reconciler.core.drift import NOTHING_REMEMBERED, Case, Drift, Known, Memory, Reading, Trust, Verdict
from reconciler.core.retry import GIVES_UP_AFTER
from stickers import digest
from stickers.names import (
    ActionKey,
    ComponentName,
    Digest,
    EnvironmentId,
    EnvironmentName,
    InstallationId,
    PlacementId,
    ReleaseName,
    TargetId,
    TargetName,
    split_id,
)
from stickers.observation import Workload
from stickers.sticker import Claim, Phase

UNTOLD: Final = Digest("sha256:" + "0" * 64)  # in the claim of what is removed, where nothing tells its content
UNTOLD_RELEASE: Final = ReleaseName("untold@0")


class JobKind(StrEnum):
    DEPLOY = "deploy"
    HEAL = "heal"
    ROLLBACK = "rollback"
    ADOPT = "adopt"
    REMOVE = "remove"


class Code(StrEnum):
    """Why nothing happens to a drifted placement."""

    UNSEEN = "UNSEEN"
    UNMANAGED = "UNMANAGED"
    IN_TRANSIT = "IN_TRANSIT"
    SUSPENDED = "SUSPENDED"
    REFUSED = "REFUSED"
    NOT_PRUNED = "NOT_PRUNED"
    REMOVAL_LIMIT = "REMOVAL_LIMIT"
    NO_LAST_GOOD = "NO_LAST_GOOD"
    POLICY_ASK = "POLICY_ASK"
    POLICY_REPORT = "POLICY_REPORT"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    GAVE_UP = "GAVE_UP"
    BACKOFF = "BACKOFF"
    AFTER = "AFTER"


REMEDY: Final[Mapping[Code, str]] = {
    Code.UNSEEN: "it is looked at again by itself; make the target reachable",
    Code.UNMANAGED: "nothing has to be done; `holdfast adopt` takes over what is declared",
    Code.IN_TRANSIT: "wait for the job that is under way",
    Code.SUSPENDED: "`holdfast resume {environment}`, or remove `suspend` from its document; `holdfast sync` acts once",
    Code.REFUSED: "declare another release or configuration, or `holdfast resume {environment} --lift-refused`",
    Code.NOT_PRUNED: "declare it, or set `sync.prune: true` for the environment",
    Code.REMOVAL_LIMIT: "`holdfast sync {environment} --confirm-removal {removal}`, or raise `sync.removal_limit`",
    Code.NO_LAST_GOOD: "declare what should run there; nothing has ever been proven on it",
    Code.POLICY_ASK: "`holdfast plan {environment}`, then `holdfast sync {environment} --plan-hash HASH`",
    Code.POLICY_REPORT: "`holdfast sync {environment}`, or another `sync` policy for the environment",
    Code.CIRCUIT_OPEN: "it is tried again by itself; `holdfast sync {environment}` tries at once",
    Code.GAVE_UP: "declare another release or configuration, or `holdfast sync {environment}` once it is repaired",
    Code.BACKOFF: "it is tried again by itself; `holdfast sync {environment}` tries at once",
    Code.AFTER: "it follows by itself when what it comes after is done",
}


class ChangeKind(StrEnum):
    """What a change amounts to, for people and for the plan's hash."""

    DEPLOY = "deploy"
    LABEL = "label"  # only the sticker is written; nothing is restarted
    STOP = "stop"  # declared stopped
    RESTART = "restart"
    ADOPT = "adopt"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One side of a change. `release` None: it cannot be told; a digest None: likewise."""

    release: ReleaseName | None
    artifact: Digest | None
    configuration: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a change is planned, and from what to what: for the reader of a plan, and for its hash. `found` None: nothing
    stands there; `wanted` None: nothing should."""

    id: PlacementId
    kind: ChangeKind
    verdict: Verdict
    heal: bool
    found: Content | None
    wanted: Content | None
    rule: str
    reason: str
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One action to be: what changes on one target, each change with its cause in the same order."""

    target: TargetId
    changes: tuple[Change, ...]
    causes: tuple[Cause, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """What may run together. `stage` rises where components come after others."""

    intents: tuple[Intent, ...]
    stage: int = 0

    @property
    def targets(self) -> tuple[TargetId, ...]:
        return tuple(dict.fromkeys(intent.target for intent in self.intents))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A drifted placement to which nothing happens. `until`: when it is judged anew by itself; `remedy` says what
    unblocks it."""

    id: PlacementId
    code: Code
    reason: str
    until: datetime | None = None
    verdict: Verdict = Verdict.UNKNOWN
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a person allowed beyond policy, on `targets` only (None: on all). A granted change also passes a
    suspension, a back-off, an open circuit and a surrender; `removal` confirms the removals of that hash."""

    advance: bool = False
    heal: bool = False
    removal: str | None = None
    targets: frozenset[TargetId] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Waves in order, and what is blocked. Every drifted placement is in a wave or blocked, never both, never neither.

    `hash` is over the environment, what is desired, each change with its content and footing, and the codes of what is
    blocked; not over stamps, times or sentences. `removal` is what `--confirm-removal` has to name, where removals
    wait for it.
    """

    environment: EnvironmentId
    desired_digest: Digest
    kind: JobKind
    waves: tuple[Wave, ...]
    blocked: tuple[Blocked, ...]
    hash: str
    removal: str | None = None

    @property
    def empty(self) -> bool:
        return not self.waves

    @property
    def intents(self) -> tuple[Intent, ...]:
        return tuple(intent for wave in self.waves for intent in wave.intents)


# -- the three plans --------------------------------------------------------------------------------------------------


def plan(
    drifts: Sequence[Drift],
    desired: DesiredState,
    known: Known,
    *,
    powers: Mapping[str, Capabilities],
    installation: InstallationId,
    now: datetime,
    grant: Grant = Grant(),
) -> Plan:
    """What closes the gap, as far as policy and `grant` allow. `drifts` are all of the environment's, or only those not
    in sync. Removals come last, so that a release that fails has removed nothing."""
    drifted = [drift for drift in drifts if drift.drifted]
    scene = Scene.of(drifted, desired, known, Ground(powers=powers, installation=installation, now=now), grant)
    blocked = {drift.id: row for drift in drifted if (row := _block(drift, scene))}
    waiting = _waiting(drifted, blocked, desired)
    moves = [_move(drift, scene) for drift in drifted if drift.id not in blocked and drift.id not in waiting]
    refusals = [_blocked(drift, scene, blocked.get(drift.id), waiting) for drift in drifted]
    return _planned(_kind(moves), moves, tuple(one for one in refusals if one), scene)


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
    scene = Scene.of(touched, desired, known, ground, Grant(), homeward=True)
    goals = _goals(undo)
    moves: list[_Move] = []
    blocked: list[Blocked] = []
    for drift in touched:
        match _way_back(drift, goals.get(drift.id), scene):
            case Blocked() as held:
                blocked.append(held)
            case _Move() as move:
                moves.append(move)
    return _planned(JobKind.ROLLBACK, moves, tuple(blocked), scene)


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
    scene = Scene.of(drifted, desired, known, ground, Grant())
    pairs = _adoptable(drifted, scene)
    moves = [_adoption(drift, pairs[drift.id], scene) for drift in drifted if drift.id in pairs]
    taken = {*pairs, *(pair.id for pair in pairs.values())}
    blocked = tuple(_refusal(drift, scene, _ADOPTS_NOT) for drift in drifted if drift.id not in taken)
    return _planned(JobKind.ADOPT, moves, blocked, scene)


# -- identities -------------------------------------------------------------------------------------------------------


def stamp(memory: Memory, worn: Reading) -> Stamp:
    """The first free sequence number, above what is remembered and what was verified on the target."""
    sticker = worn.sticker if worn.trust in (Trust.VALID, Trust.REPLAYED) else None
    highest = max(memory.sequence, sticker.sequence if sticker else 0)
    previous = sticker.digest if sticker and worn.trust is Trust.VALID else None
    return Stamp(sequence=highest + 1, previous=previous)


def action_key(environment: EnvironmentId, number: int, intent: Intent, direction: str) -> ActionKey:
    """The idempotency key of one action: derived from what it names, so that it can be derived again. A second heal of
    the same placement is another job, hence another key."""
    named = [environment, number, intent.target, direction, [_identity(change) for change in intent.changes]]
    return ActionKey(digest.of(named).removeprefix("sha256:"))


def removal_hash(environment: EnvironmentId, undeclared: Iterable[Drift]) -> str:
    """What `--confirm-removal` names: exactly these placements, with exactly this content."""
    rows = sorted([str(drift.id), *_foot_words(_footing(drift))] for drift in undeclared)
    return digest.short(digest.of([environment, rows]))


# -- what is blocked --------------------------------------------------------------------------------------------------


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
    workload = _workload(drift)
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
    return drift.verdict is Verdict.UNHEALTHY or (drift.verdict is Verdict.STOPPED and _goal(drift).running)


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
_ADOPTS_NOT: Final = BlockRow(
    condition=lambda drift, scene: True,
    code=Code.UNMANAGED,
    reason=lambda drift, scene: (
        "nothing unmanaged runs the declared artifact there, or the runtime cannot take it over"
    ),
)


def _block(drift: Drift, scene: Scene) -> BlockRow | None:
    return next((row for row in BLOCKS if row.condition(drift, scene)), None)


def _blocked(
    drift: Drift, scene: Scene, row: BlockRow | None, waiting: Mapping[PlacementId, ComponentName]
) -> Blocked | None:
    if row is not None:
        return _refusal(drift, scene, row)
    if drift.id not in waiting:
        return None
    reason = f"it comes after {waiting[drift.id]}, which is not done and blocked"
    return Blocked(id=drift.id, code=Code.AFTER, reason=reason, verdict=drift.verdict, remedy=REMEDY[Code.AFTER])


def _refusal(drift: Drift, scene: Scene, row: BlockRow) -> Blocked:
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


def _waiting(
    drifted: Sequence[Drift], blocked: Mapping[PlacementId, BlockRow], desired: DesiredState
) -> dict[PlacementId, ComponentName]:
    """Advances of components that come after one which is blocked where it was seen, or was seen nowhere. Heals restore
    what ran beside it already and do not wait."""
    after = desired.environment.after
    if not after:
        return {}
    undone = _undone(drifted, blocked, desired)
    waiting: dict[PlacementId, ComponentName] = {}
    levels = _levels(desired)
    for drift in sorted(drifted, key=lambda each: levels.get(each.id.component, 0)):
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


# -- changes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """One placement's change with its cause."""

    drift: Drift
    change: Change
    cause: Cause


def _move(drift: Drift, scene: Scene) -> _Move:
    kind = _change_kind(drift, scene)
    return _Move(drift=drift, change=_change(drift, kind, scene), cause=_cause(drift, kind, scene))


def _change_kind(drift: Drift, scene: Scene) -> ChangeKind:
    if drift.declared is None:
        return ChangeKind.REMOVE
    match drift.verdict:
        case Verdict.UNLABELLED:
            return ChangeKind.LABEL
        case Verdict.STOPPED:
            return ChangeKind.RESTART if _goal(drift).running else ChangeKind.STOP
        case Verdict.UNHEALTHY if scene.memory(drift.id).attempts == 0:
            return ChangeKind.RESTART
    return ChangeKind.DEPLOY


def _change(drift: Drift, kind: ChangeKind, scene: Scene) -> Change:
    footing, memory = _footing(drift), scene.memory(drift.id)
    mark = stamp(memory, Reading(trust=drift.trust, sticker=drift.sticker))
    if kind is ChangeKind.REMOVE:
        return Remove(id=drift.id, claim=_worn_claim(drift, scene), replaces=footing, stamp=mark)
    if kind is ChangeKind.RESTART and footing is not None:
        return Restart(placement=_goal(drift), replaces=footing, stamp=mark)
    return Deploy(
        placement=_goal(drift),
        replaces=footing,
        stamp=mark,
        predecessor=_goal(drift) if scene.homeward else memory.last_good,
        keep=scene.desired.environment.keep,
    )


def _cause(drift: Drift, kind: ChangeKind, scene: Scene) -> Cause:
    wanted = None if kind is ChangeKind.REMOVE else _goal(drift)
    return Cause(
        id=drift.id,
        kind=kind,
        verdict=drift.verdict,
        heal=drift.heal,
        found=_found(drift, scene),
        wanted=_content(wanted) if wanted else None,
        rule=drift.rule,
        reason=drift.reason,
        differences=drift.differences,
    )


def _content(placement: Placement) -> Content:
    artifact, configuration = placement.content
    return Content(release=placement.release, artifact=artifact, configuration=configuration)


def _goal(drift: Drift) -> Placement:
    goal = drift.wanted or drift.declared
    assert goal is not None, f"{drift.id} is wanted by nobody"
    return goal


def _workload(drift: Drift) -> Workload | None:
    return drift.standing.workload if drift.standing else None


def _footing(drift: Drift) -> Footing | None:
    workload = _workload(drift)
    if workload is None:
        return None
    return Footing(instance=workload.instance, artifact=workload.artifact, configuration=workload.configuration)


def _found(drift: Drift, scene: Scene) -> Content | None:
    workload = _workload(drift)
    if workload is None:
        return None
    believed = drift.sticker if drift.trust is Trust.VALID else None
    release = drifts_of.running_release(workload, believed, scene.memory(drift.id))
    return Content(release=release, artifact=workload.artifact, configuration=workload.configuration)


def _worn_claim(drift: Drift, scene: Scene) -> Claim:
    """What is worn until it is removed: by the sticker, else by what is remembered, else by what runs."""
    last_good = scene.memory(drift.id).last_good
    if drift.sticker is not None and drift.trust is Trust.VALID:
        return drift.sticker.claim
    if last_good is not None:
        return claim_of(last_good, scene.ground.installation)
    workload = _workload(drift)
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


def _way_back(drift: Drift, before: _Before | None, scene: Scene) -> _Move | Blocked | None:
    goal = before.good if before else scene.memory(drift.id).last_good
    if drift.blind:
        return _refusal(drift, scene, BLOCKS[0])
    if goal is None:
        return _way_out(drift, before, scene)
    seen = _rejudged(drift, goal, scene)
    if not seen.drifted:
        return None
    if seen.verdict is Verdict.UNKNOWN:
        return _refusal(seen, scene, BLOCKS[0])
    return _move(seen, scene)


def _way_out(drift: Drift, before: _Before | None, scene: Scene) -> _Move | Blocked | None:
    """Nothing good to go back to: what was brought where nothing stood is taken away, anything else stays."""
    if drift.standing is None or (drift.standing.workload is None and drift.standing.worn is None):
        return None
    if before is None or not before.empty:
        return _refusal(drift, scene, _NO_WAY_BACK)
    return _move(replace(drift, declared=None, wanted=None), scene)


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
    return drifts_of.judge(case)


_NO_WAY_BACK: Final = BlockRow(
    condition=lambda drift, scene: True,
    code=Code.NO_LAST_GOOD,
    reason=lambda drift, scene: "nothing has run here in health before, and what stood here was not ours to remove",
)


# -- adoption ---------------------------------------------------------------------------------------------------------


def _adoptable(drifted: Sequence[Drift], scene: Scene) -> dict[PlacementId, Drift]:
    """For each placement that is declared and missing, the one unmanaged workload on its target that runs its artifact;
    where two could be meant, neither is."""
    by_target: dict[TargetId, list[Drift]] = {}
    for drift in drifted:
        if drift.unmanaged is not None:
            by_target.setdefault(drift.id.target, []).append(drift)
    pairs: dict[PlacementId, Drift] = {}
    for drift in drifted:
        found = [one for one in by_target.get(drift.id.target, ()) if _fits(drift, one, scene)]
        if len(found) == 1 and found[0] not in pairs.values():
            pairs[drift.id] = found[0]
    return pairs


def _fits(drift: Drift, candidate: Drift, scene: Scene) -> bool:
    if drift.verdict is not Verdict.MISSING or drift.wanted is None or candidate.unmanaged is None:
        return False
    power = _power(drift.id.target, scene)
    return power is not None and power.adopts and drift.wanted.artifact.digest in candidate.unmanaged.digests


def _adoption(drift: Drift, candidate: Drift, scene: Scene) -> _Move:
    wanted, unmanaged = _goal(drift), candidate.unmanaged
    assert unmanaged is not None
    change = Deploy(
        placement=wanted,
        replaces=Footing(instance=unmanaged.instance, artifact=wanted.content[0], configuration=wanted.content[1]),
        stamp=stamp(scene.memory(drift.id), Reading(trust=drift.trust, sticker=drift.sticker)),
        predecessor=scene.memory(drift.id).last_good,
        keep=scene.desired.environment.keep,
        adopts=unmanaged.name,
    )
    cause = replace(
        _cause(drift, ChangeKind.ADOPT, scene),
        found=Content(release=None, artifact=wanted.content[0], configuration=None),
        reason=f"{unmanaged.name} runs it, unmanaged",
    )
    return _Move(drift=drift, change=change, cause=cause)


# -- waves ------------------------------------------------------------------------------------------------------------


def _planned(kind: JobKind, moves: Sequence[_Move], blocked: tuple[Blocked, ...], scene: Scene) -> Plan:
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


def _kind(moves: Sequence[_Move]) -> JobKind:
    declared = [move.cause for move in moves if move.cause.kind is not ChangeKind.REMOVE]
    if any(not cause.heal for cause in declared):
        return JobKind.DEPLOY
    return JobKind.REMOVE if moves and not declared else JobKind.HEAL


def _waves(moves: Sequence[_Move], scene: Scene) -> tuple[Wave, ...]:
    size = scene.desired.environment.strategy.size(len(scene.desired.targets))
    waves: list[Wave] = []
    for number, stage in enumerate(_stages(moves, scene)):
        targets = sorted(_by_target(stage).items(), key=lambda item: _serves(item[1]))
        for start in range(0, len(targets), size):
            intents = [one for target, group in targets[start : start + size] for one in _intents(target, group, scene)]
            waves.append(Wave(intents=tuple(intents), stage=number))
    return tuple(waves)


def _stages(moves: Sequence[_Move], scene: Scene) -> list[list[_Move]]:
    """By the order of components, reversed on the way back; removals last."""
    levels = _levels(scene.desired)
    sign = -1 if scene.homeward else 1
    last = 1 + max(levels.values(), default=0)
    stages: dict[int, list[_Move]] = {}
    for move in moves:
        removal = move.cause.kind is ChangeKind.REMOVE and not scene.homeward
        stage = last if removal else sign * levels.get(move.drift.id.component, 0)
        stages.setdefault(stage, []).append(move)
    return [stages[stage] for stage in sorted(stages)]


def _levels(desired: DesiredState) -> dict[ComponentName, int]:
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


def _by_target(moves: Sequence[_Move]) -> dict[TargetId, list[_Move]]:
    found: dict[TargetId, list[_Move]] = {}
    for move in moves:
        found.setdefault(move.drift.id.target, []).append(move)
    return found


def _serves(moves: Sequence[_Move]) -> bool:
    """Targets where something does not serve anyway come first: the fleet loses nothing while they change."""
    return not any(move.cause.verdict in _DARK for move in moves)


_DARK: Final = (Verdict.MISSING, Verdict.STOPPED, Verdict.UNHEALTHY, Verdict.IN_TRANSIT)


def _intents(target: TargetId, moves: Sequence[_Move], scene: Scene) -> list[Intent]:
    power = _power(target, scene)
    groups = [moves] if power is not None and power.unit is Unit.TARGET else [[move] for move in moves]
    return [
        Intent(
            target=target,
            changes=tuple(move.change for move in group),
            causes=tuple(move.cause for move in group),
        )
        for group in groups
    ]


def _power(target: TargetId, scene: Scene) -> Capabilities | None:
    record = scene.desired.target_of.get(target) or scene.known.targets.get(target)
    return scene.ground.powers.get(record.driver) if record else None


# -- what is named by a hash ------------------------------------------------------------------------------------------


def _hash(waves: Sequence[Wave], blocked: Sequence[Blocked], desired: DesiredState) -> str:
    """What is not ours is left out: a stranger that comes or goes changes nothing that would be done."""
    shape = [
        [wave.stage, [[intent.target, [_identity(change) for change in intent.changes]] for intent in wave.intents]]
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
    return [change.verb, str(change.id), *wanted, *_foot_words(change.replaces)]


def _foot_words(footing: Footing | None) -> list[str]:
    return [footing.instance, footing.artifact or "", footing.configuration or ""] if footing else []
