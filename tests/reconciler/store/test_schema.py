"""One schema on both databases, brought up to date once, by one process at a time, and never by an older one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, inspect, text

from reconciler.store import engines, rules, schema
from reconciler.store.errors import NewerSchema
from reconciler.store.store import Store
from reconciler.store.tables import metadata
from tests.harness import postgres
from tests.reconciler.core.builders import NOW
from tests.reconciler.store.builders import settled


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database without any table."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            address = f"sqlite:///{tmp_path / 'empty.db'}"
        else:
            address = stack.enter_context(postgres.database(request.getfixturevalue("server")))
        engine = engines.writer(address)
        stack.callback(engine.dispose)
        yield engine


def test_an_empty_database_gets_every_table(empty: Engine) -> None:
    schema.bring_up_to_date(empty)
    assert set(metadata.tables) <= set(inspect(empty).get_table_names())


def test_the_steps_lead_to_the_tables_as_they_are_declared(empty: Engine) -> None:
    schema.bring_up_to_date(empty)
    with empty.connect() as connection:
        command.check(schema.config(connection))  # raises and names what differs


def test_checks_and_partial_indexes_are_those_that_are_declared(empty: Engine) -> None:
    schema.bring_up_to_date(empty)
    found = inspect(empty)
    for table in metadata.sorted_tables:
        declared = {check.name for check in table.constraints if isinstance(check, sa.CheckConstraint)}
        assert {check["name"] for check in found.get_check_constraints(table.name)} == declared
    partial = {index["name"]: index for table in ("job", "standing") for index in found.get_indexes(table)}
    for name in ("one_active_job", "one_open_standing"):
        assert partial[name]["unique"]
        assert partial[name]["dialect_options"][f"{empty.dialect.name}_where"] is not None


def test_a_second_start_changes_nothing(empty: Engine) -> None:
    schema.bring_up_to_date(empty)
    said: list[str] = []
    event.listen(empty, "before_cursor_execute", lambda c, cursor, statement, *_: said.append(statement.lower()))
    schema.bring_up_to_date(empty)
    assert said
    assert not [each for each in said if each.startswith(("create", "alter", "drop", "insert", "update", "delete"))]


def test_a_newer_schema_is_refused_in_one_line_and_left_alone(empty: Engine) -> None:
    schema.bring_up_to_date(empty)
    with empty.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(NewerSchema, match=r"^the store has schema 9999, this Holdfast knows up to \d{4}: [^\n]*$"):
        schema.bring_up_to_date(empty)
    with empty.connect() as connection:
        assert schema.revision(connection) == "9999"


async def test_a_store_with_a_newer_schema_does_not_open(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'holdfast.db'}"
    await (await Store.open(address)).aclose()
    engine = engines.writer(address)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    engine.dispose()
    with pytest.raises(NewerSchema):
        await Store.open(address)
    with pytest.raises(NewerSchema):  # and the lock was let go of, or this would say so
        await Store.open(address)


def test_the_listed_revisions_are_the_files_in_their_order() -> None:
    settings = schema.config(None)  # type: ignore[arg-type]  # only the files are read
    found = ScriptDirectory.from_config(settings).walk_revisions()
    assert tuple(reversed([each.revision for each in found])) == schema.REVISIONS


def test_whoever_changes_a_rule_writes_a_step_that_lays_them_again() -> None:
    files = Path(schema.__file__).parent.joinpath("migrations", "versions").glob("[0-9]*.py")
    steps = [import_module(f"reconciler.store.migrations.versions.{file.stem}") for file in sorted(files)]
    stated = [step.RULES for step in steps if hasattr(step, "RULES")]
    assert stated[-1] == rules.fingerprint()


def test_a_step_that_fails_leaves_nothing_behind(empty: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(rules, "install", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        schema.bring_up_to_date(empty)
    assert not [name for name in inspect(empty).get_table_names() if name in metadata.tables]


def test_four_that_start_at_once_migrate_once(server: str) -> None:
    with postgres.database(server) as address:
        started = [engines.writer(address) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(schema.bring_up_to_date, started)) == [None] * 4
        with started[0].connect() as connection:
            assert connection.execute(text("select count(*) from alembic_version")).scalar() == 1
        for engine in started:
            engine.dispose()


async def test_rebuilding_a_table_keeps_the_rows_that_refer_to_it(sqlite: str) -> None:
    store = await Store.open(sqlite)
    await settled(store)
    await store.write(lambda c: c.execute(text(
        "insert into known_target select id, 'default/web', desired, :now from environment"
    ), {"now": NOW.isoformat(" ")}))  # fmt: skip
    await store.aclose()
    engine = engines.writer(sqlite)
    with engine.connect() as connection, schema.one_at_a_time(connection):
        steps = Operations(MigrationContext.configure(connection))
        with steps.batch_alter_table("environment", recreate="always") as environment:
            environment.add_column(sa.Column("more", sa.Text()))
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from known_target")).scalar() == 1
        assert connection.exec_driver_sql("pragma foreign_keys").scalar() == 1
    engine.dispose()
