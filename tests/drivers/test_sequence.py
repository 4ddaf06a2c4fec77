"""The one order of steps: what happens, in which order, and what does not happen."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import pytest

from desired_state.hooks import Hook, Hooks, OnFailure, Where
from drivers.contract import Deploy, Remove, Restart, Result, Stamp, Step, Unit, claim_of
from drivers.errors import (
    Conflict,
    DriverError,
    InvalidAction,
    NotAllowed,
    OutcomeUnknown,
    Refused,
    StaleFence,
    Unreachable,
)
from stickers import names
from stickers.names import InstallationId
from stickers.observation import Workload, WorkloadState
from stickers.sticker import Phase
from tests.drivers.fake_hands import (
    HEALTH,
    ID,
    KEY,
    FakeHands,
    action,
    deploy,
    footing,
    placement,
    sticker,
    unwell,
    workload,
)
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()

ONE, TWO = placement("one"), placement("two")
OLD = workload(ONE)
NEW = workload(TWO, "new")
TO_TWO = deploy(TWO, replaces=OLD, predecessor=ONE)


# -- the order --------------------------------------------------------------------------------------------------------


async def test_a_deploy_beside_goes_through_every_step_in_order() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), beside=True)
    outcome = await hands.one(TO_TWO)
    assert outcome.result is Result.CHANGED
    assert hands.calls == [
        "look",
        "prepare",
        "wear in_transit shop@two",
        "start",
        "ask new",
        "ask new",
        "switch new",
        "ask new",
        "settle new",
        "wear proven shop@two",
    ]
    assert hands.steps == [
        Step.LOOK,
        Step.PREPARE,
        Step.MARK,
        Step.START,
        Step.PROVE,
        Step.SWITCH,
        Step.PROVE,
        Step.SETTLE,
        Step.STICKER,
    ]


async def test_a_deploy_in_place_has_nothing_to_switch() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    assert (await hands.one(TO_TWO)).result is Result.CHANGED
    assert hands.calls == [
        "look",
        "prepare",
        "wear in_transit shop@two",
        "start",
        "ask new",
        "ask new",
        "settle new",
        "wear proven shop@two",
    ]


async def test_a_first_deploy_needs_nothing_to_replace() -> None:
    hands = FakeHands()
    outcome = await hands.one(deploy(TWO))
    assert (outcome.result, outcome.instance) == (Result.CHANGED, "new")
    assert [worn.sequence for worn in hands.wrote] == [5, 6]


async def test_every_line_reported_is_of_the_placement() -> None:
    hands = FakeHands()
    await hands.carry(deploy(TWO))
    assert {progress.id for progress in hands.said} == {ID}
    assert all(progress.message for progress in hands.said)


async def test_changes_are_carried_out_in_order_and_answered_each() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    receipt = await hands.carry(action(deploy(ONE, replaces=OLD), TO_TWO))
    assert [outcome.result for outcome in receipt.outcomes] == [Result.UNCHANGED, Result.CHANGED]
    assert (receipt.key, receipt.changed, receipt.as_wanted) == (KEY, True, True)


# -- nothing to do, and nothing but the sticker to do -----------------------------------------------------------------


async def test_what_is_as_wanted_and_labelled_is_only_looked_at() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    receipt = await hands.carry(deploy(ONE, replaces=OLD))
    assert hands.calls == ["look"]
    assert not receipt.changed
    assert receipt.outcomes[0].sequence == 4


@pytest.mark.parametrize(
    "hands",
    [
        pytest.param(FakeHands(stands=OLD), id="no sticker"),
        pytest.param(FakeHands(stands=OLD, unreadable=True), id="unreadable"),
        pytest.param(FakeHands(stands=OLD, worn=sticker(TWO)), id="another claim"),
        pytest.param(FakeHands(stands=OLD, worn=sticker(ONE, sequence=3)), id="replayed"),
        pytest.param(
            FakeHands(stands=replace(OLD, state=WorkloadState.STARTING), answers={"old": [OLD]}), id="still starting"
        ),
    ],
)
async def test_what_is_as_wanted_and_not_labelled_is_proven_and_labelled(hands: FakeHands) -> None:
    outcome = await hands.one(deploy(ONE, replaces=OLD))
    assert outcome.result is Result.LABELLED
    assert hands.calls == ["look", "ask old", "ask old", "settle old", "wear proven shop@one"]
    assert hands.wrote[0].sequence == 5


async def test_another_release_of_the_same_content_rewrites_the_sticker() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    renamed = replace(ONE, release=names.ReleaseName("shop@one-again"))
    assert (await hands.one(deploy(renamed, replaces=OLD))).result is Result.LABELLED
    assert hands.calls[-1] == "wear proven shop@one-again"


async def test_what_is_as_wanted_and_cannot_be_proven_is_not_labelled_and_not_touched() -> None:
    hands = FakeHands(stands=OLD, answers={"old": [unwell(OLD)]})
    outcome = await hands.one(deploy(ONE, replaces=OLD))
    assert (outcome.result, outcome.instance, outcome.evidence) == (Result.UNPROVEN, "old", None)
    assert set(hands.calls) == {"look", "ask old"}
    assert "not healthy within 10 s: running, answers 503" in outcome.detail


async def test_what_is_to_be_made_anew_is_made_although_it_is_as_wanted() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    anew = replace(deploy(ONE, replaces=OLD, predecessor=ONE), anew=True)
    assert (await hands.one(anew)).result is Result.CHANGED
    assert "start" in hands.calls


async def test_what_this_action_has_made_anew_is_not_made_again() -> None:
    mine = workload(ONE, "new", key=KEY)
    hands = FakeHands(stands=mine, worn=sticker(ONE))
    assert (await hands.one(replace(deploy(ONE, replaces=OLD), anew=True))).result is Result.UNCHANGED


async def test_what_an_interrupted_action_left_beside_what_is_wanted_is_tidied_up_without_a_restart() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), debris=("half",))
    assert (await hands.one(deploy(ONE, replaces=OLD))).result is Result.LABELLED
    assert "settle" in " ".join(hands.calls)
    assert "start" not in hands.calls


# -- declared stopped -------------------------------------------------------------------------------------------------

STILL = placement("one", running=False)


async def test_declared_stopped_is_proven_by_standing_still() -> None:
    stopped = workload(STILL, "new", state=WorkloadState.STOPPED)
    hands = FakeHands(answers={"new": [stopped]})
    outcome = await hands.one(deploy(STILL))
    assert outcome.result is Result.CHANGED
    assert outcome.evidence is not None
    assert outcome.evidence.answers == 1


async def test_what_stands_still_as_declared_is_unchanged() -> None:
    hands = FakeHands(stands=replace(OLD, state=WorkloadState.STOPPED), worn=sticker(ONE))
    assert (await hands.one(deploy(STILL, replaces=OLD))).result is Result.UNCHANGED


@pytest.mark.parametrize("state", [WorkloadState.RUNNING, WorkloadState.STARTING, WorkloadState.RESTARTING])
async def test_whatever_is_not_stopped_is_not_as_declared_stopped(state: WorkloadState) -> None:
    stands = replace(OLD, state=state)
    hands = FakeHands(stands=stands, worn=sticker(ONE), answers={"new": [replace(NEW, state=WorkloadState.STOPPED)]})
    await hands.one(deploy(STILL, replaces=OLD))
    assert "start" in hands.calls


@pytest.mark.parametrize("state", [WorkloadState.STOPPED, WorkloadState.RESTARTING])
async def test_whatever_is_not_running_is_not_as_declared_running(state: WorkloadState) -> None:
    hands = FakeHands(stands=replace(OLD, state=state), worn=sticker(ONE))
    assert (await hands.one(deploy(ONE, replaces=OLD))).result is Result.CHANGED


async def test_what_does_not_stop_within_its_grace_is_put_back() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), back="old", answers={"new": [workload(STILL, "new")]})
    began = anyio.current_time()
    outcome = await hands.one(deploy(STILL, replaces=OLD, predecessor=ONE))
    assert outcome.result is Result.REVERTED
    assert anyio.current_time() - began < 25
    assert "still running although declared stopped" in outcome.detail


# -- conflicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stands", "replaces"),
    [
        pytest.param(workload(placement("three"), "other"), OLD, id="something else"),
        pytest.param(replace(OLD, instance="another"), OLD, id="another instance"),
        pytest.param(replace(OLD, artifact=None), OLD, id="nobody knows what"),
        pytest.param(None, OLD, id="nothing where something was"),
        pytest.param(OLD, None, id="something where nothing was"),
    ],
)
async def test_a_surprise_is_a_conflict_and_nothing_is_touched(
    stands: Workload | None, replaces: Workload | None
) -> None:
    hands = FakeHands(stands=stands, worn=sticker(ONE))
    with pytest.raises(Conflict, match="the change replaces"):
        await hands.carry(deploy(TWO, replaces=replaces))
    assert hands.calls == ["look"]


async def test_what_this_action_made_is_no_surprise() -> None:
    mine = workload(placement("three"), "mine", key=KEY)
    hands = FakeHands(stands=mine, worn=sticker(ONE))
    assert (await hands.one(TO_TWO)).result is Result.CHANGED


async def test_what_cannot_be_adopted_as_it_is_is_a_conflict() -> None:
    hands = FakeHands(stands=OLD)
    with pytest.raises(Conflict, match="does not run what is declared"):
        await hands.carry(replace(deploy(TWO, replaces=OLD), adopts="theirs"))
    assert hands.calls == ["look"]


async def test_what_is_adopted_is_looked_at_by_its_name_and_labelled() -> None:
    hands = FakeHands(stands=OLD)
    assert (await hands.one(replace(deploy(ONE), adopts="theirs"))).result is Result.LABELLED
    assert hands.adopted == "theirs"


@pytest.mark.parametrize(
    "hands",
    [
        pytest.param(FakeHands(stands=OLD, worn=sticker(ONE, fence=3)), id="in the sticker"),
        pytest.param(FakeHands(stands=OLD, fence=3), id="beside the workload"),
    ],
)
async def test_a_lower_fence_than_one_seen_is_stale(hands: FakeHands) -> None:
    with pytest.raises(StaleFence, match="under fence 3, this action holds 2"):
        await hands.carry(action(TO_TWO, fence=2))
    assert hands.calls == ["look"]


async def test_the_fence_of_a_sticker_that_is_not_believed_counts_for_nothing() -> None:
    elsewhere = sticker(replace(ONE, id=replace(ID, component=names.ComponentName("web"))), fence=9, sequence=90)
    hands = FakeHands(stands=OLD, worn=elsewhere)
    assert (await hands.one(deploy(ONE, replaces=OLD))).result is Result.LABELLED
    assert hands.wrote[0].sequence == 5


@pytest.mark.parametrize("field", ["installation", "project", "environment", "target", "component", "slot"])
async def test_a_sticker_in_transit_of_somewhere_else_excuses_no_surprise(field: str) -> None:
    elsewhere: dict[str, Any] = {field: "elsewhere"}
    foreign = sticker(ONE, phase=Phase.IN_TRANSIT)
    hands = FakeHands(stands=OLD, worn=replace(foreign, claim=replace(foreign.claim, **elsewhere)))
    with pytest.raises(Conflict):
        await hands.carry(deploy(TWO))


# -- what was interrupted ---------------------------------------------------------------------------------------------

IN_TRANSIT = sticker(TWO, phase=Phase.IN_TRANSIT)


@pytest.mark.parametrize(
    "stands", [None, OLD, NEW, workload(placement("three"), "third")], ids=["nothing", "old", "new", "a third"]
)
async def test_what_is_in_transit_is_finished_by_the_full_sequence(stands: Workload | None) -> None:
    hands = FakeHands(stands=stands, worn=IN_TRANSIT)
    outcome = await hands.one(TO_TWO)
    assert outcome.result is Result.CHANGED
    assert hands.calls[:4] == ["look", "prepare", "wear in_transit shop@two", "start"]


async def test_what_was_begun_and_fails_its_proof_is_put_back_all_the_same() -> None:
    mine = workload(TWO, "new", key=KEY)
    hands = FakeHands(
        stands=mine, worn=IN_TRANSIT, back="old", answers={"new": [unwell(mine)], "old": [OLD]}, beside=False
    )
    outcome = await hands.one(TO_TWO)
    assert outcome.result is Result.REVERTED
    assert hands.calls[-1] == "wear proven shop@one"


# -- the way back -----------------------------------------------------------------------------------------------------


def failing(*, beside: bool = False) -> FakeHands:
    """Version one stands, version two never gets well."""
    answers: dict[str, list[Workload | None]] = {"new": [unwell(NEW)], "old": [OLD]}
    return FakeHands(stands=OLD, worn=sticker(ONE), answers=answers, back="old", beside=beside)


@pytest.mark.parametrize("beside", [False, True])
async def test_a_failed_proof_puts_back_proves_and_labels_what_stood_before(beside: bool) -> None:
    hands = failing(beside=beside)
    outcome = await hands.one(TO_TWO)
    assert (outcome.result, outcome.instance) == (Result.REVERTED, "old")
    asked = hands.calls.count("ask new")
    assert asked == 11  # one a second until the deadline
    assert [call for call in hands.calls if call != "ask new"] == [
        "look",
        "prepare",
        "wear in_transit shop@two",
        "start",
        "put back",
        "ask old",
        "ask old",
        "ask old",
        "wear proven shop@one",
    ]
    assert outcome.evidence is not None
    assert (outcome.evidence.artifact, outcome.evidence.instance) == (ONE.artifact.digest, "old")
    assert "not healthy within 10 s" in outcome.detail


async def test_a_version_that_fails_once_it_has_the_traffic_is_put_back() -> None:
    hands = failing(beside=True)
    hands.answers["new"] = [NEW, NEW, unwell(NEW)]
    assert (await hands.one(TO_TWO)).result is Result.REVERTED
    assert hands.calls.index("switch new") < hands.calls.index("put back")


async def test_where_nothing_stood_nothing_stands_after_a_failed_proof() -> None:
    hands = FakeHands(answers={"new": [unwell(NEW)]})
    outcome = await hands.one(deploy(TWO))
    assert (outcome.result, outcome.instance, outcome.evidence) == (Result.REVERTED, None, None)
    assert hands.calls[-2:] == ["put back", "bare"]
    assert outcome.sequence == 5  # the number of the sticker in transit is used up although it is gone


async def test_what_was_never_proven_is_put_back_without_a_label() -> None:
    hands = failing()
    outcome = await hands.one(deploy(TWO, replaces=OLD, predecessor=None))
    assert (outcome.result, outcome.instance) == (Result.UNPROVEN, "old")
    assert hands.calls[-3:] == ["put back", "ask old", "bare"]


async def test_what_is_not_last_good_is_put_back_without_a_label() -> None:
    hands = failing()
    outcome = await hands.one(deploy(TWO, replaces=OLD, predecessor=placement("three")))
    assert outcome.result is Result.UNPROVEN
    assert hands.calls[-1] == "bare"


async def test_what_is_put_back_and_fails_too_stays_in_transit() -> None:
    hands = failing()
    hands.answers["old"] = [OLD, unwell(OLD)]
    outcome = await hands.one(TO_TWO)
    assert (outcome.result, outcome.instance) == (Result.UNPROVEN, "old")
    assert "bare" not in hands.calls
    assert [worn.phase for worn in hands.wrote] == [Phase.IN_TRANSIT]


async def test_what_is_gone_after_it_was_put_back_is_not_labelled() -> None:
    hands = failing()
    hands.answers["old"] = [None]
    outcome = await hands.one(TO_TWO)
    assert (outcome.result, outcome.instance) == (Result.UNPROVEN, None)


async def test_a_healthy_instance_of_other_content_proves_nothing() -> None:
    hands = failing()
    hands.answers["new"] = [replace(NEW, artifact=ONE.artifact.digest)]
    outcome = await hands.one(TO_TWO)
    assert outcome.result is Result.REVERTED
    assert "not what was to be started" in outcome.detail


async def test_a_proof_that_fails_over_the_configuration_says_what_differs() -> None:
    hands = failing()
    hands.answers["new"] = [replace(NEW, configuration=None, differences=("ports: found 1, wanted 2",))]
    assert "ports: found 1, wanted 2" in (await hands.one(TO_TWO)).detail


# -- stickers and evidence --------------------------------------------------------------------------------------------


async def test_numbers_rise_from_the_stamp_and_each_sticker_names_the_last() -> None:
    was = sticker(ONE)
    hands = FakeHands(stands=OLD, worn=was)
    outcome = await hands.one(TO_TWO)
    mark, proven = hands.wrote
    assert [mark.sequence, proven.sequence, outcome.sequence] == [5, 6, 6]
    assert [mark.previous, proven.previous] == [was.digest, mark.digest]
    assert [mark.evidence, proven.evidence] == [None, outcome.evidence.id if outcome.evidence else "none"]


async def test_a_sticker_above_the_stamp_is_not_gone_under() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE, sequence=9))
    await hands.one(TO_TWO)
    assert [worn.sequence for worn in hands.wrote] == [10, 11]


async def test_a_sticker_says_by_whom_and_for_what_it_was_written() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    given = action(TO_TWO, fence=3)
    await hands.one(given)
    for worn in hands.wrote:
        assert (worn.job, worn.key, worn.fence, worn.revision) == (given.job, KEY, 3, "r2")
        assert worn.claim == claim_of(TWO, InstallationId("home"))


async def test_evidence_is_of_what_was_seen_and_when() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), beside=True)
    began = virtual_time.now()
    evidence = (await hands.one(TO_TWO)).evidence
    assert evidence is not None
    assert (evidence.placement, evidence.key, evidence.instance) == (ID, KEY, "new")
    assert (evidence.artifact, evidence.configuration) == TWO.content
    assert evidence.started_at == NEW.started_at
    assert began < evidence.switched_at <= evidence.proven_at
    assert evidence.checks == (str(HEALTH.check),)


async def test_in_place_the_start_is_the_switch() -> None:
    await anyio.sleep(100)
    hands, began = FakeHands(stands=OLD, worn=sticker(ONE)), virtual_time.now()
    evidence = (await hands.one(TO_TWO)).evidence
    assert evidence is not None
    assert evidence.switched_at == began


async def test_evidence_without_a_check_says_so() -> None:
    plain = placement("two", health=None)
    hands = FakeHands(answers={"new": [replace(workload(plain, "new"), started_at=None)]})
    evidence = (await hands.one(deploy(plain))).evidence
    assert evidence is not None
    assert evidence.checks == ("running",)
    assert evidence.started_at == evidence.proven_at


async def test_evidence_of_a_label_has_no_switch_but_the_start() -> None:
    evidence = (await FakeHands(stands=OLD).one(deploy(ONE, replaces=OLD))).evidence
    assert evidence is not None
    assert evidence.switched_at == OLD.started_at


# -- restart ----------------------------------------------------------------------------------------------------------

RESTART = Restart(placement=ONE, replaces=footing(OLD), stamp=Stamp(sequence=5, previous=None))


async def test_a_restart_is_proven_and_labelled() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    assert (await hands.one(RESTART)).result is Result.CHANGED
    assert hands.calls == ["look", "restart old", "ask old", "ask old", "wear proven shop@one"]


async def test_a_restart_happens_once_to_its_key() -> None:
    hands = FakeHands(stands=OLD, worn=replace(sticker(ONE, sequence=5), key=KEY))
    assert (await hands.one(RESTART)).result is Result.UNCHANGED
    assert hands.calls == ["look"]


async def test_a_restart_tidies_up_what_an_interrupted_action_left() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), debris=("half",))
    assert (await hands.one(RESTART)).result is Result.CHANGED
    assert hands.calls == ["look", "restart old", "ask old", "ask old", "settle old", "wear proven shop@one"]


async def test_a_restart_that_is_done_and_has_left_something_is_only_tidied_up() -> None:
    hands = FakeHands(stands=OLD, worn=replace(sticker(ONE, sequence=5), key=KEY), debris=("half",))
    assert (await hands.one(RESTART)).result is Result.LABELLED
    assert hands.calls == ["look", "ask old", "ask old", "settle old", "wear proven shop@one"]


async def test_a_restart_of_something_else_is_a_conflict() -> None:
    hands = FakeHands(stands=replace(OLD, instance="another"), worn=sticker(ONE))
    with pytest.raises(Conflict):
        await hands.carry(RESTART)
    assert hands.calls == ["look"]


async def test_a_restart_does_not_label_what_does_not_stand() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    with pytest.raises(Conflict, match="not what is to be restarted"):
        await hands.carry(replace(RESTART, placement=TWO))
    assert hands.calls == ["look"]


async def test_a_restart_that_is_not_proven_writes_no_sticker() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), answers={"old": [unwell(OLD)]})
    assert (await hands.one(RESTART)).result is Result.UNPROVEN
    assert hands.wrote == []


# -- remove -----------------------------------------------------------------------------------------------------------

REMOVE = Remove(
    id=ID,
    claim=claim_of(ONE, InstallationId("home")),
    replaces=footing(OLD),
    stamp=Stamp(sequence=5, previous=None),
)


async def test_a_removal_marks_before_it_removes_and_bares_last() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    assert (await hands.one(REMOVE)).result is Result.CHANGED
    assert hands.calls == ["look", "wear in_transit shop@one", "remove", "bare"]


async def test_where_nothing_is_there_is_nothing_to_remove() -> None:
    hands = FakeHands()
    assert (await hands.one(REMOVE)).result is Result.UNCHANGED
    assert hands.calls == ["look"]


@pytest.mark.parametrize(
    "hands",
    [
        pytest.param(FakeHands(worn=sticker(ONE)), id="a sticker"),
        pytest.param(FakeHands(unreadable=True), id="a spoilt sticker"),
        pytest.param(FakeHands(debris=("half",)), id="debris"),
    ],
)
async def test_whatever_is_left_of_a_placement_is_removed(hands: FakeHands) -> None:
    assert (await hands.one(REMOVE)).result is Result.CHANGED
    assert hands.calls[-2:] == ["remove", "bare"]


async def test_a_removal_of_something_else_is_a_conflict() -> None:
    hands = FakeHands(stands=NEW, worn=sticker(ONE))
    with pytest.raises(Conflict):
        await hands.carry(REMOVE)
    assert hands.calls == ["look"]


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "phases"),
    [
        ("look", []),
        ("prepare", []),
        ("wear", []),
        ("start", [Phase.IN_TRANSIT]),
        ("ask", [Phase.IN_TRANSIT]),
        ("switch", [Phase.IN_TRANSIT]),
        ("settle", [Phase.IN_TRANSIT]),
    ],
)
async def test_an_error_of_a_step_comes_through_and_leaves_no_proven_sticker(step: str, phases: list[Phase]) -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), beside=True, errors={step: Unreachable("gone")})
    with pytest.raises(Unreachable, match="gone"):
        await hands.carry(TO_TWO)
    assert [worn.phase for worn in hands.wrote] == phases


@pytest.mark.parametrize("error", [Refused("busy image"), Refused("in use")])
async def test_what_is_proven_does_not_fail_over_what_cannot_be_collected(error: DriverError) -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), errors={"settle": error})
    assert (await hands.one(TO_TWO)).result is Result.CHANGED
    assert hands.said[-2].message.endswith(str(error))
    assert hands.calls[-1] == "wear proven shop@two"


@pytest.mark.parametrize("step", ["look", "prepare", "wear", "start", "ask", "switch", "settle"])
async def test_out_of_time_in_any_step_the_outcome_is_unknown(step: str) -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), beside=True, slow={step: 1000})
    with pytest.raises(OutcomeUnknown, match="not done within 60 s"):
        await hands.carry(action(TO_TWO, deadline=timedelta(seconds=60)))


async def test_a_cancellation_comes_through_as_one() -> None:
    hands = FakeHands(slow={"start": 1000})
    with anyio.move_on_after(5) as scope:
        await hands.carry(deploy(TWO))
    assert scope.cancelled_caught
    assert hands.calls[-1] == "start"


# -- a target as a whole ----------------------------------------------------------------------------------------------


def both() -> tuple[Deploy, Deploy]:
    web = replace(TWO, id=replace(ID, component=names.ComponentName("web")))
    return TO_TWO, deploy(web, replaces=OLD, predecessor=ONE)


async def test_changes_of_a_target_as_a_whole_are_all_prepared_and_then_all_marked_before_any_is_started() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), unit=Unit.TARGET)
    receipt = await hands.carry(action(*both()))
    assert [call.partition(" ")[0] for call in hands.calls] == [
        *("look", "prepare", "look", "prepare"),
        *("wear", "wear"),
        *("start", "start"),
        *("ask", "ask", "settle", "wear"),
        *("ask", "ask", "settle", "wear"),
    ]
    assert [outcome.id for outcome in receipt.outcomes] == [change.id for change in both()]
    assert receipt.as_wanted


async def test_a_conflict_at_one_change_leaves_the_whole_target_untouched() -> None:
    hands = FakeHands(stands=OLD, unit=Unit.TARGET)
    first, second = both()
    with pytest.raises(Conflict):
        await hands.carry(action(first, replace(second, replaces=None)))
    assert hands.calls == ["look", "prepare", "look"]


async def test_what_is_as_wanted_already_is_labelled_only_when_nothing_else_is_a_conflict() -> None:
    hands = FakeHands(stands=NEW, unit=Unit.TARGET)
    first, second = both()
    other = replace(second, placement=replace(second.placement, configuration=ONE.configuration), replaces=None)
    with pytest.raises(Conflict):
        await hands.carry(action(first, other))
    assert hands.wrote == []


async def test_changes_of_single_components_go_through_all_steps_one_after_the_other() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    await hands.carry(action(*both()))
    half = len(hands.calls) // 2
    assert hands.calls[:half] == hands.calls[half:]


# -- hooks ------------------------------------------------------------------------------------------------------------

HOOKS = Hooks(pre_deploy=Hook(argv=("migrate",)), post_deploy=Hook(argv=("announce",)))
HOOKED = replace(TWO, hooks=HOOKS)
TO_HOOKED = deploy(HOOKED, replaces=OLD, predecessor=ONE)


async def test_hooks_run_before_the_first_change_and_before_the_sticker() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), hooks={})
    assert (await hands.one(TO_HOOKED)).result is Result.CHANGED
    assert hands.calls == [
        "look",
        "prepare",
        "pre_deploy shop@two after shop@one",
        "wear in_transit shop@two",
        "start",
        "ask new",
        "ask new",
        "post_deploy shop@two after shop@one",
        "settle new",
        "wear proven shop@two",
    ]


async def test_what_is_as_wanted_runs_no_hook() -> None:
    hands = FakeHands(stands=workload(HOOKED), worn=sticker(HOOKED), hooks={})
    assert (await hands.one(TO_HOOKED)).result is Result.UNCHANGED
    assert hands.calls == ["look"]


async def test_a_hook_that_fails_before_the_first_change_stops_it() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), hooks={"pre_deploy": "no table shop"})
    with pytest.raises(Refused, match=r"nothing was changed.*no table shop"):
        await hands.one(TO_HOOKED)
    assert hands.wrote == []


async def test_a_hook_that_fails_after_the_proof_puts_back_what_stood_before() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), back="old", hooks={"post_deploy": "smoke test"})
    outcome = await hands.one(TO_HOOKED)
    assert outcome.result is Result.REVERTED
    assert "smoke test" in outcome.detail
    assert hands.wrote[-1].claim.release == ONE.release


async def test_a_hook_that_is_to_warn_is_told_and_the_deployment_stands() -> None:
    assert HOOKS.post_deploy is not None
    warns = Hooks(post_deploy=replace(HOOKS.post_deploy, on_failure=OnFailure.WARN))
    hands = FakeHands(stands=OLD, worn=sticker(ONE), hooks={"post_deploy": "nobody was told"})
    outcome = await hands.one(deploy(replace(TWO, hooks=warns), replaces=OLD, predecessor=ONE))
    assert outcome.result is Result.CHANGED
    assert "nobody was told" in outcome.detail


async def test_where_hooks_are_not_allowed_what_declares_them_is_not_begun() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE))
    with pytest.raises(NotAllowed, match="HOLDFAST_HOOKS"):
        await hands.one(TO_HOOKED)
    assert hands.calls == ["look"]


async def test_a_hook_on_a_target_without_a_host_is_refused_by_its_field() -> None:
    hands = FakeHands(stands=OLD, worn=sticker(ONE), hooks={})
    there = Hooks(post_deploy=Hook(argv=("announce",), where=Where.TARGET))
    with pytest.raises(InvalidAction, match=r"hooks\.post_deploy\.where: .* has no host .*where: daemon"):
        await hands.one(deploy(replace(TWO, hooks=there), replaces=OLD, predecessor=ONE))
    assert hands.calls == ["look"]
