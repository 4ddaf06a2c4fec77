"""The agent's way to its servers: one channel to each, made again for ever.

A WebSocket where one passes, long polls where none does; through a proxy where there is one. Whoever lost a channel
comes back at a moment of its own choosing, so that a server that starts again is not met by all at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from typing import Final, Never, Protocol
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskGroup

from drivers.agent.channels.speaking import Broken, Lost, NoWebSocket, Proxy, Speaking, TurnedAway
from drivers.agent.protocol import Beat, FromAgent, FromServer, Hello, Malformed, Turned, Welcome

__all__ = ["Channel", "Lost", "Proxy", "Way", "connected"]

ANSWER_WITHIN: Final = 20.0  # seconds that a beat may stay without an answer
SOON: Final = 2.0  # seconds within which a lost channel is made again
SOON_FOR: Final = 15.0  # seconds of being without one in which that is tried again and again
LATEST: Final = 60.0  # seconds between two tries, at most
TURNED_FOR: Final = 60.0  # seconds until one who was turned away asks again
TOO_OLD_FOR: Final = 300.0
JUST_NOW: Final = 2.0  # seconds
PASSING: Final = ("CLOSING", "GONE", "SILENT")  # turned away, and welcome again at once
BROKEN_TWICE: Final = 2  # WebSockets that break off before their welcome, one after the other: something blocks them
WEBSOCKET_AGAIN: Final = 600.0  # seconds of polling before a WebSocket is tried again

_log: Final = logging.getLogger("holdfast.agent.channel")
_dice: Final = random.SystemRandom()


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


class Way(StrEnum):
    """How a server is spoken with."""

    AUTO = "auto"  # a WebSocket, and polls where none passes
    WEBSOCKET = "websocket"
    POLLING = "polling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What all channels of one agent have in common. `tls` gives the same context as long as it has the same
    certificate: another one means that the identity was renewed, and each channel is then made anew."""

    tls: Callable[[], ssl.SSLContext]
    hello: Callable[[], Hello]
    met: Met
    turned: Callable[[str, Turned], None] | None = None
    way: Way = Way.AUTO
    proxy: Proxy = field(default_factory=Proxy)


async def connected(
    servers: Sequence[str],
    tls: Callable[[], ssl.SSLContext],
    hello: Callable[[], Hello],
    met: Met,
    *,
    turned: Callable[[str, Turned], None] | None = None,
    way: Way = Way.AUTO,
    proxy: Proxy | None = None,
) -> None:
    """Keep one channel to each of the servers, and to each they name in a welcome, until cancelled. `met` is called for
    each new channel in a task of its own, and may go on after the channel is lost. `turned` is told when a server will
    not speak with this agent; it is asked again, seldom."""
    if wrong := [server for server in servers if not _is_server(server)]:
        raise ValueError(f"{wrong[0]!r} is no server of agents; expected https://host:port")
    manner = Manner(tls=tls, hello=hello, met=met, turned=turned, way=way, proxy=proxy or Proxy())
    async with anyio.create_task_group() as tasks:
        Fleet(servers, manner, tasks).begin()


