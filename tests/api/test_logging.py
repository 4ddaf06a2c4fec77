"""Lines of the log belong together: whatever is written of a job says which job, where, and of what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from api import logging
from tests.harness import virtual_time
from tests.reconciler.rig import declared, rig

anyio_backend = virtual_time.backend()


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


async def test_all_lines_of_a_job_carry_job_environment_and_release() -> None:
    with capture_logs() as lines:
        async with rig(declared("1.0.0", targets=2), sink=logging.write) as made:
            await made.rested("1.0.0", 2)
    of_jobs = [line for line in lines if line["event"] in ("job_moved", "task_moved", "progressed")]
    assert {line["event"] for line in of_jobs} == {"job_moved", "task_moved", "progressed"}
    assert {(line["job"], line["environment"], line["release"]) for line in of_jobs} == {
        ("default/prod:1", "default/prod", "shop@1.0.0")
    }
    assert all(line["task"] for line in of_jobs if line["event"] != "job_moved")
