"""What every test shares: the asyncio backend, plain tracebacks, an order, and patience with loaded machines."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.harness.order import dealt

settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")

# where rich is installed, structlog draws tracebacks with all locals unless it is told otherwise: seconds for each
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback


@pytest.hookimpl(trylast=True)  # after pytest has brought together what shares a fixture
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        items[:] = dealt(items, worker["workercount"])


def pytest_collection_finish() -> None:
    """A million objects of imported modules live as long as the tests do: no collection need look at them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {}


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a test's daemon configures, its level and its stderr, ends with the test: none inherits it by its place."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
