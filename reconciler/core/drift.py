"""Drift: the judged distance of each placement between what is declared, what its target wears and what runs there.

Two ordered tables, first match wins, each row with its sentence: `TRUST` for the sticker, `VERDICTS` for the placement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from packaging.version import InvalidVersion, Version

from desired_state.model import Configuration, DesiredState, Placement, Suspension, Target
from stickers import digest, mismatch
from stickers.names import (
    ComponentName,
    Digest,
    EnvironmentId,
    InstallationId,
    PlacementId,
    ReleaseName,
    SlotName,
    TargetId,
    line_and_version,
)
from stickers.observation import HealthState, Observation, Standing, Unmanaged, Workload, WorkloadState, Worn
from stickers.sticker import Phase, Sticker

UNMANAGED_SLOT: Final = SlotName("unmanaged")  # of what is not ours: it can never meet a placement of the same name
STALE_AFTER: Final = 2  # intervals, after which a look says nothing any more


class Trust(StrEnum):
    """How far the sticker is believed. Anything but `valid` counts as no sticker."""

    VALID = "valid"
    NONE = "none"  # none is worn
    UNSIGNED = "unsigned"
    UNREADABLE = "unreadable"
    FORGED = "forged"  # signature or subject wrong
    REPLAYED = "replayed"  # older than one already seen


class Verdict(StrEnum):
    UNKNOWN = "unknown"
    IN_TRANSIT = "in transit"
    MISSING = "missing"
    LYING = "lying"
    BEHIND = "behind"
    AHEAD = "ahead"
    WRONG_ARTIFACT = "wrong artifact"  # neither later nor earlier of the same line
    WRONG_CONFIGURATION = "wrong configuration"
    STOPPED = "stopped"
    UNHEALTHY = "unhealthy"
    UNLABELLED = "unlabelled"
    FOREIGN = "foreign"  # ours, and declared by nobody any more
    UNMANAGED = "unmanaged"  # not ours
    IN_SYNC = "in sync"


# -- what goes in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A sticker as judged before the diff: what it says, how far it is believed, and why. `sticker` is there only when
    its signature is valid (a replayed one is shown, never believed)."""

    trust: Trust
    sticker: Sticker | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is remembered of one placement. `sequence` is the highest ever seen or written; `attempts` counts heals
    that did not hold, `not_before` is when the next one may be tried."""

    last_good: Placement | None = None
    sequence: int = 0
    attempts: int = 0
    not_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """Everything that is remembered of one environment and that a diff or a plan needs.

    `refused` maps a trial (`Placement.trial`) to the sentence why it was refused. `circuits` maps a target to when it
    may be acted upon again. `active_keys` are the action keys of an active job. `suspended` is a suspension by hand,
    beside the documents' own. `targets` are those that ever had a last good, declared or not.
    """

    memories: dict[PlacementId, Memory] = field(default_factory=dict)
    refused: dict[Digest, str] = field(default_factory=dict)
    circuits: dict[TargetId, datetime] = field(default_factory=dict)
    active_keys: frozenset[str] = frozenset()
    suspended: Suspension | None = None
    targets: dict[TargetId, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One target as looked at: the observation, and its stickers as read."""

    observation: Observation
    readings: dict[PlacementId, Reading] = field(default_factory=dict)


# -- what comes out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One placement, judged. `wanted` is the effective desire: declared, or last good where the declared release is
    refused; None for what nobody declares, and where there is nothing to fall back to (then `declared` is what it was
    judged by). `rule` is the sentence of the row that fired, `reason` the particulars."""

    id: PlacementId
    verdict: Verdict
    trust: Trust
    wanted: Placement | None
    declared: Placement | None
    standing: Standing | None
    sticker: Sticker | None
    rule: str
    reason: str = ""
    heal: bool = False  # what is wanted has already run here in health: restoring it is no advance
    differences: tuple[str, ...] = ()
    unmanaged: Unmanaged | None = None
    blind: bool = False  # the target was not seen, or not lately

    @property
    def drifted(self) -> bool:
        return self.verdict is not Verdict.IN_SYNC


# -- the sticker's trust ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A sticker taken from its envelope, and where it was found. `sticker` is there when its signature holds; `flaw`
    is what opening it met otherwise (`unsigned`, `unreadable` or `forged`) and `problem` the sentence."""

    worn: Worn | None
    id: PlacementId
    environment: EnvironmentId
    installation: InstallationId
    sticker: Sticker | None = None
    flaw: Trust | None = None
    problem: str = ""
    sequence: int = 0  # the highest already seen or written for the placement


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRow:
    condition: Callable[[Opened], bool]
    trust: Trust
    sentence: Callable[[Opened], str]


