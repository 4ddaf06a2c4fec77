"""What is said of commits to their forge, on its way: the last word for each commit and context, and whether it was
sent. Whoever sends claims for a while, so that what a process takes with it when it dies is sent by the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, or_, select, update

from reconciler.store.statements import insert
from reconciler.store.tables import commit_status as table

KEPT: Final = timedelta(days=30)
CLAIMED: Final = timedelta(seconds=60)
BATCH: Final = 20


class Said(StrEnum):
    """What may be said of a commit. `SUPERSEDED`: a newer one came before it was brought."""

    VALIDATED = "validated"
    REFUSED = "refused"
    PLANNED = "planned"
    IN_SYNC = "in sync"
    FAILED = "failed"
    SUPERSEDED = "superseded"


FINAL: Final = frozenset({Said.IN_SYNC, Said.SUPERSEDED})  # what drifts later is no matter of the commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One thing said of one commit; `context` is what it is said about."""

    source: str
    revision: str
    context: str
    state: Said
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow(Status):
    changed_at: datetime
    sent: str | None = None
    attempts: int = 0
    again_at: datetime | None = None
    problem: str | None = None


def of(c: Connection, source: str) -> tuple[StatusRow, ...]:
    """Everything kept of the source, the newest first."""
    rows = c.execute(select(table).where(table.c.source == source).order_by(table.c.changed_at.desc()))
    return tuple(map(_row, rows))


def news(kept: Iterable[StatusRow], wanted: Iterable[Status]) -> list[Status]:
    """What of the wanted is not said yet; and what was planned for a commit that another has taken the place of."""
    wanted, kept = list(wanted), list(kept)
    before = {(row.revision, row.context): row for row in kept}
    found = [each for each in wanted if _is_news(before.get((each.revision, each.context)), each)]
    current = {(each.context, each.revision) for each in wanted}
    contexts = {each.context for each in wanted}
    for row in kept:
        if row.state is Said.PLANNED and row.context in contexts and (row.context, row.revision) not in current:
            found.append(
                Status(
                    source=row.source,
                    revision=row.revision,
                    context=row.context,
                    state=Said.SUPERSEDED,
                    says="superseded: a newer commit took its place",
                )
            )
    return found


def _is_news(row: StatusRow | None, wanted: Status) -> bool:
    return row is None or (row.state is not wanted.state and row.state not in FINAL)


def put(c: Connection, statuses: Iterable[Status], now: datetime) -> None:
    for each in statuses:
        key = {"source": each.source, "revision": each.revision, "context": each.context}
        values = {"state": each.state.value, "says": each.says, "changed_at": now, "attempts": 0, "again_at": None}
        offered = insert(c, table).values(**key, **values)
        c.execute(offered.on_conflict_do_update(index_elements=list(key), set_=values))
    c.execute(delete(table).where(table.c.changed_at < now - KEPT))


def claim(c: Connection, sources: Iterable[str], now: datetime) -> tuple[StatusRow, ...]:
    """Some of these sources that are to be sent now, the oldest first; nobody else is given them for a while."""
    chosen = select(table).where(*_due(sources, now)).order_by(table.c.changed_at).limit(BATCH)
    found = [_row(row) for row in c.execute(chosen)]
    free = or_(table.c.again_at.is_(None), table.c.again_at <= now)
    return tuple(row for row in found if c.execute(_only(row).where(free).values(again_at=now + CLAIMED)).rowcount)


def is_due(c: Connection, sources: Iterable[str], now: datetime) -> bool:
    """Whether there is anything to claim."""
    return c.execute(select(table.c.source).where(*_due(sources, now)).limit(1)).first() is not None


def _due(sources: Iterable[str], now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        table.c.source.in_(list(sources)),
        or_(table.c.again_at.is_(None), table.c.again_at <= now),
        or_(table.c.sent.is_(None), table.c.sent != table.c.state),
    )


def sent(c: Connection, row: StatusRow) -> None:
    c.execute(_only(row).values(sent=row.state.value, attempts=0, again_at=None, problem=None))


def failed(c: Connection, row: StatusRow, problem: str, again_at: datetime) -> None:
    c.execute(_only(row).values(attempts=row.attempts + 1, problem=problem, again_at=again_at))


def _only(row: StatusRow) -> Any:
    """The row, as long as the same is to be said."""
    same = (table.c.source == row.source, table.c.revision == row.revision, table.c.context == row.context)
    return update(table).where(*same, table.c.state == row.state.value)


def _row(row: Row[Any]) -> StatusRow:
    return StatusRow(**(dict(row._mapping) | {"state": Said(row.state)}))
