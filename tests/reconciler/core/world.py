"""A tiny pure world: targets that do what they are asked, or fail in one of the ways that targets do, and a reconciler
of a few lines that is nothing but the core in a circle.

There is no chance in it: faults are handed in, in the order in which they happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from desired_state.model import DesiredState, Placement
from drivers import errors
from drivers.contract import Change, Deploy, Outcome, Receipt, Remove, Restart, Result, claim_of
from reconciler.core import drift, plan, retry
from reconciler.core.drift import NOTHING_REMEMBERED, Diffed, Known, Memory, Reading, Seen, Trust
from reconciler.core.intent import NO_GRANT, Grant, Intent, JobKind, Plan
from reconciler.core.machine import TaskEvent
from reconciler.core.verdict import Answer, Asked, Ruling, TaskLook, verdict
from stickers.evidence import HealthEvidence
from stickers.names import ActionKey, Digest, JobId, PlacementId, TargetId
from stickers.observation import Health, HealthState, Observation, Standing, Workload, WorkloadState, Worn
from stickers.sticker import Phase, Sticker
from tests.reconciler.core.builders import HERE, NOW, POWERS

STEP = timedelta(seconds=30)


class Fault(StrEnum):
    """What one call of one target may meet."""

    NONE = "none"
    UNREACHABLE = "unreachable"  # nothing happened, and it says so
    LOST_BEFORE = "lost before"  # nothing happened, and nobody says so
    HALF_DONE = "half done"  # marked in transit, the old still serves, no answer
    LOST_AFTER = "lost after"  # all of it happened, no answer
    NO_EVIDENCE = "no evidence"  # all of it happened, the answer proves nothing


class Hand(StrEnum):
    """What somebody does to one placement behind everybody's back."""

    KILL = "kill"
    STOP = "stop"
    SWAP = "swap"
    PEEL = "peel"  # the sticker is gone
    SICKEN = "sicken"  # until it is restarted or replaced
    CUT = "cut"  # the target cannot be seen, until it is mended
    MEND = "mend"


