"""Tasks: one action on its way each, advanced by events, with the lines that drivers reported about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, Final, TypedDict, Unpack

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from drivers.contract import Receipt, Step
from reconciler.core import machine
from reconciler.core.machine import TASK, TASK_TERMINAL, TaskEvent, TaskState
from reconciler.core.plan import Intent, Plan, action_key
from reconciler.store import chronicle, contents, leases
from reconciler.store.columns import sentence
from reconciler.store.errors import Stale
from reconciler.store.records import Direction, Job, Lease, ProgressLine, Task
from reconciler.store.statements import append_all
from reconciler.store.tables import progress as lines_table
from reconciler.store.tables import task as table
from stickers import names
from stickers.names import (
    ActionKey,
    ComponentName,
    EvidenceId,
    JobId,
    PlacementId,
    SlotName,
    TargetId,
    TaskId,
)

_LAST_LINE: Final = select(func.max(lines_table.c.number)).where(lines_table.c.task == bindparam("task_is"))
_OLD_LINES: Final = delete(lines_table).where(
    lines_table.c.task == bindparam("task_is"), lines_table.c.number <= bindparam("last")
)
LINES: Final = 200  # progress lines kept per task; the oldest go first


class Changes(TypedDict, total=False):
    """What may change beside the state."""

    not_before: datetime | None
    code: str | None
    detail: str
    receipt: Receipt | None
    evidence: EvidenceId | None


def of(c: Connection, job: Job | JobId) -> tuple[Task, ...]:
    """Every task of the job, in the order they were planned."""
    id = job.id if isinstance(job, Job) else job
    return tuple(_task(row) for row in c.execute(select(table).where(table.c.job == id).order_by(table.c.number)))


def load(c: Connection, id: TaskId) -> Task | None:
    row = c.execute(select(table).where(table.c.id == id)).first()
    return None if row is None else _task(row)


def advance(
    c: Connection, task: Task, event: TaskEvent, lease: Lease, now: datetime, **changes: Unpack[Changes]
) -> Task:
    """The task after the event; a dispatch begins the next attempt. Raises as `jobs.advance` does."""
    state = machine.advance(TASK, task.state, event)
    values: dict[str, Any] = {"state": state, "changed_at": now, **changes}
    if "receipt" in changes:
        receipt = changes["receipt"]
        values["receipt"] = None if receipt is None else contents.dump(Receipt, receipt)
    if event is TaskEvent.DISPATCH:
        values |= {"attempt": task.attempt + 1, "began_at": task.began_at or now}
    if state in TASK_TERMINAL:
        values["ended_at"] = now
    after = _written(c, task, lease, values)
    _tell(c, after, now)
    return after


def note(c: Connection, task: TaskId, lines: Sequence[ProgressLine]) -> None:
    """Keep what was reported, numbered on from what is kept; beyond `LINES` the oldest go."""
    if not lines:
        return
    last = c.execute(_LAST_LINE, {"task_is": task}).scalar() or 0
    rows = [_line_row(task, last + index, line) for index, line in enumerate(lines[-LINES:], start=1)]
    append_all(c, lines_table, rows)
    _tell_progress(c, task, rows)
    if last + len(rows) > LINES:
        c.execute(_OLD_LINES, {"task_is": task, "last": last + len(rows) - LINES})


def progress(c: Connection, task: TaskId, *, after: int = 0) -> tuple[ProgressLine, ...]:
    """The kept lines above the number `after`, oldest first."""
    query = select(lines_table).where(lines_table.c.task == task, lines_table.c.number > after)
    return tuple(_line(row) for row in c.execute(query.order_by(lines_table.c.number)))


def add(c: Connection, job: Job, plan: Plan, direction: Direction, lease: Lease, now: datetime) -> None:
    """The plan's intents as `pending` tasks, in waves after those the job has. The caller holds the lease."""
    tasks, waves = c.execute(
        select(func.count(), func.coalesce(func.max(table.c.wave) + 1, 0)).where(table.c.job == job.id)
    ).one()
    rows = [
        _row(job, tasks + index, direction, intent) | {"wave": waves + wave, "changed_at": now, "fence": lease.token}
        for index, (wave, intent) in enumerate(_intents(plan), start=1)
    ]
    append_all(c, table, rows)


