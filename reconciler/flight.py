"""One try of one task: intent first, then the effect, then what was observed, and what was learnt of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import anyio
from sqlalchemy import Connection

from desired_state.hooks import Hooks
from desired_state.model import Placement
from drivers.contract import (
    Action,
    Change,
    Deploy,
    Progress,
    Receipt,
    Remove,
    Rendered,
    RenderedKind,
    Rendering,
    Restart,
    Result,
)
from drivers.errors import (
    Busy,
    DriverError,
    InvalidAction,
    NotAllowed,
    OutcomeUnknown,
    Refused,
    StaleFence,
    Terminal,
    Unreachable,
)
from drivers.errors import Retryable as TryAgain
from reconciler import events
from reconciler.core import retry
from reconciler.core.intent import Cause, ChangeKind, JobKind
from reconciler.core.judge import Verdict
from reconciler.core.known import Memory, Seen, Trust
from reconciler.core.machine import TaskEvent, TaskState
from reconciler.core.verdict import Asked, Ruling, TaskLook, verdict
from reconciler.failpoints import STEPS, reached
from reconciler.looks import Looks
from reconciler.loop import plain, sentence
from reconciler.means import Means
from reconciler.store import artifacts, evidence, leases, memories, tasks
from reconciler.store.errors import LostLease, StoreError
from reconciler.store.memories import Learnt
from reconciler.store.records import Circuit, Direction, EvidenceRow, Good, ProgressLine, Refusal, Task
from reconciler.undertaking import Undertaking
from stickers.evidence import ActionRecord, HealthEvidence, bounded
from stickers.names import PlacementId
from stickers.signature import Statement

MARGIN: Final = 10.0  # seconds beyond an action's deadline, after which its driver is not waited for any more
TELLS: Final = 0.5  # seconds between two writes of progress
GAVE_UP: Final = "GAVE_UP"  # the code of a task that was tried as often as it may be

_UNTOUCHING: Final = (ChangeKind.LABEL, ChangeKind.ADOPT)  # what runs is left as it is
_PLAIN_ANSWERS: Final = frozenset(
    error.code for error in (Unreachable, Busy, TryAgain, Refused, InvalidAction, NotAllowed, Terminal)
)  # errors that say themselves what happened: nothing is learnt by looking


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What came back from a driver: a receipt, or the code of an error; `detail` is a sentence."""

    receipt: Receipt | None = None
    code: str | None = None
    detail: str = ""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """What is written at the end of a try: the events, and what else changes with them in the same transaction."""

    path: tuple[TaskEvent, ...]
    code: str | None
    detail: str
    not_before: datetime | None = None
    statements: tuple[EvidenceRow, ...]
    record: EvidenceRow
    goods: tuple[Good, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    heals: dict[PlacementId, Memory] = field(default_factory=dict)
    sequences: dict[PlacementId, int] = field(default_factory=dict)
    gone: tuple[PlacementId, ...] = ()
    failed: bool | None = None  # counts for the target's circuit; None: neither a failure nor a success


class Flight:
    """One task, as far as it comes now."""

    def __init__(self, means: Means, undertaking: Undertaking, looks: Looks, task: Task) -> None:
        self._means, self._undertaking, self._looks, self.task = means, undertaking, looks, task
        self._lease, self._environment = undertaking.lease, undertaking.job.environment
        self._lines: deque[ProgressLine] = deque(maxlen=tasks.LINES)
        self._told = anyio.Event()
        self._began = means.tools.now()
        self._rendered: tuple[Rendered, ...] = ()

    async def fly(self) -> None:
        match self.task.state:
            case TaskState.LOST:
                await self._conclude(_Answer(at=self._began))
            case TaskState.VERIFYING:
                receipt = self.task.receipt
                await self._conclude(_Answer(receipt=receipt, detail=self.task.detail, at=self._began))
            case _ if not self._means.stopping():
                await self._dispatch()
                await self._conclude(await self._apply())

    # -- the effect -------------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """The intent, before anything is done; and what was kept for it."""
        now, kinds = self._means.tools.now(), self._deployed_as_kept()

        def intent(c: Connection) -> Task:
            task = self.task
            if kinds:
                self._rendered = artifacts.of_action(c, task.job, task.direction, task.target, kinds)
            if task.state is not TaskState.QUEUED:
                task = tasks.advance(c, task, TaskEvent.QUEUE, self._lease, now, not_before=None)
            return tasks.advance(c, task, TaskEvent.DISPATCH, self._lease, now)

        reached("before_intent")
        self._moved(await self._means.store.write(intent))
        reached("after_intent")

    async def _apply(self) -> _Answer:
        """The effect, with its progress told beside it."""
        done = anyio.Event()
        self._means.note(self._environment).acted += 1
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._tell, done)
            reached("before_effect")
            self._means.leases.insist(self._lease)
            receipt, code, detail = await self._asked_of_driver()
            reached("after_effect")
            done.set()
            self._told.set()
        self._means.note(self._environment).acted += 1
        return _Answer(receipt=receipt, code=code, detail=detail, at=self._means.tools.now())

    async def _asked_of_driver(self) -> tuple[Receipt | None, str | None, str]:
        try:
            action = self._action()
            driver = self._means.drivers[action.target.hands]
            with anyio.move_on_after(action.deadline.total_seconds() + MARGIN):
                receipt = await driver.apply(action, report=self._report)
                return receipt, None, "; ".join(outcome.detail for outcome in receipt.outcomes)
        except DriverError as error:
            return None, error.code, str(error)
        except Exception as error:  # what a driver raises beside its errors tells nothing about what it did
            return None, OutcomeUnknown.code, sentence(plain(error))
        return None, OutcomeUnknown.code, "the driver did not answer in time"

    def _action(self) -> Action:
        target = self._undertaking.target(self.task.target)
        if target is None:
            raise InvalidAction(f"{self.task.target} is not declared any more")
        return Action(
            key=self.task.key,
            fence=self._lease.token,
            environment=self._environment,
            job=self.task.job,
            revision=self._undertaking.desired.revision,
            target=target,
            changes=self.task.intent.changes,
            deadline=_deadline(self.task.intent.changes, self._means.limits.action),
            rendered=self._rendered,
            back=self.task.direction is Direction.BACK or self._undertaking.job.kind is JobKind.ROLLBACK,
        )

    def _deployed_as_kept(self) -> frozenset[RenderedKind]:
        target = self._undertaking.target(self.task.target)
        try:
            driver = self._means.drivers[target.hands] if target else None
        except Exception:  # whatever keeps a driver from being had, the action says
            return frozenset()
        return driver.deploys if isinstance(driver, Rendering) else frozenset()

    def _report(self, progress: Progress) -> None:
        now = self._means.tools.now()
        self._lines.append(ProgressLine(at=now, id=progress.id, step=progress.step, message=progress.message))
        self._told.set()
        self._means.tell(
            events.Progressed(
                environment=self._environment,
                job=self._undertaking.job.id,
                release=self._undertaking.desired.release.name,
                task=self.task.id,
                progress=progress,
            )
        )
        reached(STEPS[progress.step])

    async def _tell(self, done: anyio.Event) -> None:
        """Write that it runs, and its progress, as it comes; what cannot be written now is written at the end."""
        while not done.is_set():
            await self._told.wait()
            self._told = anyio.Event()
            if done.is_set():
                return
            try:
                await self._note()
            except LostLease:
                raise
            except StoreError:
                pass
            with anyio.move_on_after(TELLS):
                await done.wait()

    async def _note(self) -> None:
        lines, now = tuple(self._lines), self._means.tools.now()

        def note(c: Connection) -> Task:
            tasks.note(c, self.task.id, lines)
            if self.task.state is TaskState.DISPATCHED:
                return tasks.advance(c, self.task, TaskEvent.START, self._lease, now)
            return self.task

        self._moved(await self._means.store.write(note))
        for _ in lines:
            self._lines.popleft()

    # -- what it came to --------------------------------------------------------------------------------------------

    async def _conclude(self, answer: _Answer) -> None:
        """Keep the answer, look for ourselves, rule, and write what follows."""
        if answer.code == StaleFence.code:
            now = self._means.tools.now()
            await self._means.store.read(lambda c: leases.check(c, self._lease, now))
        if answer.receipt is not None and self.task.state is not TaskState.VERIFYING and _touched(answer.receipt):
            await self._answered(answer)
        reached("before_verify")
        seen = None
        if answer.code not in _PLAIN_ANSWERS:
            seen = await self._looks.after_now(self.task.target)
        await self._end(self._ruled(answer, TaskLook(seen=seen, since=answer.at)), answer, seen)

    async def _answered(self, answer: _Answer) -> None:
        now, receipt = self._means.tools.now(), answer.receipt

        def keep(c: Connection) -> Task:
            task = self.task
            if task.state is TaskState.DISPATCHED:
                task = tasks.advance(c, task, TaskEvent.START, self._lease, now)
            return tasks.advance(c, task, TaskEvent.ANSWER, self._lease, now, receipt=receipt, detail=answer.detail)

        reached("before_answer")
        self._moved(await self._means.store.write(keep))
        reached("after_answer")

    def _ruled(self, answer: _Answer, look: TaskLook) -> Ruling:
        """What is unknown by the answer may be known by our own look."""
        changes = self.task.intent.changes
        asked = Asked(environment=self._environment, key=self.task.key, changes=changes)
        ruling = verdict(asked, answer.receipt or answer.code, look)
        if ruling.event is TaskEvent.LOSE and answer.code is not None and look.seen is not None:
            return verdict(asked, None, look)
        return ruling

    async def _end(self, ruling: Ruling, answer: _Answer, seen: Seen | None) -> None:
        if self.task.state is TaskState.LOST and ruling.event is TaskEvent.LOSE:
            return  # still unknown: somebody looks again
        end = self._ending(ruling, answer, seen)
        lines, now = tuple(self._lines), self._means.tools.now()

        def finish(c: Connection) -> Task:
            evidence.keep(c, [*end.statements, end.record])
            task = self._walked(c, end, answer, now)
            tasks.note(c, task.id, lines)
            self._remember(c, end, now)
            return task

        reached("before_task_end")
        self._moved(await self._means.store.write(finish))
        reached("after_task_end")

    def _walked(self, c: Connection, end: _End, answer: _Answer, now: datetime) -> Task:
        task = self.task
        for event in end.path[:-1]:
            task = tasks.advance(c, task, event, self._lease, now)
        return tasks.advance(
            c,
            task,
            end.path[-1],
            self._lease,
            now,
            code=end.code,
            detail=end.detail,
            not_before=end.not_before,
            receipt=answer.receipt,
            evidence=end.record.id,
        )

    def _remember(self, c: Connection, end: _End, now: datetime) -> None:
        environment, lease = self._environment, self._lease
        learnt = Learnt(sequences=end.sequences, goods=end.goods, heals=end.heals)
        memories.learn(c, environment, learnt, lease, now)
        for refusal in end.refusals:
            memories.refuse(c, refusal, lease, now)
        for id in end.gone:
            memories.forget(c, environment, id, lease)
        if end.failed is not None:
            memories.circuit(c, environment, self._circuit(c, end.failed, now), lease)

    def _circuit(self, c: Connection, failed: bool, now: datetime) -> Circuit:
        target = self.task.target
        if not failed:
            return Circuit(target=target, failures=0, open_until=None)
        before = memories.circuits(c, self._environment).get(target)
        failures = (before.failures if before else 0) + 1
        alone = retry.circuit(failures, seed=str(target))
        return Circuit(target=target, failures=failures, open_until=now + alone if alone else None)

    # -- what is written at the end ---------------------------------------------------------------------------------

    def _ending(self, ruling: Ruling, answer: _Answer, seen: Seen | None) -> _End:
        event, code, detail, not_before = self._tried_again(ruling, answer)
        fine = event in (TaskEvent.SUCCEED, TaskEvent.SKIP)
        over = event is TaskEvent.FAIL
        proofs = _proofs(ruling, answer.receipt)
        record = self._record(ruling, answer, detail, proofs)
        return _End(
            path=_path(self.task.state, event),
            code=None if fine else code,
            detail=detail,
            not_before=not_before,
            statements=tuple(self._proof(proof) for proof in proofs),
            record=record,
            goods=self._goods(ruling) if fine or over else (),
            refusals=self._refusals(ruling) if over else (),
            heals=self._heals(event) if fine or over else {},
            sequences=_sequences(answer.receipt, seen),
            gone=tuple(change.id for change in self.task.intent.changes if fine and isinstance(change, Remove)),
            failed=None if ruling.conflict or not (fine or over) else over,
        )

    def _tried_again(self, ruling: Ruling, answer: _Answer) -> tuple[TaskEvent, str, str, datetime | None]:
        """A retry is given its time; where none is left, the task has failed."""
        detail = ": ".join(part for part in (ruling.reason, answer.detail) if part) or ruling.code
        if answer.receipt is not None:
            detail = ruling.reason
        if ruling.event is not TaskEvent.RETRY:
            return ruling.event, ruling.code, detail, None
        wait = retry.next_attempt(self.task.attempt, retry.TASKS, seed=self.task.key)
        if wait is None:
            return TaskEvent.FAIL, GAVE_UP, f"gave up after {self.task.attempt} attempts: {detail}", None
        return ruling.event, ruling.code, detail, self._means.tools.now() + wait

    def _goods(self, ruling: Ruling) -> tuple[Good, ...]:
        target = self._undertaking.target(self.task.target)
        assert target is not None
        return tuple(
            Good(placement=proof.placement, target=target, evidence=proof.evidence.id, sequence=proof.sequence)
            for proof in ruling.good
        )

    def _refusals(self, ruling: Ruling) -> tuple[Refusal, ...]:
        """What goes back to last good is never refused, whatever it meets."""
        if self.task.direction is Direction.BACK:
            return ()
        return tuple(
            Refusal(placement=failing.placement, reason=failing.reason, job=self.task.job) for failing in ruling.refused
        )

    def _heals(self, event: TaskEvent) -> dict[PlacementId, Memory]:
        """Heals count until one has held for a while, whether they went well or not: what vanishes or falls ill after
        each of them is flapping. Something newer that stands in health begins anew."""
        after = {cause.id: self._healed(cause, event) for cause in self.task.intent.causes}
        return {id: memory for id, memory in after.items() if memory is not self._undertaking.memory(id)}

    def _healed(self, cause: Cause, event: TaskEvent) -> Memory:
        memory, now, seed = self._undertaking.memory(cause.id), self._means.tools.now(), str(cause.id)
        ails = cause.verdict in (Verdict.UNHEALTHY, Verdict.STOPPED)
        if ails or (cause.heal and event is TaskEvent.FAIL):
            return retry.heal_failed(memory, now=now, seed=seed)
        if event is TaskEvent.FAIL or self.task.direction is Direction.BACK:
            return memory
        if not cause.heal:
            return retry.heal_forgotten(memory)
        stood = event is TaskEvent.SKIP or cause.kind in _UNTOUCHING
        return memory if stood else retry.heal_done(memory, now=now, seed=seed)

    def _record(self, ruling: Ruling, answer: _Answer, detail: str, proofs: Sequence[HealthEvidence]) -> EvidenceRow:
        receipt = answer.receipt
        record = bounded(
            ActionRecord(
                environment=self._environment,
                job=self.task.job,
                key=self.task.key,
                fence=self._lease.token,
                target=self.task.target,
                attempt=self.task.attempt,
                changes=tuple(_words(change) for change in self.task.intent.changes),
                result=", ".join(outcome.result for outcome in receipt.outcomes)
                if receipt
                else (answer.code or ruling.code),
                detail=detail,
                began_at=self._began,
                ended_at=self._means.tools.now(),
                evidence=tuple(proof.id for proof in proofs),
            )
        )
        return EvidenceRow(
            id=record.id,
            kind=Statement.ACTION,
            environment=self._environment,
            target=self.task.target,
            component=None,
            envelope=self._means.tools.sign(Statement.ACTION, self._environment, record),
            at=record.ended_at,
        )

    def _proof(self, proof: HealthEvidence) -> EvidenceRow:
        return EvidenceRow(
            id=proof.id,
            kind=Statement.EVIDENCE,
            environment=self._environment,
            target=proof.placement.target,
            component=proof.placement.component,
            envelope=self._means.tools.sign(Statement.EVIDENCE, self._environment, proof),
            at=proof.proven_at,
        )

    def _moved(self, task: Task) -> None:
        before, self.task = self.task, task
        if before.state is not task.state:
            self._means.tell(moved(self._undertaking, task))


