"""Signed statements, kept by id: what was proven, and what was done. None of them ever changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.sqlite import Insert

from reconciler.store.records import EvidenceRow
from reconciler.store.statements import insert_all, inserting
from reconciler.store.tables import evidence as table
from stickers.names import ComponentName, EnvironmentId, EvidenceId, TargetId
from stickers.signature import Envelope, Statement


def keep(c: Connection, statements: Sequence[EvidenceRow]) -> None:
    """Keep them; one that is kept already stays as it is, since its id is its content."""
    rows = [
        {
            "id": each.id,
            "kind": each.kind,
            "environment": each.environment,
            "target": each.target,
            "component": each.component,
            "envelope": each.envelope,
            "at": each.at,
        }
        for each in statements
    ]
    insert_all(c, _offered(c.dialect.name), rows)


@cache
def _offered(dialect: str) -> Insert:
    return inserting(dialect, table).on_conflict_do_nothing(index_elements=["id"])


def load(c: Connection, id: EvidenceId) -> EvidenceRow | None:
    row = c.execute(select(table).where(table.c.id == id)).first()
    return None if row is None else _evidence(row)


def _evidence(row: Row[Any]) -> EvidenceRow:
    return EvidenceRow(
        id=EvidenceId(row.id),
        kind=Statement(row.kind),
        environment=EnvironmentId(row.environment),
        target=TargetId(row.target),
        component=None if row.component is None else ComponentName(row.component),
        envelope=Envelope(row.envelope),
        at=row.at,
    )
