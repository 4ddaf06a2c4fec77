"""Connections: for each database one that writes, and some that can only read.

SQLite up to 3.51.2 can corrupt a database in WAL mode when two connections write or checkpoint at once. So one
process (`lock.py`), one connection that writes and checkpoints, and readers that can do neither.

On PostgreSQL nothing is kept in a session: no statement is prepared, no setting outlives its transaction, so a pooler
may hand each transaction to another server. What does not answer in time is hung up on (`patience.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.pool import StaticPool

from reconciler.store.patience import Patience

READERS: Final = 4

_ANY_THREAD: Final = {"check_same_thread": False}  # one at a time is seen to by the store
_BUSY: Final = 5_000  # ms to wait for a stranger that looks into the file with a tool of its own
_LOCK: Final = 10_000  # ms that one statement may wait for a lock on PostgreSQL
_CONNECT: Final = 5  # seconds to come to a connection there


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


def writer(url: str, patience: Patience | None = None) -> Engine:
    """The one connection that writes. Without `patience` a transaction on PostgreSQL may take as long as it takes."""
    if (file := database_file(url)) is None:
        return _postgresql(make_url(url), connections=1, begin="begin", patience=patience)
    engine = create_engine(make_url(url), pool_size=1, max_overflow=0, connect_args=_ANY_THREAD, hide_parameters=True)
    pragmas = {"journal_mode": "wal", "synchronous": "normal", "busy_timeout": str(_BUSY), "foreign_keys": "on"}
    _prepare(engine, begin="immediate", pragmas=pragmas)
    file.touch(mode=0o600, exist_ok=True)
    return engine


def readers(url: str, patience: Patience | None = None) -> Engine:
    if (file := database_file(url)) is None:
        begin = "begin isolation level repeatable read read only"
        return _postgresql(make_url(url), connections=READERS, begin=begin, patience=patience)
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


def _postgresql(url: URL, *, connections: int, begin: str, patience: Patience | None) -> Engine:
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    given = {"autocommit": True, "prepare_threshold": None, "connect_timeout": _CONNECT, "client_encoding": "utf8"}
    engine = create_engine(url, pool_size=connections, max_overflow=0, hide_parameters=True, connect_args=given)
    longest = f"set local statement_timeout={int(patience.seconds * 900)};" if patience else ""

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        """In one message: the driver's own way needs another for every setting."""
        connection.exec_driver_sql(f"{begin};{longest}set local lock_timeout={_LOCK}")

    if patience is not None:
        patience.watch(engine)
    return engine
