"""Memory drivers that break one clause each: whoever says the kit holds drivers to the contract shows it on these."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import anyio

from desired_state.health import Health
from desired_state.model import Placement, Target
from drivers import sequence
from drivers.contract import (
    Action,
    Capabilities,
    Deploy,
    Footing,
    Look,
    Outcome,
    Receipt,
    Report,
    Restart,
    Result,
    Tools,
    Unit,
    claim_of,
)
from drivers.errors import Conflict, DriverError, OutcomeUnknown, Refused, Unreachable
from drivers.memory import MemoryDriver, MemoryHands, World
from drivers.memory.world import Deed, Place, Thing
from drivers.proof import Disproven, Proven
from stickers import codec, digest
from stickers.evidence import HealthEvidence
from stickers.names import ActionKey, EvidenceId, PlacementId, TargetId
from stickers.observation import Observation, Standing, Workload, WorkloadState
from stickers.signature import Envelope, unverified_payload
from stickers.sticker import Claim, Phase, Sticker

Carrier = sequence._Carrier
Make = Callable[[Tools, World], MemoryDriver]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken driver, and the clauses that must find it out."""

    name: str
    make: Make
    clauses: tuple[str, ...]


MUTANTS: list[Mutant] = []


def caught_by(*clauses: str) -> Callable[[type[Any]], type[Any]]:
    """List the class as a mutant: a driver, or the carrier or hands of one."""

    def listed(broken: type[Any]) -> type[Any]:
        make = broken if issubclass(broken, MemoryDriver) else _driver_with(broken)
        MUTANTS.append(Mutant(broken.__name__, make, clauses))
        return broken

    return listed


def _driver_with(broken: type[Any]) -> type[MemoryDriver]:
    if issubclass(broken, MemoryHands):
        return type(broken.__name__, (Mutated,), {"hands_class": broken})
    return type(broken.__name__, (Mutated,), {"carrier": broken})


class Mutated(MemoryDriver):
    carrier: ClassVar[type[Carrier]] = Carrier
    hands_class: ClassVar[type[MemoryHands]] = MemoryHands

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        hands = self.hands_class(self.world, action, self.who, {})
        with anyio.move_on_after(action.deadline.total_seconds()):
            carriers = [self.carrier(action, change, hands, self.tools, report) for change in action.changes]
            for carrier in carriers:
                await sequence._in_step([carrier])
            outcomes = tuple(carrier.outcome for carrier in carriers)
            return Receipt(key=action.key, target=action.target.id, outcomes=outcomes)
        raise OutcomeUnknown("out of time")


# -- once -------------------------------------------------------------------------------------------------------------


@caught_by("a_deploy_on_an_empty_target_runs_and_labels")
class AnswersUnderAnotherKey(Mutated):
    async def apply(self, action: Action, *, report: Report) -> Receipt:
        return replace(await super().apply(action, report=report), key=ActionKey("f" * 64))


@caught_by("a_deploy_on_an_empty_target_runs_and_labels")
class MakesThingsWithoutTheKey(MemoryHands):
    def _make(self, place: Place, placement: Placement) -> Thing:
        thing = super()._make(place, placement)
        thing.key = None
        return thing


@caught_by("what_was_removed_comes_back")
class BelievesTheStickerAlone(Carrier):
    def _stands_as(self, placement: Placement, standing: Standing) -> bool:
        return self.worn is not None and self.worn.claim.content == placement.content


@caught_by("what_was_stopped_is_brought_back")
class ReplacesOnlyWhatRuns(MemoryHands):
    async def start(self, deploy: Deploy) -> sequence.Started:
        served = self.host.place(deploy.id).served
        if served is not None and not served.on:
            raise Conflict("it does not run")
        return await super().start(deploy)


@caught_by("a_restart_labels_nothing_that_does_not_run")
class LabelsWhatItIsTold(Carrier):
    async def _restart(self, restart: Restart) -> AsyncGenerator[None, None]:
        standing = await self._look()
        assert standing.workload is not None
        yield
        await self.hands.restart(restart.id, standing.workload.instance)
        await self._wear(claim_of(restart.placement, self.tools.installation), Phase.PROVEN, EvidenceId("none"))
        self.outcome = self._outcome(Result.CHANGED, "restarted", standing.workload)


@caught_by("what_was_removed_can_be_deployed_again")
class ClosesThePlaceForGood(MemoryHands):
    async def remove(self, id: PlacementId) -> None:
        await super().remove(id)
        self.host.place(id).fence += 1
        self.action = replace(self.action, fence=self.action.fence + 1)


