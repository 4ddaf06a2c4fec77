"""Everything that is kept, as one file: a moment of the store, written line by line, read back into an empty one.

The lines are JSON and know no database, so what was kept in SQLite can be read into PostgreSQL and the other way
round. The first line says of what it is a copy, the last one how many lines there should be, and their digest: a file
that was cut off or changed is refused before anything is written. Leases are not copied as held, and what is of the
moment only is not copied at all.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, func, insert, select, text

from reconciler.store import engines, installations, rules, schema
from reconciler.store.columns import Instant, Serial
from reconciler.store.errors import StoreError
from reconciler.store.lock import SideFile
from reconciler.store.tables import metadata

FORMAT: Final = "holdfast-backup/1"
BATCH: Final = 1_000
LINE: Final = 64 * 1024 * 1024  # the longest line that is read
PASSING: Final = frozenset({"event", "replica", "command"})  # of the moment: who follows, lives or waits does so there


class NotRestored(StoreError):
    """Nothing was written; the text says why."""

    code = "NOT_RESTORED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What a backup holds."""

    installation: str
    at: datetime
    revision: str
    rows: Mapping[str, int]


def write(c: Connection, file: Path, now: datetime) -> Copied:
    """The store as this connection sees it, into a new file of mode 0600, which is on the disk when this returns.
    Raises `OSError`, and leaves nothing then."""
    revision = str(schema.revision(c))
    installation = str(installations.load(c))
    rows: dict[str, int] = {}
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as out:
            with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, filename="") as packed:
                digest = hashlib.sha256()
                head = {"format": FORMAT, "schema": revision, "installation": installation, "at": now.isoformat()}
                for line in (head, *_rows(c, rows)):
                    packed.write(_told(line, digest))
                packed.write(json.dumps({"rows": rows, "digest": digest.hexdigest()}).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        with suppress(OSError):
            file.unlink()
        raise
    return Copied(installation=installation, at=now, revision=revision, rows=rows)


def _rows(c: Connection, counted: dict[str, int]) -> Iterator[dict[str, Any]]:
    for table in metadata.sorted_tables:
        if table.name in PASSING:
            continue
        found = c.execution_options(yield_per=BATCH).execute(select(table).order_by(*table.primary_key))
        for row in found.mappings():
            counted[table.name] = counted.get(table.name, 0) + 1
            yield {"table": table.name, "row": dict(row) | _let_go(table)}


def _let_go(table: Table) -> dict[str, None]:
    return {"holder": None, "until": None} if table.name == "lease" else {}


def _told(line: Mapping[str, Any], digest: hashlib._Hash) -> bytes:
    told = json.dumps(line, default=_plain, separators=(",", ":")).encode() + b"\n"
    digest.update(told)
    return told


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    assert isinstance(value, bytes)
    return value.hex()


def restore(url: str, file: Path) -> Copied:
    """Read the file into the store at `url`, which has to be empty, in one transaction. Blocks. Raises
    `NotRestored` and errors of the store."""
    copied = inspected(file)
    if copied.revision != schema.REVISIONS[-1]:
        raise NotRestored(
            f"{file} has schema {copied.revision}, this Holdfast {schema.REVISIONS[-1]}: restore it with the one "
            "that made it, then start the newer one"
        )
    database = engines.database_file(url)
    lock = SideFile(database) if database is not None else None
    try:
        engine = engines.writer(url)
        try:
            schema.bring_up_to_date(engine)
            with engine.begin() as c:
                _read_into(c, file)
        finally:
            engine.dispose()
    finally:
        if lock is not None:
            lock.release()
    return copied


def inspected(file: Path) -> Copied:
    """What the file holds, when all of it is there and as it was written."""
    digest, counted, head, last = hashlib.sha256(), dict[str, int](), None, None
    for line in _lines(file):
        if last is not None:
            break
        said = _parsed(file, line)
        if "digest" in said and "table" not in said:
            last = said
            continue
        digest.update(line)
        if head is None:
            head = said
        else:
            counted[said["table"]] = counted.get(said["table"], 0) + 1
    if head is None or head.get("format") != FORMAT:
        raise NotRestored(f"{file} is no backup of Holdfast")
    if last is None or last["rows"] != counted or last["digest"] != digest.hexdigest():
        raise NotRestored(f"{file} was cut off or changed: its last line does not fit what is before it")
    return Copied(
        installation=head["installation"],
        at=datetime.fromisoformat(head["at"]),
        revision=head["schema"],
        rows=counted,
    )


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file, "rb") as packed:
            while line := packed.readline(LINE):
                yield line
    except (OSError, EOFError) as error:
        raise NotRestored(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parsed(file: Path, line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not ("table" in said or "format" in said or "digest" in said):
        raise NotRestored(f"{file} is no backup of Holdfast, or was changed")
    return said


def _read_into(c: Connection, file: Path) -> None:
    if any(c.execute(select(func.count()).select_from(table)).scalar_one() for table in metadata.sorted_tables):
        raise NotRestored("the store is not empty: name another database, or move the old one away first")
    rules.lift(c)  # they are about how rows come to be, which happened elsewhere
    for table, rows in _batches(file):
        c.execute(insert(table), rows)
    rules.install(c)
    if c.dialect.name == "postgresql":
        _count_on(c)


def _batches(file: Path) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    table: Table | None = None
    rows: list[dict[str, Any]] = []
    for line in _lines(file):
        said = _parsed(file, line)
        if "table" not in said:
            continue
        of = metadata.tables[said["table"]]
        if table is not None and rows and (of is not table or len(rows) >= BATCH):
            yield table, rows
            rows = []
        table = of
        rows.append(_typed(of, said["row"]))
    if table is not None and rows:
        yield table, rows


def _typed(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if value is not None and isinstance(table.c[name].type, Instant) else value
        for name, value in row.items()
    }


def _count_on(c: Connection) -> None:
    """Numbers that the database gives go on after those that were restored."""
    for table in metadata.sorted_tables:
        for column in table.primary_key:
            if column.type is Serial and column.autoincrement is True:
                highest = c.execute(select(func.max(column))).scalar()
                if highest is not None:
                    sequence = {"table": table.name, "column": column.name, "highest": highest}
                    c.execute(text("select setval(pg_get_serial_sequence(:table, :column), :highest)"), sequence)
