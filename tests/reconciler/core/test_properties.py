"""What holds for any fleet, whatever was seen of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desired_state.model import DesiredState, Placement, Policy, Strategy, StrategyKind, Suspension, Sync
from drivers.contract import Remove
from reconciler.core.drift import (
    NO_READING,
    Drift,
    Known,
    Memory,
    Reading,
    Seen,
    Trust,
    Verdict,
    diff,
    effective,
    rediff,
)
from reconciler.core.plan import Code, Grant, Plan, plan
from stickers.names import ComponentName, PlacementId, TargetId
from stickers.observation import Health, HealthState, Standing, Unmanaged, WorkloadState
from stickers.sticker import Phase
from tests.reconciler.core.builders import (
    HERE,
    KEY,
    NOW,
    OTHER_KEY,
    POWERS,
    all_as,
    as_declared,
    desired,
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

COMPONENTS = ("db", "api", "web")
Part = tuple[Standing, Reading]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet as declared, as seen and as remembered, and what a person allows."""

    desired: DesiredState
    seen: dict[TargetId, Seen]
    known: Known
    grant: Grant


def drifts_of(fleet: Fleet) -> tuple[Drift, ...]:
    return diff(fleet.desired, fleet.seen, fleet.known, now=NOW)


def plan_of(fleet: Fleet) -> Plan:
    return plan(
        drifts_of(fleet), fleet.desired, fleet.known, powers=POWERS, installation=HERE, now=NOW, grant=fleet.grant
    )


# -- any fleet --------------------------------------------------------------------------------------------------------

POLICIES = st.sampled_from(Policy)
VERSIONS = st.sampled_from(["1.0.0", "2.0.0", "3.0.0"])


ODDITIES: list[dict[str, Any]] = [
    {},
    {"artifact": None},
    {"configuration": None},
    {"artifact": some_digest("stranger")},
    {"state": WorkloadState.STOPPED},
    {"state": WorkloadState.STARTING},
    {"state": WorkloadState.RESTARTING},
    {"health": Health(state=HealthState.UNHEALTHY)},
    {"health": Health(state=HealthState.UNKNOWN)},
    {"key": OTHER_KEY},
]


@st.composite
def standings(draw: st.DrawFn, goal: Placement) -> Part | None:
    """What stands for a placement that may once have been declared like this."""
    ran = placement(goal.id, draw(VERSIONS))
    changes = draw(st.sampled_from(ODDITIES))
    stands = draw(st.booleans())
    label = sticker(draw(st.sampled_from([ran, goal])), sequence=draw(st.integers(1, 3)))
    reading = draw(
        st.sampled_from(
            [
                valid(label),
                valid(replace(label, phase=Phase.IN_TRANSIT, evidence=None)),
                valid(replace(label, phase=Phase.IN_TRANSIT, evidence=None, key=OTHER_KEY)),
                Reading(trust=Trust.FORGED, reason="odd"),
                NO_READING,
            ]
        )
    )
    if not stands and reading is NO_READING:
        return None
    runs = workload(ran, **changes) if stands else None
    return standing(goal.id, runs, worn=reading.trust is not Trust.NONE), reading


@st.composite
def environments(draw: st.DrawFn) -> DesiredState:
    count, names = draw(st.integers(1, 5)), draw(st.lists(st.sampled_from(COMPONENTS), unique=True, min_size=1))
    version, running = draw(VERSIONS), draw(st.booleans())
    sync = Sync(
        mode=draw(POLICIES),
        heal=draw(POLICIES),
        ahead=draw(POLICIES),
        prune=draw(st.booleans()),
        removal_limit=draw(st.sampled_from([0, 30, 100])),
    )
    strategy = Strategy(
        kind=draw(st.sampled_from(StrategyKind)), wave=draw(st.integers(1, 60)), percent=draw(st.booleans())
    )
    return desired(
        [replace(placement(place(n, name), version), running=running) for n in range(count) for name in names],
        driver=draw(st.sampled_from(sorted(POWERS))),
        sync=sync,
        strategy=strategy,
        after=draw(st.sampled_from([{}, {ComponentName("api"): (ComponentName("db"),)}])),
        suspend=draw(st.sampled_from([None, None, None, Suspension(reason="moving")])),
    )