def _misplaced(opened: Opened) -> str:
    """What of the claim does not belong where it was found; empty when all of it does."""
    if opened.sticker is None:
        return ""
    claim = opened.sticker.claim
    checks = (
        ("installation", claim.installation, opened.installation),
        ("environment", claim.environment_id, opened.environment),
        ("placement", claim.placement, opened.id),
    )
    return ", ".join(f"{what} {found}, found at {here}" for what, found, here in checks if found != here)


TRUST: Final[tuple[TrustRow, ...]] = (
    TrustRow(
        condition=lambda it: it.worn is None,
        trust=Trust.NONE,
        sentence=lambda it: "no sticker is worn",
    ),
    TrustRow(
        condition=lambda it: it.worn is not None and it.worn.envelope is None,
        trust=Trust.UNREADABLE,
        sentence=lambda it: (it.worn and it.worn.problem) or "the sticker could not be read",
    ),
    TrustRow(
        condition=lambda it: it.flaw is Trust.UNSIGNED,
        trust=Trust.UNSIGNED,
        sentence=lambda it: it.problem or "the sticker carries no signature",
    ),
    TrustRow(
        condition=lambda it: it.flaw is Trust.FORGED,
        trust=Trust.FORGED,
        sentence=lambda it: it.problem or "the signature does not hold",
    ),
    TrustRow(
        condition=lambda it: it.flaw is not None or it.sticker is None,
        trust=Trust.UNREADABLE,
        sentence=lambda it: it.problem or "the sticker could not be read",
    ),
    TrustRow(
        condition=lambda it: bool(_misplaced(it)),
        trust=Trust.FORGED,
        sentence=lambda it: f"the sticker speaks of {_misplaced(it)}",
    ),
    TrustRow(
        condition=lambda it: it.sticker is not None and it.sticker.sequence < it.sequence,
        trust=Trust.REPLAYED,
        sentence=lambda it: _older(it.sticker, it.sequence),
    ),
    TrustRow(condition=lambda it: True, trust=Trust.VALID, sentence=lambda it: ""),
)


def _older(sticker: Sticker | None, sequence: int) -> str:
    found = sticker.sequence if sticker else 0
    return f"sequence {found} is worn, and {sequence} has been seen already"


def reading(opened: Opened) -> Reading:
    """How far the sticker is believed: the first row of `TRUST` that fits."""
    row = next(row for row in TRUST if row.condition(opened))
    sealed = row.trust in (Trust.VALID, Trust.REPLAYED) or (row.trust is Trust.FORGED and opened.flaw is None)
    return Reading(trust=row.trust, sticker=opened.sticker if sealed else None, reason=row.sentence(opened))


def judge_sequence(found: Reading, memory: Memory) -> Reading:
    """The reading, replayed when a later sticker is remembered."""
    sticker = found.sticker
    if found.trust is not Trust.VALID or sticker is None or sticker.sequence >= memory.sequence:
        return found
    return Reading(trust=Trust.REPLAYED, sticker=sticker, reason=_older(sticker, memory.sequence))


