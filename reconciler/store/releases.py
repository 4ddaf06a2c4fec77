"""Releases: kept once, never changed; another content under a kept name is an error."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from desired_state.model import Release
from reconciler.store import contents
from reconciler.store.contents import Kind
from reconciler.store.errors import ReleaseDiffers
from reconciler.store.statements import insert
from reconciler.store.tables import release as table
from stickers.names import Digest, ReleaseName


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


def load(c: Connection, project: str, name: ReleaseName) -> Release | None:
    content = c.execute(select(table.c.content).where(table.c.project == project, table.c.name == name)).scalar()
    return None if content is None else contents.load(c, Kind.RELEASE, Digest(content))
