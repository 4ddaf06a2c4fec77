"""The plan: what is blocked and why, what is changed and how, and in which waves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from desired_state.model import DesiredState, Placement, Policy, Strategy, StrategyKind, Suspension, Sync, Target
from drivers.contract import Deploy, Footing, Remove, Restart, Stamp
from reconciler.core.drift import Known, Memory, Reading, Seen, Trust, Verdict, diff
from reconciler.core.plan import (
    BLOCKS,
    NO_GRANT,
    REMEDY,
    Blocked,
    ChangeKind,
    Code,
    Grant,
    JobKind,
    Plan,
    action_key,
    plan,
    removal_hash,
    stamp,
)
from reconciler.core.retry import GIVES_UP_AFTER
from stickers.names import ComponentName, PlacementId, ReleaseName, TargetId
from stickers.observation import Health, HealthState, Unmanaged, WorkloadState
from stickers.sticker import Phase
from tests.reconciler.core.builders import (
    HERE,
    KEY,
    NOW,
    OTHER_KEY,
    POWERS,
    PROD,
    all_as,
    as_declared,
    configuration,
    desired,
    fleet,
    place,
    placement,
    proven,
    sight,
    some_digest,
    standing,
    sticker,
    unseen,
    valid,
    workload,
)

API, DB = ComponentName("api"), ComponentName("db")
ONCE = Strategy(kind=StrategyKind.ALL_AT_ONCE)
LATER = NOW + timedelta(minutes=5)


def planned(
    state: DesiredState, seen: dict[TargetId, Seen], known: Known | None = None, grant: Grant = NO_GRANT
) -> Plan:
    known = known or Known()
    drifts = diff(state, seen, known, now=NOW)
    return plan(drifts, state, known, powers=POWERS, installation=HERE, now=NOW, grant=grant)


def codes(found: Plan) -> list[Code]:
    return [one.code for one in found.blocked]


def kinds(found: Plan) -> list[ChangeKind]:
    return [cause.kind for intent in found.intents for cause in intent.causes]


def targets(found: Plan) -> list[list[str]]:
    return [[str(target).removeprefix("default/") for target in wave.targets] for wave in found.waves]


def empty(state: DesiredState) -> dict[TargetId, Seen]:
    """Every target was seen, and nothing stands there."""
    return {target.id: sight(target.id) for target in state.targets}


# -- converged --------------------------------------------------------------------------------------------------------


def test_a_converged_fleet_has_an_empty_plan() -> None:
    state = fleet(3)
    found = planned(state, all_as(state))
    assert found.empty
    assert found.blocked == ()


def test_drifts_that_are_in_sync_need_not_be_handed_in() -> None:
    state, known = fleet(4), Known()
    seen = all_as(state) | {place(2).target: sight(place(2).target)}
    drifts = diff(state, seen, known, now=NOW)
    some = [drift for drift in drifts if drift.drifted]
    whole = plan(drifts, state, known, powers=POWERS, installation=HERE, now=NOW)
    assert plan(some, state, known, powers=POWERS, installation=HERE, now=NOW) == whole


# -- what is blocked --------------------------------------------------------------------------------------------------

BAD = fleet(1, "2.0.0")
STATE = fleet(1)
ONE = STATE.placements[0]
TARGET = ONE.id.target
HEALED = Known(memories={ONE.id: Memory(last_good=ONE, attempts=2, not_before=LATER)})
GONE = placement(place(0, "worker"))
STRANGER = Unmanaged(name="nginx", instance="c9", artifact="nginx:latest", state=WorkloadState.RUNNING)


def under(**changes: Any) -> DesiredState:
    """One target under other policies."""
    return fleet(1, **changes)


def sick(of: Placement = ONE) -> dict[TargetId, Seen]:
    runs = workload(of, health=Health(state=HealthState.UNHEALTHY, detail="http 503"))
    return {TARGET: sight(TARGET, (standing(of.id, runs), valid(sticker(of))))}


def moving(key: str) -> dict[TargetId, Seen]:
    label = sticker(ONE, phase=Phase.IN_TRANSIT, key=key, evidence=None)
    return {TARGET: sight(TARGET, (standing(ONE.id, workload(ONE)), valid(label)))}


def foreign(count: int = 1, **changes: Any) -> tuple[DesiredState, dict[TargetId, Seen]]:
    """Ten declared components in sync, and so many that nobody declares."""
    state = desired([placement(place(0, f"part-{n}")) for n in range(10)], **changes)
    former = [as_declared(placement(place(0, f"former-{n}"))) for n in range(count)]
    return state, {TARGET: sight(TARGET, *[as_declared(one) for one in state.placements], *former)}


AHEAD = {TARGET: sight(TARGET, as_declared(placement(ONE.id, "9.0.0")))}
NOTHING = {TARGET: sight(TARGET)}
PRUNING = Sync(prune=True)

Row = tuple[DesiredState, dict[TargetId, Seen], Known, str]
BLOCKED: dict[Code, Row] = {
    Code.UNSEEN: (STATE, {TARGET: unseen(TARGET)}, Known(), "connection refused"),
    Code.UNMANAGED: (
        STATE,
        {TARGET: sight(TARGET, as_declared(ONE), unmanaged=(STRANGER,))},
        Known(),
        "nginx:latest",
    ),
    Code.IN_TRANSIT: (STATE, moving(KEY), Known(active_keys=frozenset({KEY})), "active job"),
    Code.SUSPENDED: (under(suspend=Suspension(reason="moving house")), NOTHING, Known(), "moving house"),
    Code.REFUSED: (BAD, NOTHING, Known(refused={BAD.placements[0].trial: "http 503"}), "http 503"),
    Code.NOT_PRUNED: (*foreign(), Known(), "does not prune"),
    Code.REMOVAL_LIMIT: (*foreign(9, sync=PRUNING), Known(), "more than 30 %"),
    Code.POLICY_REPORT: (under(sync=Sync(mode=Policy.REPORT)), NOTHING, Known(), "advancing is `report`"),
    Code.POLICY_ASK: (under(sync=Sync(mode=Policy.ASK)), NOTHING, Known(), "advancing is `ask`"),
    Code.CIRCUIT_OPEN: (STATE, NOTHING, Known(circuits={TARGET: LATER}), "left alone"),
    Code.GAVE_UP: (
        STATE,
        sick(),
        Known(memories={ONE.id: Memory(last_good=ONE, attempts=GIVES_UP_AFTER)}),
        "gave up after 5 heals, http 503",
    ),
    Code.BACKOFF: (STATE, NOTHING, HEALED, "2 times"),
}
UNTIL = {Code.CIRCUIT_OPEN, Code.BACKOFF}


@pytest.mark.parametrize("code", BLOCKED)
def test_each_reason_to_do_nothing_has_its_code_and_its_sentence(code: Code) -> None:
    state, seen, known, sentence = BLOCKED[code]
    found = planned(state, seen, known)
    assert set(codes(found)) == {code}
    assert sentence in found.blocked[0].reason
    assert found.blocked[0].until == (LATER if code in UNTIL else None)
    assert found.empty


def test_every_row_of_the_table_is_met_by_some_case() -> None:
    assert {row.code for row in BLOCKS} == set(BLOCKED)


def test_every_code_says_what_unblocks_it() -> None:
    assert set(REMEDY) == set(Code)


@pytest.mark.parametrize("code", BLOCKED)
def test_what_unblocks_names_the_environment_and_leaves_nothing_open(code: Code) -> None:
    state, seen, known, _ = BLOCKED[code]
    remedy = planned(state, seen, known).blocked[0].remedy
    assert remedy
    assert "{" not in remedy
    assert "environment}" not in remedy


ORDER: dict[str, tuple[Row, Code]] = {
    "unseen before suspended": (
        (under(suspend=Suspension(reason="x")), {TARGET: unseen(TARGET)}, Known(), ""),
        Code.UNSEEN,
    ),
    "in transit before suspended": (
        (under(suspend=Suspension(reason="x")), moving(KEY), Known(active_keys=frozenset({KEY})), ""),
        Code.IN_TRANSIT,
    ),
    "suspended before policy": (
        (under(suspend=Suspension(reason="x"), sync=Sync(mode=Policy.ASK)), NOTHING, Known(), ""),
        Code.SUSPENDED,
    ),
    "not pruned before the limit": ((*foreign(9), Known(), ""), Code.NOT_PRUNED),
    "policy before an open circuit": (
        (under(sync=Sync(mode=Policy.ASK)), NOTHING, Known(circuits={TARGET: LATER}), ""),
        Code.POLICY_ASK,
    ),
    "surrender before back-off": (
        (STATE, sick(), Known(memories={ONE.id: Memory(last_good=ONE, attempts=5, not_before=LATER)}), ""),
        Code.GAVE_UP,
    ),
}


@pytest.mark.parametrize("row", ORDER)
def test_the_first_reason_that_fits_is_given(row: str) -> None:
    (state, seen, known, _), code = ORDER[row]
    assert set(codes(planned(state, seen, known))) == {code}


# -- suspension -------------------------------------------------------------------------------------------------------


def test_a_suspension_by_hand_blocks_like_one_by_document() -> None:
    found = planned(STATE, NOTHING, Known(suspended=Suspension(reason="by hand", until=LATER)))
    assert [(one.code, one.until) for one in found.blocked] == [(Code.SUSPENDED, LATER)]


def test_the_longer_of_two_suspensions_is_named() -> None:
    state = under(suspend=Suspension(reason="by document", until=LATER))
    found = planned(state, NOTHING, Known(suspended=Suspension(reason="for good")))
    assert "for good" in found.blocked[0].reason
    assert found.blocked[0].until is None


def test_a_suspension_ends_at_its_until() -> None:
    state = under(suspend=Suspension(reason="x", until=NOW))
    assert not planned(state, NOTHING).empty


def test_a_suspended_environment_does_what_a_person_asks() -> None:
    state = under(suspend=Suspension(reason="x"))
    assert not planned(state, NOTHING, grant=Grant(advance=True)).empty
    assert planned(state, NOTHING, grant=Grant(heal=True)).empty


# -- policy -----------------------------------------------------------------------------------------------------------


def test_healing_and_advancing_are_separate_policies() -> None:
    state = under(sync=Sync(mode=Policy.REPORT, heal=Policy.AUTOMATIC))
    heals = planned(state, NOTHING, Known(memories=proven(state)))
    assert (heals.kind, kinds(heals)) == (JobKind.HEAL, [ChangeKind.DEPLOY])
    assert codes(planned(state, NOTHING)) == [Code.POLICY_REPORT]
    other_way = under(sync=Sync(mode=Policy.AUTOMATIC, heal=Policy.ASK))
    assert codes(planned(other_way, NOTHING, Known(memories=proven(other_way)))) == [Code.POLICY_ASK]
    assert planned(other_way, NOTHING).kind is JobKind.DEPLOY


@pytest.mark.parametrize(
    ("mode", "ahead", "code"),
    [
        (Policy.AUTOMATIC, Policy.REPORT, Code.POLICY_REPORT),
        (Policy.AUTOMATIC, Policy.ASK, Code.POLICY_ASK),
        (Policy.REPORT, Policy.ASK, Code.POLICY_REPORT),
        (Policy.ASK, Policy.AUTOMATIC, Code.POLICY_ASK),
        (Policy.AUTOMATIC, Policy.AUTOMATIC, None),
    ],
)
def test_going_back_from_a_later_release_needs_both_policies(mode: Policy, ahead: Policy, code: Code | None) -> None:
    found = planned(under(sync=Sync(mode=mode, ahead=ahead)), AHEAD)
    assert codes(found) == ([code] if code else [])


def test_a_persons_sync_passes_policy_back_off_surrender_and_circuit() -> None:
    for code in (Code.POLICY_ASK, Code.POLICY_REPORT, Code.CIRCUIT_OPEN, Code.GAVE_UP, Code.BACKOFF):
        state, seen, known, _ = BLOCKED[code]
        assert not planned(state, seen, known, Grant(advance=True, heal=True)).empty, code


def test_a_persons_sync_passes_nothing_else() -> None:
    for code in (Code.UNSEEN, Code.IN_TRANSIT, Code.REFUSED, Code.NOT_PRUNED, Code.REMOVAL_LIMIT, Code.UNMANAGED):
        state, seen, known, _ = BLOCKED[code]
        assert planned(state, seen, known, Grant(advance=True, heal=True)).empty, code


def test_a_grant_for_some_targets_leaves_policy_to_the_others() -> None:
    state = fleet(3, sync=Sync(mode=Policy.ASK), strategy=ONCE)
    found = planned(state, empty(state), grant=Grant(advance=True, targets=frozenset({place(1).target})))
    assert targets(found) == [["web-00001"]]
    assert codes(found) == [Code.POLICY_ASK, Code.POLICY_ASK]


def test_back_off_and_surrender_do_not_hold_up_a_newer_desire() -> None:
    newer = fleet(1, "2.0.0")
    memory = Memory(last_good=ONE, attempts=9, not_before=LATER)
    found = planned(newer, {TARGET: sight(TARGET, as_declared(ONE))}, Known(memories={ONE.id: memory}))
    assert kinds(found) == [ChangeKind.DEPLOY]


def test_a_missing_workload_is_never_given_up() -> None:
    memory = Memory(last_good=ONE, attempts=99, not_before=NOW - timedelta(seconds=1))
    assert not planned(STATE, NOTHING, Known(memories={ONE.id: memory})).empty


# -- changes ----------------------------------------------------------------------------------------------------------


def only(found: Plan) -> Any:
    (intent,) = found.intents
    (change,) = intent.changes
    return change


def test_a_missing_placement_is_deployed_where_nothing_stands() -> None:
    change = only(planned(STATE, NOTHING))
    assert isinstance(change, Deploy)
    assert (change.placement, change.replaces, change.predecessor) == (ONE, None, None)


def test_a_deploy_stands_on_exactly_what_was_seen_and_knows_its_last_good() -> None:
    newer = fleet(1, "2.0.0", keep=4)
    change = only(planned(newer, {TARGET: sight(TARGET, as_declared(ONE))}, Known(memories=proven(STATE))))
    runs = workload(ONE)
    assert change.replaces == Footing(instance=runs.instance, artifact=runs.artifact, configuration=runs.configuration)
    assert (change.placement, change.predecessor, change.keep) == (newer.placements[0], ONE, 4)


def test_what_is_only_unlabelled_keeps_its_workload() -> None:
    seen = {TARGET: sight(TARGET, (standing(ONE.id, workload(ONE), worn=False), Reading(trust=Trust.NONE)))}
    found = planned(STATE, seen)
    change = only(found)
    assert kinds(found) == [ChangeKind.LABEL]
    assert (change.placement.content, change.replaces.instance) == (ONE.content, workload(ONE).instance)
    assert not change.anew


def test_another_release_of_the_same_content_only_rewrites_the_sticker() -> None:
    renamed = replace(ONE, release=ReleaseName("shop@1.0.1"))
    state = desired([renamed])
    found = planned(state, {TARGET: sight(TARGET, as_declared(ONE))}, Known(memories=proven(STATE)))
    assert (found.kind, kinds(found)) == (JobKind.HEAL, [ChangeKind.LABEL])


def test_one_commit_of_a_monorepo_changes_only_what_it_changed() -> None:
    before, after = fleet(1, "1.0.0", (API, DB)), fleet(1, "2.0.0", (API, DB))
    same_db = replace(after.placements[1], artifact=before.placements[1].artifact)
    state = desired([after.placements[0], same_db])
    found = planned(state, all_as(before), Known(memories=proven(before)))
    assert kinds(found) == [ChangeKind.DEPLOY, ChangeKind.LABEL]


def test_what_stopped_is_restarted_and_what_should_be_stopped_is_stopped() -> None:
    halted = workload(ONE, state=WorkloadState.STOPPED)
    seen = {TARGET: sight(TARGET, (standing(ONE.id, halted), valid(sticker(ONE))))}
    assert isinstance(only(planned(STATE, seen)), Restart)
    state = desired([replace(ONE, running=False)])
    found = planned(state, {TARGET: sight(TARGET, as_declared(ONE))})
    assert kinds(found) == [ChangeKind.STOP]
    assert only(found).placement.running is False


def test_a_stopped_placement_is_not_started_by_another_release() -> None:
    halted = replace(ONE, running=False)
    newer = desired([replace(placement(ONE.id, "2.0.0"), running=False)])
    change = only(planned(newer, {TARGET: sight(TARGET, as_declared(halted))}))
    assert change.placement.running is False


def test_what_is_unwell_is_restarted_first_and_then_made_anew() -> None:
    first = planned(STATE, sick(), Known(memories=proven(STATE)))
    assert kinds(first) == [ChangeKind.RESTART]
    again = planned(STATE, sick(), Known(memories={ONE.id: Memory(last_good=ONE, attempts=1)}))
    assert kinds(again) == [ChangeKind.DEPLOY]
    assert only(again).anew


def test_what_an_ended_job_left_in_transit_is_finished() -> None:
    found = planned(STATE, moving(OTHER_KEY), Known(memories=proven(STATE), active_keys=frozenset({"c" * 64})))
    assert kinds(found) == [ChangeKind.DEPLOY]
    assert only(found).replaces.instance == workload(ONE).instance


def test_a_removal_left_in_transit_is_finished_only_by_pruning() -> None:
    label = sticker(GONE, phase=Phase.IN_TRANSIT, key=OTHER_KEY, evidence=None)
    seen = {TARGET: sight(TARGET, as_declared(ONE), (standing(GONE.id, workload(GONE)), valid(label)))}
    assert codes(planned(STATE, seen)) == [Code.NOT_PRUNED]
    pruning = under(sync=Sync(prune=True, removal_limit=50))
    assert isinstance(only(planned(pruning, seen)), Remove)


def test_a_lying_target_is_repaired_from_what_runs() -> None:
    swapped = workload(ONE, artifact=some_digest("malware"), instance="p-66")
    seen = {TARGET: sight(TARGET, (standing(ONE.id, swapped), valid(sticker(ONE))))}
    found = planned(STATE, seen, Known(memories=proven(STATE)))
    assert found.kind is JobKind.HEAL
    assert only(found).replaces == Footing(
        instance="p-66", artifact=some_digest("malware"), configuration=ONE.configuration_digest
    )


def test_a_cause_tells_from_what_to_what_and_why() -> None:
    changed = replace(placement(ONE.id, "2.0.0"), configuration=configuration("debug"))
    seen = {TARGET: sight(TARGET, as_declared(ONE))}
    (intent,) = planned(desired([changed]), seen, Known(memories=proven(STATE))).intents
    (cause,) = intent.causes
    assert cause.found is not None
    assert cause.wanted is not None
    assert (cause.found.release, cause.wanted.release) == ("shop@1.0.0", "shop@2.0.0")
    assert (cause.found.artifact, cause.wanted.artifact) == (ONE.artifact.digest, changed.artifact.digest)
    assert (cause.verdict, cause.heal) == (Verdict.BEHIND, False)
    assert cause.rule == "an earlier release of the same line runs"


# -- removal ----------------------------------------------------------------------------------------------------------


def test_what_nobody_declares_is_removed_with_its_claim_when_pruning() -> None:
    state, seen = foreign(2, sync=PRUNING)
    found = planned(state, seen)
    assert (found.kind, kinds(found)) == (JobKind.REMOVE, [ChangeKind.REMOVE, ChangeKind.REMOVE])
    first = found.intents[0].changes[0]
    assert isinstance(first, Remove)
    assert first.claim == sticker(placement(place(0, "former-0"))).claim


def test_a_removal_without_a_believed_sticker_claims_what_is_remembered_or_runs() -> None:
    bare = (standing(GONE.id, workload(GONE), worn=False), Reading(trust=Trust.NONE))
    seen = {TARGET: sight(TARGET, as_declared(ONE), bare)}
    state = under(sync=Sync(prune=True, removal_limit=50))
    told = only(planned(state, seen))
    assert told.claim.placement == GONE.id
    assert told.claim.content == GONE.content
    remembered = only(planned(state, seen, Known(memories={GONE.id: Memory(last_good=GONE)})))
    assert remembered.claim.release == GONE.release


def test_as_many_as_the_limit_go_and_one_more_waits_for_a_person() -> None:
    assert not planned(*foreign(4, sync=PRUNING)).empty  # 4 of 14
    waiting = planned(*foreign(5, sync=PRUNING))  # 5 of 15
    assert set(codes(waiting)) == {Code.REMOVAL_LIMIT}
    assert waiting.removal is not None
    assert waiting.removal in waiting.blocked[0].remedy


def test_a_confirmed_removal_goes_and_another_hash_does_not() -> None:
    state, seen = foreign(9, sync=PRUNING)
    confirmed = planned(state, seen).removal
    assert len(kinds(planned(state, seen, grant=Grant(removal=confirmed)))) == 9
    assert planned(state, seen, grant=Grant(removal="0" * 12)).empty


def test_a_confirmation_counts_for_exactly_those_placements() -> None:
    state, seen = foreign(9, sync=PRUNING)
    confirmed = planned(state, seen).removal
    more = foreign(8, sync=PRUNING)
    assert planned(*more, grant=Grant(removal=confirmed)).empty


def test_an_empty_desire_removes_nothing_by_itself() -> None:
    state = replace(desired([], targets=3, sync=PRUNING))
    seen = {place(n).target: sight(place(n).target, as_declared(placement(place(n)))) for n in range(3)}
    found = planned(state, seen)
    assert set(codes(found)) == {Code.REMOVAL_LIMIT}


def test_removals_come_after_everything_else() -> None:
    state = under(sync=Sync(prune=True, removal_limit=50))
    found = planned(state, {TARGET: sight(TARGET, as_declared(GONE))})
    assert kinds(found) == [ChangeKind.DEPLOY, ChangeKind.REMOVE]
    assert [wave.stage for wave in found.waves] == [0, 1]


def test_while_the_release_is_refused_nothing_of_the_former_is_removed() -> None:
    state = fleet(1, "2.0.0", sync=Sync(prune=True, removal_limit=100))
    known = Known(memories=proven(STATE), refused={state.placements[0].trial: "http 503"})
    seen = {TARGET: sight(TARGET, as_declared(ONE), as_declared(GONE))}
    assert codes(planned(state, seen, known)) == [Code.REFUSED]


def test_the_removal_hash_names_environment_placements_and_content() -> None:
    state, seen = foreign(2)
    drifts = [drift for drift in diff(state, seen, Known(), now=NOW) if drift.drifted]
    assert removal_hash(PROD, drifts) == removal_hash(PROD, reversed(drifts))
    assert removal_hash(PROD, drifts) != removal_hash(PROD, drifts[:1])
    assert drifts[0].standing is not None
    other = replace(drifts[0], standing=replace(drifts[0].standing, workload=None))
    assert removal_hash(PROD, drifts) != removal_hash(PROD, [other, drifts[1]])


# -- waves ------------------------------------------------------------------------------------------------------------


def strategy(wave: int, *, percent: bool = False) -> Strategy:
    return Strategy(wave=wave, percent=percent)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (strategy(2), [2, 2, 2, 1]),
        (strategy(25, percent=True), [1] * 7),
        (strategy(50, percent=True), [3, 3, 1]),
        (ONCE, [7]),
    ],
)
def test_waves_are_as_large_as_the_strategy_allows(kind: Strategy, sizes: list[int]) -> None:
    state = fleet(7, strategy=kind)
    assert [len(wave.targets) for wave in planned(state, empty(state)).waves] == sizes


def test_a_percent_counts_the_targets_of_the_environment_not_those_that_drifted() -> None:
    state = fleet(8, strategy=strategy(25, percent=True))
    seen = all_as(state) | {place(n).target: sight(place(n).target) for n in range(4)}
    assert [len(wave.targets) for wave in planned(state, seen).waves] == [2, 2]


def test_healing_keeps_to_the_same_waves() -> None:
    state = fleet(4, strategy=strategy(1))
    found = planned(state, empty(state), Known(memories=proven(state)))
    assert found.kind is JobKind.HEAL
    assert [len(wave.targets) for wave in found.waves] == [1, 1, 1, 1]


def test_labelling_keeps_to_the_same_waves() -> None:
    state = fleet(3, strategy=strategy(1))
    seen = {
        one.id.target: sight(one.id.target, (standing(one.id, workload(one), worn=False), Reading(trust=Trust.NONE)))
        for one in state.placements
    }
    assert [len(wave.targets) for wave in planned(state, seen).waves] == [1, 1, 1]


def test_components_of_a_target_go_together_one_action_each() -> None:
    state = fleet(1, components=(API, DB))
    (wave,) = planned(state, empty(state)).waves
    assert [[change.id.component for change in intent.changes] for intent in wave.intents] == [[API], [DB]]


def test_a_runtime_that_changes_whole_targets_gets_one_action_per_target() -> None:
    state = fleet(2, components=(API, DB), driver="compose", strategy=ONCE)
    (wave,) = planned(state, empty(state)).waves
    assert [[change.id.component for change in intent.changes] for intent in wave.intents] == [[API, DB]] * 2


def test_a_foreign_target_is_changed_in_the_unit_of_its_runtime() -> None:
    former = TargetId("default/former")
    parts = [placement(place("former", name)) for name in ("api", "db")]
    state = under(sync=Sync(prune=True, removal_limit=100))
    seen = all_as(state) | {former: sight(former, *[as_declared(one) for one in parts])}
    known = Known(targets={former: Target(id=former, environment=PROD, driver="compose")})
    assert [len(intent.changes) for intent in planned(state, seen, known).intents] == [2]


def test_what_does_not_serve_anyway_goes_first() -> None:
    state = fleet(4, "2.0.0", strategy=strategy(1))
    seen = all_as(fleet(4)) | {place(2).target: sight(place(2).target)}
    assert targets(planned(state, seen)) == [["web-00002"], ["web-00000"], ["web-00001"], ["web-00003"]]


def test_a_component_begins_when_those_it_comes_after_are_done_everywhere() -> None:
    state = fleet(
        2, components=("web", API, DB), strategy=strategy(1), after={API: (DB,), ComponentName("web"): (API,)}
    )
    found = planned(state, empty(state))
    order = [(wave.stage, wave.intents[0].changes[0].id.component) for wave in found.waves]
    assert order == [(0, DB), (0, DB), (1, API), (1, API), (2, "web"), (2, "web")]


def test_a_target_is_in_one_wave_of_a_stage() -> None:
    state = fleet(3, components=(API, DB), strategy=strategy(2))
    found = planned(state, empty(state))
    assert targets(found) == [["web-00000", "web-00001"], ["web-00002"]]


# -- after ------------------------------------------------------------------------------------------------------------

AFTER = {API: (DB,)}


def two(**changes: Any) -> DesiredState:
    return fleet(2, "2.0.0", (DB, API), after=AFTER, strategy=ONCE, **changes)


def blocked_by_id(found: Plan) -> dict[PlacementId, Blocked]:
    return {one.id: one for one in found.blocked}


def test_an_advance_waits_while_what_it_comes_after_is_blocked() -> None:
    state = two()
    seen = all_as(fleet(2, components=(DB, API)))
    found = planned(state, seen, Known(circuits={place(0).target: LATER}))
    waiting = blocked_by_id(found)[place(1, "api")]
    assert waiting.code is Code.AFTER
    assert "it comes after db" in waiting.reason
    assert [change.id for intent in found.intents for change in intent.changes] == [place(1, "db")]


def test_what_waits_makes_others_wait() -> None:
    web = ComponentName("web")
    state = fleet(1, "2.0.0", (web, API, DB), after={API: (DB,), web: (API,)}, sync=Sync(ahead=Policy.REPORT))
    older = fleet(1, components=(web, API)).placements
    seen = {TARGET: sight(TARGET, *map(as_declared, [*older, placement(place(0, "db"), "9.0.0")]))}
    assert codes(planned(state, seen)) == [Code.AFTER, Code.AFTER, Code.POLICY_REPORT]


def test_a_heal_does_not_wait() -> None:
    good = fleet(2, components=(DB, API), after=AFTER, strategy=ONCE)
    known = Known(memories=proven(good), circuits={place(0).target: LATER})
    found = planned(good, empty(good), known)
    assert {change.id for intent in found.intents for change in intent.changes} == {place(1, "db"), place(1, "api")}


def test_one_unseen_target_does_not_hold_up_the_others() -> None:
    state, target = two(), place(0).target
    seen = all_as(fleet(2, components=(DB, API))) | {target: unseen(target)}
    found = planned(state, seen)
    assert [change.id for intent in found.intents for change in intent.changes] == [place(1, "db"), place(1, "api")]


def test_an_advance_waits_for_what_was_seen_nowhere() -> None:
    db, api = placement(place("db-1", "db"), "2.0.0"), placement(place(1), "2.0.0")
    state = desired([db, api], after=AFTER)
    seen = {db.id.target: unseen(db.id.target), api.id.target: sight(api.id.target)}
    assert codes(planned(state, seen)) == [Code.UNSEEN, Code.AFTER]


def test_something_foreign_of_that_name_holds_up_nobody() -> None:
    state = desired([placement(place(0), "2.0.0")], after=AFTER)
    seen = {TARGET: sight(TARGET, as_declared(placement(place(0, "db"))))}
    found = planned(state, seen)
    assert codes(found) == [Code.NOT_PRUNED]
    assert kinds(found) == [ChangeKind.DEPLOY]


# -- identities -------------------------------------------------------------------------------------------------------


def test_the_sequence_is_one_above_what_is_remembered_and_what_is_worn() -> None:
    label = sticker(ONE, sequence=7)
    assert stamp(Memory(sequence=3), valid(label)) == Stamp(sequence=8, previous=label.digest)
    assert stamp(Memory(sequence=9), valid(label)) == Stamp(sequence=10, previous=label.digest)
    assert stamp(Memory(), Reading(trust=Trust.NONE)) == Stamp(sequence=1, previous=None)


def test_a_change_carries_the_next_sequence() -> None:
    known = Known(memories={ONE.id: Memory(sequence=41)})
    assert only(planned(STATE, NOTHING, known)).stamp == Stamp(sequence=42, previous=None)


def test_a_distrusted_sticker_is_no_predecessor() -> None:
    label = sticker(ONE, sequence=2)
    assert stamp(Memory(sequence=5), Reading(trust=Trust.REPLAYED, sticker=label)) == Stamp(sequence=6, previous=None)


def hashes(*plans: Plan) -> int:
    return len({one.hash for one in plans})


def test_the_hash_is_not_over_times_stamps_or_sentences() -> None:
    newer = fleet(1, "2.0.0")
    label = sticker(ONE, sequence=9)
    seen = {TARGET: sight(TARGET, (standing(ONE.id, workload(ONE)), valid(label)))}
    here = planned(newer, {TARGET: sight(TARGET, as_declared(ONE))})
    assert hashes(here, planned(newer, seen)) == 1
    later = plan(
        diff(newer, seen, Known(), now=NOW),
        newer,
        Known(),
        powers=POWERS,
        installation=HERE,
        now=NOW + timedelta(hours=1),
    )
    assert hashes(here, later) == 1


def test_the_hash_is_over_desire_content_footing_and_what_is_blocked() -> None:
    older = {TARGET: sight(TARGET, as_declared(ONE))}
    elsewhere = workload(ONE, instance="another")
    plans = [
        planned(fleet(1, "2.0.0"), older),
        planned(fleet(1, "3.0.0"), older),
        planned(fleet(1, "2.0.0", keep=9), older),
        planned(fleet(1, "2.0.0"), {TARGET: sight(TARGET, (standing(ONE.id, elsewhere), valid(sticker(ONE))))}),
        planned(fleet(1, "2.0.0"), older, Known(circuits={TARGET: LATER})),
        planned(fleet(1, "2.0.0"), {TARGET: sight(TARGET)}),
    ]
    assert hashes(*plans) == len(plans)


def test_a_stranger_that_comes_or_goes_changes_no_hash() -> None:
    newer = fleet(1, "2.0.0")
    alone = planned(newer, {TARGET: sight(TARGET, as_declared(ONE))})
    beside = planned(newer, {TARGET: sight(TARGET, as_declared(ONE), unmanaged=(STRANGER,))})
    assert hashes(alone, beside) == 1


def test_a_key_is_derived_from_job_target_changes_and_direction() -> None:
    state = fleet(2, strategy=ONCE)
    first, second = planned(state, empty(state)).intents
    keys = [
        action_key(PROD, 1, first, "forward"),
        action_key(PROD, 2, first, "forward"),
        action_key(PROD, 1, second, "forward"),
        action_key(PROD, 1, first, "back"),
        action_key(PROD, 1, planned(fleet(1, "2.0.0"), empty(STATE)).intents[0], "forward"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)
    assert action_key(PROD, 1, first, "forward") == keys[0]


def test_a_key_does_not_depend_on_stamps() -> None:
    (intent,) = planned(STATE, NOTHING).intents
    (later,) = planned(STATE, NOTHING, Known(memories={ONE.id: Memory(sequence=40)})).intents
    assert intent != later
    assert action_key(PROD, 1, intent, "forward") == action_key(PROD, 1, later, "forward")


def every_kind() -> Iterable[Plan]:
    yield planned(fleet(2, "2.0.0"), all_as(fleet(2)), Known(memories=proven(fleet(2))))
    yield planned(STATE, sick(), Known(memories=proven(STATE)))
    yield planned(*foreign(1, sync=PRUNING))
    for state, seen, known, _ in BLOCKED.values():
        yield planned(state, seen, known)


def test_a_plan_survives_being_kept_as_plain_data() -> None:
    adapter = TypeAdapter(Plan)
    for one in every_kind():
        assert adapter.validate_json(adapter.dump_json(one)) == one