# -- the verdict ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything that one verdict is made from. `wanted` is the effective desire, `blind` a sentence when the target
    could not be looked at, `unmanaged` what is not ours (then nothing else is there)."""

    id: PlacementId
    wanted: Placement | None
    declared: Placement | None
    standing: Standing | None
    reading: Reading
    memory: Memory
    active_keys: frozenset[str] = frozenset()
    blind: str | None = None
    stale: bool = False
    unmanaged: Unmanaged | None = None

    @property
    def goal(self) -> Placement | None:
        """What it is judged by."""
        return self.wanted or self.declared

    @property
    def workload(self) -> Workload | None:
        return self.standing.workload if self.standing else None

    @property
    def believed(self) -> Sticker | None:
        return self.reading.sticker if self.reading.trust is Trust.VALID else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRow:
    """`reason` gives the particulars of the case, beside the sentence of the row."""

    condition: Callable[[Case], bool]
    verdict: Verdict
    sentence: str
    reason: Callable[[Case], str] = lambda case: ""


def _under_way(case: Case) -> bool:
    sticker, workload = case.believed, case.workload
    if sticker is not None and sticker.phase is Phase.IN_TRANSIT:
        return True
    if workload is None or workload.key is None or workload.key not in case.active_keys:
        return False
    return sticker is None or sticker.key != workload.key  # proven under that very key, it has arrived


def _lies(case: Case) -> bool:
    sticker, workload = case.believed, case.workload
    if sticker is None or workload is None or case.goal is None:
        return False
    return sticker.claim.content != (workload.artifact, workload.configuration)


def _other_artifact(case: Case) -> bool:
    goal, workload = case.goal, case.workload
    return goal is not None and workload is not None and workload.artifact != goal.artifact.digest


def _other_configuration(case: Case) -> bool:
    goal, workload = case.goal, case.workload
    return goal is not None and workload is not None and workload.configuration != goal.configuration_digest


def _version_order(case: Case) -> int:
    """Below zero: what runs is an earlier release of the same line; above: a later one; zero: neither can be said."""
    goal, running = case.goal, _release(case)
    if goal is None or running is None:
        return 0
    (line, wanted), (other, found) = line_and_version(goal.release), line_and_version(running)
    if line != other:
        return 0
    try:
        return (Version(found) > Version(wanted)) - (Version(found) < Version(wanted))
    except InvalidVersion:
        return 0


def _release(case: Case) -> ReleaseName | None:
    return running_release(case.workload, case.believed, case.memory) if case.workload else None


def running_release(workload: Workload, believed: Sticker | None, memory: Memory) -> ReleaseName | None:
    """The release that the running artifact came from, by a sticker that is believed, else by what is remembered."""
    last_good = memory.last_good
    if workload.artifact is None:
        return None
    if believed is not None and believed.claim.artifact == workload.artifact:
        return believed.claim.release
    if last_good is not None and last_good.artifact.digest == workload.artifact:
        return last_good.release
    return None


def _wrong_state(case: Case) -> bool:
    goal, workload = case.goal, case.workload
    if goal is None or workload is None:
        return False
    return (workload.state is WorkloadState.STOPPED) == goal.running


def _should_run(case: Case) -> bool:
    return case.goal is not None and case.goal.running


def _ails(case: Case) -> bool:
    workload = case.workload
    if workload is None or not _should_run(case) or workload.state is WorkloadState.STARTING:
        return False
    return workload.state is WorkloadState.RESTARTING or workload.health.state is HealthState.UNHEALTHY


def _health_unknown(case: Case) -> bool:
    """Nobody can say how it is: it is just starting, or its check was not asked, or gave no answer."""
    goal, workload = case.goal, case.workload
    if goal is None or workload is None or not goal.running:
        return False
    unasked = goal.health is not None and workload.health.state is HealthState.UNCHECKED
    return unasked or workload.state is WorkloadState.STARTING or workload.health.state is HealthState.UNKNOWN


def _mislabelled(case: Case) -> bool:
    goal, sticker = case.goal, case.believed
    if goal is None or sticker is None:
        return goal is not None
    return sticker.claim.content != goal.content or sticker.claim.release != goal.release


VERDICTS: Final[tuple[VerdictRow, ...]] = (
    VerdictRow(
        condition=lambda case: case.blind is not None,
        verdict=Verdict.UNKNOWN,
        sentence="the target could not be looked at",
        reason=lambda case: case.blind or "",
    ),
    VerdictRow(
        condition=lambda case: case.stale,
        verdict=Verdict.UNKNOWN,
        sentence="the last look is older than two intervals",
    ),
    VerdictRow(
        condition=_under_way,
        verdict=Verdict.IN_TRANSIT,
        sentence="an action is or was under way",
        reason=lambda case: _transit_words(case),
    ),
    VerdictRow(
        condition=lambda case: case.goal is not None and case.workload is None,
        verdict=Verdict.MISSING,
        sentence="nothing runs there",
        reason=lambda case: f"{_goal(case).release} is declared",
    ),
    VerdictRow(
        condition=_lies,
        verdict=Verdict.LYING,
        sentence="a valid sticker says one thing and another runs",
        reason=lambda case: f"the sticker says {_claimed(case)}, {_runs(case)}",
    ),
    VerdictRow(
        condition=lambda case: _other_artifact(case) and _version_order(case) < 0,
        verdict=Verdict.BEHIND,
        sentence="an earlier release of the same line runs",
        reason=lambda case: f"{_runs(case)}, wanted {_goal(case).release}",
    ),
    VerdictRow(
        condition=lambda case: _other_artifact(case) and _version_order(case) > 0,
        verdict=Verdict.AHEAD,
        sentence="a later release of the same line runs",
        reason=lambda case: f"{_runs(case)}, wanted {_goal(case).release}",
    ),
    VerdictRow(
        condition=_other_artifact,
        verdict=Verdict.WRONG_ARTIFACT,
        sentence="another artifact runs",
        reason=lambda case: f"{_runs(case)}, wanted {_goal(case).release} {digest.short(_goal(case).artifact.digest)}",
    ),
    VerdictRow(
        condition=_other_configuration,
        verdict=Verdict.WRONG_CONFIGURATION,
        sentence="the right artifact runs with another configuration",
    ),
    VerdictRow(
        condition=_wrong_state,
        verdict=Verdict.STOPPED,
        sentence="it is stopped and declared running, or runs and is declared stopped",
        reason=lambda case: _state_words(case),
    ),
    VerdictRow(
        condition=_ails,
        verdict=Verdict.UNHEALTHY,
        sentence="it runs as declared and is not healthy",
        reason=lambda case: _health_words(case),
    ),
    VerdictRow(
        condition=_health_unknown,
        verdict=Verdict.UNKNOWN,
        sentence="it runs as declared, and nothing can be said of its health",
        reason=lambda case: _health_words(case),
    ),
    VerdictRow(
        condition=_mislabelled,
        verdict=Verdict.UNLABELLED,
        sentence="it runs as declared and its sticker does not say so",
        reason=lambda case: _label_words(case),
    ),
    VerdictRow(
        condition=lambda case: case.goal is None and case.standing is not None,
        verdict=Verdict.FOREIGN,
        sentence="it is ours, and nobody declares it any more",
        reason=lambda case: _runs(case),
    ),
    VerdictRow(
        condition=lambda case: case.unmanaged is not None,
        verdict=Verdict.UNMANAGED,
        sentence="it runs there and is not ours",
        reason=lambda case: _unmanaged_words(case.unmanaged),
    ),
    VerdictRow(
        condition=lambda case: True,
        verdict=Verdict.IN_SYNC,
        sentence="sticker and runtime agree with what is declared, and health is fresh",
    ),
)


def judge(case: Case) -> Drift:
    """The first row of `VERDICTS` that fits, with its particulars."""
    row = next(row for row in VERDICTS if row.condition(case))
    last_good = case.memory.last_good
    return Drift(
        id=case.id,
        verdict=row.verdict,
        trust=case.reading.trust,
        wanted=case.wanted,
        declared=case.declared,
        standing=case.standing,
        sticker=case.reading.sticker,
        rule=row.sentence,
        reason=row.reason(case),
        heal=case.wanted is not None and last_good is not None and case.wanted.content == last_good.content,
        unmanaged=case.unmanaged,
        blind=case.blind is not None or case.stale,
    )


# -- words of the particulars -----------------------------------------------------------------------------------------


def _goal(case: Case) -> Placement:
    assert case.goal is not None
    return case.goal


def _content_words(artifact: Digest | None, configuration: Digest | None) -> str:
    shown = [digest.short(part) if part else "what cannot be told" for part in (artifact, configuration)]
    return f"artifact {shown[0]}, configuration {shown[1]}"


def _claimed(case: Case) -> str:
    sticker = case.believed
    return "nothing" if sticker is None else f"{sticker.claim.release} ({_content_words(*sticker.claim.content)})"


def _runs(case: Case) -> str:
    workload = case.workload
    if workload is None:
        return "nothing runs"
    release = _release(case)
    words = _content_words(workload.artifact, workload.configuration)
    return f"{release} ({words}) runs" if release else f"{words} runs"


def _unmanaged_words(unmanaged: Unmanaged | None) -> str:
    return f"{unmanaged.name}: {unmanaged.artifact}, {unmanaged.state}" if unmanaged else ""


def _transit_words(case: Case) -> str:
    sticker, workload = case.believed, case.workload
    if sticker is not None and sticker.phase is Phase.IN_TRANSIT:
        return f"towards {sticker.claim.release}, by job {sticker.job}"
    return f"by action {workload.key[:12] if workload and workload.key else 'unknown'}"


def _state_words(case: Case) -> str:
    workload = case.workload
    assert workload is not None
    if not _goal(case).running:
        return f"{workload.state} and declared stopped"
    code = "" if workload.exit_code is None else f" with code {workload.exit_code}"
    return f"stopped{code} and declared running"


def _health_words(case: Case) -> str:
    workload = case.workload
    assert workload is not None
    if workload.state is not WorkloadState.RUNNING:
        return f"{workload.state} ({workload.restarts} restarts)"
    return workload.health.detail or workload.health.state.value


def _label_words(case: Case) -> str:
    if case.believed is not None:
        return f"the sticker says {_claimed(case)}"
    return case.reading.reason or f"sticker: {case.reading.trust}"


# -- why it differs, in words -----------------------------------------------------------------------------------------


class _Explainer:
    """Differences in words, each pair of contents compared once however many targets show it."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[str, ...]] = {}

    def explained(self, drift: Drift, memory: Memory) -> Drift:
        words = self._words(drift, memory)
        return replace(drift, differences=words) if words else drift

    def _words(self, drift: Drift, memory: Memory) -> tuple[str, ...]:
        goal, workload = drift.wanted or drift.declared, drift.standing.workload if drift.standing else None
        match drift.verdict:
            case Verdict.WRONG_CONFIGURATION | Verdict.LYING if goal and workload:
                return self._configuration(goal, workload, memory.last_good)
            case Verdict.UNLABELLED if goal and drift.sticker and drift.trust is Trust.VALID:
                return self._compared(_label(goal), _claim_label(drift.sticker))
        return ()

    def _configuration(self, goal: Placement, workload: Workload, last_good: Placement | None) -> tuple[str, ...]:
        if workload.configuration == goal.configuration_digest:
            return ()
        if last_good is not None and workload.configuration == last_good.configuration_digest:
            key = (goal.configuration_digest, last_good.configuration_digest)
            return self._remembered(key, _keyed(goal.configuration), _keyed(last_good.configuration))
        return workload.differences

    def _compared(self, wanted: dict[str, str], found: dict[str, str]) -> tuple[str, ...]:
        return self._remembered((*wanted.values(), *found.values()), wanted, found)

    def _remembered(self, key: object, wanted: object, found: object) -> tuple[str, ...]:
        if key not in self._known:
            self._known[key] = mismatch.differences(wanted, found)
        return self._known[key]


