"""A contract server for each test, gone with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drivers.nomad.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running