@caught_by("twice_is_once", "another_release_with_the_same_content_only_rewrites_the_sticker")
class DeploysAlways(Carrier):
    def _stands_as(self, placement: Placement, standing: Standing) -> bool:
        return False


@caught_by(
    "what_the_change_does_not_replace_is_a_conflict",
    "a_workload_where_nothing_may_stand_is_a_conflict",
    "nothing_where_something_must_stand_is_a_conflict",
    "a_removal_of_something_else_is_a_conflict",
)
class OverwritesSurprises(Carrier):
    def _must_be(self, replaces: Footing | None, standing: Standing) -> None:
        return


@caught_by("a_restart_of_something_else_is_a_conflict")
class RestartsWhateverStands(Carrier):
    async def _restart(self, restart: Restart) -> AsyncGenerator[None, None]:
        found = (await self._look()).workload
        assert found is not None
        footing = Footing(instance=found.instance, artifact=found.artifact, configuration=found.configuration)
        async for _ in super()._restart(replace(restart, replaces=footing)):
            yield


@caught_by("a_restart_changes_no_content")
class RestartsAgain(Carrier):
    async def _look(self) -> Standing:
        standing = await super()._look()
        if isinstance(self.change, Restart):
            self.worn = None
        return standing


@caught_by("a_restart_changes_no_content", "a_restart_brings_up_what_was_stopped")
class OnlySaysItRestarts(MemoryHands):
    async def restart(self, id: PlacementId, instance: str) -> str:
        return instance


@caught_by("what_is_made_anew_is_another_workload")
class NeverMakesAnew(Carrier):
    def _unwell(self, deploy: Deploy, standing: Standing) -> bool:
        return False


@caught_by("a_stale_fence_changes_nothing", "whoever_is_overtaken_changes_nothing_more")
class KnowsNoFence(MemoryHands):
    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        standing = await super().look(id, adopts)
        worn = replace(standing.worn, envelope=None) if standing.worn else None
        return replace(standing, fence=0, worn=worn)

    def _guarded(self, id: PlacementId) -> Place:
        return self.host.place(id)


@caught_by("whoever_is_overtaken_changes_nothing_more")
class LooksForTheFenceOnlyOnce(MemoryHands):
    def _guarded(self, id: PlacementId) -> Place:
        return self.host.place(id)


@caught_by(
    "a_replacement_leaves_one_workload",
    "another_configuration_replaces",
    "the_same_and_a_higher_fence_may_act",
    "a_failed_proof_can_be_tried_again",
    "a_crash_at_prove_is_finished_beside",
    "a_crash_at_start_is_finished_beside",
    "a_crash_at_switch_is_finished_beside",
    "a_crash_at_sticker_is_finished_beside",
    "a_crash_at_the_second_proof_is_finished",
)
class LeavesThePredecessorRunning(MemoryHands):
    async def settle(self, deploy: Deploy, instance: str) -> None:
        self.host.place(deploy.id).things[instance].proven = True


@caught_by("declared_stopped_is_made_and_not_started", "what_runs_is_stopped_when_it_is_declared_so")
class StartsWhatIsDeclaredStopped(MemoryHands):
    def _run(self, thing: Thing, placement: Placement) -> None:
        self.host.start(thing, self.actor, "start")


@caught_by("a_removal_leaves_nothing", "a_failed_first_deploy_leaves_nothing")
class LeavesTheSticker(MemoryHands):
    async def bare(self, id: PlacementId) -> None:
        return


@caught_by("a_removal_leaves_nothing")
class LeavesPredecessors(MemoryHands):
    async def remove(self, id: PlacementId) -> None:
        place = self._guarded(id)
        if place.served is not None:
            self._drop(place, place.served, "remove")


# -- stickers ---------------------------------------------------------------------------------------------------------


@caught_by("a_sticker_is_in_transit_before_the_first_change", "no_sticker_lies_during_a_deploy_beside")
class StickerBeforeTheStart(Carrier):
    async def _mark(self, claim: Claim) -> None:
        await self._wear(claim, Phase.PROVEN, EvidenceId("none"))


@caught_by(
    "a_sticker_is_proven_only_after_proof",
    "no_sticker_lies_during_a_failing_deploy_beside",
    "no_sticker_lies_during_a_failing_deploy_in_place",
)
class StickerBeforeTheProof(Carrier):
    async def _prove(self, placement: Placement, instance: str, *, answers: int | None = None) -> Proven | Disproven:
        await self._wear(claim_of(placement, self.tools.installation), Phase.PROVEN, EvidenceId("none"))
        return await super()._prove(placement, instance, answers=answers)


