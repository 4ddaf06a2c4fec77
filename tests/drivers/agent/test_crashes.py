"""The agent may be killed at any step, and at any time: soon after it is there again, the old or the new serves, and in
the end what was asked for stands once, proven, and is answered."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from desired_state.model import Placement, Target
from drivers.agent.duty import failpoints
from drivers.agent.duty.own import SPEAKS_OF, public_key
from drivers.contract import Deploy
from stickers.names import ActionKey
from stickers.signature import Keyring
from tests.drivers.agent.scene import OWN
from tests.drivers.agent.server import Server
from tests.drivers.process.test_crashes import must_stand
from tests.drivers.process.yard import INSTALLATION, Yard

SOON = 10.0  # seconds after the agent was started again


class Ours(Yard):
    """A plain host whose stickers are written and read with the agent's key."""

    def __init__(self, root: Path, images: Path) -> None:
        super().__init__(root, images)
        self.keyring = Keyring([public_key(OWN.public.hex(), SPEAKS_OF)])
        self.target = self.target_at(root, "web-1", via="agent")

    @property
    def local(self) -> Target:
        return replace(self.target, connection={**self.target.connection, "via": "local"})


@pytest.fixture
async def yard(root: Path, images: Path) -> AsyncIterator[Ours]:
    found = Ours(root, images)
    try:
        yield found
    finally:
        await found.driver.aclose()


@pytest.fixture
async def server(yard: Ours, root: Path) -> AsyncIterator[Server]:
    server = Server(yard.target.id, "process", INSTALLATION, root.parent)
    async with server.listening():
        yield server


async def change(yard: Ours, wanted: Placement, stands: Placement | None) -> Deploy:
    seeing, yard.target = yard.target, yard.local
    try:
        return await yard.change(wanted, stands, keep=0)
    finally:
        yard.target = seeing


async def deploy(server: Server, yard: Ours, wanted: Placement, stands: Placement | None, key: str) -> str:
    deploy = await change(yard, wanted, stands)
    return await server.send(replace(yard.action(deploy), key=ActionKey(f"{key:0>64}")))


async def serves_soon(yard: Ours, within: float) -> str:
    """The old or the new, as a client would find it."""
    ends = time.monotonic() + within
    while True:
        try:
            return await anyio.to_thread.run_sync(yard.serves)
        except OSError:
            assert time.monotonic() < ends, f"nothing serves {within} s after the agent was started again"
            await anyio.sleep(0.02)


async def stands(yard: Ours, wanted: Placement) -> None:
    seeing, yard.target = yard.target, yard.local
    try:
        await must_stand(yard, wanted)
    finally:
        yard.target = seeing


ALL = bool(os.environ.get("HOLDFAST_KILLS"))  # for a long run, how many random times; and then every point
KILLS = int(os.environ.get("HOLDFAST_KILLS", "2"))
NOT_HERE = ("step_hook", "step_switch", "step_put_back", "step_remove", "before_accept")
SOME = ("after_accept", "after_begin", "step_start", "step_prove", "step_sticker", "after_effect", "after_result")
POINTS = tuple(point for point in failpoints.NAMES if point not in NOT_HERE and (ALL or point in SOME))


async def killed_and_back(server: Server, yard: Ours) -> None:
    """The agent is gone in the middle of a deploy; there again, it carries it on."""
    assert server.process is not None
    await anyio.to_thread.run_sync(server.process.wait)
    await server.started()
    await serves_soon(yard, SOON)


async def test_killed_at_each_step_the_old_or_the_new_serves_and_the_task_is_answered(
    server: Server, yard: Ours
) -> None:
    versions = [yard.placement("1.0"), yard.placement("2.0")]
    await server.started()
    await server.answered(await deploy(server, yard, versions[0], None, "f"))
    for number, point in enumerate(POINTS):
        wanted, before = versions[(number + 1) % 2], versions[number % 2]
        server.kill()
        await server.started(f"{point}:kill")
        id = await deploy(server, yard, wanted, before, f"{number:x}a")
        await killed_and_back(server, yard)
        receipt = await server.answered(id)
        assert receipt.as_wanted, (point, receipt)
        await stands(yard, wanted)


async def test_killed_at_any_time_it_finishes_what_it_had_accepted(server: Server, yard: Ours) -> None:
    dice = random.Random(5)
    versions = [yard.placement("1.0"), yard.placement("2.0")]
    await server.started()
    await server.answered(await deploy(server, yard, versions[0], None, "f"))
    for number in range(KILLS):
        wanted, before = versions[(number + 1) % 2], versions[number % 2]
        id = await deploy(server, yard, wanted, before, f"{number:x}b")
        await anyio.sleep(dice.uniform(0, 0.5))
        server.kill()
        await server.started()
        await serves_soon(yard, SOON)
        found = await answered_or_lost(server, id)
        if not found:  # it was gone before it was accepted: it is authorised again
            again = await deploy(server, yard, wanted, before, f"{number:x}b")
            await server.answered(again)
        await stands(yard, wanted)


async def answered_or_lost(server: Server, id: str) -> bool:
    state = server.folder / "state"
    await server.until(lambda: id in server.answers or not any(accepted(state)), 30)
    return id in server.answers


def accepted(state: Path) -> Iterator[Path]:
    yield from (path for name in ("tasks", "results") for path in (state / name).glob("*.json"))