def _label(goal: Placement) -> dict[str, str]:
    return {
        "release": goal.release,
        "artifact": goal.artifact.digest,
        "configuration": goal.configuration_digest,
    }


def _claim_label(sticker: Sticker) -> dict[str, str]:
    claim = sticker.claim
    return {"release": claim.release, "artifact": claim.artifact, "configuration": claim.configuration}


def _keyed(configuration: Configuration) -> object:
    """The configuration with its lists keyed by name, as a comparison by position would shift."""
    content = digest.plain(configuration)
    assert isinstance(content, dict)
    content["environment"] = {name: digest.plain(value) for name, value in configuration.environment}
    content["ports"] = {f"{port.container}/{port.protocol}": digest.plain(port) for port in configuration.ports}
    content["volumes"] = {volume.destination: digest.plain(volume) for volume in configuration.volumes}
    return content


# -- the whole environment --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """One target's drifts, and what they were made from; time comes in through `stale` alone."""

    seen: Seen | None
    stale: bool
    drifts: tuple[Drift, ...]


@dataclass(frozen=True, kw_only=True)
class Diffed:
    """A diff with what it was made from, so that the next one judges again only what has changed since.

    `drifts` are all placements in order, `drifted` those that are not in sync.
    """

    drifts: tuple[Drift, ...]
    drifted: tuple[Drift, ...]
    desired: DesiredState
    known: Known
    held: bool
    judged: Mapping[TargetId, Judged]