@st.composite
def sights(draw: st.DrawFn, state: DesiredState) -> dict[TargetId, Seen]:
    """Each target seen, not seen, seen long ago, or not looked at; some with what nobody declares."""
    seen: dict[TargetId, Seen] = {}
    names = [target.id for target in state.targets] + ([TargetId("default/former")] if draw(st.booleans()) else [])
    for target in names:
        how = draw(st.sampled_from(["seen", "seen", "seen", "seen", "cut", "stale", "never"]))
        if how == "cut":
            seen[target] = unseen(target)
        if how not in ("seen", "stale"):
            continue
        goals = [*state.by_target.get(target, ()), placement(PlacementId(target, ComponentName("gone")))]
        parts = [part for goal in goals if (part := draw(standings(goal)))]
        strangers = draw(st.sampled_from([(), (_stranger("nginx"),), (_stranger("api"),)]))
        at = NOW - (timedelta(hours=1) if how == "stale" else timedelta())
        seen[target] = sight(target, *parts, at=at, unmanaged=strangers)
    return seen


def _stranger(name: str) -> Unmanaged:
    return Unmanaged(name=name, instance=f"c-{name}", artifact=f"{name}:latest", state=WorkloadState.RUNNING)


@st.composite
def knowns(draw: st.DrawFn, state: DesiredState) -> Known:
    def memory(id: PlacementId) -> Memory:
        return Memory(
            last_good=draw(st.sampled_from([None, placement(id, "1.0.0"), placement(id, "2.0.0")])),
            sequence=draw(st.integers(0, 3)),
            attempts=draw(st.sampled_from([0, 0, 1, 5])),
            not_before=draw(st.sampled_from([None, None, NOW + timedelta(minutes=1), NOW - timedelta(minutes=1)])),
        )

    some = [one for one in state.placements if draw(st.booleans())]
    refused = [draw(st.sampled_from(state.placements))] if draw(st.integers(0, 3)) == 0 else []
    return Known(
        memories={one.id: memory(one.id) for one in some},
        refused={one.trial: "proof failed" for one in refused},
        circuits={one.id.target: NOW + timedelta(minutes=1) for one in some[:1] if draw(st.booleans())},
        active_keys=draw(st.sampled_from([frozenset(), frozenset({KEY}), frozenset({OTHER_KEY})])),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    state = draw(environments())
    grant = Grant(
        advance=draw(st.booleans()), heal=draw(st.booleans()), targets=draw(st.sampled_from([None, frozenset()]))
    )
    return Fleet(desired=state, seen=draw(sights(state)), known=draw(knowns(state)), grant=grant)


thorough = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- the diff ---------------------------------------------------------------------------------------------------------


@thorough
@given(fleets())
def test_every_declared_placement_is_judged_exactly_once(fleet: Fleet) -> None:
    counts = Counter(drift.id for drift in drifts_of(fleet))
    assert max(counts.values()) == 1
    assert {one.id for one in fleet.desired.placements} <= counts.keys()


@thorough
@given(fleets())
def test_in_sync_is_said_only_of_what_was_seen_to_be_right_and_well(fleet: Fleet) -> None:
    """Promise 4, in other words than the table's."""
    for drift in drifts_of(fleet):
        if drift.drifted:
            continue
        goal, runs, label = drift.wanted or drift.declared, drift.standing and drift.standing.workload, drift.sticker
        assert goal
        assert runs
        assert label
        assert (runs.artifact, runs.configuration) == goal.content == label.claim.content
        assert label.phase is Phase.PROVEN
        assert label.evidence
        assert drift.trust is Trust.VALID
        assert (runs.state is WorkloadState.STOPPED) is not goal.running
        assert not goal.running or runs.health.state is HealthState.HEALTHY
        assert fleet.seen[drift.id.target].observation.at >= NOW - 2 * fleet.desired.environment.sync.interval


@thorough
@given(fleets())
def test_a_target_that_was_not_seen_lately_is_unknown_altogether(fleet: Fleet) -> None:
    for drift in drifts_of(fleet):
        found = fleet.seen.get(drift.id.target)
        if found is None or found.observation.unseen or found.observation.at < NOW:
            assert drift.verdict is Verdict.UNKNOWN


@thorough
@given(fleets(), fleets())
def test_judging_only_what_changed_gives_what_judging_everything_gives(first: Fleet, second: Fleet) -> None:
    before = rediff(first.desired, first.seen, first.known, now=NOW)
    after = rediff(second.desired, second.seen, second.known, now=NOW, before=before)
    assert after.drifts == drifts_of(second)
    mixed = rediff(first.desired, second.seen, first.known, now=NOW, before=before)
    assert mixed.drifts == diff(first.desired, second.seen, first.known, now=NOW)
    known = rediff(first.desired, first.seen, second.known, now=NOW + timedelta(hours=1), before=before)
    assert known.drifts == diff(first.desired, first.seen, second.known, now=NOW + timedelta(hours=1))
    assert known.drifted == tuple(drift for drift in known.drifts if drift.drifted)


# -- the plan ---------------------------------------------------------------------------------------------------------


@thorough
@given(fleets())
def test_every_drifted_placement_is_in_a_wave_or_blocked_and_no_other_is(fleet: Fleet) -> None:
    found = plan_of(fleet)
    named = Counter(change.id for intent in found.intents for change in intent.changes)
    named.update(one.id for one in found.blocked)
    assert named == Counter(drift.id for drift in drifts_of(fleet) if drift.drifted)


@thorough
@given(fleets())
def test_no_wave_exceeds_the_strategy_and_no_target_comes_twice_in_a_stage(fleet: Fleet) -> None:
    size = fleet.desired.environment.strategy.size(len(fleet.desired.targets))
    stages: dict[int, Counter[TargetId]] = {}
    for wave in plan_of(fleet).waves:
        assert 0 < len(wave.targets) <= size
        stages.setdefault(wave.stage, Counter()).update(wave.targets)
    assert list(stages) == sorted(stages)
    assert all(count == 1 for stage in stages.values() for count in stage.values())


@thorough
@given(fleets())
def test_nothing_is_done_to_what_was_not_seen(fleet: Fleet) -> None:
    for intent in plan_of(fleet).intents:
        assert intent.target in fleet.seen
        assert fleet.seen[intent.target].observation.unseen is None
        assert fleet.seen[intent.target].observation.at == NOW


@thorough
@given(fleets())
def test_every_change_stands_on_exactly_what_was_seen(fleet: Fleet) -> None:
    for intent in plan_of(fleet).intents:
        for change in intent.changes:
            stands = fleet.seen[intent.target].observation.standing(change.id.component, change.id.slot)
            runs = stands.workload if stands else None
            assert (change.replaces.instance if change.replaces else None) == (runs.instance if runs else None)


@thorough
@given(fleets())
def test_what_was_refused_is_never_planned(fleet: Fleet) -> None:
    for intent in plan_of(fleet).intents:
        for change in intent.changes:
            if not isinstance(change, Remove):
                assert change.placement == effective(fleet.desired, fleet.known)[change.id]
                last_good = fleet.known.memories.get(change.id, Memory()).last_good
                assert change.placement.trial not in fleet.known.refused or change.placement == last_good


@thorough
@given(fleets())
def test_policies_and_suspension_hold_unless_a_person_says_otherwise(fleet: Fleet) -> None:
    sync, suspended = fleet.desired.environment.sync, fleet.desired.environment.suspend is not None
    allowed = fleet.grant.targets is None
    for intent in plan_of(fleet).intents:
        for cause in intent.causes:
            removal = cause.wanted is None
            granted = allowed and (fleet.grant.heal if cause.heal else fleet.grant.advance)
            assert granted or not suspended
            assert granted or removal or (sync.heal if cause.heal else sync.mode) is Policy.AUTOMATIC
            assert granted or cause.verdict is not Verdict.AHEAD or sync.ahead is Policy.AUTOMATIC
            assert not removal or sync.prune


@thorough
@given(fleets())
def test_removals_never_exceed_the_share_that_needs_nobody(fleet: Fleet) -> None:
    gone = sum(isinstance(change, Remove) for intent in plan_of(fleet).intents for change in intent.changes)
    undeclared = sum(drift.verdict is Verdict.FOREIGN for drift in drifts_of(fleet))
    total = len(fleet.desired.placements) + max(gone, undeclared)
    assert gone * 100 <= fleet.desired.environment.sync.removal_limit * total


@thorough
@given(fleets())
def test_a_component_follows_those_it_comes_after(fleet: Fleet) -> None:
    stages: dict[str, set[int]] = {}
    for wave in plan_of(fleet).waves:
        for intent in wave.intents:
            for change in intent.changes:
                if not isinstance(change, Remove):
                    stages.setdefault(change.id.component, set()).add(wave.stage)
    if fleet.desired.environment.after and {"db", "api"} <= stages.keys():
        assert max(stages["db"]) < min(stages["api"])


@thorough
@given(fleets())
def test_what_is_blocked_says_why_and_what_unblocks_it(fleet: Fleet) -> None:
    for one in plan_of(fleet).blocked:
        assert isinstance(one.code, Code)
        assert one.reason
        assert one.remedy
        assert one.until is None or one.until > NOW


@thorough
@given(environments())
def test_a_converged_fleet_has_an_empty_plan_whatever_the_policy(state: DesiredState) -> None:
    fleet = Fleet(desired=state, seen=all_as(state), known=Known(memories=proven(state)), grant=Grant())
    found = plan_of(fleet)
    assert found.empty
    assert found.blocked == ()


@thorough
@given(environments(), VERSIONS)
def test_a_fleet_that_runs_its_last_good_after_a_refusal_is_converged(state: DesiredState, version: str) -> None:
    """The rolled-back release is not applied again by the next turn."""
    good = [replace(placement(one.id, version), running=one.running) for one in state.placements]
    memories = {one.id: Memory(last_good=one, sequence=2) for one in good}
    known = Known(memories=memories, refused={state.placements[0].trial: "proof failed"})
    seen = {
        target: sight(target, *[as_declared(one) for one in good if one.id.target == target])
        for target in state.by_target
    }
    found = plan_of(Fleet(desired=state, seen=seen, known=known, grant=Grant(advance=True, heal=True)))
    assert found.empty
    assert found.blocked == ()


@thorough
@given(fleets())
def test_the_same_input_gives_the_same_plan(fleet: Fleet) -> None:
    again = replace(fleet, seen=dict(reversed(fleet.seen.items())))
    assert plan_of(fleet) == plan_of(again)
    assert plan_of(fleet).hash == plan_of(again).hash


# -- across processes -------------------------------------------------------------------------------------------------

ELSEWHERE = """
from tests.reconciler.core.builders import *
from reconciler.core.drift import Known, diff
from reconciler.core.plan import plan
from desired_state.model import Sync
state = fleet(6, "2.0.0", ("web", "api", "db"), after={"api": ("db",), "web": ("api", "db")}, sync=Sync(prune=True))
former = [place(name, part) for name in ("z-1", "a-1") for part in ("x", "y")]
seen = all_as(fleet(6, "1.0.0", ("db", "api"))) | {
    id.target: sight(id.target, as_declared(placement(id))) for id in former
} | {place(3).target: unseen(place(3).target)}
known = Known(memories=proven(fleet(6, "1.0.0", ("db", "api"))), circuits={place(1).target: LATER})
found = plan(diff(state, seen, known, now=NOW), state, known, powers=POWERS, installation=HERE, now=NOW)
print(found.hash, found)
""".replace("LATER", "NOW.replace(year=2027)")


def test_another_process_with_another_hash_seed_makes_the_same_plan() -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "77")
    }
    assert len(answers) == 1
    assert answers.pop().startswith("sha256:")
