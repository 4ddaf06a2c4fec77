"""Who may speak as which agent: what door and switchboard ask, for each message, of rows kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from drivers.agent.protocol import Key
from stickers.names import AgentName, TargetId


class State(StrEnum):
    """What a certificate is worth today."""

    INVITED = "invited"  # it has not joined yet, or has to join anew: nothing is signed or sealed for it
    ACTIVE = "active"
    DRAINING = "draining"  # it speaks and ends what it has, and is asked nothing new
    LOCKED = "locked"
    REMOVED = "removed"
    SUPERSEDED = "superseded"  # of a generation that was renewed longer ago than the grace: somebody has a copy

    @property
    def speaks(self) -> bool:
        return self in (State.ACTIVE, State.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An agent as a certificate of it names it. The same object is given out while nothing about it changes."""

    agent: AgentName
    generation: int
    state: State
    targets: frozenset[TargetId]
    kinds: frozenset[str]  # runtimes that the operator grants
    signing: bytes  # its raw public Ed25519 key, which signs results
    sealing: str  # its public X25519 key, hex
    certificate: str = ""  # SHA-256 of the one that was issued, hex: another with its number is none of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an agent is told at its welcome, beside what its row grants."""

    servers: tuple[str, ...] = ()  # https://host:port of each process that agents should keep a channel to
    keys: tuple[Key, ...] = ()  # whose stickers are believed on its targets
    renew: bool = False  # its certificate is to be renewed at once, whatever is left of it


class Presence(StrEnum):
    """How long ago an agent was heard, by this process's own clock."""

    ONLINE = "online"
    DEGRADED = "degraded"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """What was last heard of an agent here. `age` is in seconds, so that no two clocks are compared."""

    age: float
    presence: Presence
    generation: int
    version: str
    kinds: tuple[str, ...]
    queue: int  # tasks and results that wait at the agent
    way: str  # "websocket" or "polling"
    peer: str  # the address it came from


class Roll(Protocol):
    """Synchronous answers come from memory, for they are asked for with each frame of each agent."""

    def by_serial(self, serial: int) -> Member | None:
        """Whose certificate this is; None where it is of no agent. A certificate of an earlier generation is answered
        with that generation: active within the grace, superseded after it."""
        ...

    def serves(self, target: TargetId) -> tuple[Member, ...]:
        """Who was invited for the target, locked ones too. The first of them holds it: another is asked only after the
        operator has handed the target over to it, which makes it the first."""
        ...

    def terms(self, member: Member) -> Terms: ...

    async def heard(self, agents: Mapping[AgentName, Contact], /) -> None:
        """Keep when they were last heard, all in one transaction."""
        ...

    async def misused(self, serial: int, /) -> None:
        """A superseded certificate was shown: lock the agent and raise the alarm."""
        ...
