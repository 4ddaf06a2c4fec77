"""The engine and the registry of the docker tests, and one fleet of containers to a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.docker.conftest import engine, registry, stocked
from tests.drivers.docker.yard import Yard
from tests.faults.harbour import Harbour, Quay

__all__ = ["engine", "registry", "stocked"]


@pytest.fixture(scope="session")
def quay(engine: str, registry: str, stocked: None) -> Iterator[Quay]:
    yard = Yard(engine, registry)
    try:
        yield Quay(yard)
    finally:
        yard.clear()


@pytest.fixture
def harbour(quay: Quay, tmp_path: Path) -> Iterator[Harbour]:
    harbour = Harbour(quay, tmp_path)
    try:
        yield harbour
    finally:
        harbour.clear()
