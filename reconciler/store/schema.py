"""The schema of a store, brought up to date once per start, in one transaction and by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, inspect, text

from reconciler.store.errors import Corrupt, NewerSchema

if TYPE_CHECKING:
    from alembic.config import Config

# oldest first, as the files are
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")

_ADVISORY: Final = 0x486F6C64  # "Hold": whoever migrates on PostgreSQL holds it for the transaction


def bring_up_to_date(engine: Engine) -> None:
    """Run the steps that the store has not seen; nothing when it is up to date. `NewerSchema` when it has seen steps
    that this Holdfast does not know."""
    with engine.connect() as connection, one_at_a_time(connection):
        found = revision(connection)
        if found is not None and found not in REVISIONS:
            raise NewerSchema(
                f"the store has schema {found}, this Holdfast knows up to {REVISIONS[-1]}: start the newer one again"
            )
        if found != REVISIONS[-1]:
            _upgrade(connection)


def revision(connection: Connection) -> str | None:
    """The last step that the store has seen; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("select version_num from alembic_version")).scalar()


def config(connection: Connection) -> Config:
    """What alembic's commands need to know."""
    from alembic.config import Config  # only where there is something to do: it costs as much as the rest of a start

    settings = Config()
    settings.set_main_option("script_location", "reconciler.store:migrations")
    settings.attributes["connection"] = connection
    return settings


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(config(connection), "head")
    if connection.dialect.name == "sqlite" and (broken := connection.execute(text("pragma foreign_key_check")).first()):
        raise Corrupt(f"the schema was not changed: rows of {broken[0]} would point to what is not in {broken[2]}")


@contextmanager
def one_at_a_time(connection: Connection) -> Iterator[None]:
    """One transaction. On SQLite without foreign keys, since the rebuilding of a table would delete the rows that
    refer to it; the process's lock and the immediate transaction keep others out."""
    raw = connection.connection.driver_connection
    assert raw is not None
    if connection.dialect.name == "sqlite":
        raw.execute("pragma foreign_keys=off").close()
    try:
        with connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("set local lock_timeout = 0"))
                connection.execute(text("set local statement_timeout = 0"))
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _ADVISORY})
            yield
    finally:
        if connection.dialect.name == "sqlite":
            raw.execute("pragma foreign_keys=on").close()
