"""The core in a circle: any fleet with bounded faults converges and then rests; and what people curse others for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from desired_state.model import DesiredState, Strategy, Suspension
from drivers.contract import Deploy, Remove
from reconciler.core.drift import Verdict
from reconciler.core.plan import Code, Grant, JobKind
from stickers.names import ComponentName, PlacementId
from tests.reconciler.core.builders import fleet, place, placement
from tests.reconciler.core.world import Circle, Fault, Hand, World

ONE_BY_ONE = Strategy(wave=1, percent=False)
TOLERANT = Strategy(wave=50, max_failures=99)


def circle(state: DesiredState | None = None, *faults: Fault, world: World | None = None) -> Circle:
    return Circle(world=world or World(), desired=state or fleet(3, strategy=ONE_BY_ONE), faults=iter(faults))


def settled(state: DesiredState | None = None) -> Circle:
    made = circle(state)
    made.settle()
    return made


def runs(of: Circle) -> dict[PlacementId, str]:
    """Which release each placement runs."""
    known = {placement(id, version).artifact.digest: version for id in of.world.workloads for version in VERSIONS}
    return {id: known.get(one.artifact, "?") if one.artifact else "?" for id, one in sorted(of.world.workloads.items())}


VERSIONS = ("1.0.0", "2.0.0", "3.0.0")


def verdicts(of: Circle) -> set[Verdict]:
    assert of.before is not None
    return {drift.verdict for drift in of.before.drifts}


# -- convergence ------------------------------------------------------------------------------------------------------


@st.composite
def stories(draw: st.DrawFn) -> tuple[DesiredState, list[Fault], list[tuple[PlacementId, Hand]]]:
    count, names = draw(st.integers(1, 4)), draw(st.sampled_from([("api",), ("db", "api")]))
    after = {ComponentName("api"): (ComponentName("db"),)} if len(names) == 2 else {}
    strategy = Strategy(wave=draw(st.sampled_from([25, 50, 100])), max_failures=99)
    state = fleet(
        count, components=names, after=after, strategy=strategy, driver=draw(st.sampled_from(["docker", "compose"]))
    )
    ids = st.sampled_from([one.id for one in state.placements])
    hands = draw(st.lists(st.tuples(ids, st.sampled_from(Hand)), max_size=6))
    return state, draw(st.lists(st.sampled_from(Fault), max_size=12)), hands


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories())
@example((fleet(1, strategy=TOLERANT), [], [*[(place(0), Hand.KILL)] * 5, (place(0), Hand.STOP)]))
def test_any_fleet_with_bounded_faults_converges_and_then_rests(
    story: tuple[DesiredState, list[Fault], list[tuple[PlacementId, Hand]]],
) -> None:
    state, faults, hands = story
    made = circle(state, *faults)
    for id, hand in hands:
        made.turn()
        made.world.meddle(id, hand)
    made.world.cut.clear()
    made.settle()
    while Code.GAVE_UP in {one.code for one in made.plans[-1].blocked}:  # what was healed too often waits for a person
        assert not made.turn(Grant(heal=True)).empty
        made.settle()
    assert verdicts(made) == {Verdict.IN_SYNC}
    effects = len(made.world.applied)
    for _ in range(3):
        assert made.turn().empty
    assert len(made.world.applied) == effects


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(Fault), max_size=12))
def test_no_effect_is_had_twice_under_one_key(faults: list[Fault]) -> None:
    made = circle(fleet(3, strategy=TOLERANT), *faults)
    made.settle()
    keys = [(key, change.id) for key, change in made.world.applied]
    assert len(set(keys)) == len(keys)


def test_a_converged_fleet_rests() -> None:
    made = settled()
    assert made.world.started == 3
    assert [made.turn().empty for _ in range(5)] == [True] * 5


def test_each_heal_has_a_key_of_its_own() -> None:
    made = settled()
    for _ in range(2):
        made.world.meddle(place(0), Hand.KILL)
        made.settle()
    keys = {key for key, change in made.world.applied if change.id == place(0)}
    assert len(keys) == 3


# -- what people curse the others for ---------------------------------------------------------------------------------


def failing(version: str = "2.0.0", targets: int = 3) -> Circle:
    """A settled fleet whose next release never becomes healthy on the last target."""
    made = settled(fleet(targets, strategy=ONE_BY_ONE))
    made.desired = fleet(targets, version, strategy=ONE_BY_ONE)
    odd = replace(
        made.desired.placements[-1], configuration=replace(made.desired.placements[-1].configuration, user="odd")
    )
    made.desired = replace(made.desired, placements=(*made.desired.placements[:-1], odd))
    made.world.bad.add(odd.trial)
    return made


def test_a_bad_release_is_stopped_at_its_first_failure_and_all_of_it_goes_back() -> None:
    made = failing()
    made.turn()
    assert set(runs(made).values()) == {"1.0.0"}
    touched = [change.id for _, change in made.world.applied if isinstance(change, Deploy)][3:]
    assert touched == [place(0), place(1), place(2), place(0), place(1)]


def test_a_rolled_back_release_is_not_applied_again() -> None:
    made = failing()
    made.turn()
    effects = len(made.world.applied)
    for _ in range(10):
        assert made.turn(Grant(advance=True, heal=True)).empty
    assert len(made.world.applied) == effects
    assert verdicts(made) == {Verdict.IN_SYNC}


@pytest.mark.parametrize("hand", [Hand.KILL, Hand.STOP, Hand.SWAP, Hand.SICKEN, Hand.PEEL])
def test_drift_after_a_rollback_is_healed_to_last_good(hand: Hand) -> None:
    made = failing()
    made.turn()
    made.world.meddle(place(1), hand)
    found = made.turn()
    assert found.kind is JobKind.HEAL
    made.settle()
    assert set(runs(made).values()) == {"1.0.0"}
    assert verdicts(made) == {Verdict.IN_SYNC}


def test_a_target_that_could_not_be_reached_goes_back_when_it_returns() -> None:
    made = failing()
    first = place(0).target
    world = made.world

    def cut_when_last_fails() -> None:
        """The first target vanishes right after its own wave."""
        apply = world.apply

        def applying(asked, fault):  # type: ignore[no-untyped-def]
            if asked.changes[0].id == place(2):
                world.cut.add(first)
            return apply(asked, fault)

        world.apply = applying  # type: ignore[method-assign]

    cut_when_last_fails()
    made.turn()
    assert runs(made)[place(0)] == "2.0.0"
    world.cut.clear()
    world.apply = World.apply.__get__(world)  # type: ignore[method-assign]
    made.settle()
    assert set(runs(made).values()) == {"1.0.0"}


def test_another_release_is_tried_after_a_refused_one() -> None:
    made = failing()
    made.turn()
    made.desired = fleet(3, "3.0.0", strategy=ONE_BY_ONE)
    made.settle()
    assert set(runs(made).values()) == {"3.0.0"}


def test_a_first_release_that_fails_leaves_nothing_and_is_not_tried_again() -> None:
    state = fleet(2, strategy=ONE_BY_ONE)
    made = circle(state, world=World(bad={state.placements[1].trial}))
    made.turn()
    assert made.world.workloads == {}
    found = made.turn()
    assert found.empty
    assert {one.code for one in found.blocked} == {Code.REFUSED}


def test_the_way_back_keeps_to_the_strategy() -> None:
    made = failing(targets=4)
    made.turn()
    way = made.plans[-1]
    assert way.kind is JobKind.ROLLBACK
    assert [len(wave.targets) for wave in way.waves] == [1, 1, 1]


def test_a_target_that_never_becomes_healthy_is_given_up_and_said_so() -> None:
    made = settled(fleet(1, strategy=TOLERANT))
    for _ in range(80):
        made.world.meddle(place(0), Hand.SICKEN)
        made.turn()
    found = made.plans[-1]
    assert [one.code for one in found.blocked] == [Code.GAVE_UP]
    effects = len(made.world.applied)
    made.turn()
    assert len(made.world.applied) == effects
    assert not made.turn(Grant(heal=True)).empty


def test_self_heal_tries_again_after_a_failure_and_its_back_off_resets() -> None:
    made = settled(fleet(1, strategy=TOLERANT))
    made.faults = iter([Fault.UNREACHABLE] * 5)
    made.world.meddle(place(0), Hand.KILL)
    made.turn()
    assert place(0) not in made.world.workloads
    made.settle()
    assert place(0) in made.world.workloads
    assert made.known.memories[place(0)].attempts > 0
    for _ in range(60):
        made.turn()
    assert made.known.memories[place(0)].attempts == 0


def test_a_target_that_is_cut_off_is_left_alone_and_the_others_go_on() -> None:
    made = settled(fleet(3, strategy=TOLERANT))
    made.world.meddle(place(0), Hand.CUT)
    made.desired = fleet(3, "2.0.0", strategy=TOLERANT)
    for _ in range(4):
        made.turn()
    assert list(runs(made).values()) == ["1.0.0", "2.0.0", "2.0.0"]
    assert [one.code for one in made.plans[-1].blocked] == [Code.UNSEEN]
    made.world.meddle(place(0), Hand.MEND)
    made.settle()
    assert set(runs(made).values()) == {"2.0.0"}


def test_all_targets_cut_off_at_once_cause_no_action_at_all() -> None:
    made = settled(fleet(3))
    for number in range(3):
        made.world.meddle(place(number), Hand.CUT)
    effects = len(made.world.applied)
    for _ in range(20):
        assert made.turn().empty
    assert verdicts(made) == {Verdict.UNKNOWN}
    made.world.cut.clear()
    assert made.turn().empty
    assert len(made.world.applied) == effects


def test_a_lost_label_is_written_again_without_a_restart() -> None:
    made = settled()
    started = made.world.started
    made.world.meddle(place(1), Hand.PEEL)
    made.settle()
    assert made.world.started == started
    assert verdicts(made) == {Verdict.IN_SYNC}


def test_a_new_release_name_for_the_same_content_restarts_nothing() -> None:
    made = settled()
    started = made.world.started
    renamed = fleet(3, "2.0.0", strategy=ONE_BY_ONE)
    same = tuple(
        replace(new, artifact=old.artifact)
        for new, old in zip(renamed.placements, made.desired.placements, strict=True)
    )
    made.desired = replace(renamed, placements=same)
    made.settle()
    assert made.world.started == started
    assert {one.claim.release for one in made.world.stickers.values()} == {"shop@2.0.0"}


def test_an_app_that_is_declared_stopped_is_not_started_by_a_new_release() -> None:
    def halted(version: str) -> DesiredState:
        state = fleet(2, version)
        return replace(state, placements=tuple(replace(one, running=False) for one in state.placements))

    made = settled(halted("1.0.0"))
    made.desired = halted("2.0.0")
    made.settle()
    assert {one.state.value for one in made.world.workloads.values()} == {"stopped"}
    assert set(runs(made).values()) == {"2.0.0"}


def test_a_suspended_environment_is_left_alone_until_it_is_resumed() -> None:
    made = settled()
    made.known = replace(made.known, suspended=Suspension(reason="moving"))
    made.world.meddle(place(0), Hand.KILL)
    for _ in range(5):
        assert made.turn().empty
    made.known = replace(made.known, suspended=None)
    made.settle()
    assert verdicts(made) == {Verdict.IN_SYNC}


def test_an_answer_that_was_lost_is_looked_for_and_nothing_is_done_twice() -> None:
    made = circle(fleet(1), Fault.LOST_AFTER)
    made.settle()
    assert made.world.started == 1
    assert made.known.memories[place(0)].last_good == made.desired.placements[0]


def test_success_without_evidence_is_no_success() -> None:
    made = circle(fleet(1), Fault.NO_EVIDENCE)
    made.turn()
    assert len(made.world.applied) == 1
    assert made.known.memories[place(0)].last_good == made.desired.placements[0]


def test_nothing_is_ever_removed_that_was_not_to_be() -> None:
    made = settled()
    made.desired = fleet(1, strategy=ONE_BY_ONE)
    for _ in range(5):
        made.turn()
    assert [one.code for one in made.plans[-1].blocked] == [Code.NOT_PRUNED, Code.NOT_PRUNED]
    assert not [change for _, change in made.world.applied if isinstance(change, Remove)]
