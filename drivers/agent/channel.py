"""The agent's way to its servers: one channel to each, made again for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from drivers.agent.protocol import FromAgent, FromServer, Welcome


class Lost(Exception):
    """The channel is no more; what was sent last may or may not have come. A new one is made by itself."""


class Channel(Protocol):
    """A channel to one server, from its welcome until it is lost."""

    server: str  # https://host:port

    async def send(self, frame: FromAgent, /) -> None:
        """Raises `Lost`."""
        ...

    def frames(self) -> AsyncIterator[FromServer]:
        """What the server says, in its order, beats excepted; ends where the channel is lost. A `Welcome` among them
        takes the place of the one before: targets, grants or keys have changed."""
        ...


Met = Callable[[Channel, Welcome], Awaitable[None]]