@caught_by("a_sticker_is_in_transit_before_the_first_change", "no_sticker_lies_during_a_deploy_in_place")
class NeverMarks(Carrier):
    async def _mark(self, claim: Claim) -> None:
        return


@caught_by("a_crash_at_settle_is_finished_beside")
class SettlesAfterTheSticker(Carrier):
    async def _settle(self, deploy: Deploy, instance: str) -> None:
        return

    async def _label_proven(self, placement: Placement, found: Proven) -> HealthEvidence:
        evidence = await super()._label_proven(placement, found)
        if isinstance(self.change, Deploy):
            await super()._settle(self.change, found.workload.instance)
        return evidence


@caught_by("numbers_of_stickers_only_rise", "the_number_given_is_the_first_one_used")
class CountsFromOne(Carrier):
    async def _wear(self, claim: Claim, phase: Phase, evidence: EvidenceId | None) -> None:
        self.sequence = 1
        await super()._wear(claim, phase, evidence)


@caught_by("a_proof_names_what_it_proved")
class ProvesSomebodyElse(Carrier):
    def _evidence(self, placement: Placement, found: Proven) -> HealthEvidence:
        return replace(super()._evidence(placement, found), instance="somebody")


@caught_by("a_proof_names_what_it_proved")
class LosesTheEvidence(Carrier):
    async def _wear(self, claim: Claim, phase: Phase, evidence: EvidenceId | None) -> None:
        await super()._wear(claim, phase, EvidenceId(digest.of("lost")) if evidence else None)


@caught_by("unlabelled_is_labelled_without_a_restart", "an_unreadable_sticker_is_replaced_without_a_restart")
class RestartsToLabel(Carrier):
    async def _label(self, deploy: Deploy, standing: Standing) -> Outcome:
        assert standing.workload is not None
        await self.hands.restart(deploy.id, standing.workload.instance)
        return await super()._label(deploy, standing)


@caught_by("a_forged_sticker_is_not_believed")
class BelievesAnybody(Carrier):
    async def _look(self) -> Standing:
        standing = await super()._look()
        if standing.worn is not None and standing.worn.envelope is not None:
            self.worn = codec.read_payload(unverified_payload(Envelope(standing.worn.envelope)))
        return standing


@caught_by("a_replayed_sticker_is_not_believed")
class BelievesOldStickers(Carrier):
    def _believed(self, sticker: Sticker | None) -> Sticker | None:
        return sticker


@caught_by("the_sticker_of_another_placement_is_not_believed")
class BelievesStickersOfElsewhere(Carrier):
    def _believed(self, sticker: Sticker | None) -> Sticker | None:
        if sticker is None:
            return None
        here = self.change.id
        claim = replace(sticker.claim, component=here.component, slot=here.slot)
        return super()._believed(replace(sticker, claim=claim))


# -- proof and the way back -------------------------------------------------------------------------------------------


@caught_by("the_old_one_proves_nothing_for_the_new_one")
class ProofOfTheOldInstance(MemoryHands):
    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        mine = await super().workload(id, instance, health)
        served = self.host.place(id).served
        if mine is None or served is None:
            return mine
        return replace(mine, health=served.workload(self.world.clock(), asked=health is not None).health)


@caught_by("a_failed_proof_puts_the_predecessor_back_beside", "a_failed_first_deploy_leaves_nothing")
class TakesRunningForHealthy(Carrier):
    async def _prove(self, placement: Placement, instance: str, *, answers: int | None = None) -> Proven | Disproven:
        return await super()._prove(replace(placement, health=None), instance, answers=answers)


@caught_by("without_a_fixed_port_somebody_always_answers")
class StopThenRun(MemoryHands):
    def _fits_beside(self, place: Place, placement: Placement, new: Thing | None) -> bool:
        return False


@caught_by("the_old_one_proves_nothing_for_the_new_one")
class SwitchesBeforeTheProof(MemoryHands):
    async def start(self, deploy: Deploy) -> sequence.Started:
        started = await super().start(deploy)
        place = self.host.place(deploy.id)
        self._serve(place, place.things[started.instance], "start")
        return started


