"""The store: queries in transactions, written by one connection, read by others. It knows no table.

A query is a function on a connection; `write` commits what it did or nothing, `read` shows it one moment of the
database. Queries that wait for the writer at the same time share one transaction; when one of them raises, each is
carried out in its own, so that none is failed by another. Waiting for a turn can be cancelled; a transaction that has
begun is waited for.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Generic, Self, TypeVar

import anyio
import structlog
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import checkpoint
from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError

from reconciler.store import chronicle, engines, schema
from reconciler.store.errors import CommitUnknown, Corrupt, StoreError, Unavailable, Violated
from reconciler.store.lock import SideFile
from reconciler.store.patience import SECONDS, Patience

T = TypeVar("T")
Query = Callable[[Connection], T]

TOGETHER: Final = 64  # queries in one transaction
WAL_RESET_FIXED: Final = (3, 51, 3)

log = structlog.get_logger()


def _utc() -> datetime:
    return datetime.now(UTC)


class Store:
    """Open one with `Store.open`. `now` is the clock of everything that is written."""

    def __init__(
        self,
        writer: Engine,
        readers: Engine | None,
        *,
        lock: SideFile | None,
        now: Callable[[], datetime],
        patience: Patience | None = None,
    ):
        self.now = now
        self._patience = patience
        self._writer, self._readers, self._lock = writer, readers, lock
        self._writing, self._reading = CapacityLimiter(1), CapacityLimiter(engines.READERS)
        self._thread = CapacityLimiter(1)
        self._waiting: deque[_Entry[Any]] = deque()
        self._closed = False

    @classmethod
    async def open(
        cls, url: str, *, inline: bool = False, now: Callable[[], datetime] = _utc, patience: float = SECONDS
    ) -> Self:
        """The store at `url`, its schema brought up to date. `patience` is how many seconds a transaction may take
        where the database is elsewhere; what takes longer is hung up on, and `Unavailable`.

        `inline` carries every transaction out on the caller's own thread, over one connection; a database in memory
        always does. Raises `Locked`, `NewerSchema`, `Unavailable` or `Corrupt`.
        """
        if inline or engines.is_memory(url):
            return cls._opened(url, inline=True, now=now)
        return await to_thread.run_sync(partial(cls._opened, url, inline=False, now=now, patience=Patience(patience)))

    @classmethod
    def _opened(cls, url: str, *, inline: bool, now: Callable[[], datetime], patience: Patience | None = None) -> Self:
        with _translated():
            lock = _locked(url)
            try:
                writer = _migrated(url, patience)
            except BaseException:
                if lock:
                    lock.release()
                raise
        _tell(writer)
        readers = None if inline else engines.readers(url, patience)
        return cls(writer, readers, lock=lock, now=now, patience=patience)

    @property
    def inline(self) -> bool:
        """Whether everything is done on the caller's own thread."""
        return self._readers is None

    @property
    def shared(self) -> bool:
        """Whether other processes may work on the same database."""
        return self._writer.dialect.name != "sqlite"

    async def write(self, query: Query[T]) -> T:
        """What the query answers, once it is committed. Raises what the query raises, and errors of the store;
        after `CommitUnknown` look before writing again. A query may be asked twice, and is committed once."""
        self._insist_on_open()
        if self._readers is None:
            await checkpoint()
            return self._written(query)
        entry = _Entry(query)
        self._waiting.append(entry)
        try:
            async with self._writing:
                if not entry.begun:
                    await self._carry_waiting()
        finally:
            with anyio.CancelScope(shield=True):
                await self._withdrawn(entry)
        return entry.result()

    async def _carry_waiting(self) -> None:
        """Everything that waits by now, up to a bound; the first of it asks."""
        together = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
        for entry in together:
            entry.begun = True
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._carried, together, limiter=self._thread)
        for entry in together:
            entry.done.set()

    async def _withdrawn(self, entry: _Entry[Any]) -> None:
        """Whoever leaves takes a query that has not begun with them, and waits for one that has."""
        if entry.begun:
            await entry.done.wait()
        else:
            self._waiting.remove(entry)

    def _carried(self, entries: Sequence[_Entry[Any]]) -> None:
        if len(entries) == 1 or not self._together(entries):
            for entry in entries:
                entry.answer_by(self._written)

    def _together(self, entries: Sequence[_Entry[Any]]) -> bool:
        """All of them in one transaction. False, and nothing is written, when that cannot be done."""
        try:
            with _translated():
                answers = self._transaction(lambda c: [entry.query(c) for entry in entries])
        except CommitUnknown as error:
            for entry in entries:
                entry.error = CommitUnknown(str(error))
        except Exception:  # of one of them, or of the database: each learns its own
            return False
        else:
            for entry, answer in zip(entries, answers, strict=True):
                entry.answer = answer
        return True

    async def read(self, query: Query[T]) -> T:
        self._insist_on_open()
        if self._readers is None:
            await checkpoint()
            return self._seen_inline(query)
        return await to_thread.run_sync(self._seen, self._readers, query, limiter=self._reading)

    async def aclose(self) -> None:
        """Takes nothing new, finishes what has been taken, and lets go of the database."""
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._drained()

    async def _drained(self) -> None:
        for lane in (self._writing, self._reading):
            for _ in range(int(lane.total_tokens)):
                await lane.acquire_on_behalf_of(object())
        if self._readers is None:
            self._let_go()
        else:
            await to_thread.run_sync(self._let_go)

    def _let_go(self) -> None:
        """The writer last: who closes a SQLite database last also writes its log back."""
        if self._readers is not None:
            self._readers.dispose()
        self._writer.dispose()
        if self._patience is not None:
            self._patience.close()
        if self._lock is not None:
            self._lock.release()

    def _insist_on_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed")

    def _written(self, query: Query[T]) -> T:
        with _translated():
            try:
                return self._transaction(query)
            except _Lost:  # before the commit: the database forgets what it was told, so all of it may be told again
                return self._transaction(query)

    def _transaction(self, query: Query[T]) -> T:
        with self._writer.connect() as connection:
            transaction = _begun(connection)
            answer = _asked(connection, partial(_gathered, query))
            try:
                transaction.commit()
            except (OperationalError, InterfaceError) as error:
                raise CommitUnknown(f"not known whether it was written: {_line(error)}") from error
            return answer

    def _seen(self, readers: Engine, query: Query[T]) -> T:
        with _translated():
            try:
                with readers.connect() as connection:
                    return _asked(connection, query)
            except _Lost:
                with readers.connect() as connection:
                    return _asked(connection, query)

    def _seen_inline(self, query: Query[T]) -> T:
        with _translated(), self._writer.connect() as connection:
            if connection.dialect.name != "sqlite":
                return _asked(connection, query)
            connection.exec_driver_sql("pragma query_only=on")
            try:
                return _asked(connection, query)
            finally:
                connection.exec_driver_sql("pragma query_only=off")


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """A query on its way to the writer, and what became of it."""

    query: Query[T]
    begun: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: T | None = None
    error: BaseException | None = None

    def answer_by(self, written: Callable[[Query[T]], T]) -> None:
        try:
            self.answer = written(self.query)
        except BaseException as error:  # it is the asker's
            self.error = error

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self.answer  # type: ignore[return-value]


