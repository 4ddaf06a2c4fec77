"""Killed as a process is killed, while compose works: what it began is finished once, and by nobody else meanwhile."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path

import anyio
import pytest

from drivers.conformance.bench import Version
from drivers.conformance.stage import Stage, Wish
from drivers.errors import Busy
from tests.drivers.compose.bench import ComposeBench
from tests.drivers.compose.yard import Yard

HERE = Path(__file__).parents[3]
CARRIED = """
import pickle, sys
from dataclasses import replace
import anyio
from drivers.compose.driver import ComposeDriver
from drivers.conformance import proper_tools
from stickers.names import InstallationId

with open(sys.argv[1], "rb") as file:
    installation, action = pickle.load(file)
tools = replace(proper_tools(), installation=InstallationId(installation))
anyio.run(lambda: ComposeDriver(tools).apply(action, report=lambda progress: None))
"""


async def there(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        await anyio.sleep(0.02)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_deploy_whose_process_was_killed_while_compose_ran_is_finished_once(
    bench: ComposeBench, yard: Yard, tmp_path: Path, moment: str
) -> None:
    stage = Stage(bench)
    one = await stage.deployed(Wish())
    real, slow, begun = yard.program, tmp_path / "slow", tmp_path / "begun"
    go = tmp_path / "go"
    up = f'touch {begun}; sleep 1; exec {real} "$@"' if moment == "before" else f'{real} "$@"; touch {begun}; sleep 1'
    slow.write_text(f'#!/bin/sh\ncase "$*" in *version*) exec {real} "$@";; *) {up};; esac\n')
    slow.chmod(0o700)
    yard.program = str(slow)
    action = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one))
    (tmp_path / "action").write_bytes(pickle.dumps((str(yard.tools.installation), action)))
    command = [sys.executable, "-c", CARRIED, str(tmp_path / "action")]
    async with await anyio.open_process(command, cwd=HERE, env=dict(os.environ), stdout=None, stderr=None) as process:
        await there(begun)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    with pytest.raises(Busy):
        await stage.apply(action)
    go.touch()
    receipt = await stage.persist(action)
    assert receipt.as_wanted, receipt.outcomes
    await stage.must_stand(stage.placement(Wish(version=Version.TWO)))
    made = [raw for raw in await stage.raw() if raw.key == action.key]
    assert len(made) == len(await stage.raw()) == 1
    await stage.aclose()
