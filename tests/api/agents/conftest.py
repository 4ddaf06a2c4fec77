"""These tests run on the loop that the daemon runs on; some of them have an office that enrols."""

from __future__ import annotations

import pytest

from tests.api.agents.offices import blank, clock, here

__all__ = ["anyio_backend", "blank", "clock", "here"]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": True}
