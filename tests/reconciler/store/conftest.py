"""Every test of the store runs on both databases: on SQLite in a file, and on PostgreSQL where there is one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.store import engines, schema
from reconciler.store.store import Store
from tests.harness import postgres


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a PostgreSQL server, or a skip that says why there is none."""
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(postgres.given_postgres())
        except postgres.NoPostgres as reason:
            pytest.skip(str(reason))
        yield address


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a database with the schema and nothing else, to be copied."""
    with postgres.database(server) as address:
        _lay_schema(address)
        yield address.partition("/holdfast_")[2].partition("?")[0]


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema and nothing else, to be copied."""
    file = tmp_path_factory.mktemp("blank") / "blank.db"
    _lay_schema(f"sqlite:///{file}")
    return file


@pytest.fixture
def sqlite(blank: Path, tmp_path: Path) -> str:
    shutil.copy(blank, tmp_path / "holdfast.db")
    return f"sqlite:///{tmp_path / 'holdfast.db'}"


@pytest.fixture
def postgresql(server: str, template: str) -> Iterator[str]:
    with postgres.database(server, f"holdfast_{template}") as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> str:
    """A fresh store of each kind, its schema laid."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def store(address: str) -> AsyncIterator[Store]:
    opened = await Store.open(address)
    try:
        yield opened
    finally:
        await opened.aclose()


def _lay_schema(address: str) -> None:
    engine = engines.writer(address)
    schema.bring_up_to_date(engine)
    engine.dispose()
