"""Jobs: created under the index that allows one active per environment, advanced by events, asked by people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack

from sqlalchemy import Connection, Row, Select, bindparam, select, tuple_, update

from reconciler.core import machine
from reconciler.core.machine import JOB, JOB_ACTIVE, JOB_TERMINAL, JobEvent, JobState
from reconciler.core.plan import JobKind, Plan
from reconciler.store import audit, chronicle, contents, leases, tasks
from reconciler.store.contents import Kind
from reconciler.store.errors import JobActive, JobOver, Missing, Stale
from reconciler.store.records import Direction, Job, Lease, NewJob, Page, Wish
from reconciler.store.statements import insert
from reconciler.store.tables import ACTIVE, environment
from reconciler.store.tables import job as table
from stickers import names
from stickers.names import Digest, EnvironmentId, JobId

PAGE: Final = 50
TOLD: Final = JOB_TERMINAL | {JobState.ROLLING_BACK, JobState.PAUSED}  # what the audit log hears of, beside the start

_NEWEST: Final = (  # asked in every turn, so built once
    select(table)
    .where(table.c.environment == bindparam("environment_is"))
    .order_by(table.c.created_at.desc(), table.c.id.desc())
    .limit(2)
)


class Changes(TypedDict, total=False):
    """What may change beside the state."""

    wave: int
    message: str


def create(c: Connection, new: NewJob, lease: Lease, now: datetime) -> Job:
    """The plan becomes a job with its tasks, all `pending`. `JobActive` when the environment has an active job: the
    index says so, whoever was first."""
    leases.hold(c, lease, new.environment)
    number = _next_number(c, new.environment)
    [plan] = contents.keep(c, Kind.PLAN, [new.plan], now)
    offered = insert(c, table).values(_row(new, number, plan, lease, now))
    row = c.execute(
        offered.on_conflict_do_nothing(index_elements=["environment"], index_where=ACTIVE).returning(*table.c)
    ).first()
    if row is None:
        raise _busy(c, new.environment)
    job = _job(row)
    _tell(c, job, now)
    tasks.add(c, job, new.plan, Direction.FORWARD, lease, now)
    said = {"kind": job.kind, "generation": job.generation, "plan": job.plan_hash, "reason": job.reason}
    _audited(c, job, job.requested_by, "job.created", said, now)
    return job


def add_tasks(c: Connection, job: Job, plan: Plan, direction: Direction, lease: Lease, now: datetime) -> None:
    """More tasks for a job on its way: its rollback, as waves after those it has."""
    leases.hold(c, lease, job.environment)
    tasks.add(c, job, plan, direction, lease, now)


def advance(c: Connection, job: Job, event: JobEvent, lease: Lease, now: datetime, **changes: Unpack[Changes]) -> Job:
    """The job after the event. `Stale` when it is not as it was read, `LostLease` when another holds the environment,
    `IllegalTransition` when the table does not list the event."""
    state = machine.advance(JOB, job.state, event)
    ended = now if state in JOB_TERMINAL else None
    moved = _written(c, job, lease, {"state": state, "ended_at": ended, "changed_at": now, **changes})
    _tell(c, moved, now)
    if state in TOLD:
        _audited(c, moved, audit.HOLDFAST, f"job.{state}", {"message": moved.message}, now)
    return moved


def revise(c: Connection, job: Job, lease: Lease, now: datetime, **changes: Unpack[Changes]) -> Job:
    """The job with other particulars, in the state it is in."""
    return _written(c, job, lease, {"changed_at": now, **changes})


def request(c: Connection, id: JobId, wish: Wish, actor: str, now: datetime) -> Job:
    """A person's wish, seen by whoever carries the job when it next reads it. The last wish counts; a cancellation is
    final. `JobOver` when there is nothing left to ask of it."""
    asked = update(table).where(table.c.id == id, ACTIVE, table.c.wish.is_distinct_from(Wish.CANCEL))
    row = c.execute(asked.values(wish=wish, wished_by=actor, wished_at=now).returning(*table.c)).first()
    if row is not None:
        wished = _job(row)
        _tell(c, wished, now)
        _audited(c, wished, actor, f"job.{wish}.asked", {}, now)
        return wished
    job = load(c, id)
    if job is None:
        raise Missing(f"no job {id} is known")
    if job.state in JOB_TERMINAL or wish is not Wish.CANCEL:
        raise JobOver(f"job {id} is {job.state if job.state in JOB_TERMINAL else 'being cancelled'}")
    return job


def load(c: Connection, id: JobId) -> Job | None:
    row = c.execute(select(table).where(table.c.id == id)).first()
    return None if row is None else _job(row)


def active(c: Connection, environment: EnvironmentId) -> Job | None:
    row = c.execute(select(table).where(table.c.environment == environment, ACTIVE)).first()
    return None if row is None else _job(row)


def all_active(c: Connection) -> tuple[Job, ...]:
    """At most one per environment."""
    states = sorted(state.value for state in JOB_ACTIVE)
    return tuple(_job(row) for row in c.execute(select(table).where(table.c.state.in_(states)).order_by(table.c.id)))


def plan(c: Connection, job: Job) -> Plan:
    found: Plan = contents.load(c, Kind.PLAN, job.plan)
    return found


def newest(c: Connection, environment: EnvironmentId) -> tuple[Job, ...]:
    """The last two: the active one, where there is one, is the first of them."""
    return tuple(_job(row) for row in c.execute(_NEWEST, {"environment_is": environment}))


def page(
    c: Connection,
    environment: EnvironmentId | None = None,
    state: JobState | None = None,
    *,
    among: Collection[EnvironmentId] | None = None,
    before: str | None = None,
    limit: int = PAGE,
) -> Page[Job]:
    """Newest first, of `among` alone when it is given; `before` is what the page before answered."""
    query = select(table).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1)
    if environment is not None:
        query = query.where(table.c.environment == environment)
    if state is not None:
        query = query.where(table.c.state == state)
    if among is not None:
        query = query.where(table.c.environment.in_(sorted(among)))
    jobs = [_job(row) for row in c.execute(_after(query, before))]
    more = len(jobs) > limit
    return Page(items=tuple(jobs[:limit]), before=_cursor(jobs[limit - 1]) if more else None)


def _tell(c: Connection, job: Job, now: datetime) -> None:
    said = {"of": job.kind, "state": job.state, "detail": job.message or job.reason, "wish": job.wish}
    chronicle.tell(c, job.environment, chronicle.Kind.JOB, now, said, job.id)


def _cursor(job: Job) -> str:
    return f"{job.created_at.isoformat()} {job.id}"


def _after(query: Select[Any], before: str | None) -> Select[Any]:
    if before is None:
        return query
    moment, _, id = before.partition(" ")
    return query.where(tuple_(table.c.created_at, table.c.id) < (datetime.fromisoformat(moment), id))


def _next_number(c: Connection, id: EnvironmentId) -> int:
    counted = update(environment).where(environment.c.id == id).values(jobs=environment.c.jobs + 1)
    number = c.execute(counted.returning(environment.c.jobs)).scalar()
    if number is None:
        raise Missing(f"no environment {id} is known")
    return int(number)


def _busy(c: Connection, environment: EnvironmentId) -> Exception:
    holder = active(c, environment)
    return JobActive(environment, holder.id) if holder else Stale(f"the job of {environment} has just ended")


def _row(new: NewJob, number: int, plan: Digest, lease: Lease, now: datetime) -> dict[str, Any]:
    return {
        "id": names.job_id(new.environment, number),
        "environment": new.environment,
        "number": number,
        "kind": new.kind,
        "state": JobState.PENDING,
        "generation": new.generation,
        "desired": new.plan.desired_digest,
        "plan": plan,
        "plan_hash": new.plan.hash,
        "requested_by": new.requested_by,
        "reason": new.reason,
        "created_at": now,
        "changed_at": now,
        "fence": lease.token,
    }


def _audited(c: Connection, job: Job, actor: str, action: str, detail: Mapping[str, object], now: datetime) -> None:
    audit.append(c, environment=job.environment, actor=actor, action=action, subject=job.id, detail=detail, now=now)


def _written(c: Connection, job: Job, lease: Lease, values: dict[str, Any]) -> Job:
    unchanged = (table.c.id == job.id, table.c.version == job.version, leases.fence(lease, job.environment))
    fresh = {**values, "fence": lease.token, "version": job.version + 1}
    row = c.execute(update(table).where(*unchanged).values(fresh).returning(*table.c)).first()
    if row is None:
        raise leases.refusal(c, lease, Stale(f"job {job.id} has changed since version {job.version}"))
    return _job(row)


def _job(row: Row[Any]) -> Job:
    return Job(
        id=JobId(row.id),
        environment=EnvironmentId(row.environment),
        number=row.number,
        kind=JobKind(row.kind),
        state=JobState(row.state),
        generation=row.generation,
        desired=Digest(row.desired),
        plan=Digest(row.plan),
        plan_hash=row.plan_hash,
        requested_by=row.requested_by,
        reason=row.reason,
        wave=row.wave,
        message=row.message,
        wish=None if row.wish is None else Wish(row.wish),
        wished_by=row.wished_by,
        wished_at=row.wished_at,
        created_at=row.created_at,
        changed_at=row.changed_at,
        ended_at=row.ended_at,
        fence=row.fence,
        version=row.version,
    )