def moved(undertaking: Undertaking, task: Task) -> events.TaskMoved:
    return events.TaskMoved(
        environment=undertaking.job.environment,
        job=undertaking.job.id,
        release=undertaking.desired.release.name,
        task=task.id,
        key=task.key,
        target=task.target,
        state=task.state,
        attempt=task.attempt,
        code=task.code,
        detail=task.detail,
    )


def _path(state: TaskState, event: TaskEvent) -> tuple[TaskEvent, ...]:
    """The events from a state to what was ruled, by way of those that were not written yet."""
    if state in (TaskState.VERIFYING, TaskState.LOST):
        return (TaskEvent.SUCCEED if event is TaskEvent.SKIP else event,)
    begun = (TaskEvent.START,) if state is TaskState.DISPATCHED and event is not TaskEvent.LOSE else ()
    answered = (TaskEvent.ANSWER,) if event is TaskEvent.SUCCEED else ()
    return (*begun, *answered, event)


def _touched(receipt: Receipt) -> bool:
    return any(outcome.result is not Result.UNCHANGED for outcome in receipt.outcomes)


def _proofs(ruling: Ruling, receipt: Receipt | None) -> list[HealthEvidence]:
    """What was proven, by the driver and by our own look, once each."""
    told = [outcome.evidence for outcome in receipt.outcomes] if receipt else []
    every = [*(proof.evidence for proof in ruling.good), *(one for one in told if one is not None)]
    return list({proof.id: proof for proof in every}.values())