class Fleet:
    """The servers that are spoken with: those of the settings, and those any of them has named. One and the same may go
    by two addresses: it speaks with an agent by the last it came by, and the other is left alone for that long."""

    def __init__(self, servers: Sequence[str], manner: Manner, tasks: TaskGroup) -> None:
        self._configured = tuple(dict.fromkeys(server.rstrip("/") for server in servers))
        self._manner, self._tasks = manner, tasks
        self._named: dict[str, tuple[str, ...]] = {}  # by the server that named them
        self._kept: dict[str, anyio.CancelScope] = {}
        self._speaking: dict[str, float] = {}  # since when
        self._ended = anyio.Event()

    def begin(self) -> None:
        for server in self._configured:
            self._keep(server)

    def named(self, by: str, servers: Iterable[str]) -> None:
        """A server has said who else there is. One that nobody names any more is left."""
        self._named[by] = tuple(server.rstrip("/") for server in servers if _is_server(server))
        wanted = {*self._configured, *(server for named in self._named.values() for server in named)}
        for server in wanted - self._kept.keys():
            self._keep(server)
        for server in self._kept.keys() - wanted:
            self._named.pop(server, None)
            self._kept.pop(server).cancel()

    def spoken(self, server: str, welcome: Welcome) -> None:
        """A channel has begun."""
        self._speaking[server] = time.monotonic()
        self.named(server, welcome.servers)

    def ended(self, server: str) -> None:
        if self._speaking.pop(server, None) is not None:
            self._ended.set()
            self._ended = anyio.Event()

    async def other_address(self, server: str) -> bool:
        """Where this server has just been come to by another address, wait until that channel is lost."""
        newest = max((one for one in self._speaking.items() if one[0] != server), key=itemgetter(1), default=None)
        if newest is None or time.monotonic() - newest[1] > JUST_NOW:
            return False
        _log.info("%s and %s are the same server: one channel is enough", server, newest[0])
        while self._speaking.get(newest[0]) == newest[1]:
            await self._ended.wait()
        return True

    def _keep(self, server: str) -> None:
        self._kept[server] = anyio.CancelScope()
        self._tasks.start_soon(self._keeping, server, self._kept[server])

    async def _keeping(self, server: str, scope: anyio.CancelScope) -> None:
        with scope:
            await Keeper(server, self._manner, self, self._tasks).keep()


