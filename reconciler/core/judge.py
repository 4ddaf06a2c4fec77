"""The verdict on one placement: one ordered table over what is declared, what its target wears and what runs there.

First match wins, each row with its sentence. What was not seen is never missing, so a network cut can never cause a
mass redeploy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from desired_state.model import Placement
from reconciler.core.known import Memory, Reading, Trust
from stickers import digest
from stickers.names import Digest, PlacementId, ReleaseName, line_and_version
from stickers.observation import HealthState, Standing, Unmanaged, Workload, WorkloadState
from stickers.sticker import Phase, Sticker


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
    from packaging.version import InvalidVersion, Version  # 5 ms, only where artifacts differ

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
