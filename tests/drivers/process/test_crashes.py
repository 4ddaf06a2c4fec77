"""Whoever drives may be gone at any moment, and so may a supervisor: the next one finds what was begun and finishes it,
with one workload that serves and a sticker that is true."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.model import Placement
from drivers.blocking import Threads
from drivers.contract import Change, Result
from drivers.errors import Refused
from drivers.process import host
from drivers.process.line import Line
from stickers.observation import HealthState
from stickers.sticker import Phase
from tests.drivers.process.yard import Yard
from tests.harness import leftovers
from tests.harness.apps import Character


class Crossings:
    """Counts the requests to the host and cancels at one of them: before it, or after it was answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.before = 0, -1, True
        self.scope = anyio.CancelScope()
        send = Line._send

        async def crossed(line: Line, threads: Threads, request: Mapping[str, Any], *, abandon: bool) -> dict[str, Any]:
            here, self.count = self.count == self.at, self.count + 1
            if here and self.before:
                self.scope.cancel()
            try:
                return await send(line, threads, request, abandon=abandon)
            finally:
                if here:
                    self.scope.cancel()

        monkeypatch.setattr(Line, "_send", crossed)

    async def cut(self, yard: Yard, change: Change, key: str, at: int, *, before: bool) -> bool:
        """Send the change and be gone at the request; False when it was done before it came to that."""
        self.count, self.at, self.before, self.scope = 0, at, before, anyio.CancelScope()
        with self.scope:
            await yard.driver.apply(yard.action(change, key=key), report=yard.said.append)
        self.at = -1
        return self.scope.cancelled_caught


async def must_stand(yard: Yard, placement: Placement) -> None:
    standing = await yard.standing(placement)
    assert standing is not None
    assert standing.workload is not None
    assert (standing.workload.artifact, standing.workload.configuration) == placement.content
    assert standing.workload.health.state is HealthState.HEALTHY
    assert yard.alive() == [standing.workload.instance]
    assert standing.debris == ()
    sticker = yard.sticker(standing)
    assert sticker is not None
    assert (sticker.phase, sticker.claim.content) == (Phase.PROVEN, placement.content)


@pytest.mark.parametrize("floating", [False, True], ids=["in place", "beside"])
async def test_a_deploy_cut_off_at_any_request_is_finished(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, floating: bool
) -> None:
    placements = [yard.placement(f"{number}.0", floating=floating) for number in (1, 2)]
    await yard.deploy(placements[0])
    crossings = Crossings(monkeypatch)
    for at in range(100):
        wanted, stands = placements[(at + 1) % 2], placements[at % 2]
        change = await yard.change(wanted, stands, keep=0)
        cut = await crossings.cut(yard, change, f"key-{at}", at, before=at % 4 < 2)
        outcome = await yard.persist(change, key=f"key-{at}")
        assert outcome.as_wanted, (at, outcome)
        await must_stand(yard, wanted)
        if not cut:
            break
    assert 15 < at < 99


async def test_a_deploy_that_fails_its_proof_and_is_cut_off_goes_back_all_the_same(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = yard.placement("1.0")
    bad = yard.placement("2.0", Character.BAD, health=yard.health(yard.port, deadline=timedelta(seconds=0.2)))
    await yard.deploy(good)
    crossings = Crossings(monkeypatch)
    for at in range(0, 200, 3):
        change = await yard.change(bad, good)
        cut = await crossings.cut(yard, change, f"key-{at}", at, before=at % 4 < 2)
        outcome = await yard.persist(change, key=f"key-{at}")
        assert outcome.result is Result.REVERTED, (at, outcome)
        await must_stand(yard, good)
        if not cut:
            break
    assert 20 < at < 198


async def test_a_restart_cut_off_at_any_request_is_finished(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    placement = yard.placement("1.0")
    await yard.deploy(placement)
    crossings = Crossings(monkeypatch)
    for at in range(100):
        change = await yard.restarting(placement)
        cut = await crossings.cut(yard, change, f"key-{at}", at, before=at % 4 < 2)
        assert (await yard.persist(change, key=f"key-{at}")).as_wanted
        await must_stand(yard, placement)
        if not cut:
            break
    assert 5 < at < 99


async def test_a_removal_cut_off_at_any_request_is_finished(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    placement = yard.placement("1.0")
    crossings = Crossings(monkeypatch)
    for at in range(100):
        await yard.deploy(placement)
        change = await yard.removal(placement)
        cut = await crossings.cut(yard, change, f"key-{at}", at, before=at % 4 < 2)
        assert (await yard.persist(change, key=f"key-{at}")).as_wanted
        assert (await yard.standing(), yard.alive()) == (None, [])
        if not cut:
            break
    assert 3 < at < 99


@pytest.mark.parametrize("how", ["in-place", "beside"])
async def test_whoever_drives_may_be_killed_at_any_time(yard: Yard, how: str) -> None:
    dice = random.Random(how)
    wanted = yard.placement("9.0", floating=how == "beside")
    for number in range(5):
        await anyio.to_thread.run_sync(drive_and_kill, yard, how, dice.uniform(0, 0.6))
        await yard.persist(await yard.change(wanted, wanted, keep=0), key=f"parent-{number}")
        await must_stand(yard, wanted)


def drive_and_kill(yard: Yard, how: str, after: float) -> None:
    argv = [sys.executable, "-m", "tests.drivers.process.drive", str(yard.root), str(yard.images), str(yard.port), how]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"0\n"
        with pytest.raises(subprocess.TimeoutExpired):
            driver.wait(after)
        driver.send_signal(signal.SIGKILL)


async def test_a_supervisor_may_be_killed_at_any_time(yard: Yard) -> None:
    dice = random.Random(3)
    placements = [yard.placement(f"{number}.0") for number in (1, 2)]
    await yard.deploy(placements[0])
    for number in range(8):
        wanted, stands = placements[(number + 1) % 2], placements[number % 2]
        change = await yard.change(wanted, stands)
        async with anyio.create_task_group() as group:

            async def murder() -> None:
                await anyio.sleep(dice.uniform(0, 0.25))
                supervisor = yard.state()["supervisor"]
                yard.kill(supervisor)
                while host.living(supervisor):  # noqa: ASYNC110 - no event tells that the kernel is done
                    await anyio.sleep(0.001)

            group.start_soon(murder)
            await yard.persist(change, key=f"key-{number}")
        for again in range(20):  # killed after the end of the action, it takes the workload along, which is then healed
            outcome = await yard.persist(await yard.change(wanted, stands), key=f"again-{number}-{again}")
            if outcome.as_wanted:
                break
        await must_stand(yard, wanted)


@pytest.fixture
def small(yard: Yard) -> Iterator[Path]:
    """The root on a disk of its own with 1 MiB."""
    yard.root.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(yard.root)]
    if subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield yard.root
    assert leftovers.end(yard.root) == []
    subprocess.run(["umount", str(yard.root)], check=True)


def fill(disk: Path) -> None:
    with (disk / ".fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


async def test_a_full_disk_stops_no_service_and_tells_no_lie(yard: Yard, small: Path) -> None:
    first, second = yard.placement("1.0"), yard.placement("2.0")
    await yard.deploy(first)
    fill(small)
    with pytest.raises(Refused, match="No space left"):
        await yard.deploy(second, first)
    assert yard.serves() == "1.0"
    await must_stand(yard, first)
    (small / ".fill").unlink()
    assert (await yard.deploy(second, first)).result is Result.CHANGED
    await must_stand(yard, second)