@dataclass(kw_only=True)
class World:
    """What stands on each target. `bad` are trials that never become healthy."""

    bad: set[Digest] = field(default_factory=set)
    workloads: dict[PlacementId, Workload] = field(default_factory=dict)
    stickers: dict[PlacementId, Sticker] = field(default_factory=dict)
    cut: set[TargetId] = field(default_factory=set)
    started: int = 0
    applied: list[tuple[ActionKey, Change]] = field(default_factory=list)

    def look(self, targets: Iterable[TargetId], at: datetime) -> dict[TargetId, Seen]:
        return {target: self._seen(target, at) for target in targets}

    def _seen(self, target: TargetId, at: datetime) -> Seen:
        if target in self.cut:
            return Seen(observation=Observation(target=target, at=at, unseen="no route"))
        ids = sorted({id for id in (*self.workloads, *self.stickers) if id.target == target})
        standings = [self._standing(id) for id in ids]
        readings = {id: Reading(trust=Trust.VALID, sticker=self.stickers[id]) for id in ids if id in self.stickers}
        return Seen(observation=Observation(target=target, at=at, standings=tuple(standings)), readings=readings)

    def _standing(self, id: PlacementId) -> Standing:
        worn = Worn(envelope=self.stickers[id].digest) if id in self.stickers else None
        return Standing(component=id.component, slot=id.slot, worn=worn, workload=self.workloads.get(id))

    # -- acting ---------------------------------------------------------------------------------------------------

    def apply(self, asked: Asked, fault: Fault) -> Answer:
        if asked.changes[0].id.target in self.cut or fault is Fault.UNREACHABLE:
            return errors.Unreachable.code
        if fault is Fault.LOST_BEFORE:
            return None
        outcomes = []
        for change in asked.changes:
            outcome = self._change(asked, change, fault)
            if outcome is None:
                return errors.Conflict.code
            outcomes.append(outcome)
        if fault in (Fault.HALF_DONE, Fault.LOST_AFTER):
            return None
        return Receipt(key=asked.key, target=asked.changes[0].id.target, outcomes=tuple(outcomes))

    def _change(self, asked: Asked, change: Change, fault: Fault) -> Outcome | None:
        """The outcome; None: something else stands there than the change replaces."""
        stands, worn = self.workloads.get(change.id), self.stickers.get(change.id)
        in_transit = worn is not None and worn.phase is Phase.IN_TRANSIT
        if not isinstance(change, Remove) and self._is(change.placement, asked.key, change):
            return self._outcome(asked, change, Result.UNCHANGED, None)
        if not in_transit and _footing(stands) != _footing_of(change):
            return None
        if isinstance(change, Remove):
            self.workloads.pop(change.id, None)
            self.stickers.pop(change.id, None)
            self.applied.append((asked.key, change))
            return self._outcome(asked, change, Result.CHANGED, None)
        if fault is Fault.HALF_DONE:
            self._label(asked, change.placement, Phase.IN_TRANSIT, change)
            return self._outcome(asked, change, Result.CHANGED, None)
        self.applied.append((asked.key, change))
        if change.placement.trial in self.bad:
            return self._put_back(asked, change)
        return self._bring(asked, change, fault)

    def _is(self, placement: Placement, key: ActionKey, change: Change) -> bool:
        stands, worn = self.workloads.get(placement.id), self.stickers.get(placement.id)
        if stands is None or worn is None or worn.phase is not Phase.PROVEN:
            return False
        if isinstance(change, Restart) or (isinstance(change, Deploy) and change.anew):
            return worn.key == key
        running = (stands.state is WorkloadState.RUNNING) == placement.running
        right = (stands.artifact, stands.configuration) == placement.content
        return right and running and worn.claim == claim_of(placement, HERE)

    def _bring(self, asked: Asked, change: Deploy | Restart, fault: Fault) -> Outcome:
        placement, stands = change.placement, self.workloads.get(change.id)
        labels_only = isinstance(change, Deploy) and not change.anew and _runs(stands, placement)
        if not labels_only:
            self.started += 1
            self.workloads[change.id] = _fresh(placement, asked.key, self.started)
        self._label(asked, placement, Phase.PROVEN, change)
        proof = None if fault is Fault.NO_EVIDENCE else self._evidence(asked, placement)
        return self._outcome(asked, change, Result.LABELLED if labels_only else Result.CHANGED, proof)

    def _put_back(self, asked: Asked, change: Deploy | Restart) -> Outcome:
        before = change.predecessor if isinstance(change, Deploy) else None
        if before is not None and _runs(self.workloads.get(change.id), before):
            self._label(asked, before, Phase.PROVEN, change)
        elif change.id in self.workloads:
            self.stickers.pop(change.id, None)
        return self._outcome(asked, change, Result.REVERTED, None)

    def _label(self, asked: Asked, placement: Placement, phase: Phase, change: Change) -> None:
        worn = self.stickers.get(placement.id)
        sequence = max(change.stamp.sequence, worn.sequence + 1 if worn else 0)
        self.stickers[placement.id] = Sticker(
            claim=claim_of(placement, HERE),
            phase=phase,
            job=JobId("default/prod:1"),
            key=asked.key,
            fence=1,
            sequence=sequence,
            previous=worn.digest if worn else None,
            revision="r1",
            evidence=self._evidence(asked, placement).id if phase is Phase.PROVEN else None,
            written_at=NOW,
        )

    def _evidence(self, asked: Asked, placement: Placement) -> HealthEvidence:
        return HealthEvidence(
            environment=asked.environment,
            placement=placement.id,
            key=asked.key,
            instance=self.workloads[placement.id].instance,
            artifact=placement.artifact.digest,
            configuration=placement.configuration_digest,
            started_at=NOW,
            switched_at=NOW,
            proven_at=NOW,
            checks=(str(placement.health.check),) if placement.health else ("running",),
            answers=3,
        )

    def _outcome(self, asked: Asked, change: Change, result: Result, proof: HealthEvidence | None) -> Outcome:
        worn = self.stickers.get(change.id)
        sequence = worn.sequence if worn else 0
        return Outcome(id=change.id, result=result, detail=result.value, evidence=proof, sequence=sequence)

    # -- behind everybody's back ----------------------------------------------------------------------------------

    def meddle(self, id: PlacementId, hand: Hand) -> None:
        stands = self.workloads.get(id)
        match hand:
            case Hand.KILL:
                self.workloads.pop(id, None)
            case Hand.STOP if stands:
                self.workloads[id] = replace(stands, state=WorkloadState.STOPPED)
            case Hand.SWAP if stands:
                self.started += 1
                self.workloads[id] = replace(stands, artifact=None, instance=f"swapped-{self.started}")
            case Hand.PEEL:
                self.stickers.pop(id, None)
            case Hand.SICKEN if stands:
                self.workloads[id] = replace(stands, health=Health(state=HealthState.UNHEALTHY, detail="http 503"))
            case Hand.CUT:
                self.cut.add(id.target)
            case Hand.MEND:
                self.cut.discard(id.target)


