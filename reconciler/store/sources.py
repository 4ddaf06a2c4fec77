"""Sources as this installation remembers them: what was accepted of each last, when, and why the last read was not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from reconciler.store.errors import Missing, Stale
from reconciler.store.statements import insert
from reconciler.store.tables import source as table

_SOUND: dict[str, None] = dict.fromkeys(("fault", "fault_message", "fault_revision", "fault_at"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """`revision` is the accepted one, `allowed` one that may be accepted although it does not follow from it, `read_at`
    the last good read as far as it was written down. `fault` says why the last read was not taken, `fault_revision`
    what it was of."""

    name: str
    revision: str | None = None
    allowed: str | None = None
    accepted_at: datetime | None = None
    read_at: datetime | None = None
    signer: str | None = None
    fault: str | None = None
    fault_message: str | None = None
    fault_revision: str | None = None
    fault_at: datetime | None = None


def load(c: Connection, name: str) -> SourceRow:
    """What is known of the source: nothing, when it was never read."""
    row = c.execute(select(table).where(table.c.name == name)).first()
    return SourceRow(name=name) if row is None else _row(row)


def all(c: Connection) -> tuple[SourceRow, ...]:
    return tuple(_row(row) for row in c.execute(select(table).order_by(table.c.name)))


def advance(c: Connection, before: SourceRow, revision: str, *, signer: str | None, now: datetime) -> None:
    """The revision is in force, if none but `before.revision` was: `Stale` when another was accepted meanwhile, for an
    older read must not overwrite a newer one."""
    values = {"revision": revision, "accepted_at": now, "read_at": now, "signer": signer, "allowed": None} | _SOUND
    c.execute(insert(c, table).values(name=before.name).on_conflict_do_nothing(index_elements=["name"]))
    unmoved = table.c.revision.is_not_distinct_from(before.revision)
    statement = update(table).where(table.c.name == before.name, unmoved).values(values).returning(table.c.name)
    if c.execute(statement).first() is None:
        raise Stale(f"another revision of source {before.name} was accepted meanwhile")


def refused(c: Connection, name: str, fault: str, message: str, revision: str | None, now: datetime) -> None:
    """What was read last is not taken."""
    values = {"fault": fault, "fault_message": message, "fault_revision": revision, "fault_at": now}
    offered = insert(c, table).values(name=name, **values)
    c.execute(offered.on_conflict_do_update(index_elements=["name"], set_=values))


def sound(c: Connection, name: str, now: datetime) -> None:
    """What was read last is what is in force."""
    c.execute(update(table).where(table.c.name == name).values({"read_at": now} | _SOUND))


def allow(c: Connection, name: str, revision: str) -> None:
    """This one revision may be accepted although it does not follow from the one in force."""
    statement = update(table).where(table.c.name == name, table.c.revision.is_not(None))
    if c.execute(statement.values(allowed=revision).returning(table.c.name)).first() is None:
        raise Missing(f"nothing of a source {name} is in force, so nothing needs to be allowed")


def _row(row: Row[Any]) -> SourceRow:
    return SourceRow(**row._mapping)
