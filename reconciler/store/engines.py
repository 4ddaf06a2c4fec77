"""Connections: for each database one that writes, and some that can only read.

SQLite up to 3.51.2 can corrupt a database in WAL mode when two connections write or checkpoint at once. So one
process (`lock.py`), one connection that writes and checkpoints, and readers that can do neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.pool import StaticPool

READERS: Final = 4

_ANY_THREAD: Final = {"check_same_thread": False}  # one at a time is seen to by the store
_BUSY: Final = 5_000  # ms to wait for a stranger that looks into the file with a tool of its own
_STATEMENT: Final = 60_000  # ms that one statement may take on PostgreSQL
_LOCK: Final = 10_000  # ms that one statement may wait for a lock there


def is_memory(url: str) -> bool:
    parsed = make_url(url)
    return parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")


def database_file(url: str) -> Path | None:
    """The file of an embedded store."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or is_memory(url):
        return None
    return Path(str(parsed.database))


def memory() -> Engine:
    """A database of its own, as long as the engine lives, on the one connection there is."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=_ANY_THREAD, hide_parameters=True)
    _prepare(engine, begin="immediate", pragmas={"foreign_keys": "on"})
    return engine


def writer(url: str) -> Engine:
    """The one connection that writes."""
    if (file := database_file(url)) is None:
        return _postgresql(make_url(url), connections=1)
    engine = create_engine(make_url(url), pool_size=1, max_overflow=0, connect_args=_ANY_THREAD, hide_parameters=True)
    pragmas = {"journal_mode": "wal", "synchronous": "normal", "busy_timeout": str(_BUSY), "foreign_keys": "on"}
    _prepare(engine, begin="immediate", pragmas=pragmas)
    file.touch(mode=0o600, exist_ok=True)
    return engine


def readers(url: str) -> Engine:
    if (file := database_file(url)) is None:
        return _postgresql(make_url(url), connections=READERS).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
    read_only = URL.create("sqlite", database=file.absolute().as_uri(), query={"mode": "ro", "uri": "true"})
    engine = create_engine(read_only, pool_size=READERS, max_overflow=0, connect_args=_ANY_THREAD, hide_parameters=True)
    pragmas = {"wal_autocheckpoint": "0", "query_only": "on", "busy_timeout": str(_BUSY)}
    _prepare(engine, begin="deferred", pragmas=pragmas)
    return engine


def _prepare(engine: Engine, *, begin: str, pragmas: dict[str, str]) -> None:
    """Begin transactions ourselves: the driver's own habit begins them late, and finds the database locked."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        connection.isolation_level = None
        for name, value in pragmas.items():
            connection.execute(f"pragma {name}={value}").close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql(f"begin {begin}")


def _postgresql(url: URL, *, connections: int) -> Engine:
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_size=connections, max_overflow=0, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"set statement_timeout={_STATEMENT}; set lock_timeout={_LOCK}; set time zone 'UTC'")
        connection.commit()

    return engine
