"""What happened, in an order that never changes once it is told: written in the transaction of what it tells of, read
by whoever follows, from any replica.

Numbers are given before transactions end, so on PostgreSQL a lower one may appear after a higher. A cursor is therefore
the transaction and the number, and nothing is told before every older transaction has ended: whoever goes on from a
cursor misses nothing and meets nothing twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from sqlalchemy import ColumnElement, Connection, Select, delete, select, tuple_

from reconciler.store.columns import first_unfinished, sentence
from reconciler.store.statements import append_all
from reconciler.store.tables import event as table
from stickers.names import EnvironmentId, JobId

PAGE: Final = 200
DAYS: Final = 7  # kept for whoever was away
_MOST: Final = 2**63 - 1
_GATHERED: Final = "holdfast_told"  # where a connection keeps what is told in its transaction


class Kind(StrEnum):
    JOB = "job"
    TASK = "task"
    PROGRESS = "progress"
    VERDICTS = "verdicts"
    SUSPENSION = "suspension"
    DESIRED = "desired"


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the order; `str` is what clients keep."""

    written_by: int = 0
    number: int = 0

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Raises `ValueError` for what no cursor looks like."""
        written_by, dash, number = text.partition("-")
        if not dash or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in (written_by, number)):
            raise ValueError(f"{text[:40]!r} is no cursor")
        return cls(min(int(written_by), _MOST), min(int(number), _MOST))

    def __str__(self) -> str:
        return f"{self.written_by}-{self.number}"


BEGINNING: Final = Cursor()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened. `content` is plain data, particular to the kind."""

    cursor: Cursor
    environment: EnvironmentId
    job: JobId | None
    kind: Kind
    at: datetime
    content: Mapping[str, Any]


def tell(
    c: Connection,
    environment: EnvironmentId,
    kind: Kind,
    now: datetime,
    content: Mapping[str, Any],
    job: JobId | None = None,
) -> None:
    """Texts that others wrote are cut to what is kept of a sentence."""
    plain = {name: sentence(each) if isinstance(each, str) else each for name, each in content.items()}
    row = {"environment": environment, "job": job, "kind": kind, "at": now, "content": plain}
    gathered = c.info.get(_GATHERED)
    if gathered is None:
        append_all(c, table, [row])
    else:
        gathered.append(row)


@contextmanager
def gathering(c: Connection) -> Iterator[None]:
    """What is told within is written in one go at the end, in its order; where that is not reached, nothing is. A
    transaction may tell thousands of things, and each statement is a round trip."""
    kept, rows = c.info, list[dict[str, Any]]()
    kept[_GATHERED] = rows
    try:
        yield
    finally:
        del kept[_GATHERED]  # of a connection that may be lost by now
    append_all(c, table, rows)


def after(
    c: Connection,
    cursor: Cursor,
    *,
    among: Collection[EnvironmentId] | None = None,
    job: JobId | None = None,
    limit: int = PAGE,
) -> tuple[Entry, ...]:
    """The next entries, oldest first; of these environments, or of one job."""
    place = tuple_(table.c.written_by, table.c.number)
    query: Select[Any] = select(table).where(place > (cursor.written_by, cursor.number), _final())
    if job is not None:
        query = query.where(table.c.job == job)
    if among is not None:
        query = query.where(table.c.environment.in_(sorted(among)))
    ordered = query.order_by(table.c.written_by, table.c.number).limit(limit)
    return tuple(_entry(row) for row in c.execute(ordered))


def all_told(c: Connection, job: JobId) -> bool:
    """Whether nothing of the job is written and not told yet, since an older transaction has not ended."""
    return c.execute(select(table.c.number).where(table.c.job == job, ~_final()).limit(1)).first() is None


def end(c: Connection) -> Cursor:
    """Where whoever begins to follow now begins."""
    newest = select(table.c.written_by, table.c.number).where(_final())
    row = c.execute(newest.order_by(table.c.written_by.desc(), table.c.number.desc()).limit(1)).first()
    return BEGINNING if row is None else Cursor(row.written_by, row.number)


def last_of(c: Connection, job: JobId) -> Cursor:
    """The last that is told of the job: one step in an index, however much it did."""
    told = select(table.c.written_by, table.c.number).where(table.c.job == job, _final())
    row = c.execute(told.order_by(table.c.written_by.desc(), table.c.number.desc()).limit(1)).first()
    return BEGINNING if row is None else Cursor(row.written_by, row.number)


def beginning(c: Connection) -> Cursor | None:
    """The oldest that is kept; None when nothing is."""
    row = c.execute(
        select(table.c.written_by, table.c.number).order_by(table.c.written_by, table.c.number).limit(1)
    ).first()
    return None if row is None else Cursor(row.written_by, row.number)


def forget(c: Connection, before: datetime) -> int:
    """How many went. Their numbers are not given again."""
    return c.execute(delete(table).where(table.c.at < before)).rowcount


def _final() -> ColumnElement[bool]:
    return table.c.written_by < first_unfinished()


def _entry(row: Any) -> Entry:
    return Entry(
        cursor=Cursor(row.written_by, row.number),
        environment=EnvironmentId(row.environment),
        job=None if row.job is None else JobId(row.job),
        kind=Kind(row.kind),
        at=row.at,
        content=row.content,
    )