@caught_by(
    "a_failed_proof_puts_the_predecessor_back_in_place",
    "a_bad_version_is_put_back_after_a_crash_at_prove_beside",
    "a_bad_version_is_put_back_after_a_crash_at_put_back_beside",
    "a_bad_version_is_put_back_after_a_crash_at_put_back_in_place",
)
class LeavesItDown(MemoryHands):
    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        back = await super().put_back(deploy, standing)
        if back is not None:
            self.host.stop(self.host.place(deploy.id).things[back], self.actor, "put_back")
        return back


@caught_by("a_failed_proof_puts_the_predecessor_back_beside", "a_failed_first_deploy_leaves_nothing")
class LeavesTheBadOne(MemoryHands):
    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        return standing.workload.instance if standing.workload else None


@caught_by("a_failed_proof_puts_the_predecessor_back_beside")
class RevertsWithoutLabel(Carrier):
    async def _revert(self, deploy: Deploy, standing: Standing, failed: Disproven) -> Outcome:
        instance = await self.hands.put_back(deploy, standing)
        found = await self.hands.workload(deploy.id, instance, None) if instance else None
        return self._outcome(Result.REVERTED, failed.reason, found)


@caught_by("what_nobody_proved_is_put_back_and_not_labelled")
class LabelsWhatNobodyProved(Carrier):
    async def _revert(self, deploy: Deploy, standing: Standing, failed: Disproven) -> Outcome:
        artifact = standing.workload.artifact if standing.workload else None
        back = replace(deploy.placement.artifact, digest=artifact) if artifact else deploy.placement.artifact
        deploy = replace(deploy, predecessor=deploy.predecessor or replace(deploy.placement, artifact=back))
        return await super()._revert(deploy, standing, failed)


@caught_by("a_bad_version_is_put_back_after_a_crash_at_prove_in_place")
class TakesTheInterruptedForUnlabelled(Carrier):
    @property
    def _in_transit(self) -> bool:
        return False

    def _must_be(self, replaces: Footing | None, standing: Standing) -> None:
        return


@caught_by("the_way_back_needs_no_source")
class FetchesWhatIsThere(MemoryHands):
    async def prepare(self, deploy: Deploy) -> None:
        self.host.artifacts.discard(deploy.placement.artifact.digest)
        await super().prepare(deploy)


@caught_by(
    "an_artifact_that_cannot_be_had_touches_nothing",
    "a_crash_at_prepare_is_finished_beside",
    "a_crash_at_prepare_is_finished_in_place",
    "a_crash_at_mark_is_finished_beside",
    "a_crash_at_mark_is_finished_in_place",
)
class PreparesTooLate(Carrier):
    async def _deploy(self, deploy: Deploy) -> AsyncGenerator[None, None]:
        await self._look()
        await self._mark(claim_of(deploy.placement, self.tools.installation))
        async for _ in super()._deploy(deploy):
            yield


@caught_by("as_many_predecessors_are_kept_as_was_said")
class KeepsEverything(MemoryHands):
    async def settle(self, deploy: Deploy, instance: str) -> None:
        await super().settle(replace(deploy, keep=1000), instance)


@caught_by(
    "as_many_predecessors_are_kept_as_was_said",
    "last_good_is_kept_even_when_nothing_else_is",
    "a_fixed_port_is_handed_over",
)
class KeepsNothing(MemoryHands):
    async def settle(self, deploy: Deploy, instance: str) -> None:
        await super().settle(replace(deploy, keep=0, predecessor=None), instance)


# -- interruption -----------------------------------------------------------------------------------------------------


@caught_by(
    "a_crash_at_prove_is_finished_beside",
    "a_crash_at_prove_is_finished_in_place",
    "a_crash_at_sticker_is_finished_in_place",
    "a_crash_of_a_first_deploy_is_finished",
    "a_crash_at_any_moment_is_finished",
)
class MakesASecondOne(MemoryHands):
    def _begun(self, place: Place, placement: Placement) -> Thing | None:
        return None


@caught_by(
    "a_newer_action_finishes_what_an_older_one_began",
    "a_crash_at_start_is_finished_in_place",
    "a_crash_at_settle_is_finished_in_place",
    "a_crashed_deploy_can_be_taken_back",
    "a_crash_of_a_removal_is_finished",
)
class HoldsToTheKey(Carrier):
    def _must_be(self, replaces: Footing | None, standing: Standing) -> None:
        if self._in_transit:
            raise Conflict("somebody else is at it")
        super()._must_be(replaces, standing)