def diff(desired: DesiredState, seen: Mapping[TargetId, Seen], known: Known, *, now: datetime) -> tuple[Drift, ...]:
    """Every declared placement exactly once, in the order declared; after a target's own, what is foreign and what is
    unmanaged there. Targets that nobody declares come last, and only where they were seen."""
    return rediff(desired, seen, known, now=now).drifts


def rediff(
    desired: DesiredState,
    seen: Mapping[TargetId, Seen],
    known: Known,
    *,
    now: datetime,
    before: Diffed | None = None,
) -> Diffed:
    """`diff`, keeping of `before` what was judged from equal observations, readings, placements and memories. Hand in
    the same objects where nothing has changed: identity is asked before equality."""
    held = before.held if before and _same_refusals(before, desired, known) else is_held(desired, known)
    bench = _Bench(desired, known, held, now - STALE_AFTER * desired.environment.sync.interval)
    kept = _still_valid(before, desired, known, held)
    judged: dict[TargetId, Judged] = {}
    for target in _targets(desired, seen):
        found, old = seen.get(target), kept.get(target)
        stale = found is not None and found.observation.at < bench.horizon
        if old is not None and old.stale is stale and (found is old.seen or found == old.seen):
            judged[target] = old
        else:
            judged[target] = Judged(found, stale, bench.judged(target, found, stale))
    drifts = tuple([drift for each in judged.values() for drift in each.drifts])
    in_sync = Verdict.IN_SYNC
    drifted = tuple([drift for drift in drifts if drift.verdict is not in_sync])
    return Diffed(drifts=drifts, drifted=drifted, desired=desired, known=known, held=held, judged=judged)


