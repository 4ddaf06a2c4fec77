"""What is older than it has to be at hand: written to an archive, made durable there, and only then deleted.

A crash in between leaves rows in both places, never in none; every line names its table and carries the whole row.
Whatever something living still refers to stays, as does the last decision of every environment.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from anyio import to_thread
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, or_, select, tuple_

from reconciler.store import answers, chronicle
from reconciler.store.store import Store
from reconciler.store.tables import (
    artifact,
    content,
    decision,
    evidence,
    job,
    last_good,
    metadata,
    progress,
    refused,
    standing,
    task,
)

DAYS: Final = 90
BATCH: Final = 500  # rows read, written and deleted at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """How many rows of each table went into the file; None when there were none."""

    file: Path | None
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Pass:
    """The rows of a table that may go. Passes are in order: what refers goes before what it refers to."""

    table: Table
    which: ColumnElement[bool]


async def run(store: Store, directory: Path, *, now: datetime, days: int = DAYS) -> Archived:
    """Archive and delete what ended more than `days` ago, in small transactions that let others through. What only
    whoever watches or repeats a request needs is in no archive."""
    file = directory / f"history-{now:%Y%m%dT%H%M%S%fZ}.jsonl.gz"
    counted: dict[str, int] = {}
    for part in passes(now - timedelta(days=days)):
        rows = await store.read(partial(_next, part, None))
        while rows:
            await to_thread.run_sync(_append, file, part.table.name, rows)
            await store.write(partial(_deleted, part, rows))
            counted[part.table.name] = counted.get(part.table.name, 0) + len(rows)
            rows = await store.read(partial(_next, part, rows[-1]))
    await store.write(lambda c: chronicle.forget(c, now - timedelta(days=min(days, chronicle.DAYS))))
    await store.write(lambda c: answers.forget(c, now - timedelta(days=min(days, answers.DAYS))))
    return Archived(file=file if counted else None, rows=counted)


def passes(before: datetime) -> Iterator[Pass]:
    refusing = exists().where(refused.c.job == job.c.id)
    over = and_(job.c.ended_at < before, ~refusing)
    jobs = select(job.c.id).where(over)
    yield Pass(refused, refused.c.lifted_at < before)
    good = exists().where(or_(last_good.c.content == artifact.c.placement, last_good.c.before == artifact.c.placement))
    yield Pass(artifact, and_(artifact.c.kept_at < before, ~good))
    yield Pass(progress, progress.c.task.in_(select(task.c.id).where(task.c.job.in_(jobs))))
    yield Pass(task, task.c.job.in_(jobs))
    yield Pass(job, over)
    later = decision.alias()
    newest = select(func.max(later.c.number)).where(later.c.environment == decision.c.environment).scalar_subquery()
    yield Pass(decision, and_(decision.c.until < before, decision.c.number < newest))
    yield Pass(standing, standing.c.until < before)
    yield Pass(evidence, and_(evidence.c.at < before, _unreferred(evidence)))
    yield Pass(content, and_(content.c.kept_at < before, _unreferred(content)))


def _unreferred(table: Table) -> ColumnElement[bool]:
    """Nothing anywhere refers to the row: asked of every column of the schema that could."""
    columns = [
        (key.parent, key.column)
        for other in metadata.sorted_tables
        for key in sorted(other.foreign_keys, key=lambda each: each.parent.name)
        if key.column.table is table
    ]
    return and_(*(~exists().where(referring == referred) for referring, referred in columns))


def _next(part: Pass, last: Mapping[str, Any] | None, c: Connection) -> Sequence[Mapping[str, Any]]:
    """The rows that may go after the last one looked at, by key: what stays is passed by once."""
    query = select(part.table).where(part.which).order_by(*part.table.primary_key).limit(BATCH)
    if last is not None:
        query = query.where(tuple_(*part.table.primary_key) > _key(part.table, last))
    return [dict(row) for row in c.execute(query).mappings()]


def _deleted(part: Pass, rows: Sequence[Mapping[str, Any]], c: Connection) -> None:
    """Those that still may go: a row that something refers to by now stays, and is in the archive too."""
    keys = [_key(part.table, row) for row in rows]
    c.execute(delete(part.table).where(tuple_(*part.table.primary_key).in_(keys), part.which))


def _key(table: Table, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key)


def _append(file: Path, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One more member of the compressed file, on the disk when this returns."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = "".join(json.dumps({"table": table, "row": row}, default=_plain) + "\n" for row in rows)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as out:
        out.write(gzip.compress(lines.encode()))
        out.flush()
        os.fsync(out.fileno())
    _sync_directory(file.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