def _sequences(receipt: Receipt | None, seen: Seen | None) -> dict[PlacementId, int]:
    """The highest sequence of each placement that was written or, verified, seen."""
    found = {outcome.id: outcome.sequence for outcome in receipt.outcomes} if receipt else {}
    for id, reading in seen.readings.items() if seen else ():
        if reading.trust is Trust.VALID and reading.sticker is not None:
            found[id] = max(found.get(id, 0), reading.sticker.sequence)
    return {id: sequence for id, sequence in found.items() if sequence}


def _deadline(changes: Sequence[Change], beside: timedelta) -> timedelta:
    """Time for the change itself, for its hooks, and for each proof it may need: of what comes, and of what is put
    back."""
    proofs = timedelta()
    for change in changes:
        match change:
            case Deploy():
                proofs += _proof_takes(change.placement) + _proof_takes(change.predecessor)
                proofs += _hooks_take(change.placement.hooks)
            case Restart():
                proofs += _proof_takes(change.placement)
            case Remove():
                pass
    return beside + proofs


def _proof_takes(placement: Placement | None) -> timedelta:
    if placement is None:
        return timedelta()
    return (placement.health.deadline if placement.health else timedelta()) + placement.configuration.stop_grace


def _hooks_take(hooks: Hooks | None) -> timedelta:
    declared = (hooks.pre_deploy, hooks.post_deploy) if hooks else ()
    return sum((hook.deadline for hook in declared if hook), timedelta())


def _words(change: Change) -> str:
    match change:
        case Deploy() | Restart():
            artifact, configuration = change.placement.content
            return f"{change.verb} {change.id} {change.placement.release} {artifact} {configuration}"
        case Remove():
            return f"{change.verb} {change.id}"
