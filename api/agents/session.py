"""One agent as this process knows it: how frames get to it, when it was heard, and how much it may say."""

from __future__ import annotations

from asyncio import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from api.agents.roll import Contact, Member, Presence
from drivers.agent.link import Heard
from drivers.agent.protocol import DEGRADED, OFFLINE, Answer, Hello, Result, Seen, Task, Turned
from stickers.names import AgentName

FRAMES_A_SECOND: Final = 100.0  # of one agent, over time
FRAMES_AT_ONCE: Final = 2_000.0
FRAME_BYTES: Final = 16 * 1024  # a larger one counts as so many


class Why(StrEnum):
    """Why an agent is turned away, for programs; the sentence beside it is for people."""

    UNKNOWN = "UNKNOWN"  # no agent of this installation has this certificate
    LOCKED = "LOCKED"
    REMOVED = "REMOVED"
    SUPERSEDED = "SUPERSEDED"
    TOO_OLD = "TOO_OLD"
    TOO_NEW = "TOO_NEW"
    MALFORMED = "MALFORMED"
    FLOODS = "FLOODS"
    DEAF = "DEAF"  # it takes nothing of what is sent to it
    SILENT = "SILENT"
    REPLACED = "REPLACED"  # it came again, by a newer channel
    GONE = "GONE"  # its polls name a channel that is known no more
    CLOSING = "CLOSING"  # the server ends

    @property
    def status(self) -> int:
        """As HTTP says it."""
        return _STATUS.get(self, 403)


_STATUS: Final = {
    Why.TOO_OLD: 426,
    Why.TOO_NEW: 426,
    Why.MALFORMED: 400,
    Why.FLOODS: 429,
    Why.REPLACED: 409,
    Why.GONE: 409,
    Why.CLOSING: 503,
}


class Turn(Exception):
    """The agent is turned away."""

    def __init__(self, why: Why, sentence: str) -> None:
        super().__init__(sentence)
        self.why, self.sentence = why, sentence

    @property
    def frame(self) -> Turned:
        return Turned(code=self.why.value, sentence=self.sentence)


class Way(Protocol):
    """How frames get to an agent: one connection, or polls."""

    @property
    def name(self) -> str: ...

    @property
    def peer(self) -> str: ...

    def put(self, text: bytes, /) -> None:
        """Send a frame, in order. Never raises: a way that cannot take it ends, and says so to the switchboard."""
        ...

    def close(self, why: Turn, /) -> None:
        """Say the last word, and end."""
        ...


@dataclass(slots=True, kw_only=True)
class Carried:
    """A task on its way, until somebody has its result."""

    task: Task
    assign: bytes
    heard: Heard
    answered: Future[tuple[Result, Answer]]


class Session:
    """From its first hello to this process until it is taken from the roll, over all its channels."""

    __slots__ = (
        "_at",
        "_at_heard",
        "_counted",
        "_left",
        "carried",
        "heard",
        "hello",
        "looks",
        "member",
        "queue",
        "serial",
        "unwanted",
        "way",
        "welcome",
    )

    def __init__(self, member: Member, serial: int, now: float) -> None:
        self.member, self.serial = member, serial
        self.way: Way | None = None
        self.hello: Hello | None = None
        self.welcome = 0  # hash of the last that was sent
        self.heard, self._at, self._at_heard = now, 0, now
        self.queue = 0
        self.carried: dict[str, Carried] = {}
        self.looks: dict[int, Future[Seen]] = {}
        self.unwanted: set[str] = set()  # tasks it has been sent and has yet to be told that nobody waits for them
        self._left, self._counted = FRAMES_AT_ONCE, now

    @property
    def agent(self) -> AgentName:
        return self.member.agent

    def admits(self, frames: float, size: int, now: float) -> bool:
        """Count so many frames of so many bytes; False where they are too many."""
        left = self._left + (now - self._counted) * FRAMES_A_SECOND
        self._left = (left if left < FRAMES_AT_ONCE else FRAMES_AT_ONCE) - frames - size / FRAME_BYTES
        self._counted = now
        return self._left >= 0.0

    def greeted(self, hello: Hello, now: float) -> None:
        self.hello, self.queue, self.heard = hello, hello.waiting, now
        self.clocked(hello.at, now)

    def clocked(self, at: int, now: float) -> None:
        self._at, self._at_heard = at, now

    def clock(self, now: float) -> int:
        """The agent's own clock as it can be told from here: never ahead of it."""
        return self._at + int((now - self._at_heard) * 1000)

    def presence(self, now: float) -> Presence:
        return presence(now - self.heard)

    def contact(self, now: float) -> Contact:
        hello = self.hello
        return Contact(
            age=now - self.heard,
            presence=self.presence(now),
            generation=self.member.generation,
            version=hello.version if hello else "",
            kinds=hello.kinds if hello else (),
            queue=self.queue,
            way=self.way.name if self.way else "",
            peer=self.way.peer if self.way else "",
        )


def presence(age: float) -> Presence:
    """Of an agent that was heard so many seconds ago."""
    if age < DEGRADED:
        return Presence.ONLINE
    return Presence.DEGRADED if age < OFFLINE else Presence.OFFLINE
