"""The two state machines, each one table. The database refuses what the tables do not list."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar


class JobState(StrEnum):
    PENDING = "pending"
    PREPARING = "preparing"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETING = "completing"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    FAILED = "failed"


class JobEvent(StrEnum):
    PREPARE = "prepare"
    BEGIN = "begin"
    PAUSE = "pause"
    CONTINUE = "continue"
    FINISH = "finish"
    COMPLETE = "complete"
    ROLL_BACK = "roll_back"
    RESTORED = "restored"
    SUPERSEDE = "supersede"
    CANCEL = "cancel"
    FAIL = "fail"


class TaskState(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    VERIFYING = "verifying"
    RETRYING = "retrying"
    LOST = "lost"
    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskEvent(StrEnum):
    QUEUE = "queue"
    DISPATCH = "dispatch"
    START = "start"
    ANSWER = "answer"
    SUCCEED = "succeed"
    SKIP = "skip"
    RETRY = "retry"
    LOSE = "lose"
    CANCEL = "cancel"
    FAIL = "fail"


S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)
Table = Mapping[tuple[S, E], S]

JOB: Final[Table[JobState, JobEvent]] = {
    (JobState.PENDING, JobEvent.PREPARE): JobState.PREPARING,
    (JobState.PENDING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.PENDING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.PREPARING, JobEvent.BEGIN): JobState.RUNNING,
    (JobState.PREPARING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.PREPARING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.PREPARING, JobEvent.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobEvent.PAUSE): JobState.PAUSED,
    (JobState.RUNNING, JobEvent.FINISH): JobState.COMPLETING,
    (JobState.RUNNING, JobEvent.ROLL_BACK): JobState.ROLLING_BACK,
    (JobState.RUNNING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.RUNNING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,
    (JobState.PAUSED, JobEvent.CONTINUE): JobState.RUNNING,
    (JobState.PAUSED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.PAUSED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.COMPLETING, JobEvent.COMPLETE): JobState.COMPLETED,
    (JobState.COMPLETING, JobEvent.ROLL_BACK): JobState.ROLLING_BACK,
    (JobState.COMPLETING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.COMPLETING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.COMPLETING, JobEvent.FAIL): JobState.FAILED,
    (JobState.ROLLING_BACK, JobEvent.RESTORED): JobState.ROLLED_BACK,
    (JobState.ROLLING_BACK, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.ROLLING_BACK, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.ROLLING_BACK, JobEvent.FAIL): JobState.FAILED,
}

TASK: Final[Table[TaskState, TaskEvent]] = {
    (TaskState.PENDING, TaskEvent.QUEUE): TaskState.QUEUED,
    (TaskState.PENDING, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.QUEUED, TaskEvent.DISPATCH): TaskState.DISPATCHED,
    (TaskState.QUEUED, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.QUEUED, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.DISPATCHED, TaskEvent.START): TaskState.RUNNING,
    (TaskState.DISPATCHED, TaskEvent.LOSE): TaskState.LOST,
    (TaskState.RUNNING, TaskEvent.ANSWER): TaskState.VERIFYING,
    (TaskState.RUNNING, TaskEvent.SKIP): TaskState.SKIPPED,
    (TaskState.RUNNING, TaskEvent.RETRY): TaskState.RETRYING,
    (TaskState.RUNNING, TaskEvent.LOSE): TaskState.LOST,
    (TaskState.RUNNING, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.VERIFYING, TaskEvent.SUCCEED): TaskState.SUCCEEDED,
    (TaskState.VERIFYING, TaskEvent.SKIP): TaskState.SKIPPED,  # untouched, and the look agrees
    (TaskState.VERIFYING, TaskEvent.RETRY): TaskState.RETRYING,
    (TaskState.VERIFYING, TaskEvent.LOSE): TaskState.LOST,
    (TaskState.VERIFYING, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.RETRYING, TaskEvent.QUEUE): TaskState.QUEUED,
    (TaskState.RETRYING, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.LOST, TaskEvent.RETRY): TaskState.RETRYING,
    (TaskState.LOST, TaskEvent.SUCCEED): TaskState.SUCCEEDED,
    (TaskState.LOST, TaskEvent.LOSE): TaskState.LOST,  # looked at, and still nothing is known
    (TaskState.LOST, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.LOST, TaskEvent.FAIL): TaskState.FAILED,
}


class IllegalTransition(Exception):
    """A programming error: an event that the table does not list for the state."""

    def __init__(self, state: StrEnum, event: StrEnum) -> None:
        super().__init__(f"{type(state).__name__} {state} does not take {event}")


def advance(table: Table[S, E], state: S, event: E) -> S:
    """The next state, or `IllegalTransition` naming both."""
    if (state, event) not in table:
        raise IllegalTransition(state, event)
    return table[state, event]


def terminal(table: Table[S, E]) -> frozenset[S]:
    """The states that nothing leaves."""
    return frozenset(table.values()) - {state for state, _ in table}


JOB_TERMINAL: Final = terminal(JOB)
JOB_ACTIVE: Final = frozenset(JobState) - JOB_TERMINAL
TASK_TERMINAL: Final = terminal(TASK)


def diagram(table: Table[S, E]) -> str:
    """The table as a mermaid state diagram; events that lead the same way share an arrow."""
    arrows: dict[tuple[S, S], list[str]] = {}
    for (state, event), following in table.items():
        arrows.setdefault((state, following), []).append(event.value)
    first = next(iter(table))[0]
    lines = ["stateDiagram-v2", f"    [*] --> {first.value}"]
    lines += [
        f"    {state.value} --> {following.value}: {', '.join(events)}" for (state, following), events in arrows.items()
    ]
    lines += [f"    {state.value} --> [*]" for state in dict.fromkeys(table.values()) if state in terminal(table)]
    return "\n".join(lines) + "\n"
