"""An agent with everything around it: its journal, a signer, and a channel in memory whose other end a test holds."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from desired_state.model import Placement, Target
from drivers.agent import protocol, sealing
from drivers.agent.channels.channel import Lost
from drivers.agent.duty.agent import Agent, Parts
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.journal import Journal
from drivers.agent.duty.local import Make, made
from drivers.agent.duty.own import Own, public_key
from drivers.agent.duty.settings import Settings
from drivers.agent.protocol import (
    Acknowledge,
    Answer,
    Assign,
    FromAgent,
    FromServer,
    LookAt,
    Result,
    Seen,
    Task,
    Verb,
    Welcome,
)
from drivers.contract import Action, Change, Look
from stickers.names import ActionKey, AgentName, InstallationId, TargetId, split_id
from stickers.signature import Envelope, Keyring, Signer

AGENT: Final = AgentName("web-1")
INSTALLATION: Final = InstallationId("conformance")
WITHIN: Final = timedelta(seconds=60)
F = TypeVar("F", bound=FromAgent)


def signer(seed: int) -> Signer:
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return Signer(private, public_key(private.public_key().public_bytes_raw().hex(), ("task:*",)))


SIGNER: Final = signer(1)
OWN: Final = Own(
    agent=AGENT,
    installation=INSTALLATION,
    signing=Ed25519PrivateKey.from_private_bytes(b"\x02" * 32),
    sealing=X25519PrivateKey.from_private_bytes(b"\x03" * 32),
    signers=(SIGNER.key.public.hex(),),
)


def agents_keyring(*targets: TargetId) -> Keyring:
    """What a server believes the agent."""
    subjects = tuple(
        f"{word}:{split_id(id)[0]}/*/{split_id(id)[1]}" for id in targets for word in ("result", "sticker")
    )
    return Keyring([public_key(OWN.public.hex(), subjects)])


class MemoryChannel:
    """The agent's end; `heard` is what it said, `say` is the server's voice."""

    def __init__(self, server: str = "https://one:8421") -> None:
        self.server = server
        self.heard: list[FromAgent] = []
        self._send, self._receive = anyio.create_memory_object_stream[FromServer](1000)
        self._waiting: list[anyio.Event] = []
        self.lost = False

    async def send(self, frame: FromAgent, /) -> None:
        await anyio.lowlevel.checkpoint()
        if self.lost:
            raise Lost
        self.heard.append(protocol.from_agent(protocol.text(frame)))
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.set()

    async def frames(self) -> AsyncIterator[FromServer]:
        async with self._receive:
            async for frame in self._receive:
                yield protocol.from_server(protocol.text(frame))

    def say(self, *frames: FromServer) -> None:
        for frame in frames:
            self._send.send_nowait(frame)

    def lose(self) -> None:
        self.lost = True
        self._send.close()

    def close(self) -> None:
        self.lose()
        self._receive.close()

    async def until(self, holds: Callable[[FromAgent], bool], *, within: float = 120) -> FromAgent:
        with anyio.fail_after(within):
            while True:
                found = next((frame for frame in self.heard if holds(frame)), None)
                if found is not None:
                    return found
                self._waiting.append(stirred := anyio.Event())
                await stirred.wait()

    def of(self, kind: type[F]) -> list[F]:
        return [frame for frame in self.heard if isinstance(frame, kind)]


@dataclass(kw_only=True)
class Scene:
    """One run of an agent."""

    agent: Agent
    journal: Journal
    clock: Clock
    target: Target
    channel: MemoryChannel
    signer: Signer = SIGNER
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    # -- what is sent ------------------------------------------------------------------------------------------------

    def task(self, verb: Verb, body: str, **said: Any) -> Task:
        number = next(self._numbers)
        plain: dict[str, Any] = {
            "id": f"task-{self.clock.epoch[:8]}-{number}",
            "key": ActionKey(f"{number:064x}"),
            "agent": AGENT,
            "generation": 1,
            "epoch": self.clock.epoch,
            "target": self.target.id,
            "environment": self.target.environment,
            "verb": verb,
            "content": protocol.content(body),
            "fence": 0 if verb in protocol.READS else 1,
            "not_after": self.clock.at() + 30_000,
            "within": WITHIN,
            "sequence": number,
        }
        return Task(**plain | said)

    def sealed(self, task: Task) -> Envelope:
        return protocol.sealed(task, self.signer.sign)

    def assign(self, task: Task, body: str, secrets: Mapping[str, str] | None = None) -> Assign:
        hidden = None
        if secrets is not None:
            public = OWN.sealing.public_key().public_bytes_raw().hex()
            hidden = sealing.seal(secrets, public, task=task.id, agent=task.agent, key=task.key)
        return Assign(envelope=self.sealed(task), body=body, sealed=hidden)

    def deploying(self, action: Action, verb: Verb = Verb.DEPLOY, **said: Any) -> tuple[Task, str]:
        body = protocol.body(action)
        named = {"key": action.key, "fence": action.fence}
        return self.task(verb, body, **named | said), body

    async def answer(self, task: Task, body: str, **how: Any) -> tuple[Result, Answer]:
        """Send it, and wait for its answer, which is acknowledged."""
        self.channel.say(self.assign(task, body, **how))
        return await self.answered(task.id)

    async def answered(self, id: str, *, acknowledge: bool = True) -> tuple[Result, Answer]:
        found = await self.channel.until(lambda frame: isinstance(frame, Answer) and frame.task == id)
        assert isinstance(found, Answer)
        if acknowledge:
            self.channel.say(Acknowledge(task=id))
        result = protocol.result(found.envelope, agents_keyring(self.target.id))
        assert result.content == protocol.content(found.body)
        return result, found

    async def order(self, *placements: Placement) -> LookAt:
        body = protocol.body(Look(target=self.target, placements=placements))
        result, _ = await self.answer(self.task(Verb.INSPECT, body), body)
        assert result.code is protocol.Code.DONE, result.detail
        return LookAt(id=next(self._numbers), target=self.target.id, order=protocol.content(body))

    async def look(self, asked: LookAt) -> Seen:
        asked = replace(asked, id=next(self._numbers))
        self.channel.say(asked)
        found = await self.channel.until(lambda frame: isinstance(frame, Seen) and frame.id == asked.id)
        assert isinstance(found, Seen)
        return found


def action(target: Target, *changes: Change, key: str = "a", fence: int = 1, **said: Any) -> Action:
    plain: dict[str, Any] = {
        "key": ActionKey(key * 64 if len(key) == 1 else key),
        "fence": fence,
        "environment": target.environment,
        "job": f"{target.environment}:1",
        "revision": "r1",
        "target": target,
        "changes": changes,
        "deadline": WITHIN,
    }
    return Action(**plain | said)


@asynccontextmanager
async def running(
    state: Path,
    target: Target,
    *,
    own: Own = OWN,
    make: Make = made,
    settings: Settings | None = None,
    clock: Clock | None = None,
    welcome: Mapping[str, Any] | None = None,
    connected: bool = True,
) -> AsyncIterator[Scene]:
    """An agent that runs and has met one server."""
    journal, clock = Journal(state), clock or Clock()
    settings = settings or Settings(kinds=[target.driver])
    parts = Parts(
        own=own,
        settings=settings,
        journal=journal,
        clock=clock,
        generation=lambda: 1,
        version="1",
        make=make,
    )
    agent, channel = Agent(parts), MemoryChannel()
    said: dict[str, Any] = {"protocol": 1, "targets": (target.id,), "kinds": (target.driver,)} | dict(welcome or {})
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(agent.run)
            if connected:
                group.start_soon(agent.met, channel, Welcome(**said))
            await anyio.sleep(0.001)
            yield Scene(agent=agent, journal=journal, clock=clock, target=target, channel=channel)
            group.cancel_scope.cancel()
    finally:
        channel.close()
        journal.close()
