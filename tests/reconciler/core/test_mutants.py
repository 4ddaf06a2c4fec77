"""Faults planted in the core on purpose; for each there is a test elsewhere that must fail while it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from drivers.contract import Stamp
from reconciler.core import blocks, drift, judge, moves, plan, retry, verdict, waves
from reconciler.core.intent import Code, Wave
from reconciler.core.judge import VERDICTS, Verdict
from reconciler.core.known import Trust
from reconciler.core.machine import TaskEvent
from tests.reconciler.core import (
    test_drift,
    test_judge,
    test_plan,
    test_retry,
    test_settles,
    test_verdict,
    test_way_back,
)
from tests.reconciler.core.world import Hand


def judged(instead: Verdict, of: Verdict) -> tuple[judge.VerdictRow, ...]:
    """The verdict table with one verdict taken for another."""
    return tuple(replace(row, verdict=instead) if row.verdict is of else row for row in VERDICTS)


def unblocked(*codes: Code) -> tuple[blocks.BlockRow, ...]:
    """The blocking table without these rows."""
    return tuple(row for row in blocks.BLOCKS if row.code not in codes)


def one_wave(going: Any, scene: Any, cut: Callable[..., tuple[Wave, ...]] = waves._waves) -> tuple[Wave, ...]:
    return tuple(Wave(intents=tuple(one for wave in cut(going, scene) for one in wave.intents)) for _ in "1")


def numberless(environment: Any, number: int, intent: Any, direction: str, key: Any = waves.action_key) -> Any:
    return key(environment, 0, intent, direction)


def last_look(old: Any, new: Any) -> list[Any]:
    return []


Mutant = tuple[object, str, Any, Callable[[], object]]
MUTANTS: dict[str, Mutant] = {
    "a wave larger than allowed": (waves, "_waves", one_wave, test_plan.test_healing_keeps_to_the_same_waves),
    "unknown taken for in sync": (
        judge,
        "VERDICTS",
        judged(Verdict.IN_SYNC, Verdict.UNKNOWN),
        test_settles.test_all_targets_cut_off_at_once_cause_no_action_at_all,
    ),
    "unseen taken for missing": (
        judge,
        "VERDICTS",
        judged(Verdict.MISSING, Verdict.UNKNOWN),
        test_settles.test_all_targets_cut_off_at_once_cause_no_action_at_all,
    ),
    "a stranger taken for ours": (
        judge,
        "VERDICTS",
        judged(Verdict.FOREIGN, Verdict.UNMANAGED),
        test_drift.test_an_unmanaged_workload_never_meets_a_placement_of_its_name,
    ),
    "a distrusted sticker believed": (
        judge.Case,
        "believed",
        property(lambda case: case.reading.sticker),
        lambda: test_judge.test_a_distrusted_sticker_counts_as_none_and_what_runs_is_still_judged(Trust.REPLAYED),
    ),
    "a time-out taken for failure": (
        verdict,
        "ERRORS",
        dict.fromkeys(verdict.ERRORS, TaskEvent.FAIL),
        lambda: test_verdict.test_a_time_out_is_no_failure(test_verdict.look()),
    ),
    "success without evidence": (
        verdict,
        "proves",
        lambda *given: True,
        lambda: test_verdict.test_evidence_of_something_else_proves_nothing({"instance": "another"}),
    ),
    "a heal that fails once more is refused": (
        verdict,
        "_failing",
        lambda change, reason: (verdict.Failing(placement=change.placement, reason=reason),),
        lambda: test_verdict.test_what_already_ran_here_in_health_is_never_refused(test_verdict.HEAL),
    ),
    "a refused release applied again": (
        drift,
        "is_held",
        lambda desired, known: False,
        test_settles.test_a_rolled_back_release_is_not_applied_again,
    ),
    "no heal after a rollback": (
        drift,
        "_wanted",
        lambda declared, memory, held: None if held else declared,
        lambda: test_settles.test_drift_after_a_rollback_is_healed_to_last_good(Hand.KILL),
    ),
    "the way back goes to what ran last": (
        plan,
        "_goals",
        lambda undo: {},
        test_way_back.test_a_wave_that_went_well_comes_back_too,
    ),
    "what stood there unproven is removed": (
        plan,
        "_before",
        lambda change: plan._Before(good=None, empty=True),
        test_way_back.test_what_stood_there_unproven_is_not_ours_to_remove,
    ),
    "the way back forwards": (
        waves,
        "_stages",
        lambda going, scene, stages=waves._stages: stages(going, replace(scene, homeward=False)),
        test_way_back.test_components_go_back_in_the_opposite_order,
    ),
    "one key for every heal": (plan, "action_key", numberless, test_settles.test_each_heal_has_a_key_of_its_own),
    "an empty source removes": (
        blocks,
        "BLOCKS",
        unblocked(Code.REMOVAL_LIMIT),
        test_plan.test_an_empty_desire_removes_nothing_by_itself,
    ),
    "removal without pruning": (
        blocks,
        "BLOCKS",
        unblocked(Code.NOT_PRUNED, Code.REMOVAL_LIMIT),
        test_settles.test_nothing_is_ever_removed_that_was_not_to_be,
    ),
    "suspension ignored": (
        blocks,
        "BLOCKS",
        unblocked(Code.SUSPENDED),
        test_settles.test_a_suspended_environment_is_left_alone_until_it_is_resumed,
    ),
    "never given up": (
        blocks,
        "BLOCKS",
        unblocked(Code.GAVE_UP),
        test_settles.test_a_target_that_never_becomes_healthy_is_given_up_and_said_so,
    ),
    "a back-off that holds up a newer desire": (
        blocks,
        "_tried",
        lambda drift: True,
        test_plan.test_back_off_and_surrender_do_not_hold_up_a_newer_desire,
    ),
    "a sequence that starts anew": (
        moves,
        "stamp",
        lambda memory, worn: Stamp(sequence=1, previous=None),
        test_plan.test_a_change_carries_the_next_sequence,
    ),
    "a diff that keeps what has changed": (
        drift,
        "_changed",
        last_look,
        lambda: test_drift.test_a_change_is_judged_again_and_nothing_else("an observation"),
    ),
    "a heal back-off that never resets": (
        retry,
        "heal_held",
        lambda memory, now: memory,
        test_settles.test_self_heal_tries_again_after_a_failure_and_its_back_off_resets,
    ),
    "everybody back at once": (retry, "_share", lambda seed: 1.0, test_retry.test_jitter_is_full_and_even),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_fault_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, fault, test = MUTANTS[mutant]
    test()
    monkeypatch.setattr(module, name, fault)
    with pytest.raises(AssertionError):
        test()