class _Lost(Exception):
    """The connection was lost, and nothing had been committed on it."""


def _gathered(query: Query[T], connection: Connection) -> T:
    with chronicle.gathering(connection):
        return query(connection)


def _asked(connection: Connection, query: Query[T]) -> T:
    with _lost_told():
        return query(connection)


def _begun(connection: Connection) -> RootTransaction:
    with _lost_told():
        return connection.begin()


@contextmanager
def _lost_told() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _Lost(_line(error)) from error
        raise


def _migrated(url: str, patience: Patience | None) -> Engine:
    """The connection that writes, to a schema that is up to date. Steps of the schema may take their time."""
    migrator = engines.memory() if engines.is_memory(url) else engines.writer(url)
    schema.bring_up_to_date(migrator)
    if migrator.dialect.name == "sqlite":
        return migrator
    migrator.dispose()
    return engines.writer(url, patience)


def _locked(url: str) -> SideFile | None:
    file = engines.database_file(url)
    if file is None:
        return None
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SideFile(file)


def _tell(writer: Engine) -> None:
    if writer.dialect.name == "sqlite":
        fixed = sqlite3.sqlite_version_info >= WAL_RESET_FIXED
        log.info("store_opened", database="sqlite", version=sqlite3.sqlite_version, wal_reset_fixed=fixed)
    else:
        log.info("store_opened", database="postgresql")


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of SQLAlchemy and of the drivers become ours here, and nowhere else."""
    try:
        yield
    except StoreError:
        raise
    except _Lost as error:
        raise Unavailable(f"the database was lost: {error}") from error
    except (IntegrityError, DataError) as error:
        raise Violated(_line(error)) from error
    except (OperationalError, InterfaceError) as error:
        raise Unavailable(_line(error)) from error
    except DatabaseError as error:
        if type(error) is not DatabaseError:
            raise  # a statement that makes no sense: ours to mend
        raise Corrupt(_line(error)) from error


def _line(error: Exception) -> str:
    """The driver's own words: their first line, since the others may show rows."""
    words = str(getattr(error, "orig", None) or error).strip()
    return words.splitlines()[0][:300] if words else type(error).__name__
