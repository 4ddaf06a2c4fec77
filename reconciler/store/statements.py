"""The differences of wording between the two databases: insert-or-update, and many rows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Table, TypeDecorator, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

_FEW: Final = 8  # rows up to which PostgreSQL is sent them one by one


def insert(c: Connection, table: Table) -> sqlite.Insert:
    """An insert that can say `on_conflict_…`. Both dialects word it alike, so the type of one stands for both."""
    return inserting(c.dialect.name, table)


def inserting(dialect: str, table: Table) -> sqlite.Insert:
    """The same, for a statement that is built once for each dialect."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)  # type: ignore[return-value]


def insert_all(c: Connection, offered: sqlite.Insert, rows: Sequence[Mapping[str, Any]]) -> None:
    """The insert for every row. PostgreSQL takes many short ones as arrays, in a quarter of the time."""
    if c.dialect.name == "sqlite" or len(rows) <= _FEW:
        if rows:
            c.execute(offered, rows)
        return
    names = list(rows[0])
    arrays = [literal([row[name] for row in rows], postgresql.ARRAY(offered.table.c[name].type)) for name in names]
    c.execute(offered.from_select(names, select(*(func.unnest(array) for array in arrays))))


def append_all(c: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """New rows that clash with none. PostgreSQL takes many of any length as a copy, in a quarter of the time."""
    if c.dialect.name == "sqlite" or len(rows) <= _FEW:
        if rows:
            c.execute(insert(c, table), rows)
        return
    columns = [table.c[name] for name in rows[0]]
    decorated = {column.name: column.type for column in columns if isinstance(column.type, TypeDecorator)}
    statement = f"copy {table.name} ({', '.join(column.name for column in columns)}) from stdin"
    _copied(c, statement, [[_bound(decorated, each, c.dialect) for each in row.items()] for row in rows])


def _bound(decorated: Mapping[str, TypeDecorator[Any]], item: tuple[str, Any], dialect: Dialect) -> Any:
    name, value = item
    return decorated[name].process_bind_param(value, dialect) if name in decorated else value


def _copied(c: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """The copy is the driver's own, so its errors are made those of every other statement here."""
    import psycopg

    raw = c.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    try:
        with raw.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        lost = raw.closed
        if lost:
            c.invalidate(error)
        raise DBAPIError.instance(statement, None, error, psycopg.Error, connection_invalidated=lost) from error
