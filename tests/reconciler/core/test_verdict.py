"""What an answer means: yes, no, or look again; never success without evidence, never failure without knowledge."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from desired_state.model import Placement
from drivers import errors
from drivers.contract import Change, Deploy, Footing, Outcome, Receipt, Remove, Restart, Result, Stamp, claim_of
from reconciler.core.drift import NO_READING, Reading, Seen, Trust
from reconciler.core.machine import TASK, TaskEvent, TaskState, advance
from reconciler.core.verdict import ERRORS, Answer, Asked, Ruling, TaskLook, verdict
from stickers.evidence import HealthEvidence
from stickers.observation import Health, HealthState, Standing, WorkloadState
from stickers.sticker import Phase
from tests.reconciler.core.builders import (
    HERE,
    KEY,
    NOW,
    OTHER_KEY,
    PROD,
    as_declared,
    place,
    placement,
    sight,
    some_digest,
    standing,
    sticker,
    unseen,
    valid,
    workload,
)

ID = place(1)
OLD, GOAL = placement(ID, "1.0.0"), placement(ID, "2.0.0")
STAMP = Stamp(sequence=3, previous=None)
BELOW = Footing(instance="old-1", artifact=OLD.artifact.digest, configuration=OLD.configuration_digest)
DEPLOY = Deploy(placement=GOAL, replaces=BELOW, stamp=STAMP, predecessor=OLD)
FIRST = Deploy(placement=GOAL, replaces=None, stamp=STAMP)
HEAL = Deploy(placement=GOAL, replaces=None, stamp=STAMP, predecessor=GOAL)
RESTART = Restart(placement=GOAL, replaces=BELOW, stamp=STAMP)
REMOVE = Remove(id=ID, claim=claim_of(OLD, HERE), replaces=BELOW, stamp=STAMP)
SINCE = NOW
AFTER = NOW + timedelta(seconds=1)

Part = tuple[Standing, Reading]
AS_WANTED: Part = as_declared(GOAL)
AS_BEFORE: Part = (standing(ID, workload(OLD, key=OTHER_KEY)), valid(sticker(OLD, key=OTHER_KEY)))
NOTHING: tuple[Part, ...] = ()


def look(*parts: Part) -> TaskLook:
    return TaskLook(seen=sight(ID.target, *parts, at=AFTER), since=SINCE)


def evidence(of: Placement = GOAL, **changes: Any) -> HealthEvidence:
    made = HealthEvidence(
        environment=PROD,
        placement=of.id,
        key=KEY,
        instance=workload(of).instance,
        artifact=of.artifact.digest,
        configuration=of.configuration_digest,
        started_at=NOW - timedelta(seconds=9),
        switched_at=NOW - timedelta(seconds=5),
        proven_at=NOW - timedelta(seconds=1),
        checks=(str(of.health.check),) if of.health else ("running",),
        answers=3,
    )
    return replace(made, **changes)


def receipt(result: Result = Result.CHANGED, proof: HealthEvidence | None = None, detail: str = "done") -> Receipt:
    outcome = Outcome(id=ID, result=result, detail=detail, evidence=proof, sequence=4)
    return Receipt(key=KEY, target=ID.target, outcomes=(outcome,))


def ruled(answer: Answer, seen: TaskLook, *changes: Change) -> Ruling:
    return verdict(Asked(environment=PROD, key=KEY, changes=changes or (DEPLOY,)), answer, seen)


BLIND = {
    "nobody looked": TaskLook(seen=None, since=SINCE),
    "it cannot be seen": TaskLook(seen=unseen(ID.target, at=AFTER), since=SINCE),
    "the look is from before": TaskLook(seen=sight(ID.target, AS_WANTED, at=SINCE - timedelta(seconds=1)), since=SINCE),
    "health gave no answer": look(
        (standing(ID, workload(GOAL, health=Health(state=HealthState.UNKNOWN))), valid(sticker(GOAL)))
    ),
    "health was not asked": look(
        (standing(ID, workload(GOAL, health=Health(state=HealthState.UNCHECKED))), valid(sticker(GOAL)))
    ),
}


# -- success ----------------------------------------------------------------------------------------------------------


def test_success_needs_receipt_evidence_and_our_own_look() -> None:
    found = ruled(receipt(proof=evidence()), look(AS_WANTED))
    assert found.event is TaskEvent.SUCCEED
    (proof,) = found.good
    assert (proof.placement, proof.evidence, proof.sequence) == (GOAL, evidence(), 2)


@pytest.mark.parametrize(
    "flaw",
    [
        {"instance": "another"},
        {"artifact": some_digest("other")},
        {"configuration": some_digest("other")},
        {"key": OTHER_KEY},
        {"placement": place(2)},
        {"environment": "default/dev"},
        {"checks": ("running",)},
        {"answers": 0},
        {"proven_at": NOW - timedelta(seconds=6)},
    ],
    ids=lambda flaw: next(iter(flaw)),
)
def test_evidence_of_something_else_proves_nothing(flaw: dict[str, Any]) -> None:
    found = ruled(receipt(proof=evidence(**flaw)), look(AS_WANTED))
    assert (found.event, found.code, found.good) == (TaskEvent.RETRY, "NO_EVIDENCE", ())


def test_a_change_without_evidence_is_asked_about_again() -> None:
    assert ruled(receipt(), look(AS_WANTED)).event is TaskEvent.RETRY
    assert ruled(receipt(Result.LABELLED), look(AS_WANTED)).event is TaskEvent.RETRY


def test_what_was_untouched_and_is_in_sync_is_skipped_with_our_own_evidence() -> None:
    found = ruled(receipt(Result.UNCHANGED), look(AS_WANTED))
    assert found.event is TaskEvent.SKIP
    (proof,) = found.good
    seen = proof.evidence
    assert (seen.instance, seen.artifact, seen.proven_at) == (workload(GOAL).instance, GOAL.artifact.digest, AFTER)
    assert seen.checks == (str(GOAL.health.check),) if GOAL.health else ()


def test_what_is_declared_stopped_needs_no_evidence_of_health() -> None:
    halted = replace(GOAL, running=False)
    found = ruled(receipt(), look(as_declared(halted)), replace(DEPLOY, placement=halted))
    assert found.event is TaskEvent.SUCCEED


def test_a_restart_is_proven_like_a_deploy() -> None:
    assert ruled(receipt(proof=evidence()), look(AS_WANTED), RESTART).event is TaskEvent.SUCCEED
    assert ruled(receipt(), look(AS_WANTED), RESTART).event is TaskEvent.RETRY


def test_a_removal_succeeded_when_nothing_is_left() -> None:
    assert ruled(receipt(), look(), REMOVE).event is TaskEvent.SUCCEED
    assert ruled(receipt(), look(AS_BEFORE), REMOVE).event is TaskEvent.RETRY
    assert ruled(None, look(), REMOVE).event is TaskEvent.SUCCEED


# -- unknown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", BLIND)
@pytest.mark.parametrize(
    "answer", [receipt(proof=evidence()), receipt(Result.UNCHANGED), None], ids=["yes", "as was", "-"]
)
def test_what_cannot_be_seen_is_neither_success_nor_failure(reason: str, answer: Answer) -> None:
    found = ruled(answer, BLIND[reason])
    assert (found.event, found.good, found.refused) == (TaskEvent.LOSE, (), ())


def test_a_removal_that_cannot_be_seen_is_lost() -> None:
    for reason in ("nobody looked", "it cannot be seen", "the look is from before"):
        assert ruled(receipt(), BLIND[reason], REMOVE).event is TaskEvent.LOSE


@pytest.mark.parametrize("seen", [look(AS_WANTED), look(AS_BEFORE), look(), BLIND["it cannot be seen"]])
def test_a_time_out_is_no_failure(seen: TaskLook) -> None:
    assert ruled(errors.OutcomeUnknown.code, seen).event is TaskEvent.LOSE


@pytest.mark.parametrize("code", ["DRIVER_ERROR", "ValueError", ""])
def test_an_error_that_nobody_listed_is_an_unknown_outcome(code: str) -> None:
    assert ruled(code, look(AS_BEFORE)).event is TaskEvent.LOSE


def test_a_stale_fence_leaves_the_task_to_whoever_holds_the_lease() -> None:
    found = ruled(errors.StaleFence.code, look(AS_BEFORE))
    assert (found.event, found.conflict) == (TaskEvent.LOSE, False)


# -- failure ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [Result.REVERTED, Result.UNPROVEN])
@pytest.mark.parametrize("seen", [look(AS_BEFORE), BLIND["it cannot be seen"]], ids=["seen", "blind"])
def test_a_failed_proof_fails_the_task_and_is_refused(result: Result, seen: TaskLook) -> None:
    found = ruled(receipt(result, detail="http 503; shop@1.0.0 stands again"), seen)
    assert (found.event, found.code) == (TaskEvent.FAIL, result.name)
    assert [(one.placement, one.reason) for one in found.refused] == [(GOAL, "http 503; shop@1.0.0 stands again")]


def test_a_first_deploy_that_fails_its_proof_is_refused() -> None:
    assert [one.placement for one in ruled(receipt(Result.REVERTED), look(), FIRST).refused] == [GOAL]


@pytest.mark.parametrize("change", [HEAL, RESTART], ids=["heal", "restart"])
def test_what_already_ran_here_in_health_is_never_refused(change: Change) -> None:
    found = ruled(receipt(Result.UNPROVEN), look(AS_BEFORE), change)
    assert (found.event, found.refused) == (TaskEvent.FAIL, ())


@pytest.mark.parametrize(
    "now",
    [
        {"health": Health(state=HealthState.UNHEALTHY, detail="http 500")},
        {"state": WorkloadState.STOPPED},
        {"state": WorkloadState.RESTARTING},
    ],
)
def test_what_was_proven_and_did_not_last_has_failed(now: dict[str, Any]) -> None:
    found = ruled(receipt(proof=evidence()), look((standing(ID, workload(GOAL, **now)), valid(sticker(GOAL)))))
    assert found.event is TaskEvent.FAIL
    assert [one.placement for one in found.refused] == [GOAL]


def test_every_error_of_drivers_has_its_event() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DriverError)]
    assert {kind.code for kind in kinds} - set(ERRORS) == {errors.DriverError.code}
    for kind in kinds:
        if issubclass(kind, errors.Retryable) and kind is not errors.OutcomeUnknown:
            assert ERRORS[kind.code] is TaskEvent.RETRY
        if issubclass(kind, errors.Terminal):
            assert ERRORS[kind.code] is TaskEvent.FAIL


def test_an_error_refuses_nothing() -> None:
    for code in ERRORS:
        assert ruled(code, look(AS_BEFORE)).refused == ()


def test_a_conflict_is_planned_again_and_says_nothing_against_the_release() -> None:
    found = ruled(errors.Conflict.code, look(as_declared(placement(ID, "9.0.0"))))
    assert (found.event, found.conflict, found.refused) == (TaskEvent.FAIL, True, ())


def test_a_conflict_with_what_was_wanted_anyway_is_skipped() -> None:
    found = ruled(errors.Conflict.code, look(AS_WANTED))
    assert (found.event, found.conflict) == (TaskEvent.SKIP, False)
    assert [proof.placement for proof in found.good] == [GOAL]


# -- lost, and looked at ----------------------------------------------------------------------------------------------


def test_a_lost_task_that_is_found_done_succeeded_on_our_own_evidence() -> None:
    found = ruled(None, look(AS_WANTED))
    assert found.event is TaskEvent.SUCCEED
    assert found.good[0].evidence.key == KEY
    assert found.good[0].evidence.proven_at == AFTER


@pytest.mark.parametrize("change", [DEPLOY, RESTART], ids=["deploy", "restart"])
def test_a_lost_task_that_is_done_but_has_left_something_is_tidied_up_under_its_key(change: Change) -> None:
    stands, reading = AS_WANTED
    left = replace(stands, debris=("half",))
    found = ruled(None, look((left, reading)), change)
    assert (found.event, found.code) == (TaskEvent.RETRY, "UNTIDY")


def test_a_lost_task_that_did_nothing_is_tried_again() -> None:
    assert ruled(None, look(AS_BEFORE)).event is TaskEvent.RETRY
    assert ruled(None, look(), FIRST).event is TaskEvent.RETRY


def test_a_lost_task_that_is_half_done_goes_on_under_its_key() -> None:
    label = sticker(GOAL, phase=Phase.IN_TRANSIT, evidence=None)
    assert ruled(None, look((standing(ID, workload(OLD)), valid(label)))).event is TaskEvent.RETRY


def test_a_lost_task_without_a_sticker_is_not_taken_for_done() -> None:
    bare = (standing(ID, workload(GOAL), worn=False), NO_READING)
    assert ruled(None, look(bare)).event is TaskEvent.RETRY


def test_a_forged_sticker_proves_nothing() -> None:
    forged = (standing(ID, workload(GOAL)), Reading(trust=Trust.FORGED, sticker=None))
    assert ruled(None, look(forged)).event is TaskEvent.RETRY
    assert ruled(receipt(proof=evidence()), look(forged)).event is TaskEvent.RETRY


def test_a_lost_task_whose_predecessor_was_put_back_under_its_key_has_failed() -> None:
    put_back = (standing(ID, workload(OLD)), valid(sticker(OLD, key=KEY, sequence=4)))
    found = ruled(None, look(put_back))
    assert (found.event, found.code) == (TaskEvent.FAIL, "REVERTED")
    assert [one.placement for one in found.refused] == [GOAL]
    assert ruled(None, look(AS_BEFORE)).event is TaskEvent.RETRY


def test_a_lost_task_whose_workload_is_unwell_is_tried_again_not_failed() -> None:
    sick = workload(GOAL, health=Health(state=HealthState.UNHEALTHY))
    assert ruled(None, look((standing(ID, sick), valid(sticker(GOAL))))).event is TaskEvent.RETRY


# -- several changes in one action ------------------------------------------------------------------------------------

OTHER = placement(place(1, "db"), "2.0.0")
BOTH = (DEPLOY, Deploy(placement=OTHER, replaces=None, stamp=STAMP))


def both(first: Outcome, second: Outcome, *parts: Part) -> Ruling:
    answer = Receipt(key=KEY, target=ID.target, outcomes=(first, second))
    return ruled(answer, look(*parts), *BOTH)


def outcome(of: Placement, result: Result = Result.CHANGED) -> Outcome:
    return Outcome(id=of.id, result=result, detail="done", evidence=evidence(of), sequence=4)


def test_all_changes_have_to_stand_for_the_task_to_succeed() -> None:
    found = both(outcome(GOAL), outcome(OTHER), AS_WANTED, as_declared(OTHER))
    assert found.event is TaskEvent.SUCCEED
    assert [proof.placement for proof in found.good] == [GOAL, OTHER]


def test_one_failed_change_fails_the_task_and_the_proven_one_is_kept() -> None:
    found = both(outcome(GOAL), outcome(OTHER, Result.REVERTED), AS_WANTED)
    assert found.event is TaskEvent.FAIL
    assert [proof.placement for proof in found.good] == [GOAL]
    assert [one.placement for one in found.refused] == [OTHER]


def test_a_change_that_the_receipt_leaves_out_is_looked_for() -> None:
    answer = Receipt(key=KEY, target=ID.target, outcomes=(outcome(GOAL),))
    assert ruled(answer, look(AS_WANTED), *BOTH).event is TaskEvent.RETRY
    assert ruled(answer, look(AS_WANTED, as_declared(OTHER)), *BOTH).event is TaskEvent.SUCCEED


def test_all_untouched_is_skipped_and_some_changed_is_not() -> None:
    parts = (AS_WANTED, as_declared(OTHER))
    assert both(outcome(GOAL, Result.UNCHANGED), outcome(OTHER, Result.UNCHANGED), *parts).event is TaskEvent.SKIP
    assert both(outcome(GOAL, Result.UNCHANGED), outcome(OTHER), *parts).event is TaskEvent.SUCCEED


# -- with the machine -------------------------------------------------------------------------------------------------

ANSWERS: dict[TaskState, list[Answer]] = {
    TaskState.RUNNING: [*ERRORS, "odd"],
    TaskState.VERIFYING: [receipt(result, proof) for result, proof in product(Result, [None, evidence()])],
    TaskState.LOST: [None],
}
LOOKS = [*BLIND.values(), look(), look(AS_WANTED), look(AS_BEFORE)]


@pytest.mark.parametrize("state", ANSWERS)
def test_every_ruling_is_an_event_that_the_machine_takes(state: TaskState) -> None:
    changes: list[Change] = [DEPLOY, FIRST, HEAL, RESTART, REMOVE]
    for answer, seen, change in product(ANSWERS[state], LOOKS, changes):
        found = ruled(answer, seen, change)
        assert advance(TASK, state, found.event)
        assert found.code
        assert found.reason


def test_the_same_look_gives_the_same_ruling() -> None:
    seen: Seen = sight(ID.target, AS_WANTED, at=AFTER)
    first, second = (ruled(None, TaskLook(seen=seen, since=SINCE)) for _ in range(2))
    assert first == second
