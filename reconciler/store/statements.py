"""The one difference of wording between the two databases: insert-or-update."""

from __future__ import annotations

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert(c: Connection, table: Table) -> sqlite.Insert:
    """An insert that can say `on_conflict_…`. Both dialects word it alike, so the type of one stands for both."""
    if c.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)  # type: ignore[return-value]
