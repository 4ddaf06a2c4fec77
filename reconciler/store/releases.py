"""Releases: kept once, never changed; another content under a kept name is an error."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, select

from desired_state.model import Release
from reconciler.store import contents
from reconciler.store.contents import Kind
from reconciler.store.errors import ReleaseDiffers
from reconciler.store.statements import insert
from reconciler.store.tables import release as table
from stickers.names import Digest, ReleaseName

PAGE: Final = 100


def keep(c: Connection, release: Release, now: datetime) -> None:
    """Keep the release; `ReleaseDiffers` when its name stands for other content already."""
    [content] = contents.keep(c, Kind.RELEASE, [release], now)
    offered = insert(c, table).values(
        project=release.project, name=release.name, digest=release.digest, content=content, kept_at=now
    )
    c.execute(offered.on_conflict_do_nothing(index_elements=["project", "name"]))
    kept = c.execute(
        select(table.c.digest).where(table.c.project == release.project, table.c.name == release.name)
    ).scalar_one()
    if kept != release.digest:
        raise ReleaseDiffers(release.name, Digest(kept), release.digest)


def page(c: Connection, project: str, *, after: str = "", limit: int = PAGE) -> tuple[tuple[Release, datetime], ...]:
    """The releases of a project with when they were first seen, by name; those after the given one."""
    query = select(table.c.content, table.c.kept_at).where(table.c.project == project, table.c.name > after)
    rows = c.execute(query.order_by(table.c.name).limit(limit)).all()
    found = contents.load_all(c, Kind.RELEASE, [Digest(row.content) for row in rows])
    return tuple((found[Digest(row.content)], row.kept_at) for row in rows)


def projects(c: Connection) -> tuple[str, ...]:
    """Those that have releases."""
    return tuple(c.execute(select(table.c.project).distinct().order_by(table.c.project)).scalars())


def load(c: Connection, project: str, name: ReleaseName) -> Release | None:
    content = c.execute(select(table.c.content).where(table.c.project == project, table.c.name == name)).scalar()
    return None if content is None else contents.load(c, Kind.RELEASE, Digest(content))