@caught_by("out_of_time_the_outcome_is_unknown")
class TimeOutTakenForFailure(Mutated):
    async def apply(self, action: Action, *, report: Report) -> Receipt:
        try:
            return await super().apply(action, report=report)
        except OutcomeUnknown as error:
            raise Refused(str(error)) from None


@caught_by("out_of_time_the_outcome_is_unknown")
class TimeOutTakenForReverted(Mutated):
    async def apply(self, action: Action, *, report: Report) -> Receipt:
        try:
            return await super().apply(action, report=report)
        except OutcomeUnknown as error:
            outcomes = [Outcome(id=change.id, result=Result.REVERTED, detail=str(error)) for change in action.changes]
            return Receipt(key=action.key, target=action.target.id, outcomes=tuple(outcomes))


@caught_by("a_cancellation_comes_through")
class SwallowsCancellation(Mutated):
    async def apply(self, action: Action, *, report: Report) -> Receipt:
        with anyio.CancelScope(shield=True):
            receipts = [await super().apply(action, report=report)]
        return receipts[0]


@caught_by("a_cancellation_comes_through", "a_crash_at_prove_is_finished_beside")
class TurnsCancellationIntoAnError(Mutated):
    async def apply(self, action: Action, *, report: Report) -> Receipt:
        try:
            return await super().apply(action, report=report)
        except anyio.get_cancelled_exc_class():
            raise OutcomeUnknown("cancelled") from None


@caught_by("an_artifact_that_cannot_be_had_touches_nothing")
class LeaksForeignErrors(MemoryHands):
    async def prepare(self, deploy: Deploy) -> None:
        try:
            await super().prepare(deploy)
        except DriverError as error:
            raise KeyError(str(error)) from None


# -- eyes -------------------------------------------------------------------------------------------------------------


class Retold(MemoryDriver):
    """Tells each standing otherwise than it is."""

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found = await super().observe(looks)
        return {
            id: replace(seen, standings=tuple(one for one in map(self.told, seen.standings) if one is not None))
            for id, seen in found.items()
        }

    def told(self, standing: Standing) -> Standing | None:
        return standing


@caught_by("an_empty_target_is_seen_empty")
class SeesWhatIsDeclared(MemoryDriver):
    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found = dict(await super().observe(looks))
        for look in looks:
            empty = tuple(
                Standing(component=one.id.component, slot=one.id.slot, worn=None, workload=None)
                for one in look.placements
            )
            seen = found[look.target.id]
            found[look.target.id] = replace(seen, standings=seen.standings or empty)
        return found


@caught_by("what_was_stopped_is_seen_stopped")
class TakesStoppedForMissing(Retold):
    def told(self, standing: Standing) -> Standing:
        stopped = standing.workload is not None and standing.workload.state is WorkloadState.STOPPED
        return replace(standing, workload=None) if stopped else standing


@caught_by("what_was_removed_is_seen_missing")
class SeesNoStickerWhereNothingRuns(Retold):
    def told(self, standing: Standing) -> Standing | None:
        return standing if standing.workload is not None else None


@caught_by("nothing_can_be_done_where_nothing_answers")
class AnswersForTheSilent(Mutated):
    async def apply(self, action: Action, *, report: Report) -> Receipt:
        try:
            return await super().apply(action, report=report)
        except Unreachable as error:
            outcomes = [Outcome(id=change.id, result=Result.REVERTED, detail=str(error)) for change in action.changes]
            return Receipt(key=action.key, target=action.target.id, outcomes=tuple(outcomes))


@caught_by("what_cannot_be_reached_is_unseen_and_holds_up_nobody")
class LooksFail(MemoryDriver):
    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found = await super().observe(looks)
        for seen in found.values():
            if seen.unseen is not None:
                raise Unreachable(seen.unseen)
        return found


@caught_by("what_cannot_be_reached_is_unseen_and_holds_up_nobody")
class SeesNobodyWhenOneIsFar(MemoryDriver):
    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found = await super().observe(looks)
        unseen = [seen.unseen for seen in found.values() if seen.unseen is not None]
        if not unseen:
            return found
        return {id: Observation(target=id, at=seen.at, unseen=unseen[0]) for id, seen in found.items()}


@caught_by("what_cannot_be_reached_is_unseen_and_holds_up_nobody")
class TakesUnseenForMissing(MemoryDriver):
    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        return {id: replace(seen, unseen=None) for id, seen in (await super().observe(looks)).items()}


