"""A server's link to one agent in the same process, over a channel in memory."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import anyio

from drivers.agent import protocol
from drivers.agent.link import Heard, Serving
from drivers.agent.protocol import (
    Acknowledge,
    Answer,
    Assign,
    Cancel,
    Changed,
    FromAgent,
    LookAt,
    Result,
    Said,
    Seen,
    Task,
)
from stickers.names import Digest, TargetId
from stickers.signature import Envelope
from tests.drivers.agent.scene import AGENT, OWN, SIGNER, Scene, agents_keyring


class Wire:
    """Implements `drivers.agent.link.Link`."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._numbers = itertools.count(1)

    def serving(self, target: TargetId) -> Serving:
        hello = self.scene.agent.hello()
        return Serving(
            agent=AGENT,
            generation=1,
            epoch=hello.epoch,
            clock=hello.at,
            kinds=frozenset(hello.kinds),
            resolves=frozenset(hello.resolves),
            sealing=OWN.sealing.public_key().public_bytes_raw().hex(),
        )

    async def look(self, target: TargetId, order: Digest, seen: Digest | None) -> Seen:
        id = next(self._numbers)

        def is_it(frame: FromAgent) -> bool:
            return isinstance(frame, Seen) and frame.id == id

        self.scene.channel.say(LookAt(id=id, target=target, order=order, seen=seen))
        found = await self.scene.channel.until(is_it)
        assert isinstance(found, Seen)
        return found

    async def carry(self, task: Task, assign: Assign, heard: Heard) -> tuple[Result, Answer]:
        self.scene.channel.say(assign)
        try:
            async with aclosing(self._frames()) as frames:
                async for frame in frames:
                    if isinstance(frame, Said) and frame.task == task.id:
                        heard(frame.lines)
                    if isinstance(frame, Answer) and frame.task == task.id:
                        return protocol.result(frame.envelope, agents_keyring(task.target)), frame
            raise AssertionError
        except anyio.get_cancelled_exc_class():
            self.scene.channel.say(Cancel(task=task.id))
            raise

    async def acknowledge(self) -> None:
        """As a server does with every answer, whether anybody waits for it or not."""
        async with aclosing(self._frames()) as frames:
            async for frame in frames:
                if isinstance(frame, Answer):
                    self.scene.channel.say(Acknowledge(task=frame.task))

    async def changes(self, targets: Sequence[TargetId]) -> AsyncGenerator[TargetId, None]:
        async with aclosing(self._frames()) as frames:
            async for frame in frames:
                for target in frame.targets if isinstance(frame, Changed) else ():
                    if target in targets:
                        yield target

    async def _frames(self) -> AsyncGenerator[FromAgent, None]:
        """What the agent says from now on."""
        channel, told = self.scene.channel, len(self.scene.channel.heard)
        while True:
            frames, told = channel.heard[told:], len(channel.heard)
            for frame in frames:
                yield frame
            await self._more(told)

    async def _more(self, told: int) -> None:
        await self.scene.channel.until(lambda frame: len(self.scene.channel.heard) > told, within=7200)


class Authorises:
    """The signer, which signs whatever it is asked."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    async def __call__(self, task: Task, body: str, /) -> Envelope:
        numbered = {name: getattr(task, name) for name in Task.__dataclass_fields__} | {"sequence": next(self._numbers)}
        return protocol.sealed(Task(**numbered), SIGNER.sign)
