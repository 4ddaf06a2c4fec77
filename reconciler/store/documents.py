"""Documents that the database owns: each with the revision that wrote it last, and one count over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select, tuple_, update

from reconciler.store.errors import Stale
from reconciler.store.statements import insert
from reconciler.store.tables import document as table
from reconciler.store.tables import document_set as counted

Name = tuple[str, str, str]  # kind, project, name; of a release the name has its version in it


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRow:
    """One document. `body` is YAML that the loader reads as any other."""

    kind: str
    project: str
    name: str
    body: str
    revision: int
    written_by: str
    written_at: datetime

    @property
    def key(self) -> Name:
        return self.kind, self.project, self.name

    @property
    def file(self) -> str:
        return file_of(self.key)


def file_of(key: Name) -> str:
    """Where it stands in a tree."""
    kind, project, name = key
    return f"{project}/{kind.lower()}s/{name}.yaml"


def revision(c: Connection) -> int:
    return c.execute(select(counted.c.revision)).scalar() or 0


def all(c: Connection) -> tuple[DocumentRow, ...]:
    return tuple(map(_row, c.execute(select(table).order_by(table.c.project, table.c.kind, table.c.name))))


def write(
    c: Connection, bodies: dict[Name, str], gone: Iterable[Name], *, expected: int, actor: str, now: datetime
) -> int:
    """These documents, and without those; the new count. `Stale` when anything was written since `expected`."""
    c.execute(insert(c, counted).values(one=1, revision=0).on_conflict_do_nothing(index_elements=["one"]))
    moved = update(counted).where(counted.c.revision == expected).values(revision=expected + 1)
    if c.execute(moved.returning(counted.c.revision)).first() is None:
        raise Stale(f"documents were written since revision {expected}: read them again")
    for (kind, project, name), body in bodies.items():
        values = {"body": body, "revision": expected + 1, "written_by": actor, "written_at": now}
        offered = insert(c, table).values(kind=kind, project=project, name=name, **values)
        c.execute(offered.on_conflict_do_update(index_elements=["kind", "project", "name"], set_=values))
    keys = list(gone)
    if keys:
        c.execute(delete(table).where(tuple_(table.c.kind, table.c.project, table.c.name).in_(keys)))
    return expected + 1


def _row(row: Row[Any]) -> DocumentRow:
    return DocumentRow(**row._mapping)
