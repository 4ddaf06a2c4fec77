"""A leader that was halted in the middle of an action: its lock keeps the successor out and names it, and once somebody
with a higher fence has acted it changes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from drivers.errors import Busy
from stickers.names import job_id
from tests.drivers.process.test_crashes import must_stand
from tests.drivers.process.yard import ENVIRONMENT, Yard

HALTS_WITHIN = 30.0  # seconds; the machine may be loaded


@contextmanager
def leader(yard: Yard, step: str) -> Iterator[subprocess.Popen[str]]:
    """Halted before the step."""
    command = [sys.executable, "-m", "tests.drivers.process.leader", str(yard.root), str(yard.images), str(yard.port)]
    process = subprocess.Popen([*command, step], stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + HALTS_WITHIN
        while not is_halted(process.pid):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def is_halted(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def ended(process: subprocess.Popen[str]) -> str:
    """How it says that it ended, now that it goes on."""
    process.send_signal(signal.SIGCONT)
    with anyio.fail_after(30):
        return (await anyio.to_thread.run_sync(process.communicate))[0].strip()


async def test_one_that_was_halted_before_it_held_the_placement_is_refused_by_its_fence(yard: Yard) -> None:
    first, third = yard.placement("1.0"), yard.placement("3.0")
    await yard.deploy(first, fence=1)
    with leader(yard, "-") as halted:
        await yard.deploy(third, first, fence=2)
        before = (yard.files(), yard.alive())
        assert await ended(halted) == "STALE_FENCE"
        assert (yard.files(), yard.alive()) == before
    await must_stand(yard, third)


@pytest.mark.parametrize("step", ["start", "prove"])
async def test_one_that_holds_the_placement_is_named_and_followed_when_it_is_killed(yard: Yard, step: str) -> None:
    first, third = yard.placement("1.0"), yard.placement("3.0")
    await yard.deploy(first, fence=1)
    with leader(yard, step) as halted:
        change = await yard.change(third, first)
        began = time.monotonic()
        with pytest.raises(Busy) as busy:
            await yard.send(change, fence=2)
        assert time.monotonic() - began < 5  # nobody waits for a lock
        said = f"process {halted.pid} for {job_id(ENVIRONMENT, 1)} under fence 1, since "
        assert said in str(busy.value)
        stamp = str(busy.value).partition("since ")[2]
        assert abs(time.time() - time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")) + time.timezone) < 60
        os.kill(halted.pid, signal.SIGKILL)
        await anyio.to_thread.run_sync(halted.wait)
        await yard.persist(await yard.change(third, first), fence=2)
    await must_stand(yard, third)


async def test_one_that_goes_on_ends_what_it_holds_and_the_next_brings_its_own(yard: Yard) -> None:
    """Nobody could act meanwhile, so nothing is overwritten that it did not see."""
    first, second, third = (yard.placement(f"{number}.0") for number in (1, 2, 3))
    await yard.deploy(first, fence=1)
    with leader(yard, "prove") as halted:
        with pytest.raises(Busy):
            await yard.send(await yard.change(third, first), fence=2)
        assert await ended(halted) == "changed"
        await must_stand(yard, second)
        await yard.persist(await yard.change(third, second), fence=2)
    await must_stand(yard, third)