class Keeper:
    """Makes the channel to one server, again and again."""

    def __init__(self, server: str, manner: Manner, fleet: Fleet, tasks: TaskGroup) -> None:
        self._server, self._manner, self._fleet, self._tasks = server, manner, fleet, tasks
        self._polls_until = float("-inf")  # when a WebSocket is tried again
        self._opened: Speaking | None = None  # a WebSocket that was tried while there were polls, and passed
        self._opened_with: ssl.SSLContext | None = None
        self._broken = self._turned = 0
        self._without_since: float | None = None
        self._failures = 0
        self._renewed = False

    async def keep(self) -> Never:
        while True:
            pause = await self._once()
            await asyncio.sleep(pause)

    async def _once(self) -> float:
        """One channel, from its first byte to its last; how long to wait before the next."""
        polls = self._polls
        try:
            await self._channel(polls)
        except TurnedAway as away:
            if away.turned.code == "REPLACED":
                await asyncio.sleep(JUST_NOW / 2)  # the welcome of the other may be on its way
                if await self._fleet.other_address(self._server):
                    return self._pause()
            return self._was_turned(away.turned)
        except NoWebSocket as why:
            return self._is_blocked(str(why))
        except Broken as error:
            return self._is_blocked(str(error)) if self._broke() else self._pause()
        except (OSError, EOFError, Lost, Malformed) as error:  # time-outs and TLS errors are among them
            _log.info("the channel to %s is lost: %s: %s", self._server, type(error).__name__, str(error)[:300])
            if polls and self._without_since is not None:
                self._polls_until = float("-inf")  # neither passes now: begin with the better one
        if self._opened is not None or self._renewed:
            self._renewed = False
            return 0.0
        return self._pause()

    @property
    def _polls(self) -> bool:
        return self._opened is None and (
            self._manner.way is Way.POLLING or (self._manner.way is Way.AUTO and time.monotonic() < self._polls_until)
        )

    async def _channel(self, polls: bool) -> None:
        """Open one, have it welcomed, and speak until it ends; raises why, or returns where it was ended here."""
        context = self._manner.tls()
        if self._opened is not None:
            speaking, self._opened = self._opened, None
            context = self._opened_with or context
        else:
            speaking = await self._open(polls, context)
        try:
            welcome = await speaking.welcomed(self._manner.hello())
            self._without_since, self._broken, self._turned = None, 0, 0
            self._fleet.spoken(self._server, welcome)
            self._tasks.start_soon(self._meet, speaking, welcome)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._beating, speaking, welcome.beat, context, tasks.cancel_scope)
                if polls and self._manner.way is Way.AUTO:
                    tasks.start_soon(self._trying, context, tasks.cancel_scope)
                tasks.start_soon(self._reading, speaking, tasks.cancel_scope)
        finally:
            self._fleet.ended(self._server)
            await speaking.aclose()
        speaking.raise_why()

    async def _open(self, polls: bool, context: ssl.SSLContext) -> Speaking:
        if polls:
            from drivers.agent.channels.over_polls import open_polls  # HTTP clients are large, and seldom needed

            return open_polls(self._server, context, self._manner.proxy)
        from drivers.agent.channels.over_websocket import open_websocket

        return await open_websocket(self._server, context, self._manner.proxy)

    async def _meet(self, speaking: Speaking, welcome: Welcome) -> None:
        with suppress(Lost):
            await self._manner.met(speaking, welcome)

    async def _reading(self, speaking: Speaking, scope: anyio.CancelScope) -> None:
        await speaking.read(lambda again: self._fleet.named(self._server, again.servers))
        scope.cancel()

    async def _beating(
        self, speaking: Speaking, beat: float, context: ssl.SSLContext, scope: anyio.CancelScope
    ) -> None:
        """A sign of life each `beat` seconds. Where one stays without an answer, or the identity was renewed, the
        channel ends."""
        patience = min(ANSWER_WITHIN, beat / 2)
        await asyncio.sleep(beat - patience)
        while self._manner.tls() is context:
            said, now = time.monotonic(), self._manner.hello()
            try:
                await speaking.send(Beat(at=now.at, queue=now.waiting))
            except Lost:
                break
            await asyncio.sleep(patience)
            if speaking.heard < said:
                _log.info("%s has not answered for %g s", self._server, patience)
                break
            await asyncio.sleep(beat - patience)
        else:
            self._renewed = True
        scope.cancel()

    async def _trying(self, context: ssl.SSLContext, scope: anyio.CancelScope) -> None:
        """While there are polls, a WebSocket is tried now and then; the first that passes takes their place."""
        while True:
            await asyncio.sleep(max(0.0, self._polls_until - time.monotonic()))
            try:
                self._opened, self._opened_with = await self._open(False, context), context
            except (OSError, NoWebSocket, Broken, TurnedAway):
                self._polls_until = time.monotonic() + WEBSOCKET_AGAIN
            else:
                break
        scope.cancel()

    # -- how long to wait ----------------------------------------------------------------------------------------------

    def _broke(self) -> bool:
        """A WebSocket has broken off before its welcome; whether that looks like somebody between here and there."""
        self._broken += 1
        return self._broken >= BROKEN_TWICE

    def _is_blocked(self, why: str) -> float:
        _log.info("no WebSocket passes to %s: %s", self._server, why[:300])
        if self._manner.way is not Way.AUTO:
            return self._pause()
        self._broken, self._polls_until = 0, time.monotonic() + WEBSOCKET_AGAIN
        return _dice.uniform(0, 0.5)

    def _was_turned(self, turned: Turned) -> float:
        if turned.code in PASSING:
            return self._pause()
        _log.warning("%s will not speak with this agent: %s: %s", self._server, turned.code, turned.sentence)
        if self._manner.turned is not None:
            self._manner.turned(self._server, turned)
        self._turned += 1
        if turned.code == "UNKNOWN":  # a server that has yet to hear of a new identity from the one that gave it
            return _dice.uniform(0.5, 1.0) * min(TURNED_FOR, SOON * 2.0 ** min(self._turned, 8))
        return _dice.uniform(0.5, 1.0) * (TOO_OLD_FOR if turned.code in ("TOO_OLD", "TOO_NEW") else TURNED_FOR)

    def _pause(self) -> float:
        """Soon at first, for the server may just have been started again; then seldom."""
        now = time.monotonic()
        if self._without_since is None:
            self._without_since, self._failures = now, 0
        if now - self._without_since < SOON_FOR:
            return _dice.uniform(0, SOON)
        self._failures += 1
        return _dice.uniform(0.5, 1.0) * min(LATEST, SOON * 2.0 ** min(self._failures, 8))


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        return False
