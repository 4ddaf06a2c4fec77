"""The way back: to what each placement last ran in health before, as a set, by the same strategy, and no further."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from desired_state.model import DesiredState, Placement, Policy, Strategy, Suspension, Sync
from drivers.contract import Deploy, Remove, Restart
from reconciler.core.drift import Known, Memory, Reading, Seen, Trust, diff
from reconciler.core.plan import ChangeKind, Code, JobKind, Plan, adopt, back, plan
from stickers.names import ComponentName, PlacementId, TargetId
from stickers.observation import Health, HealthState, Unmanaged, WorkloadState
from stickers.sticker import Phase
from tests.reconciler.core.builders import (
    HERE,
    NOW,
    OTHER_KEY,
    POWERS,
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

OLD, NEW = (
    fleet(3, strategy=Strategy(wave=1, percent=False)),
    fleet(3, "2.0.0", strategy=Strategy(wave=1, percent=False)),
)
SEEN = all_as(OLD)
KNOWN = Known(memories=proven(OLD))
Sights = dict[TargetId, Seen]


def forward(state: DesiredState = NEW, seen: Sights = SEEN, known: Known = KNOWN) -> Plan:
    return plan(diff(state, seen, known, now=NOW), state, known, powers=POWERS, installation=HERE, now=NOW)


def homeward(seen: Sights, undo: Plan | None, known: Known = KNOWN, state: DesiredState = NEW) -> Plan:
    drifts = diff(state, seen, known, now=NOW)
    return back(drifts, state, known, powers=POWERS, installation=HERE, now=NOW, undo=undo)


def ends(found: Plan) -> dict[PlacementId, Placement | None]:
    """What each change of the plan ends in."""
    changes = [change for intent in found.intents for change in intent.changes]
    return {change.id: None if isinstance(change, Remove) else change.placement for change in changes}


def half_way() -> Sights:
    """The first target runs the new release in health, the second has put the old one back, the third is untouched."""
    return SEEN | {place(0).target: sight(place(0).target, as_declared(NEW.placements[0]))}


def test_a_wave_that_went_well_comes_back_too() -> None:
    good_by_now = replace(KNOWN, memories=KNOWN.memories | {place(0): Memory(last_good=NEW.placements[0])})
    found = homeward(half_way(), forward(), good_by_now)
    assert found.kind is JobKind.ROLLBACK
    assert ends(found) == {place(0): OLD.placements[0]}


def test_what_is_back_already_is_left_alone() -> None:
    assert homeward(SEEN, forward()).empty
    assert homeward(SEEN, forward()).blocked == ()


def test_the_way_back_asked_for_twice_is_gone_once() -> None:
    undo = forward()
    after = homeward(half_way(), undo)
    assert not after.empty
    assert homeward(SEEN, undo).empty


def test_the_way_back_keeps_to_the_strategy() -> None:
    found = homeward(all_as(NEW), forward())
    assert [len(wave.targets) for wave in found.waves] == [1, 1, 1]


def test_what_fails_already_goes_back_before_what_serves() -> None:
    sick = workload(NEW.placements[2], state=WorkloadState.STOPPED)
    seen = all_as(NEW) | {
        place(2).target: sight(place(2).target, (standing(place(2), sick), Reading(trust=Trust.NONE)))
    }
    assert homeward(seen, forward()).waves[0].targets == (place(2).target,)
    gone = all_as(NEW) | {place(2).target: sight(place(2).target)}
    assert homeward(gone, forward()).waves[0].targets == (place(2).target,)


def test_configuration_goes_back_with_the_image() -> None:
    ran = placement(place(0), configuration=configuration("warn"))
    goal = placement(place(0), "2.0.0", configuration=configuration("debug"))
    known = Known(memories={ran.id: Memory(last_good=ran)})
    state, seen = desired([goal]), {ran.id.target: sight(ran.id.target, as_declared(ran))}
    undo = forward(state, seen, known)
    found = homeward({ran.id.target: sight(ran.id.target, as_declared(goal))}, undo, known, state)
    assert ends(found) == {ran.id: ran}


def test_without_a_plan_to_undo_it_goes_to_what_is_remembered() -> None:
    assert ends(homeward(half_way(), None)) == {place(0): OLD.placements[0]}


def test_what_was_brought_where_nothing_stood_is_taken_away() -> None:
    nothing: Sights = {target.id: sight(target.id) for target in NEW.targets}
    undo = forward(seen=nothing, known=Known())
    brought = nothing | {place(0).target: sight(place(0).target, as_declared(NEW.placements[0]))}
    found = homeward(brought, undo, Known(memories={place(0): Memory(last_good=NEW.placements[0])}))
    assert ends(found) == {place(0): None}


def test_what_stood_there_unproven_is_not_ours_to_remove() -> None:
    bare = (standing(place(0), workload(OLD.placements[0]), worn=False), Reading(trust=Trust.NONE))
    state = desired([NEW.placements[0]])
    undo = forward(state, {place(0).target: sight(place(0).target, bare)}, Known())
    found = homeward({place(0).target: sight(place(0).target, as_declared(NEW.placements[0]))}, undo, Known(), state)
    assert found.empty
    assert [one.code for one in found.blocked] == [Code.NO_LAST_GOOD]


def test_an_unseen_target_goes_back_when_it_returns() -> None:
    undo, target = forward(), place(0).target
    found = homeward(half_way() | {target: unseen(target)}, undo)
    assert found.empty
    assert [(one.id, one.code) for one in found.blocked] == [(place(0), Code.UNSEEN)]
    assert ends(homeward(half_way(), undo)) == {place(0): OLD.placements[0]}


def test_what_was_left_in_transit_goes_back() -> None:
    label = sticker(NEW.placements[0], phase=Phase.IN_TRANSIT, key=OTHER_KEY, evidence=None)
    caught = sight(place(0).target, (standing(place(0), workload(OLD.placements[0])), valid(label)))
    known = replace(KNOWN, active_keys=frozenset({OTHER_KEY}))
    found = homeward(SEEN | {place(0).target: caught}, forward(), known)
    assert ends(found) == {place(0): OLD.placements[0]}


def test_what_stands_as_before_and_is_unwell_is_restarted() -> None:
    sick = workload(OLD.placements[0], health=Health(state=HealthState.UNHEALTHY))
    seen = SEEN | {
        place(0).target: sight(place(0).target, (standing(place(0), sick), valid(sticker(OLD.placements[0]))))
    }
    (intent,) = homeward(seen, forward()).intents
    assert isinstance(intent.changes[0], Restart)


def test_no_policy_suspension_or_circuit_holds_up_the_way_back() -> None:
    strict = replace(
        NEW,
        environment=replace(
            NEW.environment,
            suspend=Suspension(reason="x"),
            sync=Sync(mode=Policy.REPORT, heal=Policy.REPORT, ahead=Policy.REPORT),
        ),
    )
    known = replace(
        KNOWN,
        circuits={place(0).target: NOW + timedelta(hours=1)},
        memories=KNOWN.memories | {place(0): Memory(last_good=OLD.placements[0], not_before=NOW + timedelta(hours=1))},
    )
    assert not homeward(half_way(), forward(), known, strict).empty


def test_what_failed_once_more_on_the_way_back_is_not_taken_for_a_trial() -> None:
    (intent,) = homeward(half_way(), forward()).intents
    change = intent.changes[0]
    assert isinstance(change, Deploy)
    assert change.predecessor == change.placement


def test_components_go_back_in_the_opposite_order() -> None:
    db, api = ComponentName("db"), ComponentName("api")
    old, new = (fleet(1, version, (db, api), after={api: (db,)}) for version in ("1.0.0", "2.0.0"))
    known = Known(memories=proven(old))
    undo = forward(new, all_as(old), known)
    assert [wave.intents[0].changes[0].id.component for wave in undo.waves] == [db, api]
    found = homeward(all_as(new), undo, known, new)
    assert [wave.intents[0].changes[0].id.component for wave in found.waves] == [api, db]


# -- a model of what is last good -------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, frozenset[int]]]:
    """Releases in order, each with the targets on which it was proven before it failed on another, if it failed."""
    steps = draw(st.lists(st.frozensets(st.integers(0, 2), max_size=3), min_size=1, max_size=6))
    return list(enumerate(steps, start=1))


@given(histories())
def test_a_rollback_returns_each_placement_to_what_it_last_ran_in_health(
    history: list[tuple[int, frozenset[int]]],
) -> None:
    """The model: a map from target to release, changed only by a release that was proven on all three."""
    model: dict[int, Placement | None] = {0: None, 1: None, 2: None}
    seen: Sights = {place(n).target: sight(place(n).target) for n in range(3)}
    for number, well in history:
        state = fleet(3, f"{number}.0.0")
        known = Known(memories={place(n): Memory(last_good=good) for n, good in model.items()})
        undo = forward(state, seen, known)
        seen = seen | {place(n).target: sight(place(n).target, as_declared(state.placements[n])) for n in well}
        if len(well) == 3:
            model = dict(enumerate(state.placements))
            continue
        proven_by_now = {place(n): Memory(last_good=state.placements[n]) for n in well}
        found = homeward(seen, undo, replace(known, memories=known.memories | proven_by_now), state)
        assert ends(found) == {place(n): model[n] for n in well}
        assert found.blocked == ()
        seen = seen | {
            id.target: sight(id.target, *([as_declared(end)] if end else [])) for id, end in ends(found).items()
        }


# -- adoption ---------------------------------------------------------------------------------------------------------

Adopted = Callable[..., Plan]


def stranger(of: Placement, name: str = "shop-api") -> Unmanaged:
    return Unmanaged(
        name=name,
        instance=f"c-{name}",
        artifact=str(of.artifact),
        state=WorkloadState.RUNNING,
        digests=(of.artifact.digest,),
    )


def adopting(*strangers: Unmanaged, state: DesiredState | None = None) -> Plan:
    state = state or fleet(1)
    target = place(0).target
    seen = {target: sight(target, unmanaged=strangers)}
    drifts = diff(state, seen, Known(), now=NOW)
    return adopt(drifts, state, Known(), powers=POWERS, installation=HERE, now=NOW)


def test_what_runs_as_declared_is_taken_over_by_name() -> None:
    goal = fleet(1).placements[0]
    found = adopting(stranger(goal))
    (intent,) = found.intents
    change = intent.changes[0]
    assert isinstance(change, Deploy)
    assert change.replaces is not None
    assert (change.adopts, change.placement, change.replaces.instance) == ("shop-api", goal, "c-shop-api")
    assert (found.kind, intent.causes[0].kind, found.blocked) == (JobKind.ADOPT, ChangeKind.ADOPT, ())


def test_another_artifact_is_not_taken_over() -> None:
    found = adopting(stranger(placement(place(0), "9.0.0")))
    assert found.empty
    assert len(found.blocked) == 2


def test_where_two_could_be_meant_none_is() -> None:
    goal = fleet(1).placements[0]
    assert adopting(stranger(goal), stranger(goal, "shop-api-old")).empty
    shared = replace(placement(place(0, "worker")), artifact=goal.artifact)
    assert adopting(stranger(goal), state=desired([goal, shared])).empty


def test_a_runtime_that_cannot_adopt_is_not_asked_to() -> None:
    goal = fleet(1).placements[0]
    assert adopting(stranger(goal), state=fleet(1, driver="compose")).empty
