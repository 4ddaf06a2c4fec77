"""What both ways of speaking with a server have in common: what was said and is yet to be read, and why it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from drivers.agent import protocol
from drivers.agent.protocol import LARGEST_FRAME, Beat, FromAgent, FromServer, Hello, Malformed, Turned, Welcome

MOST_UNREAD: Final = 10_000  # frames that nobody here has read

_log: Final = logging.getLogger("holdfast.agent.channel")


class Lost(Exception):
    """The channel is no more; what was sent last may or may not have come. A new one is made by itself."""


class TurnedAway(Exception):
    """The server will not speak with this agent."""

    def __init__(self, turned: Turned) -> None:
        super().__init__(turned.sentence)
        self.turned = turned


class NoWebSocket(Exception):
    """The server, or something between here and there, lets no WebSocket through."""


class Broken(Exception):
    """A WebSocket broke off before the server's welcome: by accident, or because something lets none through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Through which HTTP proxy: of the settings, else of the environment, unless that is not to be asked."""

    url: str | None = None
    environment: bool = True


class Speaking(ABC):
    """A channel to one server; implements `Channel`. `heard` is when the server last said something, by this machine's
    monotonic clock."""

    def __init__(self, server: str) -> None:
        self.server, self.heard = server, time.monotonic()
        self._unread: deque[FromServer] = deque()
        self._woken = asyncio.Event()
        self._ended = False
        self._why: Exception | None = None

    @abstractmethod
    async def welcomed(self, hello: Hello, /) -> Welcome:
        """Say hello, and hear the answer. Raises `TurnedAway`, `Broken`, or why there was none."""

    @abstractmethod
    async def send(self, frame: FromAgent, /) -> None: ...

    @abstractmethod
    async def read(self, welcomed: Callable[[Welcome], None], /) -> None:
        """Until the channel is lost; `raise_why` tells. Hears of each welcome but the first."""

    @abstractmethod
    async def aclose(self) -> None: ...

    async def frames(self) -> AsyncIterator[FromServer]:
        while True:
            while self._unread:
                yield self._unread.popleft()
            if self._ended:
                return
            self._woken.clear()
            await self._woken.wait()

    def raise_why(self) -> None:
        if self._why is not None:
            raise self._why

    # -- for the ways --------------------------------------------------------------------------------------------------

    def _heard(self, text: str, welcomed: Callable[[Welcome], None]) -> None:
        """A frame has come. Raises `TurnedAway`, and `Lost` where nobody reads."""
        self.heard = time.monotonic()
        try:
            frame = protocol.from_server(text)
        except Malformed as error:  # of a later version: what it means is agreed on in the welcome
            _log.warning("%s said what is not understood: %s", self.server, error)
            return
        if isinstance(frame, Turned):
            raise TurnedAway(frame)
        if isinstance(frame, Beat):
            return
        if isinstance(frame, Welcome):
            welcomed(frame)
        if len(self._unread) >= MOST_UNREAD:
            raise Lost(f"{MOST_UNREAD} frames were not read")
        self._unread.append(frame)
        self._woken.set()

    def _end(self, why: Exception | None = None) -> None:
        self._ended = True
        self._why = self._why or why
        self._woken.set()


def written(frame: FromAgent) -> str:
    text = protocol.text(frame)
    if len(text) > LARGEST_FRAME:
        raise ValueError(f"a frame of {len(text)} characters, at most {LARGEST_FRAME} are sent")
    return text


def welcome_in(text: str) -> Welcome:
    """The server's first word; raises `TurnedAway`, or `Malformed` where it is no welcome."""
    frame = protocol.from_server(text)
    if isinstance(frame, Turned):
        raise TurnedAway(frame)
    if not isinstance(frame, Welcome):
        raise Malformed(f"a server begins with a welcome, and not with {frame.frame!r}")
    return frame
