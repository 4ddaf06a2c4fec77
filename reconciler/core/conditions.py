"""Conditions of an environment: what can be said of it in five words, each with its reason and a sentence.

Status is no machine: it is computed anew from what is known, in one place, however a turn ended. Sentences carry no
times and no counts of turns, so that an unchanged environment has unchanged conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from desired_state.model import Suspension
from reconciler.core.drift import Drift, Verdict
from reconciler.core.machine import JobState
from reconciler.core.plan import Blocked, Code, Plan
from stickers.names import JobId


class ConditionType(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    HEALTHY = "Healthy"
    SOURCE_READY = "SourceReady"


class Status(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`reason` is one word in PascalCase for programs, `message` a sentence for people. `since` is when the status
    last changed, `generation` the desire it was computed for."""

    type: ConditionType
    status: Status
    reason: str
    message: str
    generation: int
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFault:
    """Why the documents could not be taken over; the last accepted desire stays in force. `reason` is PascalCase."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A job: the active one, or the last that ended."""

    id: JobId
    state: JobState
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything that the conditions are computed from. `drifted` None: nobody has looked yet. `held` is the sentence
    why the declared release is not advanced; `last` is the last job that ended."""

    generation: int
    placements: int
    drifted: Sequence[Drift] | None
    plan: Plan | None = None
    job: Work | None = None
    last: Work | None = None
    held: str | None = None
    suspended: Suspension | None = None
    source: SourceFault | None = None


Said = tuple[Status, str, str]  # status, reason, message


def conditions(situation: Situation, *, before: Sequence[Condition] = (), now: datetime) -> tuple[Condition, ...]:
    """All five. A condition whose status is as `before` keeps its `since`."""
    known = {condition.type: condition for condition in before}
    return tuple(
        _dated(_condition(type, say(situation), situation), known.get(type), now) for type, say in SAYS.items()
    )


def _condition(type: ConditionType, said: Said, situation: Situation) -> Condition:
    status, reason, message = said
    return Condition(type=type, status=status, reason=reason, message=message, generation=situation.generation)


def _dated(condition: Condition, before: Condition | None, now: datetime) -> Condition:
    kept = before.since if before is not None and before.status is condition.status else None
    return replace(condition, since=kept or now)


# -- the five ---------------------------------------------------------------------------------------------------------


def _ready(situation: Situation) -> Said:
    """Whether everything declared is in sync, with the declared release in force."""
    unknown, apart = _unknown(situation), _apart(situation)
    if situation.drifted is None:
        return Status.UNKNOWN, "NotLookedAt", "no target has been looked at yet"
    if apart:
        return Status.FALSE, "Drifted", f"{len(apart)} of {situation.placements} placements differ: {_list(apart)}"
    if situation.held is not None:
        return Status.FALSE, "HeldAtLastGood", f"the declared release is refused: {situation.held}"
    if unknown:
        return Status.UNKNOWN, "Unseen", f"{len(unknown)} of {situation.placements} placements: {_list(unknown)}"
    return Status.TRUE, "InSync", f"all {situation.placements} placements are as declared"


def _reconciling(situation: Situation) -> Said:
    job = situation.job
    if job is not None and job.state is JobState.ROLLING_BACK:
        return Status.TRUE, "RollingBack", f"job {job.id} goes back to what was last good"
    if job is not None and job.state is JobState.PAUSED:
        return Status.FALSE, "Paused", f"job {job.id} is paused"
    if job is not None:
        return Status.TRUE, "JobActive", f"job {job.id} is {job.state}"
    if situation.plan is not None and not situation.plan.empty:
        return Status.TRUE, "Planned", f"a {situation.plan.kind} job is about to begin"
    if situation.suspended is not None:
        return Status.FALSE, "Suspended", f"suspended: {situation.suspended.reason}"
    return Status.FALSE, "Idle", "nothing is under way"


def _stalled(situation: Situation) -> Said:
    """Whether something waits for a person. An active job, or one about to begin, is no stall."""
    if situation.job is not None or (situation.plan is not None and not situation.plan.empty):
        return Status.FALSE, "Progressing", "it goes on by itself"
    waits, last = _waiting(situation), situation.last
    if waits is not None:
        return Status.TRUE, _pascal(waits.code), f"{waits.id}: {waits.reason}"
    if situation.held is not None:
        return Status.TRUE, _pascal(Code.REFUSED), f"the declared release is refused: {situation.held}"
    if last is not None and last.state is JobState.FAILED and _apart(situation):
        return Status.TRUE, "JobFailed", f"job {last.id} failed: {last.message}"
    if situation.suspended is not None:
        return Status.FALSE, "Suspended", f"suspended: {situation.suspended.reason}"
    return Status.FALSE, "NothingWaits", "nothing waits for a person"


def _healthy(situation: Situation) -> Said:
    """Whether everything declared serves: proven, not assumed. What is refused is held to its last good, and serves
    that."""
    if situation.drifted is None:
        return Status.UNKNOWN, "NotLookedAt", "no target has been looked at yet"
    if unwell := [drift for drift in _apart(situation) if drift.verdict in _UNWELL]:
        return Status.FALSE, "Unhealthy", f"{len(unwell)} of {situation.placements} placements: {_list(unwell)}"
    if unproven := _declared(situation):
        return Status.UNKNOWN, "Unproven", f"{len(unproven)} of {situation.placements} placements: {_list(unproven)}"
    count = situation.placements
    if situation.held is not None:
        return Status.TRUE, "Healthy", f"all {count} placements serve, where refused the last good release"
    return Status.TRUE, "Healthy", f"all {count} placements serve as declared"


def _source_ready(situation: Situation) -> Said:
    if situation.source is None:
        return Status.TRUE, "Accepted", "the documents are read and accepted"
    return Status.FALSE, situation.source.reason, f"{situation.source.message}; the last accepted desire stays in force"


SAYS: Final[Mapping[ConditionType, Callable[[Situation], Said]]] = {
    ConditionType.READY: _ready,
    ConditionType.RECONCILING: _reconciling,
    ConditionType.STALLED: _stalled,
    ConditionType.HEALTHY: _healthy,
    ConditionType.SOURCE_READY: _source_ready,
}

_UNWELL: Final = (Verdict.UNHEALTHY, Verdict.MISSING, Verdict.STOPPED)
_PERSON: Final = (
    Code.GAVE_UP,
    Code.REFUSED,
    Code.NO_LAST_GOOD,
    Code.REMOVAL_LIMIT,
    Code.POLICY_ASK,
    Code.POLICY_REPORT,
)  # what waits for a person, the gravest first


def _declared(situation: Situation) -> list[Drift]:
    return [drift for drift in situation.drifted or () if drift.declared is not None and drift.drifted]


def _unknown(situation: Situation) -> list[Drift]:
    return [drift for drift in _declared(situation) if drift.verdict is Verdict.UNKNOWN]


def _apart(situation: Situation) -> list[Drift]:
    return [drift for drift in _declared(situation) if drift.verdict is not Verdict.UNKNOWN]


def _waiting(situation: Situation) -> Blocked | None:
    """The first of the gravest code that waits for a person."""
    blocked = situation.plan.blocked if situation.plan else ()
    return min((one for one in blocked if one.code in _PERSON), key=lambda one: _PERSON.index(one.code), default=None)


def _list(drifts: Sequence[Drift]) -> str:
    shown = ", ".join(f"{drift.id} is {drift.verdict}" for drift in drifts[:3])
    return shown if len(drifts) <= 3 else f"{shown} and {len(drifts) - 3} more"


def _pascal(code: Code) -> str:
    return "".join(word.capitalize() for word in code.value.split("_"))
