"""The verdict table: a case for every row, for its order, and for what has been cursed in others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from desired_state.model import Placement
from reconciler.core.drift import NO_READING, Case, Drift, Memory, Reading, Trust, Verdict, judge
from reconciler.core.judge import VERDICTS
from stickers.names import ReleaseName
from stickers.observation import Health, HealthState, Unmanaged, Workload, WorkloadState
from stickers.sticker import Phase, Sticker
from tests.reconciler.core.builders import (
    KEY,
    OTHER_KEY,
    configuration,
    place,
    placement,
    some_digest,
    standing,
    sticker,
    valid,
    workload,
)

ID = place(1)
GOAL = placement(ID, "2.0.0")
OLDER, LATER = placement(ID, "1.0.0"), placement(ID, "10.0.0")
OTHER = some_digest("another artifact")
STRANGER = Unmanaged(name="nginx", instance="c9", artifact="nginx:latest", state=WorkloadState.RUNNING)


def case(
    goal: Placement | None = GOAL, runs: Workload | None = None, label: Sticker | None = None, **more: Any
) -> Case:
    """In sync, unless told otherwise."""
    runs = runs or (workload(goal) if goal else None)
    made = Case(
        id=ID,
        wanted=goal,
        declared=goal,
        standing=standing(ID, runs),
        reading=valid(label or sticker(goal or GOAL)),
        memory=Memory(last_good=goal),
    )
    return replace(made, **more)


def ill(answer: HealthState, **changes: Any) -> Workload:
    return workload(GOAL, health=Health(state=answer, detail="http 503"), **changes)


STOPPED = replace(GOAL, running=False)
EMPTY = standing(ID, None, worn=False)
UNTOLD = workload(GOAL, artifact=None)
TRANSIT = sticker(OLDER, phase=Phase.IN_TRANSIT, evidence=None)
RENAMED = sticker(replace(GOAL, release=ReleaseName("shop@1.9.9")))

ROWS: dict[str, tuple[Case, Verdict]] = {
    "the target is not seen": (case(standing=None, reading=NO_READING, blind="refused"), Verdict.UNKNOWN),
    "the look is stale": (case(stale=True), Verdict.UNKNOWN),
    "a sticker in transit": (case(label=TRANSIT), Verdict.IN_TRANSIT),
    "a workload of an active job": (
        case(runs=workload(GOAL, key=OTHER_KEY), active_keys=frozenset({OTHER_KEY})),
        Verdict.IN_TRANSIT,
    ),
    "nothing stands": (case(standing=None, reading=NO_READING), Verdict.MISSING),
    "a sticker without a workload": (case(standing=standing(ID, None)), Verdict.MISSING),
    "nothing stands and it is declared stopped": (
        case(STOPPED, standing=None, reading=NO_READING),
        Verdict.MISSING,
    ),
    "the sticker says one thing, another runs": (case(runs=workload(OLDER)), Verdict.LYING),
    "the sticker speaks of what cannot be told": (case(runs=UNTOLD), Verdict.LYING),
    "an earlier release runs, labelled": (case(runs=workload(OLDER), label=sticker(OLDER)), Verdict.BEHIND),
    "an earlier release runs, remembered": (
        case(runs=workload(OLDER), reading=NO_READING, memory=Memory(last_good=OLDER)),
        Verdict.BEHIND,
    ),
    "a later release runs": (case(runs=workload(LATER), label=sticker(LATER)), Verdict.AHEAD),
    "an unknown artifact runs": (
        case(runs=workload(GOAL, artifact=OTHER), reading=NO_READING),
        Verdict.WRONG_ARTIFACT,
    ),
    "what cannot be told runs, unlabelled": (case(runs=UNTOLD, reading=NO_READING), Verdict.WRONG_ARTIFACT),
    "another configuration": (
        case(
            runs=workload(replace(GOAL, configuration=configuration("debug"))),
            label=sticker(replace(GOAL, configuration=configuration("debug"))),
        ),
        Verdict.WRONG_CONFIGURATION,
    ),
    "stopped though declared running": (case(runs=workload(GOAL, state=WorkloadState.STOPPED)), Verdict.STOPPED),
    "running though declared stopped": (case(STOPPED, runs=workload(GOAL)), Verdict.STOPPED),
    "its check fails": (case(runs=ill(HealthState.UNHEALTHY)), Verdict.UNHEALTHY),
    "it keeps restarting": (case(runs=workload(GOAL, state=WorkloadState.RESTARTING)), Verdict.UNHEALTHY),
    "its check gave no answer": (case(runs=ill(HealthState.UNKNOWN)), Verdict.UNKNOWN),
    "its declared check was not asked": (case(runs=ill(HealthState.UNCHECKED)), Verdict.UNKNOWN),
    "it is just starting": (case(runs=workload(GOAL, state=WorkloadState.STARTING)), Verdict.UNKNOWN),
    "no sticker is worn": (case(reading=NO_READING), Verdict.UNLABELLED),
    "the sticker names another release of the same content": (case(label=RENAMED), Verdict.UNLABELLED),
    "ours, and declared by nobody": (case(None, runs=workload(GOAL)), Verdict.FOREIGN),
    "not ours": (case(None, standing=None, reading=NO_READING, unmanaged=STRANGER), Verdict.UNMANAGED),
    "as declared": (case(), Verdict.IN_SYNC),
    "stopped as declared": (case(STOPPED), Verdict.IN_SYNC),
    "without a declared check": (case(replace(GOAL, health=None)), Verdict.IN_SYNC),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_case_has_its_verdict(row: str) -> None:
    found, verdict = ROWS[row]
    assert judge(found).verdict is verdict


def test_every_row_of_the_table_fires_first_for_some_case() -> None:
    fired = {next(n for n, row in enumerate(VERDICTS) if row.condition(found)) for found, _ in ROWS.values()}
    assert fired == set(range(len(VERDICTS)))


def test_the_rule_is_the_sentence_of_the_row_and_the_reason_the_particulars() -> None:
    drift = judge(case(runs=ill(HealthState.UNHEALTHY)))
    assert drift.rule == "it runs as declared and is not healthy"
    assert drift.reason == "http 503"


@pytest.mark.parametrize("row", [row for row, (_, verdict) in ROWS.items() if verdict is not Verdict.IN_SYNC])
def test_every_drift_says_why(row: str) -> None:
    drift = judge(ROWS[row][0])
    assert drift.rule
    assert drift.drifted


# -- order: cases that two rows fit -----------------------------------------------------------------------------------

ORDER: dict[str, tuple[Case, Verdict]] = {
    "unseen before missing": (case(standing=None, reading=NO_READING, blind="cut off"), Verdict.UNKNOWN),
    "stale before missing": (case(standing=None, reading=NO_READING, stale=True), Verdict.UNKNOWN),
    "stale before in transit": (case(label=TRANSIT, stale=True), Verdict.UNKNOWN),
    "in transit before missing": (case(standing=standing(ID, None), reading=valid(TRANSIT)), Verdict.IN_TRANSIT),
    "in transit before foreign": (case(None, runs=workload(GOAL), label=TRANSIT), Verdict.IN_TRANSIT),
    "lying before behind": (case(runs=workload(OLDER), memory=Memory(last_good=OLDER)), Verdict.LYING),
    "lying before stopped": (case(runs=workload(OLDER, state=WorkloadState.STOPPED)), Verdict.LYING),
    "wrong artifact before stopped": (
        case(runs=workload(OLDER, state=WorkloadState.STOPPED), label=sticker(OLDER)),
        Verdict.BEHIND,
    ),
    "wrong artifact before wrong configuration": (
        case(runs=workload(OLDER, configuration=OTHER), reading=NO_READING),
        Verdict.WRONG_ARTIFACT,
    ),
    "stopped before unhealthy": (
        case(runs=ill(HealthState.UNHEALTHY, state=WorkloadState.STOPPED)),
        Verdict.STOPPED,
    ),
    "starting is not unhealthy": (
        case(runs=ill(HealthState.UNHEALTHY, state=WorkloadState.STARTING)),
        Verdict.UNKNOWN,
    ),
    "unhealthy before unlabelled": (case(runs=ill(HealthState.UNHEALTHY), reading=NO_READING), Verdict.UNHEALTHY),
    "health unknown before unlabelled": (case(runs=ill(HealthState.UNKNOWN), reading=NO_READING), Verdict.UNKNOWN),
}


@pytest.mark.parametrize("row", ORDER)
def test_the_first_row_that_fits_wins(row: str) -> None:
    found, verdict = ORDER[row]
    assert sum(row.condition(found) for row in VERDICTS) >= 2
    assert judge(found).verdict is verdict


# -- particulars ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [Trust.UNSIGNED, Trust.FORGED, Trust.UNREADABLE, Trust.REPLAYED, Trust.NONE])
def test_a_distrusted_sticker_counts_as_none_and_what_runs_is_still_judged(trust: Trust) -> None:
    distrusted = Reading(trust=trust, sticker=sticker(GOAL) if trust is Trust.REPLAYED else None, reason="odd")
    right = judge(case(reading=distrusted))
    assert (right.verdict, right.trust) == (Verdict.UNLABELLED, trust)
    wrong = judge(case(runs=workload(GOAL, artifact=OTHER), reading=distrusted))
    assert (wrong.verdict, wrong.trust) == (Verdict.WRONG_ARTIFACT, trust)


def test_a_distrusted_sticker_in_transit_is_no_transit() -> None:
    assert judge(case(reading=Reading(trust=Trust.REPLAYED, sticker=TRANSIT))).verdict is Verdict.UNLABELLED


def test_a_workload_proven_under_its_active_key_has_arrived() -> None:
    assert judge(case(active_keys=frozenset({KEY}))).verdict is Verdict.IN_SYNC


@pytest.mark.parametrize(
    ("running", "wanted", "verdict"),
    [
        ("shop@1.9.0", "shop@1.10.0", Verdict.BEHIND),
        ("shop@2.0.0", "shop@1.10.0", Verdict.AHEAD),
        ("shop@1.10.0-rc1", "shop@1.10.0", Verdict.BEHIND),
        ("cart@1.0.0", "shop@1.10.0", Verdict.WRONG_ARTIFACT),
        ("shop@nightly", "shop@1.10.0", Verdict.WRONG_ARTIFACT),
        ("shop@1.10", "shop@1.10.0", Verdict.WRONG_ARTIFACT),
    ],
)
def test_only_versions_of_one_line_are_earlier_or_later(running: str, wanted: str, verdict: Verdict) -> None:
    runs = replace(OLDER, release=ReleaseName(running))
    goal = replace(GOAL, release=ReleaseName(wanted))
    assert judge(case(goal, runs=workload(runs), label=sticker(runs))).verdict is verdict


def test_what_cannot_be_told_is_never_in_sync() -> None:
    for unknown in ("artifact", "configuration"):
        found = judge(case(runs=workload(GOAL, **{unknown: None}), reading=NO_READING))
        assert found.verdict in (Verdict.WRONG_ARTIFACT, Verdict.WRONG_CONFIGURATION)


def test_restoring_what_ran_here_in_health_is_a_heal() -> None:
    assert judge(case(standing=EMPTY, memory=Memory(last_good=GOAL))).heal
    assert not judge(case(standing=EMPTY, memory=Memory(last_good=OLDER))).heal
    assert not judge(case(standing=EMPTY, memory=Memory())).heal


def test_another_release_name_for_the_same_content_is_a_heal() -> None:
    assert judge(case(memory=Memory(last_good=replace(GOAL, release=ReleaseName("shop@1.9.9"))))).heal


def test_another_health_check_is_no_drift() -> None:
    assert judge(case(replace(GOAL, health=None), runs=workload(GOAL))).verdict is Verdict.IN_SYNC


def test_a_drift_tells_whether_it_was_seen() -> None:
    def blind(found: Case) -> bool:
        drift: Drift = judge(found)
        return drift.blind

    assert blind(case(stale=True))
    assert blind(case(standing=None, blind="cut off"))
    assert not blind(case(runs=ill(HealthState.UNKNOWN)))
