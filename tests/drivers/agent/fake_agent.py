"""An agent in memory, no more of it than the server's side can tell: it keeps one order for each target, carries out
what the one signer signed for it, and answers what is done again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import anyio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from drivers.agent import protocol, sealing
from drivers.agent.link import Heard, Serving
from drivers.agent.protocol import Answer, Assign, Code, Excerpt, Failure, Lines, Result, Seen, Task, Verb
from drivers.contract import Action, Driver, Look, Narrator, Progress, Watcher
from drivers.errors import DriverError, Refused, Unreachable
from stickers import digest
from stickers.names import AgentName, Digest, TargetId
from stickers.signature import Envelope, Keyring, PublicKey, SignatureError, Signer, key_id

_EVER = datetime(2026, 1, 1, tzinfo=UTC)


def key_pair(*subjects: str) -> Signer:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return Signer(private, PublicKey(id=key_id(public), public=public, subjects=subjects or ("*",)))


@dataclass
class FakeSigner:
    """Signs whatever it is asked, unless it is away or told to refuse."""

    signer: Signer = field(default_factory=lambda: key_pair("task:*"))
    asked: list[Task] = field(default_factory=list)
    refuses: str | None = None

    async def __call__(self, task: Task, body: str, /) -> Envelope:
        if self.refuses:
            raise Refused(self.refuses)
        self.asked.append(task)
        return protocol.sealed(replace(task, sequence=len(self.asked)), self.signer.sign)


class FakeAgent:
    """One agent, which is a `Link` to itself. `inner` is the driver on its host."""

    def __init__(self, inner: Driver, trusts: Keyring, *, resolves: frozenset[str] = frozenset()) -> None:
        self.inner, self._trusts, self.resolves = inner, trusts, resolves
        self.private = X25519PrivateKey.generate()
        self.own = key_pair("result:*")
        self.epoch, self.generation, self.clock = "run-1", 1, 1_000_000
        self.orders: dict[TargetId, tuple[Digest, Look]] = {}
        self.away: set[TargetId] = set()
        self.codes: list[Code] = []  # what the next tasks are refused with
        self.tasks: list[Task] = []
        self.bodies_sent = 0
        self.secrets: dict[str, str] = {}
        self.lost: set[TargetId] = set()  # tasks there never answer

    # -- the link ----------------------------------------------------------------------------------------------------

    def serving(self, target: TargetId) -> Serving:
        if target in self.away:
            raise Unreachable("agent a1 was last heard of 2 min ago")
        return Serving(
            agent=AgentName("a1"),
            generation=self.generation,
            epoch=self.epoch,
            clock=self.clock,
            kinds=frozenset({self.inner.kind}),
            resolves=self.resolves,
            sealing=self.private.public_key().public_bytes_raw().hex(),
        )

    async def look(self, target: TargetId, order: Digest, seen: Digest | None) -> Seen:
        self.serving(target)
        await anyio.lowlevel.checkpoint()
        stands = self.orders.get(target)
        if stands is None or stands[0] != order:
            return Seen(id=1, lacking=True)
        look = stands[1]
        observation = (await self.inner.observe([look]))[target]
        name = digest.of(replace(observation, at=_EVER))
        if name == seen:
            return Seen(id=1, digest=name)
        self.bodies_sent += 1
        return Seen(id=1, digest=name, observation=protocol.body(observation))

    async def carry(self, task: Task, assign: Assign, heard: Heard) -> tuple[Result, Answer]:
        self.serving(task.target)
        if task.target in self.lost:
            await anyio.sleep_forever()
        self.tasks.append(task)
        code, detail, body = await self._carried(assign, heard)
        result = Result(
            task=task.id,
            key=task.key,
            agent=AgentName("a1"),
            target=task.target,
            environment=task.environment,
            verb=task.verb,
            fence=task.fence,
            code=code,
            detail=detail,
            content=protocol.content(body),
            sequence=len(self.tasks),
        )
        return result, Answer(task=task.id, envelope=protocol.sealed(result, self.own.sign), body=body)

    async def changes(self, targets: Sequence[TargetId]) -> AsyncIterator[TargetId]:
        assert isinstance(self.inner, Watcher)
        known = [look.target for _, look in self.orders.values() if look.target.id in targets]
        async for id in self.inner.watch(known):
            yield id

    # -- the host ----------------------------------------------------------------------------------------------------

    async def _carried(self, assign: Assign, heard: Heard) -> tuple[Code, str, str]:
        if self.codes:
            return self.codes.pop(0), "as it was told to", ""
        try:
            task = protocol.task(assign.envelope, self._trusts)
        except SignatureError as error:
            return Code.FORGED, str(error), ""
        if protocol.content(assign.body) != task.content:
            return Code.CONTENT, "another body", ""
        if assign.sealed:
            opened = sealing.opened(assign.sealed, self.private, task=task.id, agent=task.agent, key=task.key)
            self.secrets.update(opened)
        try:
            return Code.DONE, "", protocol.body(await self._done(task, assign.body, heard))
        except DriverError as error:
            return Code.FAILED, str(error), protocol.body(Failure(error=error.code, sentence=str(error)))

    async def _done(self, task: Task, body: str, heard: Heard) -> object:
        match task.verb:
            case Verb.INSPECT:
                self.orders[task.target] = task.content, protocol.read_body(Look, body)
                return Lines(lines=())
            case Verb.READ_LOG:
                excerpt = protocol.read_body(Excerpt, body)
                assert isinstance(self.inner, Narrator)
                told = self.inner.logs(excerpt.target, excerpt.id, tail=excerpt.tail, follow=False)
                return Lines(lines=tuple([line async for line in told]))
            case _:
                return await self.inner.apply(
                    protocol.read_body(Action, body), report=lambda progress: heard([_plain(progress)])
                )


def _plain(progress: Progress) -> Mapping[str, Any]:
    plain = digest.plain(progress)
    assert isinstance(plain, dict)
    return plain