def effective(desired: DesiredState, known: Known) -> dict[PlacementId, Placement | None]:
    """What each declared placement is held to. While anything declared is refused, the release is not advanced, as a
    set: each placement is held to its last good, and where it has none, to nothing."""
    held = is_held(desired, known)
    return {
        placement.id: _wanted(placement, known.memories.get(placement.id, NOTHING_REMEMBERED), held)
        for placement in desired.placements
    }


def is_held(desired: DesiredState, known: Known) -> bool:
    """Whether anything that is declared was refused here."""
    return bool(known.refused) and any(placement.trial in known.refused for placement in desired.placements)


NOTHING_REMEMBERED: Final = Memory()
NO_READING: Final = Reading(trust=Trust.NONE, reason="no sticker is worn")


def _wanted(declared: Placement, memory: Memory, held: bool) -> Placement | None:
    return memory.last_good if held else declared


def _targets(desired: DesiredState, seen: Mapping[TargetId, Seen]) -> Iterator[TargetId]:
    declared = desired.target_of
    yield from declared
    yield from sorted(target for target in seen if target not in declared)


def _same_refusals(before: Diffed, desired: DesiredState, known: Known) -> bool:
    return before.desired is desired and before.known.refused == known.refused


def _still_valid(before: Diffed | None, desired: DesiredState, known: Known, held: bool) -> dict[TargetId, Judged]:
    """What was judged before of targets whose desire and memories are as they were."""
    if before is None or before.held is not held:
        return {}
    kept = dict(before.judged)
    moved = _moved_desires(before.desired, desired)
    moved += _moved_memories(before.known, known)
    moved += _moved_keys(before, known)
    for target in moved:
        kept.pop(target, None)
    return kept


