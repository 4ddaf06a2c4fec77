"""Tasks, from the journal to their answers: one at a time for each target, several targets at once, the urgent first.

What is carried out is what any driver does, by the local driver of the target's runtime. What was begun is carried on
under the same key by the next run of the agent, until it has an answer; secrets are gone then, and a step that needs
one fails in a way that has the task authorised again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus

from drivers.agent import protocol
from drivers.agent.duty import failpoints
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.journal import Entry, Full, Journal, Kept, State
from drivers.agent.duty.judge import BODIES, Work
from drivers.agent.protocol import Answer, Code, Failure, Metrics, Priority, Result, Said, Task, Verb
from drivers.contract import Action, Progress, Receipt, Step
from drivers.errors import DriverError, OutcomeUnknown, Refused
from stickers.names import ActionKey, AgentName, TargetId
from stickers.redaction import Redactor
from stickers.signature import MAX_ENVELOPE, Sign

ORDER: Final = tuple(Priority)
LINES_EVERY: Final = 0.2  # seconds in which lines of progress are gathered, to be sent together
BESIDE_A_LOG: Final = protocol.LARGEST_FRAME - 2 * protocol.LARGEST_LOG - 2 * MAX_ENVELOPE
SENTENCE: Final = 2000  # characters of a detail

_log: Final = logging.getLogger("holdfast.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a verb has come to: the body of the answer."""

    body: str
    detail: str = ""


Do = Callable[["Job"], Awaitable[Done]]
Tell = Callable[[str, protocol.FromAgent], None]


@dataclass(kw_only=True)
class Job:
    """One task on its way. `again`: a former run has begun it. `secrets` are in memory only, and may still come."""

    task: Task
    work: Work
    again: bool
    secrets: Mapping[str, str]
    known: Redactor
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    spent: dict[Step, float] = field(default_factory=dict)
    step: tuple[Step, float] | None = None

    def report(self, progress: Progress) -> None:
        """A line of progress, in which no secret is shown."""
        said = replace(progress, message=self.clean(progress.message)[:SENTENCE])
        self.lines.append(json.loads(protocol.body(said)))
        self.log.append(f"{said.id}: {said.step}: {said.message}")
        self._turn(progress.step)
        failpoints.reached(failpoints.STEPS[progress.step])

    def clean(self, text: str) -> str:
        """The text without the task's secrets, and without those that the host has asked for itself."""
        redactor = Redactor()
        for value in self.secrets.values():
            redactor.add(value)
        return self.known.clean(redactor.clean(text))

    def _turn(self, step: Step | None) -> None:
        now = time.monotonic()
        if self.step is not None:
            last, since = self.step
            self.spent[last] = self.spent.get(last, 0.0) + now - since
        self.step = None if step is None else (step, now)

    def metrics(self) -> Metrics:
        self._turn(None)
        changing = set(Step) - {Step.LOOK, Step.PREPARE, Step.PROVE}
        return Metrics(
            pull=self._milliseconds({Step.PREPARE}),
            deploy=self._milliseconds(changing),
            health=self._milliseconds({Step.PROVE}),
        )

    def _milliseconds(self, steps: Iterable[Step]) -> int | None:
        found = [self.spent[step] for step in steps if step in self.spent]
        return round(sum(found) * 1000) if found else None

    def said(self) -> str:
        """The end of the log, as much as travels."""
        text = "\n".join(self.log)
        return text if len(text) <= protocol.LARGEST_LOG else "…" + text[1 - protocol.LARGEST_LOG :]


