"""One fake ECS for all tests of the driver, a cluster of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivers.ecs import hands
from tests.drivers.ecs.fake import FakeEcs
from tests.drivers.ecs.yard import Yard


@pytest.fixture(scope="session")
def ecs() -> Iterator[FakeEcs]:
    with FakeEcs() as ecs:
        yield ecs


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "POLL", 0.02)


@pytest.fixture
def yard(ecs: FakeEcs) -> Iterator[Yard]:
    yard = Yard(ecs)
    yield yard
    yard.close()
