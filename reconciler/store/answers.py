"""The first answers to requests that carry a key, each kept in the transaction of what the request brought about:
whoever repeats it is told the same, and nothing is made twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select

from reconciler.store.errors import StoreError
from reconciler.store.tables import answer as table
from stickers.names import Digest

DAYS: Final = 7  # in which a request may be repeated


class RequestDiffers(StoreError):
    """The key was used for another request before."""

    code = "IDEMPOTENCY_DIFFERS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A request that is to take effect once: whose it is, the key they gave it, and what it asks for."""

    actor: str
    key: str
    request: Digest


def find(c: Connection, ticket: Ticket) -> Mapping[str, Any] | None:
    """The first answer; None when there is none yet. Raises `RequestDiffers`."""
    row = c.execute(select(table).where(table.c.actor == ticket.actor, table.c.key == ticket.key)).first()
    if row is None:
        return None
    if row.request != ticket.request:
        raise RequestDiffers(f"the key {ticket.key[:60]!r} was used for another request; take a new one")
    found: Mapping[str, Any] = row.content
    return found


def keep(c: Connection, ticket: Ticket, content: Mapping[str, Any], now: datetime) -> None:
    """`Violated` when another was first: the whole transaction is undone, and their answer stands."""
    c.execute(
        insert(table).values(actor=ticket.actor, key=ticket.key, request=ticket.request, content=dict(content), at=now)
    )


def forget(c: Connection, before: datetime) -> int:
    return c.execute(delete(table).where(table.c.at < before)).rowcount
