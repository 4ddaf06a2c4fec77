"""What an answer means for its task, held against the reconciler's own look afterwards.

An answer is a receipt, the code of an error, or nothing at all. Success needs three to agree: the receipt, the evidence
in it, and the look. What is unknown is neither success nor failure: the task is lost, and somebody looks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, assert_never

from desired_state.model import Placement
from drivers import errors
from drivers.contract import Change, Deploy, Outcome, Receipt, Remove, Restart, Result
from reconciler.core import drift
from reconciler.core.drift import NO_READING, NOTHING_REMEMBERED, Case, Drift, Seen, Trust, Verdict
from reconciler.core.machine import TaskEvent
from stickers.evidence import HealthEvidence
from stickers.names import ActionKey, EnvironmentId, PlacementId
from stickers.observation import Standing, Workload

Answer = Receipt | str | None  # a receipt, an error's code, or nothing: nobody knows what happened


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the task's action asked for, under which key."""

    environment: EnvironmentId
    key: ActionKey
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLook:
    """The reconciler's own look at the target. A look from before `since`, when the answer came or the task was lost,
    says nothing about it."""

    seen: Seen | None
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A placement that stands as wanted: what to remember as last good, and by which evidence."""

    placement: Placement
    evidence: HealthEvidence
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """A placement that failed its proof and is not tried again in the environment."""

    placement: Placement
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The event for the task, and what follows from it. `code` is stable, `reason` a sentence. `conflict`: the world
    has moved, nothing was touched, and the plan is to be made again; such a failure says nothing against a release."""

    event: TaskEvent
    code: str
    reason: str
    good: tuple[Proof, ...] = ()
    refused: tuple[Failing, ...] = ()
    conflict: bool = False


def verdict(asked: Asked, answer: Answer, look: TaskLook) -> Ruling:
    """What becomes of the task."""
    match answer:
        case Receipt():
            return _combined([_received(asked, change, answer, look) for change in asked.changes])
        case str():
            return _errored(asked, answer, look)
        case None:
            return _combined([_found(asked, change, look) for change in asked.changes])
        case _:
            assert_never(answer)


# -- an error ---------------------------------------------------------------------------------------------------------

ERRORS: Final[Mapping[str, TaskEvent]] = {
    errors.Unreachable.code: TaskEvent.RETRY,
    errors.Busy.code: TaskEvent.RETRY,
    errors.Retryable.code: TaskEvent.RETRY,
    errors.OutcomeUnknown.code: TaskEvent.LOSE,
    errors.StaleFence.code: TaskEvent.LOSE,  # whoever holds the lease now looks and goes on
    errors.Refused.code: TaskEvent.FAIL,
    errors.InvalidAction.code: TaskEvent.FAIL,
    errors.NotAllowed.code: TaskEvent.FAIL,
    errors.Terminal.code: TaskEvent.FAIL,
    errors.Conflict.code: TaskEvent.FAIL,
}


def _errored(asked: Asked, code: str, look: TaskLook) -> Ruling:
    """An error that nobody has listed is an unknown outcome."""
    if code == errors.Conflict.code:
        return _conflict(asked, look)
    event = ERRORS.get(code, TaskEvent.LOSE)
    return Ruling(event=event, code=code, reason=_ERROR_WORDS.get(event, "what it did is to be looked at"))


_ERROR_WORDS: Final[Mapping[TaskEvent, str]] = {
    TaskEvent.RETRY: "the same action may be tried again",
    TaskEvent.FAIL: "trying again cannot help",
}


def _conflict(asked: Asked, look: TaskLook) -> Ruling:
    """Nothing was touched; unless what is there is just what was wanted, the plan is made again."""
    found = _combined([_found(asked, change, look) for change in asked.changes])
    if found.event is TaskEvent.SUCCEED:
        return Ruling(event=TaskEvent.SKIP, code="AS_WANTED", reason="somebody else has done it", good=found.good)
    reason = "something else was found than the change replaces; it is planned again"
    return Ruling(event=TaskEvent.FAIL, code=errors.Conflict.code, reason=reason, conflict=True)


# -- a receipt --------------------------------------------------------------------------------------------------------

