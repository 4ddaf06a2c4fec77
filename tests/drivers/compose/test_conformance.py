"""The compose driver keeps the contract, on a real engine."""

from __future__ import annotations

import pytest

from drivers.conformance import Bench, Clause, Conformance, checks


class TestCompose(Conformance):
    """With version 2, or with version 1 where that is all there is."""


# What goes through the program in every way there is: the rest is ours, whichever program it is.
BY_THE_PROGRAM = {
    "a_deploy_on_an_empty_target_runs_and_labels",
    "twice_is_once",
    "a_replacement_leaves_one_workload",
    "what_is_made_anew_is_another_workload",
    "what_runs_is_stopped_when_it_is_declared_so",
    "an_action_of_several_changes_answers_each",
    "a_removal_leaves_nothing",
    "a_failed_proof_puts_the_predecessor_back_in_place",
    "a_crash_at_any_moment_is_finished",
    "what_is_not_ours_is_never_touched",
}


@pytest.mark.parametrize("program", ["first"], indirect=True)
@pytest.mark.parametrize("clause", [one for one in checks() if one.name in BY_THE_PROGRAM], ids=str)
async def test_version_one_keeps(bench: Bench, clause: Clause) -> None:
    await clause.check(bench)
