"""What the driver of agents is handed: a way to whoever serves a target, and the signer's authorisation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drivers.agent.protocol import Answer, Assign, Result, Seen, Task
from stickers.names import AgentName, Digest, TargetId
from stickers.signature import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The agent that serves a target now, as it said hello: `clock` reads its own clock, in milliseconds, as far as it
    can be told from here. `sealing` is the public key that secrets are sealed to, in hex."""

    agent: AgentName
    generation: int
    epoch: str
    clock: int
    kinds: frozenset[str]
    resolves: frozenset[str]
    sealing: str


class Heard(Protocol):
    """Lines of progress, as they come."""

    def __call__(self, lines: Sequence[Mapping[str, Any]], /) -> None: ...


class Link(Protocol):
    """The way to the agents that are connected to this process."""

    def serving(self, target: TargetId) -> Serving:
        """Who serves the target. Raises `Unreachable` with since when nobody was heard of, and `Refused` where no agent
        was ever invited for it, or the one that was is locked."""
        ...

    async def look(self, target: TargetId, order: Digest, seen: Digest | None) -> Seen:
        """What is seen there. Raises `Unreachable`."""
        ...

    async def carry(self, task: Task, assign: Assign, heard: Heard) -> tuple[Result, Answer]:
        """The agent's verified result, waited for over lost connections. Raises `Unreachable` where nothing was sent.
        Cancelled, it tells the agent that the task is not wanted any more."""
        ...

    def changes(self, targets: Sequence[TargetId]) -> AsyncIterator[TargetId]:
        """Targets on which something happened. Raises `Unreachable` when one of the agents is lost."""
        ...


class Authorise(Protocol):
    async def __call__(self, task: Task, body: str, /) -> Envelope:
        """The task with the signer's signature. Raises `Refused` with the signer's reason, `Unreachable` without it."""
        ...