CONFIRMED: Final[Mapping[Verdict, TaskEvent]] = {
    Verdict.IN_SYNC: TaskEvent.SUCCEED,
    Verdict.UNKNOWN: TaskEvent.LOSE,
    Verdict.STOPPED: TaskEvent.FAIL,  # it was proven, and did not last
    Verdict.UNHEALTHY: TaskEvent.FAIL,
}  # anything else: the same key may finish or find it


def _received(asked: Asked, change: Change, receipt: Receipt, look: TaskLook) -> Ruling:
    outcome = next((one for one in receipt.outcomes if one.id == change.id), None)
    if outcome is None:
        return _found(asked, change, look)
    if not outcome.as_wanted:
        failing = _failing(change, outcome.detail)
        return Ruling(event=TaskEvent.FAIL, code=outcome.result.name, reason=outcome.detail, refused=failing)
    if isinstance(change, Remove):
        return _gone(change, look)
    return _confirmed(asked, change, outcome, look)


def _confirmed(asked: Asked, change: Deploy | Restart, outcome: Outcome, look: TaskLook) -> Ruling:
    seen = _sighted(change.placement, look)
    event = CONFIRMED.get(seen.drift.verdict, TaskEvent.RETRY)
    if event is TaskEvent.SUCCEED:
        return _proven(asked, change, outcome, seen)
    refused = _failing(change, f"{seen.drift.rule}: {seen.drift.reason}") if event is TaskEvent.FAIL else ()
    return _ruling(event, seen, refused)


def _proven(asked: Asked, change: Deploy | Restart, outcome: Outcome, seen: Sighted) -> Ruling:
    """In sync by our own look. What was changed and should run needs evidence of just that instance besides; where
    nothing was touched, the sticker names the proof and our look is fresh evidence."""
    untouched = outcome.result is Result.UNCHANGED
    event = TaskEvent.SKIP if untouched else TaskEvent.SUCCEED
    evidence = outcome.evidence
    if evidence is not None and proves(evidence, asked, change.placement, seen.workload):
        return _success(event, outcome.detail, change.placement, evidence, seen)
    if untouched or not change.placement.running:
        return _success(event, outcome.detail, change.placement, witnessed(asked, change.placement, seen), seen)
    reason = "the answer carries no evidence of health for what runs there now"
    return Ruling(event=TaskEvent.RETRY, code="NO_EVIDENCE", reason=reason)


def proves(evidence: HealthEvidence, asked: Asked, placement: Placement, workload: Workload) -> bool:
    """Whether it speaks of this action, this content and the very instance that was looked at, after the switch."""
    named = (evidence.environment, evidence.placement, evidence.key, evidence.instance)
    content = (evidence.artifact, evidence.configuration)
    asks = placement.health is None or str(placement.health.check) in evidence.checks
    here = named == (asked.environment, placement.id, asked.key, workload.instance) and content == placement.content
    return here and asks and evidence.answers >= 1 and evidence.switched_at <= evidence.proven_at


# -- our own look -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighted:
    """One placement as our own look judges it, at that time."""

    drift: Drift
    at: datetime

    @property
    def workload(self) -> Workload:
        assert self.drift.standing is not None
        assert self.drift.standing.workload is not None
        return self.drift.standing.workload


def _sighted(placement: Placement, look: TaskLook) -> Sighted:
    observation, blind = _eyes(placement.id, look)
    case = Case(
        id=placement.id,
        wanted=placement,
        declared=placement,
        standing=observation,
        reading=look.seen.readings.get(placement.id, NO_READING) if look.seen else NO_READING,
        memory=NOTHING_REMEMBERED,
        blind=blind,
    )
    return Sighted(drift=drift.judge(case), at=look.seen.observation.at if look.seen else look.since)


def _eyes(id: PlacementId, look: TaskLook) -> tuple[Standing | None, str | None]:
    """What stands there, and why it could not be seen."""
    if look.seen is None:
        return None, "nobody has looked since"
    observation = look.seen.observation
    if observation.unseen is not None:
        return None, observation.unseen
    if observation.at < look.since:
        return None, "the last look is older than the answer"
    return observation.standing(id.component, id.slot), None


FOUND: Final[Mapping[Verdict, TaskEvent]] = {
    Verdict.IN_SYNC: TaskEvent.SUCCEED,
    Verdict.UNKNOWN: TaskEvent.LOSE,
}  # anything else: the same key goes on where it stopped, and its driver looks first


