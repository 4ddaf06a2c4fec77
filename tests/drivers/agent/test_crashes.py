"""The agent may be killed at any step, and at any time: soon after it is there again, the old or the new serves, and in
the end what was asked for stands once, proven, and is answered."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from desired_state.model import Placement, Target
from drivers.agent import failpoints, protocol
from drivers.agent.own import SPEAKS_OF, public_key
from drivers.agent.protocol import Acknowledge, Answer, Assign, Code, FromServer, Hello, Key, Task, Verb, Welcome
from drivers.contract import Action, Deploy, Receipt
from stickers.names import ActionKey
from stickers.signature import Keyring
from tests.drivers.agent.scene import AGENT, OWN, SIGNER
from tests.drivers.process.test_crashes import must_stand
from tests.drivers.process.yard import Yard

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


class Server:
    """The other side, for as many runs of the agent as there are."""

    def __init__(self, yard: Yard, folder: Path) -> None:
        self.yard, self.folder, self.socket = yard, folder, folder / "s"
        self.answers: dict[str, Answer] = {}
        self.hello: Hello | None = None
        self._stream: Any = None
        self._stirred = anyio.Event()
        self._numbers = iter(range(1, 10_000))
        self.process: subprocess.Popen[bytes] | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        listener = await anyio.create_unix_listener(self.socket)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            try:
                yield
            finally:
                self.kill()
                group.cancel_scope.cancel()

    async def _serve(self, stream: Any) -> None:
        lines = BufferedByteReceiveStream(stream)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            async with stream:
                while True:
                    line = await lines.receive_until(b"\n", protocol.LARGEST_FRAME)
                    await self._heard(protocol.from_agent(line.decode()), stream)

    async def _heard(self, frame: Any, stream: Any) -> None:
        if isinstance(frame, Hello):
            self.hello, self._stream = frame, stream
            keys = (Key(public=OWN.public.hex(), subjects=SPEAKS_OF),)
            await self.say(Welcome(protocol=1, targets=(self.yard.target.id,), kinds=("process",), keys=keys))
        if isinstance(frame, Answer):
            self.answers[frame.task] = frame
            await self.say(Acknowledge(task=frame.task))
        self._stirred.set()

    async def say(self, frame: FromServer) -> None:
        await self._stream.send(protocol.text(frame).encode() + b"\n")

    async def until(self, holds: Any, within: float) -> None:
        with anyio.fail_after(within):
            while not holds():
                self._stirred = anyio.Event()
                with anyio.move_on_after(0.05):
                    await self._stirred.wait()

    # -- the agent ---------------------------------------------------------------------------------------------------

    def start(self, failpoint: str = "") -> None:
        argv = [
            sys.executable,
            "-m",
            "tests.drivers.agent.drive",
            str(self.folder / "state"),
            str(self.socket),
            "process",
        ]
        environment = {**os.environ, failpoints.VARIABLE: failpoint}
        self.hello = None
        self.process = subprocess.Popen(argv, cwd=Path(__file__).parents[3], env=environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def started(self, failpoint: str = "") -> None:
        self.start(failpoint)
        await self.until(lambda: self.hello, 30)

    async def send(self, action: Action) -> str:
        """The action, authorised for the run that said hello."""
        assert self.hello is not None
        body = protocol.body(action)
        task = Task(
            id=f"task-{next(self._numbers)}",
            key=action.key,
            agent=AGENT,
            generation=1,
            epoch=self.hello.epoch,
            target=action.target.id,
            environment=action.environment,
            verb=Verb.DEPLOY,
            content=protocol.content(body),
            fence=action.fence,
            not_after=self.hello.at + 60_000,
            within=timedelta(seconds=30),
        )
        await self.say(Assign(envelope=protocol.sealed(task, SIGNER.sign), body=body))
        return task.id

    async def answered(self, id: str, within: float = 30) -> Receipt:
        await self.until(lambda: id in self.answers, within)
        result = protocol.result(self.answers[id].envelope, Keyring([public_key(OWN.public.hex(), SPEAKS_OF)]))
        assert result.code is Code.DONE, result.detail
        return protocol.read_body(Receipt, self.answers[id].body)


@pytest.fixture
async def yard(root: Path, images: Path) -> AsyncIterator[Ours]:
    found = Ours(root, images)
    try:
        yield found
    finally:
        await found.driver.aclose()


@pytest.fixture
async def server(yard: Ours, root: Path) -> AsyncIterator[Server]:
    server = Server(yard, root.parent)
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
