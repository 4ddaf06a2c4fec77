"""What is said of an environment, computed from values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from desired_state.model import DesiredState, Policy, Suspension, Sync
from reconciler.core.conditions import (
    Condition,
    ConditionType,
    Situation,
    SourceFault,
    Status,
    Work,
    conditions,
)
from reconciler.core.drift import Known, Memory, Seen, rediff
from reconciler.core.machine import JOB_ACTIVE, JobState
from reconciler.core.plan import Code, plan
from stickers.names import JobId, TargetId
from stickers.observation import Health, HealthState
from tests.reconciler.core.builders import (
    HERE,
    NOW,
    POWERS,
    all_as,
    as_declared,
    fleet,
    place,
    placement,
    proven,
    sight,
    standing,
    sticker,
    unseen,
    valid,
    workload,
)

READY, RECONCILING, STALLED, HEALTHY, SOURCE = ConditionType
STATE = fleet(2)
SEEN = all_as(STATE)
ONE = STATE.placements[0]
TARGET = ONE.id.target
JOB = JobId("default/prod:7")


def situation(
    seen: dict[TargetId, Seen] = SEEN, known: Known | None = None, state: DesiredState = STATE, **more: Any
) -> Situation:
    """As a turn knows it after looking, diffing and planning."""
    known = known or Known(memories=proven(state))
    found = rediff(state, seen, known, now=NOW)
    made = Situation(
        generation=3,
        placements=len(state.placements),
        drifted=found.drifted,
        plan=plan(found.drifted, state, known, powers=POWERS, installation=HERE, now=NOW),
        held="http 503" if found.held else None,
    )
    return replace(made, **more)


def said(of: Situation, before: Sequence[Condition] = ()) -> dict[ConditionType, Condition]:
    return {one.type: one for one in conditions(of, before=before, now=NOW)}


def short(of: Situation, type: ConditionType) -> tuple[Status, str]:
    condition = said(of)[type]
    return condition.status, condition.reason


def broken(**changes: Any) -> dict[TargetId, Seen]:
    return SEEN | {TARGET: sight(TARGET, (standing(ONE.id, workload(ONE, **changes)), valid(sticker(ONE))))}


SICK = broken(health=Health(state=HealthState.UNHEALTHY, detail="http 503"))
GONE = SEEN | {TARGET: sight(TARGET)}
CUT = SEEN | {TARGET: unseen(TARGET)}
REFUSED = fleet(2, "2.0.0")
HELD = situation(known=Known(memories=proven(STATE), refused={REFUSED.placements[0].trial: "http 503"}), state=REFUSED)
GAVE_UP = Known(memories={ONE.id: Memory(last_good=ONE, attempts=5)})
ASKING = fleet(2, "2.0.0", sync=Sync(mode=Policy.ASK))


def work(state: JobState, message: str = "") -> Work:
    return Work(id=JOB, state=state, message=message)


CASES: dict[str, tuple[Situation, ConditionType, Status, str]] = {
    "in sync is ready": (situation(), READY, Status.TRUE, "InSync"),
    "in sync is healthy": (situation(), HEALTHY, Status.TRUE, "Healthy"),
    "in sync is idle": (situation(), RECONCILING, Status.FALSE, "Idle"),
    "in sync waits for nobody": (situation(), STALLED, Status.FALSE, "NothingWaits"),
    "accepted": (situation(), SOURCE, Status.TRUE, "Accepted"),
    "before the first look nothing is ready": (situation(drifted=None), READY, Status.UNKNOWN, "NotLookedAt"),
    "before the first look nothing is healthy": (situation(drifted=None), HEALTHY, Status.UNKNOWN, "NotLookedAt"),
    "drifted is not ready": (situation(GONE), READY, Status.FALSE, "Drifted"),
    "missing is not healthy": (situation(GONE), HEALTHY, Status.FALSE, "Unhealthy"),
    "unhealthy is not healthy": (situation(SICK), HEALTHY, Status.FALSE, "Unhealthy"),
    "unseen is neither ready nor not": (situation(CUT), READY, Status.UNKNOWN, "Unseen"),
    "unseen is neither healthy nor not": (situation(CUT), HEALTHY, Status.UNKNOWN, "Unproven"),
    "unlabelled is not proven": (
        situation(SEEN | {TARGET: replace(SEEN[TARGET], readings={})}),
        HEALTHY,
        Status.UNKNOWN,
        "Unproven",
    ),
    "held at last good is not ready": (HELD, READY, Status.FALSE, "HeldAtLastGood"),
    "held at last good is healthy": (HELD, HEALTHY, Status.TRUE, "Healthy"),
    "a refused release waits for a person": (HELD, STALLED, Status.TRUE, "Refused"),
    "a refused release that is rolled back goes on by itself": (
        replace(HELD, job=work(JobState.ROLLING_BACK)),
        STALLED,
        Status.FALSE,
        "Progressing",
    ),
    "a plan is about to begin": (situation(GONE), RECONCILING, Status.TRUE, "Planned"),
    "a job runs": (situation(GONE, job=work(JobState.RUNNING)), RECONCILING, Status.TRUE, "JobActive"),
    "a job goes back": (situation(job=work(JobState.ROLLING_BACK)), RECONCILING, Status.TRUE, "RollingBack"),
    "a job is paused": (situation(GONE, job=work(JobState.PAUSED)), RECONCILING, Status.FALSE, "Paused"),
    "suspended": (situation(suspended=Suspension(reason="moving")), RECONCILING, Status.FALSE, "Suspended"),
    "suspended is not stalled": (situation(suspended=Suspension(reason="moving")), STALLED, Status.FALSE, "Suspended"),
    "surrender is stalled": (situation(SICK, GAVE_UP), STALLED, Status.TRUE, "GaveUp"),
    "waiting for a person is stalled": (
        situation(SEEN, Known(memories=proven(STATE)), ASKING),
        STALLED,
        Status.TRUE,
        "PolicyAsk",
    ),
    "a plan that goes on is not stalled": (situation(GONE), STALLED, Status.FALSE, "Progressing"),
    "a failed job with drift is stalled": (
        situation(CUT | {place(1).target: SEEN[place(1).target]}, plan=None, last=work(JobState.FAILED, "disk full")),
        STALLED,
        Status.FALSE,
        "NothingWaits",
    ),
    "a failed job that left drift is stalled": (
        situation(GONE, plan=None, last=work(JobState.FAILED, "disk full")),
        STALLED,
        Status.TRUE,
        "JobFailed",
    ),
    "the source cannot be read": (
        situation(source=SourceFault(reason="Unreadable", message="permission denied")),
        SOURCE,
        Status.FALSE,
        "Unreadable",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_situation_has_its_status_and_reason(case: str) -> None:
    of, type, status, reason = CASES[case]
    assert short(of, type) == (status, reason)


@pytest.mark.parametrize("case", CASES)
def test_all_five_are_said_with_a_pascal_case_reason_and_a_sentence(case: str) -> None:
    found = conditions(CASES[case][0], now=NOW)
    assert [one.type for one in found] == list(ConditionType)
    for one in found:
        assert re.fullmatch(r"(?:[A-Z][a-z]+)+", one.reason)
        assert one.message
        assert (one.generation, one.since) == (3, NOW)


def test_what_is_held_at_last_good_is_not_said_to_serve_as_declared() -> None:
    def healthy(of: Situation) -> str:
        return next(one.message for one in conditions(of, now=NOW) if one.type is HEALTHY)

    assert healthy(situation()).endswith("serve as declared")
    assert healthy(HELD).endswith("placements serve, where refused the last good release")


def test_a_refused_release_says_why_it_waits() -> None:
    assert said(HELD)[STALLED].message == "the declared release is refused: http 503"


def test_foreign_and_unmanaged_do_not_make_an_environment_unready() -> None:
    seen = SEEN | {TARGET: sight(TARGET, as_declared(ONE), as_declared(placement(place(0, "worker"))))}
    assert short(situation(seen), READY) == (Status.TRUE, "InSync")


def test_the_gravest_of_what_waits_is_named() -> None:
    of = situation(SICK, GAVE_UP, fleet(2, sync=Sync(heal=Policy.REPORT)))
    assert of.plan is not None
    assert {one.code for one in of.plan.blocked} == {Code.POLICY_REPORT}
    assert short(of, STALLED) == (Status.TRUE, "PolicyReport")


def test_the_loss_of_the_source_says_that_the_last_desire_stays_in_force() -> None:
    of = situation(source=SourceFault(reason="Empty", message="no document was found"))
    assert said(of)[SOURCE].message == "no document was found; the last accepted desire stays in force"
    assert short(of, READY) == (Status.TRUE, "InSync")


def test_since_is_kept_while_the_status_is_and_renewed_when_it_turns() -> None:
    before = conditions(situation(), now=NOW - timedelta(hours=1))
    assert said(situation(), before)[READY].since == NOW - timedelta(hours=1)
    assert said(situation(GONE), before)[READY].since == NOW
    assert said(situation(GONE), before)[SOURCE].since == NOW - timedelta(hours=1)


def test_the_same_situation_later_says_the_very_same() -> None:
    first = conditions(situation(SICK), now=NOW)
    assert conditions(situation(SICK), before=first, now=NOW + timedelta(days=1)) == first


@pytest.mark.parametrize("state", sorted(JOB_ACTIVE))
def test_an_active_job_is_never_stalled(state: JobState) -> None:
    assert said(situation(SICK, GAVE_UP, job=work(state)))[STALLED].status is Status.FALSE


def test_a_long_list_is_cut() -> None:
    many = fleet(9)
    of = situation({one.id: sight(one.id) for one in many.targets}, Known(), many)
    assert said(of)[READY].message.endswith("and 6 more")
