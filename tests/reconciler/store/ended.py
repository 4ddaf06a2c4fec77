"""What is told on PostgreSQL is held up by every older transaction of the server, those of other tests among them."""

from __future__ import annotations

from typing import Final

import anyio
from sqlalchemy import Connection, exists, select

from reconciler.store.columns import first_unfinished
from reconciler.store.store import Store
from reconciler.store.tables import event as table

WITHIN: Final = 60.0  # seconds; another test may be copying a database


async def all_told(store: Store) -> None:
    """Until nothing that is written waits for others to end."""
    with anyio.fail_after(WITHIN):
        while await store.read(_waits):  # noqa: ASYNC110 - nobody tells when they end
            await anyio.sleep(0.02)


def _waits(c: Connection) -> bool:
    if c.dialect.name == "sqlite":
        return False
    return bool(c.execute(select(exists().where(table.c.written_by >= first_unfinished()))).scalar())