def _tell(c: Connection, task: Task, now: datetime) -> None:
    said = {"task": task.id, "target": task.target, "wave": task.wave, "state": task.state, "attempt": task.attempt}
    components = [change.id.component for change in task.intent.changes]
    more = {"code": task.code, "detail": task.detail, "components": components}
    environment = names.environment_of(task.job)
    chronicle.tell(c, environment, chronicle.Kind.TASK, now, said | more, task.job)


def _tell_progress(c: Connection, task: TaskId, rows: Sequence[Mapping[str, Any]]) -> None:
    job = JobId(task.rpartition("/")[0])
    for row in rows:
        said = {name: row[name] for name in ("task", "number", "target", "component", "step", "message")}
        chronicle.tell(c, names.environment_of(job), chronicle.Kind.PROGRESS, row["at"], said, job)


def _intents(plan: Plan) -> Iterator[tuple[int, Intent]]:
    return ((number, intent) for number, wave in enumerate(plan.waves) for intent in wave.intents)


def _row(job: Job, number: int, direction: Direction, intent: Intent) -> dict[str, Any]:
    return {
        "id": TaskId(f"{job.id}/{number}"),
        "job": job.id,
        "number": number,
        "direction": direction,
        "target": intent.target,
        "key": action_key(job.environment, job.number, intent, direction),
        "intent": contents.dump(Intent, intent),
        "state": TaskState.PENDING,
    }


def _written(c: Connection, task: Task, lease: Lease, values: dict[str, Any]) -> Task:
    environment = names.environment_of(task.job)
    fresh = {**values, "fence": lease.token, "version": task.version + 1}
    given = {f"to_{name}": value for name, value in fresh.items()}
    unchanged = {"id_is": task.id, "version_is": task.version, **leases.bound(lease, environment)}
    if c.execute(_update(frozenset(fresh)), given | unchanged).first() is None:
        raise leases.refusal(c, lease, Stale(f"task {task.id} has changed since version {task.version}"))
    return _with(task, fresh)


@cache
def _update(columns: frozenset[str]) -> ReturningUpdate[Any]:
    """One statement for each set of columns that change together: building it takes longer than carrying it out."""
    unchanged = (table.c.id == bindparam("id_is"), table.c.version == bindparam("version_is"), leases.FENCE)
    values: dict[str, Any] = {name: bindparam(f"to_{name}") for name in sorted(columns)}
    return update(table).where(*unchanged).values(values).returning(table.c.id)


def _with(task: Task, values: dict[str, Any]) -> Task:
    """The task as it is kept now: what was written is what would be read."""
    plain = dict(values)
    if isinstance(plain.get("receipt"), str):
        plain["receipt"] = contents.read(Receipt, plain["receipt"])
    if isinstance(plain.get("detail"), str):
        plain["detail"] = sentence(plain["detail"])
    return replace(task, **plain)


def _task(row: Row[Any]) -> Task:
    return Task(
        id=TaskId(row.id),
        job=JobId(row.job),
        number=row.number,
        wave=row.wave,
        direction=Direction(row.direction),
        target=TargetId(row.target),
        key=ActionKey(row.key),
        intent=contents.read(Intent, row.intent),
        state=TaskState(row.state),
        attempt=row.attempt,
        not_before=row.not_before,
        code=row.code,
        detail=row.detail,
        receipt=None if row.receipt is None else contents.read(Receipt, row.receipt),
        evidence=row.evidence,
        began_at=row.began_at,
        changed_at=row.changed_at,
        ended_at=row.ended_at,
        fence=row.fence,
        version=row.version,
    )


def _line_row(task: TaskId, number: int, line: ProgressLine) -> dict[str, Any]:
    return {
        "task": task,
        "number": number,
        "at": line.at,
        "target": line.id.target,
        "component": line.id.component,
        "slot": line.id.slot,
        "step": line.step,
        "message": line.message,
    }


def _line(row: Row[Any]) -> ProgressLine:
    return ProgressLine(
        at=row.at,
        id=PlacementId(TargetId(row.target), ComponentName(row.component), SlotName(row.slot)),
        step=Step(row.step),
        message=row.message,
        number=row.number,
    )
