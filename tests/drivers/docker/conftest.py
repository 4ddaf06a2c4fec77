"""A real engine and a registry, given by the test command or started here, and one test's part of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivers.docker import hands
from tests.drivers.docker.yard import Yard, stock
from tests.harness import engine as engines
from tests.harness import registry as registries


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    try:
        with engines.given_or_running() as address:
            yield address
    except engines.NoEngine as reason:
        pytest.skip(f"no Docker engine: {reason}")


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    try:
        with registries.given_or_running() as address:
            yield address
    except registries.NoRegistry as reason:
        pytest.skip(f"no registry: {reason}")


@pytest.fixture
def without_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the old container while it is replaced, so nobody has to be waited for."""
    monkeypatch.setattr(hands, "DRAIN", 0.0)


@pytest.fixture(scope="session")
def stocked(engine: str, registry: str) -> None:
    stock(engine, registry)


@pytest.fixture
def yard(engine: str, registry: str, stocked: None) -> Iterator[Yard]:
    yard = Yard(engine, registry)
    try:
        yield yard
    finally:
        yard.clear()
