"""A real engine with both versions of compose, and one test's part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.drivers.compose.bench import ComposeBench
from tests.drivers.compose.yard import Yard
from tests.drivers.docker.conftest import engine, registry
from tests.harness import compose

__all__ = ["engine", "registry"]


@pytest.fixture(scope="session")
def first() -> str:
    return _had(compose.first)


@pytest.fixture(scope="session")
def second() -> str:
    return _had(compose.second)


@pytest.fixture(scope="session")
def newest() -> str:
    try:
        return compose.second()
    except compose.NoCompose:
        return _had(compose.first)


def _had(program: Callable[[], str]) -> str:
    try:
        return program()
    except compose.NoCompose as reason:
        pytest.skip(str(reason))


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """The newest there is; a test that is parametrized by it, indirectly, names another of these fixtures."""
    return str(request.getfixturevalue(getattr(request, "param", "newest")))


@pytest.fixture
def yard(engine: str, registry: str, program: str, tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(engine, registry, tmp_path / "projects", program)
    try:
        yield yard
    finally:
        yard.clear()


@pytest.fixture
def bench(yard: Yard) -> ComposeBench:
    return ComposeBench(yard)
