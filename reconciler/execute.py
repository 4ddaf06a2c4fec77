"""One turn for one job: take it over, do what is asked of it, carry one wave, answer when to come back.

    pending ── begin ──> running ── waves ──> completing ── final look ──> completed
                            │                     │
                            └───── too many failures ─────> rolling back ── waves ──> rolled back   (or failed)

Requests, a suspension and a newer desire are looked at between waves and before each retry, never in the middle of an
action.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Final

from sqlalchemy import Connection

from desired_state.model import Placement, RollbackPolicy
from drivers.contract import Capabilities, Deploy, Look, Remove
from drivers.errors import InvalidAction, Refused, Terminal
from reconciler import act, artifacts, events
from reconciler.act import LOOK_AGAIN
from reconciler.core import plan as planning
from reconciler.core.intent import JobKind, Plan
from reconciler.core.judge import Case, Drift, Verdict, judge
from reconciler.core.known import NO_READING, Memory, Seen
from reconciler.core.machine import JOB_TERMINAL, TASK_TERMINAL, JobEvent, JobState, TaskEvent, TaskState
from reconciler.core.trust import judge_sequence
from reconciler.failpoints import reached
from reconciler.leases import HeldElsewhere
from reconciler.loop import reconcile
from reconciler.means import Means
from reconciler.store import artifacts as kept_artifacts
from reconciler.store import environments, jobs, memories, tasks
from reconciler.store.records import Direction, EnvironmentRow, Job, Lease, Refusal, Task, Wish
from reconciler.store.store import Query
from reconciler.undertaking import Undertaking
from stickers import names
from stickers.names import JobId, PlacementId, TargetId

AT_ONCE: Final = 0.0

_CULPABLE: Final = frozenset({"REVERTED", "UNPROVEN", "STOPPED", "UNHEALTHY"}) | {
    Refused.code,
    InvalidAction.code,
    Terminal.code,
}  # failures that speak against what was brought; a target that cannot be reached, or that somebody touched, does not
_ENDS: Final = (JobEvent.CANCEL, JobEvent.SUPERSEDE)
_ILL: Final = (Verdict.UNHEALTHY, Verdict.STOPPED)


async def turn(means: Means, id: JobId) -> float | None:
    """Carry the job on. None: nothing is to be done until somebody asks."""
    try:
        async with means.leases.under(names.environment_of(id)) as lease:
            taken = await _taken_over(means, id, lease)
            return await _Turn(means, *taken).take() if taken else None
    except HeldElsewhere as held:
        return held.again


async def _taken_over(means: Means, id: JobId, lease: Lease) -> tuple[Undertaking, EnvironmentRow] | None:
    """The job with everything it needs; None when it is over. What its former carrier had under way is lost: nobody
    waits for the answer."""
    now = means.tools.now()

    def take(c: Connection) -> tuple[Undertaking, EnvironmentRow] | None:
        job = jobs.load(c, id)
        if job is None or job.state in JOB_TERMINAL:
            return None
        row, desired = environments.load(c, job.environment), environments.desired(c, job.environment)
        assert row is not None
        assert desired is not None
        found = tuple(_lost(c, task, lease, now) for task in tasks.of(c, id))
        known = memories.known(c, job.environment, now)
        return Undertaking(job=job, lease=lease, desired=desired, known=known, tasks=found), row

    return await means.store.write(take)


def _lost(c: Connection, task: Task, lease: Lease, now: datetime) -> Task:
    if task.state not in (TaskState.DISPATCHED, TaskState.RUNNING):
        return task
    detail = "whoever carried it is gone; it is looked at before anything else"
    return tasks.advance(c, task, TaskEvent.LOSE, lease, now, code="OUTCOME_UNKNOWN", detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """An event for the job, and the sentence to it."""

    event: JobEvent
    message: str


class _Turn:
    def __init__(self, means: Means, undertaking: Undertaking, row: EnvironmentRow) -> None:
        self.means, self.undertaking, self.row = means, undertaking, row
        self.job = undertaking.job

    async def take(self) -> float | None:
        if step := _asked(self.job, self.row, self.means.tools.now()):
            return await self._end(step) if step.event in _ENDS else await self._moved(step)
        match self.job.state:
            case JobState.PENDING | JobState.PREPARING:
                return await self._begin()
            case JobState.RUNNING:
                return await self._forward()
            case JobState.COMPLETING:
                return await self._final_look()
            case JobState.ROLLING_BACK:
                return await self._back()
        return None  # paused: whoever ends that asks for a turn

    async def _moved(self, step: _Step) -> float:
        now = self.means.tools.now()
        await self._advance(
            lambda c: jobs.advance(c, self.job, step.event, self.undertaking.lease, now, message=step.message)
        )
        return AT_ONCE

    # -- forward ----------------------------------------------------------------------------------------------------

    async def _begin(self) -> float:
        now, lease = self.means.tools.now(), self.undertaking.lease
        plan = await self.means.store.read(lambda c: jobs.plan(c, self.job))
        files = await artifacts.prepared(self.means, self.undertaking, plan.waves, Direction.FORWARD)

        def begin(c: Connection) -> Job:
            job = self.job
            if job.state is JobState.PENDING:
                job = jobs.advance(c, job, JobEvent.PREPARE, lease, now)
            kept_artifacts.keep(c, job, Direction.FORWARD, files, lease, now)
            if job.kind is JobKind.DEPLOY:
                environments.attempted(c, job.environment, self.undertaking.desired.release.name, lease)
            return jobs.advance(c, job, JobEvent.BEGIN, lease, now)

        reached("before_begin")
        await self._advance(begin)
        reached("after_begin")
        return AT_ONCE

    async def _forward(self) -> float | None:
        """One wave; or what comes when there is none left, or when too much has failed."""
        if self._too_many():
            return await self._failed([one for one in self._of(Direction.FORWARD) if one.state is TaskState.FAILED])
        open_tasks = _open(self._of(Direction.FORWARD))
        if not open_tasks:
            return await self._moved(_Step(event=JobEvent.FINISH, message=""))
        return await self._wave(open_tasks)

    async def _failed(self, failed: Sequence[Task]) -> float | None:
        """More targets have failed than may: back, where what was brought is to blame and policy says so; else over."""
        message = _failures(failed)
        blamed = [task for task in failed if task.code in _CULPABLE]
        policy = self.undertaking.desired.environment.rollback
        if blamed and self.job.kind is JobKind.DEPLOY and policy is RollbackPolicy.AUTOMATIC:
            return await self._roll_back(message, self._refusals(blamed))
        return await self._fail(message)

    async def _wave(self, open_tasks: Sequence[Task]) -> float | None:
        """The first wave that is not done, as far as it can be carried now."""
        number = min(task.wave for task in open_tasks)
        wave, now = [task for task in open_tasks if task.wave == number], self.means.tools.now()
        if lost := self._given_up(wave, now):
            return await self._fail(lost)
        ready = [task for task in wave if act.wait(task, now) <= 0]
        if not ready:
            return min(act.wait(task, now) for task in wave)
        if self.means.stopping():
            return None
        await self._count(number)
        if any(task.attempt for task in ready):
            reached("before_retry")
        carried = await act.carry(self.means, replace(self.undertaking, job=self.job), wave, self._goes_on)
        now = self.means.tools.now()
        return min((_pause(task, now) for task in _open(carried)), default=AT_ONCE)

    async def _goes_on(self, failed: Set[TargetId]) -> bool:
        """Whether a task may be tried again while others of its wave are under way: not too much has failed, and
        nothing is asked of the job meanwhile."""

        def asked(c: Connection) -> _Step | None:
            job, row = jobs.load(c, self.job.id), environments.load(c, self.job.environment)
            return None if job is None or row is None else _asked(job, row, self.means.tools.now())

        return not self._too_many(failed) and await self.means.store.read(asked) is None

    def _too_many(self, failed: Set[TargetId] = frozenset()) -> bool:
        """Whether more targets have failed than may, with these; on the way back, as many may as do."""
        if self.job.state is not JobState.RUNNING:
            return False
        return len(failed | self._failed_before) > self.undertaking.desired.environment.strategy.max_failures

    @cached_property
    def _failed_before(self) -> set[TargetId]:
        return _targets(task for task in self._of(Direction.FORWARD) if task.state is TaskState.FAILED)

    def _given_up(self, wave: Sequence[Task], now: datetime) -> str | None:
        """A job does not wait for ever for a target whose outcome is unknown: the others of the environment could not
        be healed. Nothing is said against what was brought, and the target is looked at on."""
        lost = [task for task in wave if task.state is TaskState.LOST]
        late = [task for task in lost if now - task.changed_at > self.means.limits.patience]
        if not late:
            return None
        named = ", ".join(sorted(_targets(late))[:3])
        return f"the outcome on {named} is unknown, and it could not be seen since"

    async def _count(self, wave: int) -> None:
        """Write which wave is on its way."""
        if self.job.wave == wave + 1:
            return
        now = self.means.tools.now()
        self.job = await self.means.store.write(
            lambda c: jobs.revise(c, self.job, self.undertaking.lease, now, wave=wave + 1)
        )

    async def _final_look(self) -> float | None:
        """Everything that was brought is looked at once more, together. What fell ill since is a failure of the job;
        what cannot be seen is waited for."""
        done = [task for task in self._of(Direction.FORWARD) if task.state in (TaskState.SUCCEEDED, TaskState.SKIPPED)]
        wanted = _wanted(done)
        found = await self._drifts(wanted, wanted)
        ill = [drift for drift in found if drift.verdict in _ILL]
        failed = {task.target for task in self._of(Direction.FORWARD) if task.state is TaskState.FAILED}
        allowed = self.undertaking.desired.environment.strategy.max_failures
        if ill and len(failed | {drift.id.target for drift in ill}) > allowed:
            return await self._fell_ill(ill)
        if any(drift.verdict is Verdict.UNKNOWN for drift in found):
            return await self._unseen(found)
        return await self._complete(len(failed))

    async def _fell_ill(self, ill: Sequence[Drift]) -> float | None:
        message = "; ".join(f"{drift.id} did not last: {drift.reason or drift.rule}" for drift in ill[:3])
        brought = _deploys(self._of(Direction.FORWARD))
        refusals = tuple(
            Refusal(placement=brought[drift.id].placement, reason=f"{drift.rule}: {drift.reason}", job=self.job.id)
            for drift in ill
            if drift.id in brought and _is_new(brought[drift.id])
        )
        policy = self.undertaking.desired.environment.rollback
        if refusals and self.job.kind is JobKind.DEPLOY and policy is RollbackPolicy.AUTOMATIC:
            return await self._roll_back(message, refusals)
        return await self._fail(message)

    async def _unseen(self, found: Sequence[Drift]) -> float | None:
        unseen = sorted({drift.id.target for drift in found if drift.verdict is Verdict.UNKNOWN})
        if self.means.tools.now() - self.job.changed_at <= self.means.limits.patience:
            return LOOK_AGAIN
        return await self._fail(f"done, and {', '.join(unseen[:3])} could not be seen in the end")

    async def _complete(self, failed: int) -> float | None:
        also = f"; {failed} targets failed, which is allowed" if failed else ""
        targets = len(_targets(self._of(Direction.FORWARD)))
        return await self._end(_Step(event=JobEvent.COMPLETE, message=f"{targets} targets stand as wanted{also}"))

    # -- back -------------------------------------------------------------------------------------------------------

    async def _roll_back(self, message: str, refusals: Sequence[Refusal]) -> float:
        """The same job turns round. What it brought is last good no more, what is to blame is refused, and the way back
        is laid by what is seen now: all in one transaction, so that an interrupted way back is gone on by any turn."""
        touched = [task for task in self._of(Direction.FORWARD) if task.attempt]
        undo = await self.means.store.read(lambda c: jobs.plan(c, self.job))
        ids = [change.id for task in touched for change in task.intent.changes]
        found = await self._drifts(ids, _wanted(touched))
        plan = planning.back(
            found,
            self.undertaking.desired,
            self.undertaking.known,
            powers=self._powers(),
            installation=self.means.tools.installation,
            now=self.means.tools.now(),
            undo=undo,
        )
        reached("before_roll_back")
        await self._turn_round(message, refusals, plan, _deploys(touched))
        reached("after_roll_back")
        return AT_ONCE

    async def _turn_round(
        self, message: str, refusals: Sequence[Refusal], plan: Plan, brought: dict[PlacementId, Deploy]
    ) -> None:
        now, lease, environment = self.means.tools.now(), self.undertaking.lease, self.job.environment
        files = await artifacts.prepared(self.means, self.undertaking, plan.waves, Direction.BACK)
        stepped = [id for id, change in brought.items() if _became_good(change, self.undertaking.known.memories)]

        def turn_round(c: Connection) -> Job:
            _cancel(c, _open(self._of(Direction.FORWARD)), lease, now)
            for refusal in refusals:
                memories.refuse(c, refusal, lease, now)
            memories.step_back(c, environment, stepped, lease, now)
            job = jobs.advance(c, self.job, JobEvent.ROLL_BACK, lease, now, message=message)
            jobs.add_tasks(c, job, plan, Direction.BACK, lease, now)
            kept_artifacts.keep(c, job, Direction.BACK, files, lease, now)
            return job

        await self._advance(turn_round)

    async def _back(self) -> float | None:
        """The way back, wave by wave; nothing on it stops the rest of it."""
        back = self._of(Direction.BACK)
        if open_tasks := _open(back):
            return await self._wave(open_tasks)
        failed = [task for task in back if task.state is TaskState.FAILED]
        if failed:
            return await self._fail(f"{self.job.message}; on the way back {_failures(failed)}")
        return await self._end(_Step(event=JobEvent.RESTORED, message=self.job.message))

    def _refusals(self, blamed: Sequence[Task]) -> tuple[Refusal, ...]:
        """What failed is refused: proofs that failed are already; what a target would not do is from now on."""
        return tuple(
            Refusal(placement=change.placement, reason=f"{task.target}: {task.detail}", job=self.job.id)
            for task in blamed
            for change in task.intent.changes
            if isinstance(change, Deploy)
            and _is_new(change)
            and change.placement.trial not in self.undertaking.known.refused
        )

    # -- endings ----------------------------------------------------------------------------------------------------

    async def _fail(self, message: str) -> float | None:
        return await self._end(_Step(event=JobEvent.FAIL, message=message))

    async def _end(self, step: _Step) -> float | None:
        """The job ends here; what has not begun never will, and what is unknown is judged by what is seen there."""
        now, lease = self.means.tools.now(), self.undertaking.lease

        def end(c: Connection) -> Job:
            _cancel(c, _open(self.undertaking.tasks), lease, now)
            return jobs.advance(c, self.job, step.event, lease, now, message=step.message)

        reached("before_job_end")
        await self._advance(end)
        reached("after_job_end")
        note = self.means.note(self.job.environment)
        note.acted, note.busy = note.acted + 1, False
        self.means.ask(reconcile(self.job.environment), AT_ONCE)
        return None

    async def _advance(self, query: Query[Job]) -> None:
        self.job = await self.means.store.write(query)
        self.means.tell(events.job_moved(self.job, self.undertaking.desired.release.name, self.job.message))

    # -- looking ----------------------------------------------------------------------------------------------------

    async def _drifts(self, ids: Iterable[PlacementId], wanted: Mapping[PlacementId, Placement]) -> list[Drift]:
        """These placements, looked at now and judged by what is wanted of each."""
        by_target: dict[TargetId, list[PlacementId]] = {}
        for id in ids:
            by_target.setdefault(id.target, []).append(id)
        records = [record for target in by_target if (record := self.undertaking.target(target)) is not None]
        looks = [
            Look(target=record, placements=tuple(wanted[id] for id in by_target[record.id] if id in wanted))
            for record in records
        ]
        seen = await self.means.eyes.look(self.job.environment, looks)
        return [self._judged(id, wanted.get(id), seen.get(id.target)) for ids in by_target.values() for id in ids]

    def _judged(self, id: PlacementId, wanted: Placement | None, seen: Seen | None) -> Drift:
        memory = self.undertaking.memory(id)
        observation = seen.observation if seen else None
        return judge(
            Case(
                id=id,
                wanted=wanted,
                declared=wanted,
                standing=observation.standing(id.component, id.slot) if observation else None,
                reading=judge_sequence(seen.readings.get(id, NO_READING), memory) if seen else NO_READING,
                memory=memory,
                blind=observation.unseen if observation else "the target is not declared any more",
            )
        )

    def _powers(self) -> dict[str, Capabilities]:
        records = [*self.undertaking.desired.targets, *self.undertaking.known.targets.values()]
        return self.means.powers(record.hands for record in records)

    def _of(self, direction: Direction) -> list[Task]:
        return [task for task in self.undertaking.tasks if task.direction is direction]


# -- what is asked of a job --------------------------------------------------------------------------------------------


def _asked(job: Job, row: EnvironmentRow, now: datetime) -> _Step | None:
    """What a person, a suspension or a newer desire asks of the job; the first that applies."""
    if job.wish is Wish.CANCEL:
        return _Step(event=JobEvent.CANCEL, message=f"cancelled by {job.wished_by}")
    if row.generation != job.generation:
        message = f"generation {row.generation} is desired by now, this was for {job.generation}"
        return _Step(event=JobEvent.SUPERSEDE, message=message)
    if hold := _held_up(job, row, now):
        return _Step(event=JobEvent.PAUSE, message=hold) if job.state is JobState.RUNNING else None
    if job.state is JobState.PAUSED:
        return _Step(event=JobEvent.CONTINUE, message="")
    return None


def _held_up(job: Job, row: EnvironmentRow, now: datetime) -> str | None:
    """Why the job should pause: somebody wants it, or has suspended the environment since it was made."""
    suspended = row.suspended
    if job.wish is Wish.PAUSE:
        return f"paused by {job.wished_by}"
    if suspended is not None and memories.in_force(suspended, now) and suspended.since > job.created_at:
        return f"suspended by {suspended.actor}: {suspended.reason}"
    return None


# -- tasks ------------------------------------------------------------------------------------------------------------


def _open(tasks: Iterable[Task]) -> list[Task]:
    return [task for task in tasks if task.state not in TASK_TERMINAL]


def _targets(tasks: Iterable[Task]) -> set[TargetId]:
    return {task.target for task in tasks}


def _pause(task: Task, now: datetime) -> float:
    """Seconds until something can be done for it again."""
    return LOOK_AGAIN if task.state is TaskState.LOST else max(AT_ONCE, act.wait(task, now))


def _failures(failed: Sequence[Task]) -> str:
    shown = "; ".join(f"{task.target}: {task.detail}" for task in failed[:3])
    return shown if len(failed) <= 3 else f"{shown}; and {len(failed) - 3} more"


def _cancel(c: Connection, open_tasks: Iterable[Task], lease: Lease, now: datetime) -> None:
    """What is not done is not begun any more; what is unknown stays so, and is judged by what is seen there."""
    for task in open_tasks:
        if task.state is TaskState.VERIFYING:
            task = tasks.advance(c, task, TaskEvent.LOSE, lease, now)
        tasks.advance(c, task, TaskEvent.CANCEL, lease, now)


def _deploys(tasks: Iterable[Task]) -> dict[PlacementId, Deploy]:
    return {change.id: change for task in tasks for change in task.intent.changes if isinstance(change, Deploy)}


def _wanted(tasks: Iterable[Task]) -> dict[PlacementId, Placement]:
    return {
        change.id: change.placement
        for task in tasks
        for change in task.intent.changes
        if not isinstance(change, Remove)
    }


def _is_new(change: Deploy) -> bool:
    """It has not run here in health before: what has is never refused, or nothing would be left to go back to."""
    return change.predecessor is None or change.predecessor.content != change.placement.content


def _became_good(change: Deploy, memories: Mapping[PlacementId, Memory]) -> bool:
    """Last good is what this job brought."""
    memory = memories.get(change.id)
    brought = (
        memory is not None and memory.last_good is not None and memory.last_good.content == change.placement.content
    )
    return brought and _is_new(change)