class Carrier:
    """`do` carries out one verb; `tell` sends a frame about a task to whoever asked for it, or to everybody where that
    is not known any more."""

    def __init__(
        self,
        *,
        agent: AgentName,
        journal: Journal,
        sign: Sign,
        clock: Clock,
        do: Mapping[Verb, Do],
        tell: Tell,
        known: Redactor,
        at_once: int,
    ) -> None:
        self._agent, self._journal, self._sign, self._clock = agent, journal, sign, clock
        self._do, self._tell, self._known, self._at_once = do, tell, known, at_once
        self._waiting: list[str] = []
        self._running: dict[str, Task] = {}
        self._reading: dict[str, Task] = {}
        self._secrets: dict[str, dict[str, str]] = {}
        self._unkept: dict[str, tuple[Kept, ...]] = {}  # answers for which there was no room
        self._group: TaskGroup | None = None
        self._draining = False
        self._ended = anyio.Event()

    # -- what is to be done ------------------------------------------------------------------------------------------

    @property
    def queue(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def under_way(self) -> Mapping[str, tuple[str, Task]]:
        """Each task that has no answer yet, with the id of the one that came first for its key."""
        acting = {task.id: (entry.task.id, task) for entry in self._journal.unfinished.values() for task in entry.tasks}
        return acting | {id: (id, task) for id, task in self._reading.items()}

    @property
    def keys(self) -> Mapping[ActionKey, tuple[str, Task]]:
        return {entry.task.key: (entry.task.id, entry.task) for entry in self._journal.unfinished.values()}

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled: what a former run has left first."""
        async with anyio.create_task_group() as group:
            self._group = group
            left = [id for id in self._journal.unfinished if id not in self._waiting]
            if left:
                _log.info("%d tasks of a former run are carried on", len(left))
            self._waiting = left + self._waiting
            self._next()
            task_status.started()
            await anyio.sleep_forever()

    def take(self, entry: Entry, secrets: Mapping[str, str] | None) -> None:
        """Carry out an accepted task, when it is its turn."""
        self.give(entry.task.id, secrets)
        self._waiting.append(entry.task.id)
        self._next()

    def is_busy(self, target: TargetId) -> bool:
        """Whether something is being changed there, or will be."""
        waiting = (self._journal.unfinished[id].task for id in self._waiting)
        return any(one.target == target for one in (*waiting, *self._running.values()))

    async def hold(self, task: Task, action: Action) -> bool:
        """Carry out what nobody has sent; whether it came out as wanted. It is answered when somebody asks again."""
        self._running[task.id] = task
        try:
            kept = (await self._outcome(self._held(task, action), self._do[Verb.DEPLOY]))(task)
            await anyio.to_thread.run_sync(self._journal.keep, kept)
        except Full as error:
            _log.error("what was done to hold %s cannot be kept: %s", task.target, error)
        finally:
            self._running.pop(task.id, None)
            self._ended.set()
        self._next()
        self._tell(kept.id, kept.answer)
        return kept.code is Code.DONE and protocol.read_body(Receipt, kept.answer.body).as_wanted

    def give(self, id: str, secrets: Mapping[str, str] | None) -> None:
        """Secrets for a task that is not done yet; one that is under way finds them, too."""
        if secrets:
            self._secrets.setdefault(id, {}).update(secrets)

    def read(self, task: Task, work: Work) -> None:
        """Carry out a task that changes nothing, at once; nothing of it is kept."""
        assert self._group is not None
        self._reading[task.id] = task
        self._group.start_soon(self._read, task, work)

    async def cancel(self, id: str) -> None:
        """Not wanted any more: what has not begun is not begun. What has is carried to its end."""
        entry = self._journal.unfinished.get(id)
        if entry is None or id not in self._waiting or entry.others:
            return
        self._waiting.remove(id)
        await self._end(entry, lambda task: self.answered(task, Code.CANCELLED, "taken back before it was begun"))

    async def drain(self, grace: float) -> None:
        """Begin nothing more, and wait for what runs; what is left is in the journal. An upgrade waits for us."""
        self._draining = True
        with anyio.move_on_after(grace):
            while any(task.verb is not Verb.UPGRADE for task in self._running.values()):
                self._ended = anyio.Event()
                await self._ended.wait()

    def _next(self) -> None:
        """Begin whatever may begin now."""
        if self._group is None or self._draining:
            return
        tasks = {id: self._journal.unfinished[id].task for id in self._waiting}
        for id in sorted(tasks, key=lambda one: ORDER.index(tasks[one].priority)):
            if self._may_begin(tasks[id]):
                self._waiting.remove(id)
                self._running[id] = tasks[id]
                self._group.start_soon(self._carry, id)

    def _may_begin(self, task: Task) -> bool:
        return len(self._running) < self._at_once and all(one.target != task.target for one in self._running.values())

    # -- one task ----------------------------------------------------------------------------------------------------

    async def _carry(self, id: str) -> None:
        try:
            entry = self._journal.unfinished[id]
            begun = await self._begun(entry)
            if begun is not None:
                answer = await self._outcome(self._job(begun, again=entry.state is State.BEGUN))
                failpoints.reached("after_effect")
                await self._end(self._journal.unfinished[id], answer)  # others may have asked for it meanwhile
        finally:
            self._running.pop(id, None)
            self._secrets.pop(id, None)
            self._ended.set()
        self._next()

    def _job(self, entry: Entry, *, again: bool) -> Job:
        secrets = self._secrets.setdefault(entry.task.id, {})
        work = protocol.read_body(BODIES[entry.task.verb], entry.body)
        return Job(task=entry.task, work=work, again=again, secrets=secrets, known=self._known)

    def _held(self, task: Task, action: Action) -> Job:
        return Job(task=task, work=action, again=False, secrets={}, known=self._known)

    async def _begun(self, entry: Entry) -> Entry | None:
        """The task, marked as begun; None when it was answered instead."""
        if entry.state is State.BEGUN:
            return entry
        if self._clock.is_past(entry.due):
            await self._end(entry, lambda task: self.answered(task, Code.EXPIRED, "its turn came too late"))
            return None
        failpoints.reached("before_begin")
        try:
            begun = await anyio.to_thread.run_sync(self._journal.begin, entry.task.id)
        except Full as error:
            sentence = no_room(error)
            await self._end(entry, lambda task: self.failed(task, Refused.code, sentence))
            return None
        failpoints.reached("after_begin")
        return begun

    async def _read(self, task: Task, work: Work) -> None:
        try:
            answer = await self._outcome(Job(task=task, work=work, again=False, secrets={}, known=self._known))
        finally:
            self._reading.pop(task.id, None)
        self._tell(task.id, answer(task).answer)

    async def _outcome(self, job: Job, do: Do | None = None) -> Callable[[Task], Kept]:
        """Do it; how it ended, for each who asked."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._speak, job)
            try:
                done: Done | Failure = await self._within(job, do or self._do[job.task.verb])
            except DriverError as error:
                done = Failure(error=error.code, sentence=job.clean(str(error)))
            group.cancel_scope.cancel()
        self._say(job)
        metrics, log = job.metrics(), job.said()
        if isinstance(done, Failure):
            failure = done
            return lambda task: self.failed(task, failure.error, failure.sentence, metrics, log)
        body, detail = done.body, done.detail
        return lambda task: self.answered(task, Code.DONE, detail, body, metrics, log)

    async def _within(self, job: Job, do: Do) -> Done:
        seconds = job.task.within.total_seconds()
        try:
            with anyio.move_on_after(seconds):
                return await do(job)
        except DriverError:
            raise
        except Exception as error:  # a fault of ours or of a driver's must not take the other targets along
            said = job.clean(f"{type(error).__name__}: {str(error)[:200]}")
            _log.error("task %s %s on %s: %s", job.task.verb, job.task.id, job.task.target, said)
            raise OutcomeUnknown(f"the agent itself failed ({said}); what it did is to be looked at") from None
        raise OutcomeUnknown(f"not done within {seconds:g} s; what it did is to be looked at")

    async def _speak(self, job: Job) -> None:
        while True:
            await anyio.sleep(LINES_EVERY)
            self._say(job)

    def _say(self, job: Job) -> None:
        lines, job.lines = tuple(job.lines), []
        if lines:
            self._tell(job.task.id, Said(task=job.task.id, lines=lines))

    # -- answers -----------------------------------------------------------------------------------------------------

    async def _end(self, entry: Entry, answer: Callable[[Task], Kept]) -> None:
        """Keep the answers and send them."""
        id, kept = entry.task.id, tuple(answer(task) for task in entry.tasks)
        try:
            await anyio.to_thread.run_sync(self._journal.finish, id, kept)
        except Full as error:
            _log.error("task %s is done and its answer cannot be kept: %s", id, error)
            self._unkept[id] = kept
        failpoints.reached("after_result")
        for one in kept:
            self._tell(one.id, one.answer)
        failpoints.reached("after_answer")

    async def keep_rest(self) -> None:
        """Try again what there was no room for."""
        for id, kept in list(self._unkept.items()):
            try:
                await anyio.to_thread.run_sync(self._journal.finish, id, kept)
            except Full:
                return
            del self._unkept[id]

    def unkept(self) -> tuple[Answer, ...]:
        """Answers for which there is still no room."""
        return tuple(kept.answer for answers in self._unkept.values() for kept in answers)

    def failed(self, task: Task, error: str, sentence: str, metrics: Metrics | None = None, log: str = "") -> Kept:
        """A driver's error, which will be raised where the task came from."""
        body = protocol.body(Failure(error=error, sentence=sentence[:SENTENCE]))
        return self.answered(task, Code.FAILED, sentence, body, metrics, log)

    def answered(
        self, task: Task, code: Code, detail: str, body: str = "null", metrics: Metrics | None = None, log: str = ""
    ) -> Kept:
        """The answer to one task, signed. One too large to travel says so instead."""
        if not travels(body):
            too_large = f"the answer has {len(body)} characters, and that is more than is sent"
            return self.failed(task, Refused.code, too_large, metrics, log)
        result = Result(
            task=task.id,
            key=task.key,
            agent=self._agent,
            target=task.target,
            environment=task.environment,
            verb=task.verb,
            fence=task.fence,
            code=code,
            detail=detail[:SENTENCE],
            content=protocol.content(body),
            sequence=self._journal.number(),
            metrics=metrics or Metrics(),
        )
        answer = Answer(task=task.id, envelope=protocol.sealed(result, self._sign), body=body, log=log)
        return Kept(id=task.id, key=task.key, verb=task.verb, content=task.content, code=code, answer=answer)


def travels(text: str) -> bool:
    """Whether it fits into a frame, as a text within JSON, beside a log and an envelope."""
    if len(text) > protocol.LARGEST_BODY:
        return False
    return 2 * len(text) < BESIDE_A_LOG or len(json.dumps(text, ensure_ascii=False)) < BESIDE_A_LOG


def no_room(error: Full) -> str:
    return f"no room in the agent's journal, nothing was done: {error}"
