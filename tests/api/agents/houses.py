"""A door with a switchboard behind it, on loopback with real mutual TLS, and agents who come to it by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskStatus
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import ClientConnection, connect

from api.agents.door import Door, Limits
from api.agents.roll import Contact, Member, State, Terms
from api.agents.switchboard import Switchboard
from drivers.agent import protocol
from drivers.agent.protocol import (
    Answer,
    Assign,
    Code,
    FromAgent,
    FromServer,
    Hello,
    Result,
    Task,
    Verb,
    Welcome,
)
from stickers.names import ActionKey, AgentName, EnvironmentId, TargetId
from stickers.signature import Envelope, PublicKey, Signer, key_id
from tests.api.agents.authorities import Authority, Papers

PROD = EnvironmentId("default/prod")
T1 = TargetId("default/t1")
F = TypeVar("F")


class FakeRoll:
    """Rows in a dictionary."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.terms_of: dict[AgentName, Terms] = {}
        self.kept: list[Mapping[AgentName, Contact]] = []
        self.reported: list[int] = []

    def by_serial(self, serial: int) -> Member | None:
        return self.members.get(serial)

    def serves(self, target: TargetId) -> tuple[Member, ...]:
        return tuple(member for member in self.members.values() if target in member.targets)

    def terms(self, member: Member) -> Terms:
        return self.terms_of.get(member.agent, Terms())

    async def heard(self, agents: Mapping[AgentName, Contact], /) -> None:
        self.kept.append(agents)

    async def misused(self, serial: int, /) -> None:
        self.reported.append(serial)

    def put(self, serial: int, **changed: Any) -> None:
        self.members[serial] = replace(self.members[serial], **changed)


@dataclass
class Clock:
    """The server's, moved by hand."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class House:
    authority: Authority
    roll: FakeRoll
    switchboard: Switchboard
    door: Door
    clock: Clock
    port: int
    kept: list[tuple[Result, Answer]]
    enrolled: list[tuple[str, str, bytes, bytes | None, str]]
    stop: Callable[[], None] = lambda: None
    signers: dict[AgentName, Signer] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def invited(self, name: str = "web-1", *targets: str, state: State = State.ACTIVE) -> Papers:
        papers = self.authority.papers(name)
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.signers[AgentName(name)] = Signer(
            private, PublicKey(id=key_id(public), public=public, subjects=("result:*",))
        )
        self.roll.members[papers.serial] = Member(
            agent=AgentName(name),
            generation=1,
            state=state,
            targets=frozenset(map(TargetId, targets or [T1])),
            kinds=frozenset({"docker"}),
            signing=public,
            sealing="00" * 32,
        )
        return papers

    def websocket(self, papers: Papers | None) -> connect:
        return connect(
            f"wss://localhost:{self.port}/agent/v1/channel",
            ssl=self.authority.client(papers),
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=1,
        )

    @asynccontextmanager
    async def agent(self, papers: Papers, hello: Hello | None = None) -> AsyncIterator[Agent]:
        async with self.websocket(papers) as connection:
            agent = Agent(connection)
            await agent.say(hello or hello_of())
            agent.welcome = await agent.hear(Welcome)
            yield agent

    def result(self, signer: str, task: Task, body: str = "{}", **changed: Any) -> Answer:
        """Signed as the agent would."""
        said = Result(
            task=task.id,
            key=task.key,
            agent=AgentName(signer),
            target=task.target,
            environment=task.environment,
            verb=task.verb,
            fence=task.fence,
            code=Code.DONE,
            detail="",
            content=protocol.content(body),
            sequence=1,
        )
        envelope = protocol.sealed(replace(said, **changed), self.signers[AgentName(signer)].sign)
        return Answer(task=task.id, envelope=envelope, body=body)


@dataclass
class Agent:
    """One who speaks frame by frame."""

    connection: ClientConnection
    welcome: Welcome | None = None

    async def say(self, frame: FromAgent) -> None:
        await self.connection.send(protocol.text(frame))

    async def hear(self, kind: type[F]) -> F:
        frame = await self.frame()
        assert isinstance(frame, kind), frame
        return frame

    async def frame(self) -> FromServer:
        async with asyncio.timeout(10):
            text = await self.connection.recv()
        assert isinstance(text, str)
        return protocol.from_server(text)


def hello_of(**changed: Any) -> Hello:
    return replace(Hello(protocol=(1, 1), version="1.0", epoch="e1", at=1000, kinds=("docker", "process")), **changed)


def task_of(id: str = "task-1", agent: str = "web-1", **changed: Any) -> Task:
    task = Task(
        id=id,
        key=ActionKey("ab" * 32),
        agent=AgentName(agent),
        generation=1,
        epoch="e1",
        target=T1,
        environment=PROD,
        verb=Verb.DEPLOY,
        content=protocol.content("{}"),
        fence=7,
        not_after=60_000,
        within=timedelta(seconds=30),
    )
    return replace(task, **changed)


def assign_of(task: Task) -> Assign:
    return Assign(envelope=Envelope(f"envelope of {task.id}"), body="{}")


@asynccontextmanager
async def house(
    directory: Path, limits: Limits | None = None, port: int = 0, **switchboard: Any
) -> AsyncIterator[House]:
    authority, roll, clock = Authority(directory), FakeRoll(), Clock()
    async with opened(authority, roll, clock, limits, port, **switchboard) as found:
        yield found


@asynccontextmanager
async def opened(
    authority: Authority, roll: FakeRoll, clock: Clock, limits: Limits | None = None, port: int = 0, **switchboard: Any
) -> AsyncIterator[House]:
    """The same installation may be opened twice, one after the other, as a server is started again."""
    kept: list[tuple[Result, Answer]] = []
    enrolled: list[tuple[str, str, bytes, bytes | None, str]] = []

    async def keep(result: Result, answer: Answer) -> None:
        kept.append((result, answer))

    async def enrol(
        method: str, path: str, body: bytes, certificate: bytes | None, peer: str
    ) -> tuple[int, Mapping[str, Any]]:
        enrolled.append((method, path, body, certificate, peer))
        return 200, {"name": "web-1"}

    tls = authority.server()
    board = Switchboard(roll, switchboard.pop("keep", keep), now=clock, **switchboard)
    door = Door(board, enrol, lambda: tls, limits)
    scope = anyio.CancelScope()

    async def serve(*, task_status: TaskStatus[int]) -> None:
        with scope:
            async with anyio.create_task_group() as tasks:
                await tasks.start(board.run)
                task_status.started(await tasks.start(door.serve, "127.0.0.1", port))

    async with anyio.create_task_group() as tasks:
        found = await tasks.start(serve)
        yield House(authority, roll, board, door, clock, found, kept, enrolled, scope.cancel)
        scope.cancel()