def _found(asked: Asked, change: Change, look: TaskLook) -> Ruling:
    """No answer about this change: what is there decides."""
    if isinstance(change, Remove):
        return _gone(change, look)
    seen = _sighted(change.placement, look)
    event = FOUND.get(seen.drift.verdict, TaskEvent.RETRY)
    if event is TaskEvent.SUCCEED and _is_untidy(seen.drift):
        reason = "it stands as wanted, beside what the interrupted action left; the same action tidies up"
        return Ruling(event=TaskEvent.RETRY, code="UNTIDY", reason=reason)
    if event is TaskEvent.SUCCEED:
        evidence = witnessed(asked, change.placement, seen)
        return _success(event, "found as wanted", change.placement, evidence, seen)
    if event is TaskEvent.RETRY and isinstance(change, Deploy) and _was_put_back(asked, change, seen.drift):
        reason = "it failed its proof, and what stood before stands again"
        return Ruling(event=TaskEvent.FAIL, code=Result.REVERTED.name, reason=reason, refused=_failing(change, reason))
    return _ruling(event, seen)


def _is_untidy(seen: Drift) -> bool:
    return seen.standing is not None and bool(seen.standing.debris)


def _was_put_back(asked: Asked, deploy: Deploy, seen: Drift) -> bool:
    """The predecessor wears a proven sticker under this action's key: nothing else writes that."""
    sticker = seen.sticker
    if sticker is None or seen.trust is not Trust.VALID or deploy.predecessor is None:
        return False
    content = sticker.claim.content
    return sticker.key == asked.key and content == deploy.predecessor.content != deploy.placement.content


def _gone(remove: Remove, look: TaskLook) -> Ruling:
    standing, blind = _eyes(remove.id, look)
    if blind is not None:
        return Ruling(event=TaskEvent.LOSE, code="UNKNOWN", reason=blind)
    if standing is not None and (standing.workload is not None or standing.worn is not None):
        return Ruling(event=TaskEvent.RETRY, code="STILL_THERE", reason="it still stands there")
    return Ruling(event=TaskEvent.SUCCEED, code="GONE", reason="nothing stands there any more")


def witnessed(asked: Asked, placement: Placement, seen: Sighted) -> HealthEvidence:
    """Evidence of our own look: for what was found as wanted without an answer that proves it."""
    workload = seen.workload
    started = workload.started_at or seen.at
    return HealthEvidence(
        environment=asked.environment,
        placement=placement.id,
        key=asked.key,
        instance=workload.instance,
        artifact=placement.artifact.digest,
        configuration=placement.configuration_digest,
        started_at=started,
        switched_at=started,
        proven_at=seen.at,
        checks=(str(placement.health.check),) if placement.health and placement.running else (workload.state.value,),
        answers=1,
    )


# -- rulings ----------------------------------------------------------------------------------------------------------


def _success(event: TaskEvent, detail: str, placement: Placement, evidence: HealthEvidence, seen: Sighted) -> Ruling:
    sticker = seen.drift.sticker
    proof = Proof(placement=placement, evidence=evidence, sequence=sticker.sequence if sticker else 0)
    return Ruling(event=event, code="AS_WANTED", reason=detail, good=(proof,))


def _ruling(event: TaskEvent, seen: Sighted, refused: tuple[Failing, ...] = ()) -> Ruling:
    drift = seen.drift
    reason = f"{drift.rule}: {drift.reason}" if drift.reason else drift.rule
    return Ruling(event=event, code=drift.verdict.name, reason=reason, refused=refused)


def _failing(change: Change, reason: str) -> tuple[Failing, ...]:
    """What already ran here in health is not refused when it fails once more, or nothing would be left to heal to."""
    if not isinstance(change, Deploy):
        return ()
    known = change.predecessor is not None and change.predecessor.content == change.placement.content
    return () if known else (Failing(placement=change.placement, reason=reason),)


_GRAVITY: Final = (TaskEvent.SKIP, TaskEvent.SUCCEED, TaskEvent.RETRY, TaskEvent.LOSE, TaskEvent.FAIL)


def _combined(rulings: Sequence[Ruling]) -> Ruling:
    """The gravest of the changes decides for the task; what was proven and what failed is kept of each."""
    gravest = max(rulings, key=lambda ruling: _GRAVITY.index(ruling.event))
    good = tuple(proof for ruling in rulings for proof in ruling.good)
    return replace(gravest, good=good, refused=tuple(one for ruling in rulings for one in ruling.refused))