def _footing(workload: Workload | None) -> tuple[object, ...] | None:
    return (workload.instance, workload.artifact, workload.configuration) if workload else None


def _footing_of(change: Change) -> tuple[object, ...] | None:
    footing = change.replaces
    return (footing.instance, footing.artifact, footing.configuration) if footing else None


def _runs(workload: Workload | None, placement: Placement) -> bool:
    if workload is None or (workload.artifact, workload.configuration) != placement.content:
        return False
    return (workload.state is WorkloadState.RUNNING) == placement.running


def _fresh(placement: Placement, key: ActionKey, number: int) -> Workload:
    asked = placement.running and placement.health is not None
    return Workload(
        instance=f"{placement.id}-{number}",
        artifact=placement.artifact.digest,
        configuration=placement.configuration_digest,
        state=WorkloadState.RUNNING if placement.running else WorkloadState.STOPPED,
        health=Health(state=HealthState.HEALTHY if asked else HealthState.UNCHECKED),
        key=key,
    )


@dataclass(kw_only=True)
class Circle:
    """A reconciler that is the core and nothing else: look, diff, plan, carry out, remember."""

    world: World
    desired: DesiredState
    known: Known = field(default_factory=Known)
    faults: Iterator[Fault] = field(default_factory=lambda: iter(()))
    now: datetime = NOW
    jobs: int = 0
    before: Diffed | None = None
    plans: list[Plan] = field(default_factory=list)

    def turn(self, grant: Grant = NO_GRANT) -> Plan:
        """One turn, with the job it makes carried out to its end."""
        self.now += STEP
        seen = self._look()
        self.before = drift.rediff(self.desired, seen, self.known, now=self.now, before=self.before)
        self._rest()
        found = self._plan(grant)
        self.plans.append(found)
        if not found.empty:
            self._job(found)
        return found

    def settle(self, turns: int = 60) -> int:
        """Turns until two in a row have nothing to do; an `AssertionError` when it never rests."""
        quiet = 0
        for number in range(turns):
            quiet = quiet + 1 if self.turn().empty else 0
            if quiet == 2 and not any(one.until for one in self.plans[-1].blocked):
                return number
        raise AssertionError(f"no rest after {turns} turns: {self.plans[-1]}")

    def _look(self) -> dict[TargetId, Seen]:
        """At every target that is declared, or ever wore something."""
        declared = [target.id for target in self.desired.targets]
        former = sorted({id.target for id in self.world.workloads})
        return self.world.look(dict.fromkeys([*declared, *former]), self.now)

    def _plan(self, grant: Grant) -> Plan:
        assert self.before is not None
        drifts = self.before.drifts
        return plan.plan(drifts, self.desired, self.known, powers=POWERS, installation=HERE, now=self.now, grant=grant)

    # -- one job ----------------------------------------------------------------------------------------------------

    def _job(self, found: Plan) -> None:
        self.jobs += 1
        failed = 0
        for wave in found.waves:
            rulings = [self._task(intent, "forward", found.kind) for intent in wave.intents]
            failed += sum(ruling.event is TaskEvent.FAIL and not ruling.conflict for ruling in rulings)
            if failed > self.desired.environment.strategy.max_failures:
                self._go_back(found)
                return
            if any(ruling.event is TaskEvent.FAIL for ruling in rulings):
                return

    def _go_back(self, undo: Plan) -> None:
        """To what was last good before; that is what counts again from now on, wherever it cannot be reached yet."""
        for intent in undo.intents:
            for change in intent.changes:
                if isinstance(change, Deploy):
                    memory = self.known.memories.get(change.id, NOTHING_REMEMBERED)
                    self._remember(change.id, replace(memory, last_good=change.predecessor))
        ids = {change.id for intent in undo.intents for change in intent.changes}
        touched = [one for one in drift.diff(self.desired, self._look(), self.known, now=self.now) if one.id in ids]
        way = plan.back(touched, self.desired, self.known, powers=POWERS, installation=HERE, now=self.now, undo=undo)
        self.plans.append(way)
        for wave in way.waves:
            for intent in wave.intents:
                self._task(intent, "back", JobKind.ROLLBACK)

    def _task(self, intent: Intent, direction: str, kind: JobKind) -> Ruling:
        key = plan.action_key(self.desired.environment.id, self.jobs, intent, direction)
        asked = Asked(environment=self.desired.environment.id, key=key, changes=intent.changes)
        ruling = self._ruled(asked, self.world.apply(asked, next(self.faults, Fault.NONE)))
        attempt = 1
        while ruling.event in (TaskEvent.RETRY, TaskEvent.LOSE):
            if retry.next_attempt(attempt, retry.TASKS, seed=key) is None:
                ruling = replace(ruling, event=TaskEvent.FAIL)
                break
            again = ruling.event is TaskEvent.RETRY
            answer = self.world.apply(asked, next(self.faults, Fault.NONE)) if again else None
            ruling = self._ruled(asked, answer)
            attempt += 1
        self._learn(intent, ruling)
        return ruling

    def _ruled(self, asked: Asked, answer: Answer) -> Ruling:
        target = asked.changes[0].id.target
        look = TaskLook(seen=self.world.look([target], self.now)[target], since=self.now)
        return verdict(asked, answer, look)

    # -- what is remembered -------------------------------------------------------------------------------------------

    def _learn(self, intent: Intent, ruling: Ruling) -> None:
        for proof in ruling.good:
            memory = self.known.memories.get(proof.placement.id, NOTHING_REMEMBERED)
            self._remember(proof.placement.id, replace(memory, last_good=proof.placement, sequence=proof.sequence))
        if ruling.refused:
            refused = {one.placement.trial: one.reason for one in ruling.refused}
            self.known = replace(self.known, refused=self.known.refused | refused)
        for cause in intent.causes:
            memory = self.known.memories.get(cause.id, NOTHING_REMEMBERED)
            if cause.heal:
                counted = retry.heal_failed if ruling.event is TaskEvent.FAIL else retry.heal_done
                self._remember(cause.id, counted(memory, now=self.now, seed=str(cause.id)))

    def _rest(self) -> None:
        assert self.before is not None
        apart = {one.id for one in self.before.drifted}
        for id, memory in self.known.memories.items():
            held = retry.heal_held(memory, now=self.now)
            if id not in apart and held is not memory:
                self._remember(id, held)

    def _remember(self, id: PlacementId, memory: Memory) -> None:
        self.known = replace(self.known, memories=self.known.memories | {id: memory})
