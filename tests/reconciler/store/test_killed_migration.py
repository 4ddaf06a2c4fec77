"""A process that is killed in the middle of bringing the schema up to date leaves it as it was, and the next start does
all of it: on both databases it is one transaction."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect

from reconciler.store import engines, installations, schema
from reconciler.store.store import Store
from stickers.names import InstallationId
from tests.harness import postgres
from tests.reconciler.core.builders import NOW

KILLED = """
import os, signal, sys
from sqlalchemy import event
from reconciler.store import engines, schema
address, left = sys.argv[1], int(sys.argv[2])
engine = engines.writer(address)
def strike(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
event.listen(engine, "after_cursor_execute", strike)
schema.bring_up_to_date(engine)
"""
OLD = "0005"


@pytest.fixture(params=["sqlite", "postgresql"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database without any table."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path / 'bare.db'}"
        else:
            yield stack.enter_context(postgres.database(request.getfixturevalue("server")))


def killed_after(address: str, statements: int) -> bool:
    """Whether it was; False when it was done before it came to that."""
    done = subprocess.run([sys.executable, "-c", KILLED, address, str(statements)], timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


def seen(address: str) -> tuple[str | None, set[str]]:
    """The last step and the tables."""
    engine = engines.writer(address)
    try:
        with engine.connect() as connection:
            return schema.revision(connection), set(inspect(connection).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


async def is_whole(address: str) -> bool:
    store = await Store.open(address)
    await store.aclose()
    engine = engines.writer(address)
    try:
        with engine.connect() as connection:
            command.check(schema.config(connection))
        return True
    finally:
        engine.dispose()


@pytest.mark.parametrize("statements", [12, 60])
async def test_the_first_start_killed_midway_leaves_nothing_and_the_next_does_all(bare: str, statements: int) -> None:
    assert killed_after(bare, statements)
    assert seen(bare) == (None, set())
    assert await is_whole(bare)
    assert seen(bare)[0] == schema.REVISIONS[-1]


async def test_an_upgrade_killed_midway_leaves_the_older_schema_with_what_it_held(bare: str) -> None:
    engine = engines.writer(bare)
    with engine.connect() as connection, schema.one_at_a_time(connection):
        command.upgrade(schema.config(connection), OLD)
        installations.settle(connection, InstallationId("kept"), NOW)
    engine.dispose()
    before = seen(bare)
    assert before[0] == OLD
    assert killed_after(bare, 12)
    assert seen(bare) == before
    assert await is_whole(bare)
    engine = engines.writer(bare)
    with engine.connect() as connection:
        assert installations.load(connection) == "kept"
    engine.dispose()
