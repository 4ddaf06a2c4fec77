"""Which installation this store belongs to: said once, in stickers and labels ever after."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from reconciler.store import engines
from reconciler.store.statements import insert
from reconciler.store.tables import installation as table
from stickers.names import InstallationId


def settle(c: Connection, proposed: InstallationId, now: datetime) -> InstallationId:
    """The installation's id: the kept one, or the proposed one where none is kept."""
    c.execute(insert(c, table).values(one=1, id=proposed, since=now).on_conflict_do_nothing(index_elements=["one"]))
    return InstallationId(c.execute(select(table.c.id)).scalar_one())


def known(url: str) -> InstallationId | None:
    """The id kept in the database at `url`, read beside whoever holds it; None where none can be read. Blocks."""
    if engines.is_memory(url):
        return None
    try:
        readers = engines.readers(url)
        try:
            with readers.connect() as c:
                return load(c)
        finally:
            readers.dispose()
    except SQLAlchemyError:
        return None


def load(c: Connection) -> InstallationId | None:
    id = c.execute(select(table.c.id)).scalar()
    return None if id is None else InstallationId(id)
