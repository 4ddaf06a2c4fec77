"""What people ask of environments through whatever replica: asked in a row, answered in the same row by the holder,
under its lease.

An answer is written once, in the transaction of what it tells about where there is any. A command that nobody has
begun in its time is withdrawn by whoever asked: nothing is done that nobody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select, update

from reconciler.store import leases
from reconciler.store.records import Command, Lease
from reconciler.store.statements import insert
from reconciler.store.tables import UNANSWERED
from reconciler.store.tables import command as table
from stickers.names import EnvironmentId

KEPT: Final = timedelta(hours=1)  # that an answer can be read


def ask(c: Connection, command: Command, *, now: datetime, ttl: timedelta) -> None:
    """Asked; a second time under the same id changes nothing."""
    moment = leases.clock(c, now)
    values = {
        "id": command.id,
        "environment": command.environment,
        "kind": command.kind,
        "arguments": dict(command.arguments),
        "actor": command.actor,
        "asked_at": moment,
        "until": moment + ttl,
    }
    c.execute(insert(c, table).values(values).on_conflict_do_nothing(index_elements=["id"]))


def waiting(c: Connection, environment: EnvironmentId, now: datetime) -> tuple[Command, ...]:
    """What is asked of the environment and still waited for, oldest first."""
    asked = select(table).where(UNANSWERED, table.c.environment == environment, table.c.until > leases.clock(c, now))
    return tuple(_command(row) for row in c.execute(asked.order_by(table.c.asked_at, table.c.id)))


def wanted(c: Connection, environments: Iterable[EnvironmentId]) -> tuple[EnvironmentId, ...]:
    """Those of the environments of which something is asked."""
    asked = select(table.c.environment).where(UNANSWERED, table.c.environment.in_(list(environments))).distinct()
    return tuple(EnvironmentId(row.environment) for row in c.execute(asked.order_by(table.c.environment)))


def answer(c: Connection, id: str, answer: Mapping[str, Any], lease: Lease, now: datetime) -> bool:
    """Whether this is the answer: there is none yet, nobody has withdrawn, and the lease is held."""
    leases.hold(c, lease)
    said = update(table).where(table.c.id == id, UNANSWERED)
    written = said.values(answer=dict(answer), answered_at=leases.clock(c, now)).returning(table.c.id)
    return c.execute(written).first() is not None


def withdraw(c: Connection, id: str, why: Mapping[str, Any], now: datetime) -> Command | None:
    """Nobody waits any longer; the command as it is then, with an answer that came at the last moment."""
    gone = update(table).where(table.c.id == id, UNANSWERED)
    c.execute(gone.values(answer=dict(why), answered_at=leases.clock(c, now)))
    return load(c, id)


def load(c: Connection, id: str) -> Command | None:
    row = c.execute(select(table).where(table.c.id == id)).first()
    return None if row is None else _command(row)


def sweep(c: Connection, now: datetime) -> None:
    """Forget what was asked long ago."""
    c.execute(delete(table).where(table.c.until < leases.clock(c, now) - KEPT))


def _command(row: Row[Any]) -> Command:
    return Command(
        id=row.id,
        environment=EnvironmentId(row.environment),
        kind=row.kind,
        arguments=row.arguments,
        actor=row.actor,
        answer=row.answer,
    )
