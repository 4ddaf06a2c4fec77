"""Who works on this database: one row for each process, renewed while it lives."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select

from reconciler.store import leases
from reconciler.store.records import Replica, Role
from reconciler.store.statements import insert
from reconciler.store.tables import replica as table

KEPT: Final = timedelta(days=1)  # that a row is kept of one that lives no more


def beat(c: Connection, me: Replica, *, now: datetime, ttl: timedelta) -> None:
    """It lives, for so long again."""
    values = {
        "place": me.place,
        "role": me.role,
        "version": me.version,
        "key": me.key,
        "until": leases.clock(c, now) + ttl,
        "environments": me.environments,
        "agents": me.agents,
    }
    offered = insert(c, table).values(id=me.id, **values)
    c.execute(offered.on_conflict_do_update(index_elements=["id"], set_=values))


def live(c: Connection, now: datetime) -> tuple[Replica, ...]:
    """By id."""
    alive = table.c.until > leases.clock(c, now)
    return tuple(_replica(row) for row in c.execute(select(table).where(alive).order_by(table.c.id)))


def known(c: Connection) -> tuple[Replica, ...]:
    """Those that live and those that lived not long ago."""
    return tuple(_replica(row) for row in c.execute(select(table).order_by(table.c.id)))


def leave(c: Connection, id: str) -> None:
    c.execute(delete(table).where(table.c.id == id))


def forget(c: Connection, beginning: str, but: str) -> None:
    """Those whose id begins so live no more: another process lives in their place."""
    theirs = func.substr(table.c.id, 1, len(beginning)) == beginning
    c.execute(delete(table).where(theirs, table.c.id != but))


def sweep(c: Connection, now: datetime) -> None:
    """Forget those that died long ago."""
    c.execute(delete(table).where(table.c.until < leases.clock(c, now) - KEPT))


def _replica(row: Row[Any]) -> Replica:
    return Replica(
        id=row.id,
        place=row.place,
        role=Role(row.role),
        version=row.version,
        key=row.key,
        until=row.until,
        environments=row.environments,
        agents=row.agents,
    )
