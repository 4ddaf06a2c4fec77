"""Deliveries of webhooks that were taken already: what is sent again does nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, delete, func, select

from reconciler.store.statements import insert
from reconciler.store.tables import delivery as table

KEPT: Final = timedelta(days=7)
MOST: Final = 50_000  # of one source within that time


class Seen(StrEnum):
    NEW = "new"
    AGAIN = "again"
    FULL = "full"  # nothing more is taken until older ones are forgotten


def take(c: Connection, source: str, id: str, now: datetime, most: int = MOST) -> Seen:
    """Whether the delivery is one to act on; it is not a second time."""
    if c.execute(select(table.c.id).where(table.c.source == source, table.c.id == id)).first() is not None:
        return Seen.AGAIN
    c.execute(delete(table).where(table.c.seen_at < now - KEPT))
    count = c.execute(select(func.count()).select_from(table).where(table.c.source == source)).scalar_one()
    if count >= most:
        return Seen.FULL
    offered = insert(c, table).values(source=source, id=id, seen_at=now)
    new = c.execute(offered.on_conflict_do_nothing(index_elements=["source", "id"]).returning(table.c.id)).first()
    return Seen.NEW if new is not None else Seen.AGAIN