def _moved_desires(old: DesiredState, new: DesiredState) -> list[TargetId]:
    if old is new:
        return []
    if old.environment.sync.interval != new.environment.sync.interval:
        return list(old.by_target)
    return [target for target, placements in old.by_target.items() if new.by_target.get(target) != placements]


def _moved_memories(old: Known, new: Known) -> list[TargetId]:
    if old is new or old.memories is new.memories:
        return []
    moved = [id.target for id, memory in new.memories.items() if old.memories.get(id) != memory]
    return moved + [id.target for id in old.memories if id not in new.memories]


def _moved_keys(before: Diffed, known: Known) -> list[TargetId]:
    moved = before.known.active_keys ^ known.active_keys
    if not moved:
        return []
    standings = ((drift.id.target, drift.standing) for drift in before.drifts)
    return [
        target for target, standing in standings if standing and standing.workload and standing.workload.key in moved
    ]


class _Bench:
    """Where one environment's targets are judged."""

    def __init__(self, desired: DesiredState, known: Known, held: bool, horizon: datetime) -> None:
        self.desired, self.known, self.held, self.horizon = desired, known, held, horizon
        self._explainer = _Explainer()

    def judged(self, target: TargetId, found: Seen | None, stale: bool) -> tuple[Drift, ...]:
        declared = self.desired.by_target.get(target, ())
        blind = _blindness(found)
        observation = found.observation if found is not None and blind is None else None
        drifts = [self._declared(placement, found, stale, blind) for placement in declared]
        if observation is not None:
            ours = {(placement.id.component, placement.id.slot) for placement in declared}
            drifts += [
                self._foreign(target, standing, found, stale)
                for standing in observation.standings
                if (standing.component, standing.slot) not in ours and _stands(standing)
            ]
            drifts += [_unmanaged(target, unmanaged, stale) for unmanaged in observation.unmanaged]
        return tuple(drifts)

    def _declared(self, declared: Placement, found: Seen | None, stale: bool, blind: str | None) -> Drift:
        memory = self.known.memories.get(declared.id, NOTHING_REMEMBERED)
        case = Case(
            id=declared.id,
            wanted=_wanted(declared, memory, self.held),
            declared=declared,
            standing=found.observation.standing(declared.id.component, declared.id.slot) if found else None,
            reading=_read(found, declared.id, memory),
            memory=memory,
            active_keys=self.known.active_keys,
            blind=blind,
            stale=stale,
        )
        return self._explained(judge(case), memory)

    def _foreign(self, target: TargetId, standing: Standing, found: Seen | None, stale: bool) -> Drift:
        id = PlacementId(target, standing.component, standing.slot)
        memory = self.known.memories.get(id, NOTHING_REMEMBERED)
        return judge(
            Case(
                id=id,
                wanted=None,
                declared=None,
                standing=standing,
                reading=_read(found, id, memory),
                memory=memory,
                active_keys=self.known.active_keys,
                stale=stale,
            )
        )

    def _explained(self, drift: Drift, memory: Memory) -> Drift:
        return self._explainer.explained(drift, memory) if drift.drifted else drift


def _blindness(found: Seen | None) -> str | None:
    return "it has not been looked at yet" if found is None else found.observation.unseen


def _stands(standing: Standing) -> bool:
    return bool(standing.workload or standing.worn or standing.kept or standing.debris)


def _read(found: Seen | None, id: PlacementId, memory: Memory) -> Reading:
    if found is None:
        return NO_READING
    return judge_sequence(found.readings.get(id, NO_READING), memory)


def _unmanaged(target: TargetId, unmanaged: Unmanaged, stale: bool) -> Drift:
    return judge(
        Case(
            id=PlacementId(target, ComponentName(unmanaged.name), UNMANAGED_SLOT),
            wanted=None,
            declared=None,
            standing=None,
            reading=NO_READING,
            memory=NOTHING_REMEMBERED,
            stale=stale,
            unmanaged=unmanaged,
        )
    )
