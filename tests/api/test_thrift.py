"""Memory that is given back when something large is over, and what is not looked at again by the collector."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import anyio
import pytest

from api import thrift
from reconciler.core.intent import JobKind
from reconciler.core.machine import JobState
from reconciler.events import JobMoved
from stickers.names import EnvironmentId, JobId, ReleaseName

MOVED = JobMoved(
    environment=EnvironmentId("default/prod"),
    job=JobId("default/prod:1"),
    release=ReleaseName("shop@1"),
    kind=JobKind.DEPLOY,
    state=JobState.RUNNING,
    message="",
    created_at=datetime.now(UTC),
    ended_at=None,
)


async def test_when_a_job_is_over_and_not_before_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[str]()
    monkeypatch.setattr(thrift, "trim", lambda: given.append("trim"))
    thrifty = thrift.Thrift(calm=0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(thrifty.run)
        thrifty(MOVED)
        await anyio.sleep(0.1)
        assert given == []
        thrifty(replace(MOVED, state=JobState.COMPLETED))
        with anyio.fail_after(5):
            for _ in range(400):
                await anyio.sleep(0.01)
                if given:
                    break
        assert given == ["trim"]
        group.cancel_scope.cancel()


def test_what_a_large_fleet_is_held_in_is_not_collected_over_and_over() -> None:
    code = (
        "import gc; from api import thrift; thrift.LARGE = 1000\n"
        "thrift.begin(); begun = gc.get_freeze_count(); assert begun\n"
        "fleet = [[number] for number in range(5000)]; gc.collect(); thrift.settle()\n"
        "assert gc.get_freeze_count() >= begun + 5000"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_of_a_small_fleet_nothing_is_kept_from_the_collector() -> None:
    code = (
        "import gc; from api import thrift\n"
        "thrift.begin(); fleet = [[number] for number in range(5000)]; gc.collect(); begun = gc.get_freeze_count()\n"
        "thrift.settle(); assert gc.get_freeze_count() == begun"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(thrift._libc(), "malloc_trim"), reason="another C library")
def test_what_was_freed_is_the_host_s_again() -> None:
    code = (
        "from api import thrift; thrift.begin()\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "kept = [str(number) * 200 for number in range(100_000)]; most = resident()\n"
        "del kept[1:]; thrift.trim()\n"
        "assert resident() < most - 50_000_000, (most, resident())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
