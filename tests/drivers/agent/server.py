"""A server for an agent that may be killed, over a socket of this machine, for as many runs as there are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from drivers.agent import protocol
from drivers.agent.duty import failpoints
from drivers.agent.duty.own import SPEAKS_OF, public_key
from drivers.agent.protocol import Acknowledge, Answer, Assign, Code, FromServer, Hello, Key, Said, Task, Verb, Welcome
from drivers.contract import Action, Receipt
from stickers.names import TargetId
from stickers.signature import Keyring
from tests.drivers.agent.scene import AGENT, OWN, SIGNER


class Server:
    """The other side, for as many runs of the agent as there are."""

    def __init__(self, target: TargetId, kind: str, installation: str, folder: Path) -> None:
        self.target, self.kind, self.installation = target, kind, installation
        self.folder, self.socket = folder, folder / "s"
        self.answers: dict[str, Answer] = {}
        self.said: list[Said] = []
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
            await self.say(Welcome(protocol=1, targets=(self.target,), kinds=(self.kind,), keys=keys))
        if isinstance(frame, Said):
            self.said.append(frame)
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

    def start(self, failpoint: str = "", more: Mapping[str, str] | None = None) -> None:
        argv = [
            sys.executable,
            "-m",
            "tests.drivers.agent.drive",
            str(self.folder / "state"),
            str(self.socket),
            self.kind,
            self.installation,
        ]
        environment = {**os.environ, failpoints.VARIABLE: failpoint, **(more or {})}
        self.hello = None
        self.process = subprocess.Popen(argv, cwd=Path(__file__).parents[3], env=environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def started(self, failpoint: str = "", more: Mapping[str, str] | None = None) -> None:
        self.start(failpoint, more)
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

    async def code(self, id: str, within: float = 30) -> Code:
        """How it ended."""
        await self.until(lambda: id in self.answers, within)
        keyring = Keyring([public_key(OWN.public.hex(), SPEAKS_OF)])
        return protocol.result(self.answers[id].envelope, keyring).code

    async def answered(self, id: str, within: float = 30) -> Receipt:
        await self.until(lambda: id in self.answers, within)
        result = protocol.result(self.answers[id].envelope, Keyring([public_key(OWN.public.hex(), SPEAKS_OF)]))
        assert result.code is Code.DONE, result.detail
        return protocol.read_body(Receipt, self.answers[id].body)