@caught_by("what_was_swapped_is_not_seen_as_the_sticker_says", "what_was_swapped_can_be_replaced")
class SeesWhatTheStickerSays(Retold):
    def told(self, standing: Standing) -> Standing:
        sticker = None
        if standing.worn is not None and standing.worn.envelope is not None:
            sticker = self.tools.read(Envelope(standing.worn.envelope))
        if sticker is None or standing.workload is None or sticker.phase is Phase.IN_TRANSIT:
            return standing
        workload = replace(standing.workload, artifact=sticker.claim.artifact)
        return replace(standing, workload=workload)


@caught_by("an_unchanged_target_is_seen_equal")
class SeesTimesThatChange(Retold):
    def told(self, standing: Standing) -> Standing:
        if standing.workload is None:
            return standing
        return replace(standing, workload=replace(standing.workload, started_at=datetime.now(UTC)))


@caught_by("no_sticker_and_an_unreadable_one_are_told_apart")
class HidesUnreadableStickers(Retold):
    def told(self, standing: Standing) -> Standing:
        readable = standing.worn is not None and standing.worn.envelope is not None
        return standing if readable else replace(standing, worn=None)


@caught_by("a_hand_change_is_told")
class TellsNothing(MemoryDriver):
    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        await anyio.sleep_forever()
        yield targets[0].id


@caught_by("powers_are_what_the_driver_has")
class SaysItHasNoEvents(MemoryDriver):
    capabilities = Capabilities(unit=Unit.COMPONENT, events=False, logs=True, adopts=True)


@caught_by("what_a_workload_printed_can_be_read")
class ReadsMoreThanAskedFor(MemoryDriver):
    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        async for line in super().logs(target, id, tail=tail, follow=follow):
            yield line
            yield line


@caught_by("what_a_workload_prints_can_be_followed")
class StopsFollowing(MemoryDriver):
    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        async for line in super().logs(target, id, tail=tail, follow=False):
            yield line


# -- neighbours -------------------------------------------------------------------------------------------------------


@caught_by("a_component_whose_name_begins_alike_is_never_touched")
class FindsByPrefix(MemoryHands):
    async def remove(self, id: PlacementId) -> None:
        for other in list(self.host.places):
            if other.component.startswith(id.component):
                await super().remove(other)


@caught_by("another_component_is_never_touched", "an_action_of_several_changes_answers_each")
class CollectsEverybodysPredecessors(MemoryHands):
    async def settle(self, deploy: Deploy, instance: str) -> None:
        await super().settle(deploy, instance)
        for place in self.host.places.values():
            if place.id != deploy.id and place.served is not None:
                self._drop(place, place.served, "settle")


@caught_by("what_is_not_ours_is_never_touched")
class StopsWhatHasOurName(MemoryHands):
    async def start(self, deploy: Deploy) -> sequence.Started:
        for thing in self.host.foreign.values():
            if thing.name == deploy.id.component:
                self.host.stop(thing, self.actor, "start")
        return await super().start(deploy)


@caught_by("what_is_not_ours_is_never_taken_for_ours")
class TakesForeignForOurs(MemoryDriver):
    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        for look in looks:
            host = self.world.host(look.target.id)
            for placement in look.placements:
                thing = host.foreign.pop(placement.id.component, None)
                if thing is not None:
                    place = host.place(placement.id)
                    place.things[thing.instance], place.serving = thing, thing.instance
                    host.changed(Deed.MEDDLED, _actor(), thing=thing)
        return await super().observe(looks)


@caught_by("what_runs_otherwise_cannot_be_adopted")
class AdoptsAnything(MemoryHands):
    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        standing = await super().look(id, adopts)
        if adopts is None or standing.workload is None:
            return standing
        return replace(standing, workload=self._as_declared(standing.workload))

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        found = await super().workload(id, instance, health)
        return self._as_declared(found) if found else None

    def _as_declared(self, workload: Workload) -> Workload:
        change = self.action.changes[0]
        assert isinstance(change, Deploy)
        artifact, configuration = change.placement.content
        return replace(workload, artifact=artifact, configuration=configuration)


@caught_by("what_runs_as_declared_can_be_adopted")
class AdoptsByRestarting(MemoryHands):
    def _take_over(self, place: Place, instance: str) -> None:
        super()._take_over(place, instance)
        thing = place.things.get(instance)
        if thing is not None and thing.key is None:
            fresh = self.host.make(thing.artifact, thing.configuration, place.id)
            del place.things[instance]
            place.things[instance] = fresh
            self.host.start(fresh, self.actor, "settle")


def _actor() -> Any:
    from drivers.memory.world import BY_HAND

    return BY_HAND
