"""What people elsewhere are told: opened once, however many replicas see it, told over each channel until it was heard,
and closed when it is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, func, or_, select, update

from reconciler.core.drift import Trust, Verdict
from reconciler.core.machine import JobState
from reconciler.store.records import AgentState
from reconciler.store.statements import insert
from reconciler.store.tables import agent, bound, job, standing, telling
from reconciler.store.tables import notice as table
from stickers.names import AgentName, EnvironmentId

DISTRUSTED: Final = (Trust.FORGED, Trust.REPLAYED)
WELL: Final = (Verdict.IN_SYNC, Verdict.IN_TRANSIT, Verdict.FOREIGN, Verdict.UNMANAGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Off:
    """Placements of one environment that stand otherwise than they should: how many, since when, and one of them."""

    verdict: Verdict
    trust: Trust
    count: int
    since: datetime
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """An agent that may not speak, and why."""

    agent: AgentName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell. `subject` tells two of a kind apart: a job's id, an agent's name, or nothing where there is
    one at most."""

    environment: EnvironmentId
    kind: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What one channel has not been told yet: that it began, or that it is over."""

    number: int
    channel: str
    notice: Notice
    opened_at: datetime
    closed_at: datetime | None
    failures: int


def off(c: Connection, environment: EnvironmentId) -> tuple[Off, ...]:
    """Whatever is not well there, counted by verdict and trust."""
    here = and_(standing.c.environment == environment, standing.c.until.is_(None))
    ill = or_(
        standing.c.verdict.not_in([verdict.value for verdict in WELL]),
        standing.c.trust.in_([trust.value for trust in DISTRUSTED]),
    )
    shown = func.min(standing.c.target + "/" + standing.c.component)
    columns = (standing.c.verdict, standing.c.trust, func.count(), func.min(standing.c.since), shown)
    rows = c.execute(select(*columns).where(here, ill).group_by(standing.c.verdict, standing.c.trust))
    return tuple(
        Off(verdict=Verdict(verdict), trust=Trust(trust), count=count, since=since, example=example)
        for verdict, trust, count, since, example in rows
    )


def last_ended(c: Connection, environment: EnvironmentId) -> tuple[str, JobState, str, datetime] | None:
    """The last job that was carried to an end: its id, how it ended, what it said, when."""
    ended = (JobState.COMPLETED, JobState.FAILED, JobState.ROLLED_BACK)
    query = (
        select(job.c.id, job.c.state, job.c.message, job.c.ended_at)
        .where(job.c.environment == environment, job.c.state.in_([state.value for state in ended]))
        .order_by(job.c.created_at.desc(), job.c.id.desc())
        .limit(1)
    )
    row = c.execute(query).first()
    return None if row is None else (row.id, JobState(row.state), row.message, row.ended_at)


def locked(c: Connection) -> Mapping[EnvironmentId, list[Locked]]:
    """The agents that are locked, by the environments in which their targets stand now."""
    query = (
        select(standing.c.environment, agent.c.name, agent.c.reason)
        .join_from(agent, bound, bound.c.agent == agent.c.name)
        .join(standing, and_(standing.c.target == bound.c.target, standing.c.until.is_(None)))
        .where(agent.c.state == AgentState.LOCKED)
        .distinct()
        .order_by(standing.c.environment, agent.c.name)
    )
    found: dict[EnvironmentId, list[Locked]] = {}
    for environment, name, reason in c.execute(query):
        found.setdefault(EnvironmentId(environment), []).append(Locked(agent=AgentName(name), reason=reason))
    return found


def settle(
    c: Connection, environment: EnvironmentId, wanted: Iterable[Notice], channels: Mapping[str, Iterable[str]],
    now: datetime,
) -> None:  # fmt: skip
    """Open what is not open, close what is not wanted any more. `channels` are those that take each kind."""
    there = c.execute(select(table).where(table.c.environment == environment, table.c.closed_at.is_(None))).all()
    kept = {(row.kind, row.subject): row.number for row in there}
    asked = {(each.kind, each.subject): each for each in wanted}
    gone = [number for key, number in kept.items() if key not in asked]
    if gone:
        c.execute(update(table).where(table.c.number.in_(gone)).values(closed_at=now))
    for key, each in asked.items():
        if key not in kept:
            _open(c, each, channels.get(each.kind, ()), now)


def _open(c: Connection, each: Notice, channels: Iterable[str], now: datetime) -> None:
    values = {"environment": each.environment, "kind": each.kind, "subject": each.subject, "message": each.message}
    offered = insert(c, table).values(**values, opened_at=now)
    number = c.execute(
        offered.on_conflict_do_nothing(
            index_elements=["environment", "kind", "subject"], index_where=table.c.closed_at.is_(None)
        ).returning(table.c.number)
    ).scalar()
    rows = [{"notice": number, "channel": channel, "failures": 0} for channel in channels]
    if number is not None and rows:
        c.execute(insert(c, telling), rows)


def claim(c: Connection, now: datetime, until: datetime, limit: int = 20) -> tuple[Due, ...]:
    """What is to be told now, taken for oneself until `until`: whoever dies meanwhile leaves it to the next. What is
    over before it was told is told once, as over."""
    over = and_(table.c.closed_at.is_not(None), telling.c.told_over.is_(None))
    due = (or_(telling.c.told.is_(None), over), or_(telling.c.not_before.is_(None), telling.c.not_before <= now))
    query = select(telling.c.channel, telling.c.failures, table).join_from(telling, table).where(*due)
    rows = c.execute(query.order_by(table.c.number).limit(limit)).all()
    return tuple(_due(row) for row in rows if _taken(c, row, now, until))


def _taken(c: Connection, row: Row[Any], now: datetime, until: datetime) -> bool:
    here = (telling.c.notice == row.number, telling.c.channel == row.channel)
    free = or_(telling.c.not_before.is_(None), telling.c.not_before <= now)
    taken = update(telling).where(*here, free).values(not_before=until).returning(telling.c.notice)
    return c.execute(taken).first() is not None


def told(c: Connection, due: Due, now: datetime) -> None:
    values: dict[str, Any] = {"told": now, "failures": 0, "not_before": None}
    _write(c, due, values if due.closed_at is None else values | {"told_over": now})


def failed(c: Connection, due: Due, again: datetime | None, now: datetime) -> None:
    """Not heard; tried again at `again`, or given up where that is None."""
    given_up = {"told": now, "told_over": now, "not_before": None}
    _write(c, due, {"failures": due.failures + 1, **({"not_before": again} if again else given_up)})


def _write(c: Connection, due: Due, values: Mapping[str, Any]) -> None:
    c.execute(update(telling).where(telling.c.notice == due.number, telling.c.channel == due.channel).values(**values))


def _due(row: Row[Any]) -> Due:
    return Due(
        number=row.number,
        channel=row.channel,
        notice=Notice(
            environment=EnvironmentId(row.environment), kind=row.kind, subject=row.subject, message=row.message
        ),
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        failures=row.failures,
    )
