"""The diff of an environment: who is in it, in which order, held to what, and what of it is judged again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from desired_state.model import Configuration, DesiredState, Port, Sync
from reconciler.core import drift
from reconciler.core.drift import Diffed, Known, Memory, Reading, Seen, Trust, Verdict, diff, effective, rediff
from stickers.names import ComponentName, ReleaseName, TargetId
from stickers.observation import Health, HealthState, Unmanaged, WorkloadState
from tests.reconciler.core.builders import (
    KEY,
    NOW,
    all_as,
    as_declared,
    configuration,
    desired,
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

LATER = NOW + timedelta(seconds=5)
STRANGER = Unmanaged(name="nginx", instance="c9", artifact="nginx:latest", state=WorkloadState.RUNNING)


def verdicts(state: DesiredState, seen: dict[TargetId, Seen], known: Known | None = None) -> list[tuple[str, str]]:
    return [(str(one.id), one.verdict.value) for one in diff(state, seen, known or Known(), now=NOW)]


# -- who is in it -----------------------------------------------------------------------------------------------------


def test_every_declared_placement_is_judged_exactly_once_in_the_order_declared() -> None:
    state = fleet(3, components=("db", "api"))
    found = diff(state, all_as(state), Known(), now=NOW)
    assert [one.id for one in found] == [one.id for one in state.placements]
    assert {one.verdict for one in found} == {Verdict.IN_SYNC}


def test_a_target_that_nobody_looked_at_is_unknown() -> None:
    found = diff(fleet(1), {}, Known(), now=NOW)
    assert [(one.verdict, one.reason) for one in found] == [(Verdict.UNKNOWN, "it has not been looked at yet")]


def test_an_unseen_target_is_unknown_and_says_why() -> None:
    target = place(0).target
    found = diff(fleet(1), {target: unseen(target)}, Known(), now=NOW)
    assert [(one.verdict, one.reason) for one in found] == [(Verdict.UNKNOWN, "connection refused")]


def test_a_look_is_stale_after_two_intervals_and_not_at_two() -> None:
    state = fleet(1, sync=Sync(interval=timedelta(seconds=30)))
    seen = all_as(state)
    assert diff(state, seen, Known(), now=NOW + timedelta(seconds=60))[0].verdict is Verdict.IN_SYNC
    assert diff(state, seen, Known(), now=NOW + timedelta(seconds=61))[0].verdict is Verdict.UNKNOWN


def test_what_stands_and_is_declared_by_nobody_is_foreign() -> None:
    state = fleet(1)
    target, old = place(0).target, placement(place(0, "worker"))
    seen = {target: sight(target, as_declared(state.placements[0]), as_declared(old))}
    assert verdicts(state, seen) == [("default/web-00000/api", "in sync"), ("default/web-00000/worker", "foreign")]


def test_what_a_half_done_removal_left_is_foreign_too() -> None:
    state = fleet(1)
    target, gone = place(0).target, place(0, "worker")
    rest = replace(standing(gone, None, worn=False), debris=("holdfast-worker-old",))
    seen = {target: sight(target, as_declared(state.placements[0]), (rest, drift.NO_READING))}
    assert verdicts(state, seen)[1] == ("default/web-00000/worker", "foreign")


def test_a_target_that_nobody_declares_comes_last_and_only_where_it_was_seen() -> None:
    state, lost, old = fleet(1), TargetId("default/a-lost"), place("a-former", "api")
    seen = all_as(state) | {
        lost: unseen(lost),
        old.target: sight(old.target, as_declared(placement(old))),
    }
    assert verdicts(state, seen) == [("default/web-00000/api", "in sync"), ("default/a-former/api", "foreign")]


def test_an_unmanaged_workload_never_meets_a_placement_of_its_name() -> None:
    state, target = fleet(1), place(0).target
    namesake = replace(STRANGER, name="api")
    seen = {target: sight(target, as_declared(state.placements[0]), unmanaged=(namesake,))}
    found = diff(state, seen, Known(), now=NOW)
    assert [(str(one.id), one.verdict) for one in found] == [
        ("default/web-00000/api", Verdict.IN_SYNC),
        ("default/web-00000/api[unmanaged]", Verdict.UNMANAGED),
    ]


def test_an_unmanaged_workload_of_a_stale_look_is_unknown() -> None:
    state, target = fleet(1), place(0).target
    seen = {target: sight(target, as_declared(state.placements[0]), at=NOW - timedelta(hours=1), unmanaged=(STRANGER,))}
    assert {one.verdict for one in diff(state, seen, Known(), now=NOW)} == {Verdict.UNKNOWN}


def test_the_order_does_not_depend_on_the_order_of_sights() -> None:
    state = fleet(5)
    former = [place(name) for name in ("x-1", "a-1", "m-1")]
    seen = all_as(state) | {one.target: sight(one.target, as_declared(placement(one))) for one in former}
    backwards = dict(reversed(seen.items()))
    assert diff(state, seen, Known(), now=NOW) == diff(state, backwards, Known(), now=NOW)


def test_a_sticker_older_than_the_memory_is_replayed() -> None:
    state = fleet(1)
    known = Known(memories={place(0): Memory(sequence=7)})
    found = diff(state, all_as(state), known, now=NOW)[0]
    assert (found.verdict, found.trust) == (Verdict.UNLABELLED, Trust.REPLAYED)


# -- what it is held to -----------------------------------------------------------------------------------------------


def refusing(state: DesiredState, number: int = 0) -> dict[str, str]:
    return {state.placements[number].trial: "proof failed: http 503"}


def test_a_refused_part_holds_the_whole_release_at_last_good() -> None:
    good, bad = fleet(2, "1.0.0", ("db", "api")), fleet(2, "2.0.0", ("db", "api"))
    known = Known(memories=proven(good), refused=refusing(bad))  # type: ignore[arg-type]
    assert list(effective(bad, known).values()) == list(good.placements)


def test_a_refusal_of_something_else_holds_nothing() -> None:
    state = fleet(1, "2.0.0")
    known = Known(memories=proven(fleet(1)), refused=refusing(fleet(1, "3.0.0")))  # type: ignore[arg-type]
    assert effective(state, known) == {place(0): state.placements[0]}


def test_where_a_refused_release_has_no_last_good_nothing_is_wanted() -> None:
    state = fleet(1)
    known = Known(refused=refusing(state))  # type: ignore[arg-type]
    assert effective(state, known) == {place(0): None}
    found = diff(state, {place(0).target: sight(place(0).target)}, known, now=NOW)[0]
    assert (found.verdict, found.wanted, found.declared) == (Verdict.MISSING, None, state.placements[0])


def test_after_a_rollback_what_runs_is_judged_by_last_good() -> None:
    good, bad = fleet(1), fleet(1, "2.0.0")
    known = Known(memories=proven(good), refused=refusing(bad))  # type: ignore[arg-type]
    assert diff(bad, all_as(good), known, now=NOW)[0].verdict is Verdict.IN_SYNC
    missing = diff(bad, {place(0).target: sight(place(0).target)}, known, now=NOW)[0]
    assert (missing.verdict, missing.heal, missing.wanted) == (Verdict.MISSING, True, good.placements[0])


# -- differences in words ---------------------------------------------------------------------------------------------


def test_the_words_of_a_configuration_come_from_the_one_that_ran_here() -> None:
    ran, goal = placement(place(0)), placement(place(0), configuration=configuration("debug"))
    state = desired([goal])
    known = Known(memories={ran.id: Memory(last_good=ran)})
    found = diff(state, {ran.id.target: sight(ran.id.target, as_declared(ran))}, known, now=NOW)[0]
    assert found.verdict is Verdict.WRONG_CONFIGURATION
    assert found.differences == ("environment.LOG_LEVEL: found 'info', wanted 'debug'",)


def test_an_inserted_port_does_not_shift_the_others() -> None:
    ran = placement(place(0), configuration=Configuration(ports=(Port(container=80), Port(container=443))))
    goal = replace(
        ran, configuration=Configuration(ports=(Port(container=22), Port(container=80), Port(container=443)))
    )
    known = Known(memories={ran.id: Memory(last_good=ran)})
    found = diff(desired([goal]), {ran.id.target: sight(ran.id.target, as_declared(ran))}, known, now=NOW)[0]
    assert [line.partition(":")[0] for line in found.differences] == ["ports.22/tcp"]


def test_words_of_the_driver_are_used_where_nothing_is_remembered() -> None:
    goal = placement(place(0))
    runs = workload(goal, configuration=None, differences=("memory: found 1 GiB, wanted 2 GiB",))
    seen = {goal.id.target: sight(goal.id.target, (standing(goal.id, runs), drift.NO_READING))}
    found = diff(desired([goal]), seen, Known(), now=NOW)[0]
    assert found.differences == ("memory: found 1 GiB, wanted 2 GiB",)


def test_a_wrong_label_is_told_field_by_field() -> None:
    goal = placement(place(0))
    label = sticker(replace(goal, release=ReleaseName("shop@0.9.0")))
    seen = {goal.id.target: sight(goal.id.target, (standing(goal.id, workload(goal)), valid(label)))}
    found = diff(desired([goal]), seen, Known(), now=NOW)[0]
    assert found.differences == ("release: found 'shop@0.9.0', wanted 'shop@1.0.0'",)


def test_a_converged_fleet_never_asks_for_words() -> None:
    code = (
        "import sys; from tests.reconciler.core.builders import *; from reconciler.core.drift import *;"
        "state = fleet(3); diff(state, all_as(state), Known(memories=proven(state)), now=NOW);"
        "sys.exit('deepdiff' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what is judged again ---------------------------------------------------------------------------------------------

STATE = fleet(4, components=("db", "api"))
KNOWN = Known(memories=proven(STATE))
SEEN = all_as(STATE)
FIRST = rediff(STATE, SEEN, KNOWN, now=NOW)
SECOND = place(1).target


def kept(after: Diffed) -> list[bool]:
    return [after.judged[target] is FIRST.judged[target] for target in FIRST.judged]


def without_api(target: TargetId) -> Seen:
    return sight(target, as_declared(STATE.by_target[target][0]))


def test_the_very_same_sights_are_not_judged_again() -> None:
    assert all(kept(rediff(STATE, SEEN, KNOWN, now=LATER, before=FIRST)))


def test_equal_sights_of_a_later_look_are_not_judged_again() -> None:
    again = rediff(STATE, all_as(STATE, at=LATER), Known(memories=proven(STATE)), now=LATER, before=FIRST)
    assert all(kept(again))


CHANGES: dict[str, Callable[[], tuple[DesiredState, dict[TargetId, Seen], Known]]] = {
    "an observation": lambda: (STATE, SEEN | {SECOND: without_api(SECOND)}, KNOWN),
    "a reading": lambda: (
        STATE,
        SEEN
        | {SECOND: replace(SEEN[SECOND], readings={id: Reading(trust=Trust.FORGED) for id in SEEN[SECOND].readings})},
        KNOWN,
    ),
    "a memory": lambda: (
        STATE,
        SEEN,
        replace(KNOWN, memories=KNOWN.memories | {place(1): Memory(sequence=9)}),
    ),
    "a forgotten memory": lambda: (
        STATE,
        SEEN,
        replace(KNOWN, memories={id: one for id, one in KNOWN.memories.items() if id != place(1)}),
    ),
    "a placement": lambda: (
        replace(
            STATE,
            placements=tuple(
                replace(one, configuration=configuration("debug")) if one.id == place(1) else one
                for one in STATE.placements
            ),
        ),
        SEEN,
        KNOWN,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_judged_again_and_nothing_else(change: str) -> None:
    state, seen, known = CHANGES[change]()
    after = rediff(state, seen, known, now=LATER, before=FIRST)
    assert kept(after) == [True, False, True, True]
    assert after.drifts == diff(state, seen, known, now=LATER)
    assert [one.id.target for one in after.drifted] == [SECOND] * len(after.drifted)


def test_a_key_that_became_active_is_judged_again() -> None:
    seen = SEEN | {SECOND: replace(SEEN[SECOND], readings={})}  # the others wear what that very key has proven
    first = rediff(STATE, seen, KNOWN, now=NOW)
    active = replace(KNOWN, active_keys=frozenset({KEY}))
    after = rediff(STATE, seen, active, now=NOW, before=first)
    assert after.drifts == diff(STATE, seen, active, now=NOW)
    assert {one.verdict for one in after.drifted} == {Verdict.IN_TRANSIT}


def test_time_alone_makes_a_look_stale_and_a_new_look_fresh_again() -> None:
    evening = NOW + timedelta(hours=6)
    stale = rediff(STATE, SEEN, KNOWN, now=evening, before=FIRST)
    assert {one.verdict for one in stale.drifts} == {Verdict.UNKNOWN}
    fresh = rediff(STATE, all_as(STATE, at=evening), KNOWN, now=evening, before=stale)
    assert fresh.drifted == ()


def test_only_the_targets_whose_look_is_old_grow_stale() -> None:
    mixed = all_as(STATE, at=NOW + timedelta(minutes=1)) | {SECOND: SEEN[SECOND]}
    first = rediff(STATE, mixed, KNOWN, now=NOW + timedelta(minutes=1))
    after = rediff(STATE, mixed, KNOWN, now=NOW + timedelta(seconds=61), before=first)
    assert {one.id.target for one in after.drifted} == {SECOND}


def test_a_clock_that_is_set_back_makes_stale_looks_fresh() -> None:
    ahead = rediff(STATE, SEEN, KNOWN, now=NOW + timedelta(hours=1))
    assert rediff(STATE, SEEN, KNOWN, now=NOW, before=ahead).drifted == ()


def test_a_target_that_comes_or_goes_is_put_in_its_place() -> None:
    former = place("a-former")
    more = SEEN | {former.target: sight(former.target, as_declared(placement(former)))}
    with_it = rediff(STATE, more, KNOWN, now=NOW, before=FIRST)
    assert with_it.drifts == diff(STATE, more, KNOWN, now=NOW)
    without = rediff(STATE, SEEN, KNOWN, now=NOW, before=with_it)
    assert without.drifts == FIRST.drifts


def test_a_refusal_that_comes_or_is_lifted_judges_everything_again() -> None:
    bad = fleet(4, "2.0.0", ("db", "api"))
    first = rediff(bad, SEEN, KNOWN, now=NOW)
    assert {one.verdict for one in first.drifts} == {Verdict.BEHIND}
    held = rediff(bad, SEEN, replace(KNOWN, refused=refusing(bad)), now=NOW, before=first)  # type: ignore[arg-type]
    assert held.drifted == ()
    assert held.held
    lifted = rediff(bad, SEEN, KNOWN, now=NOW, before=held)
    assert lifted.drifts == first.drifts


def test_a_memory_of_what_is_nowhere_adds_nothing() -> None:
    known = replace(KNOWN, memories=KNOWN.memories | {place("gone"): Memory(sequence=1)})
    assert rediff(STATE, SEEN, known, now=NOW, before=FIRST).drifts == FIRST.drifts


def test_drifted_is_in_the_order_of_the_diff_however_it_came_about() -> None:
    seen = dict(SEEN)
    before = FIRST
    for number in (3, 0, 2):
        target = place(number).target
        seen = seen | {target: without_api(target)}
        before = rediff(STATE, seen, KNOWN, now=NOW, before=before)
    assert before.drifted == rediff(STATE, seen, KNOWN, now=NOW).drifted


def test_a_healthy_answer_that_turns_is_seen() -> None:
    one = STATE.by_target[SECOND][0]
    sick = workload(one, health=Health(state=HealthState.UNHEALTHY, detail="http 500"))
    seen = SEEN | {SECOND: sight(SECOND, (standing(one.id, sick), valid(sticker(one))))}
    after = rediff(STATE, seen, KNOWN, now=NOW, before=FIRST)
    assert [(one.id.component, one.verdict) for one in after.drifted] == [
        (ComponentName("db"), Verdict.UNHEALTHY),
        (ComponentName("api"), Verdict.MISSING),
    ]
