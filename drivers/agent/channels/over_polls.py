"""A channel of long polls: one request waits for what the server says, another brings what the agent says."""

from __future__ import annotations

import asyncio
import random
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import httpx2

from drivers.agent import protocol
from drivers.agent.channels import polls
from drivers.agent.channels.polls import LONGEST_WAIT, Line, Overrun, Poll, Polled
from drivers.agent.channels.speaking import Lost, Proxy, Speaking, TurnedAway, welcome_in, written
from drivers.agent.protocol import LARGEST_FRAME, FromAgent, Hello, Malformed, Turned, Welcome

CONNECT_WITHIN: Final = 30.0  # seconds
ANSWER_WITHIN: Final = 15.0  # beyond what the server was asked to wait
TRIES: Final = 3
PAUSE: Final = 1.0  # seconds between two tries, at most

_dice: Final = random.SystemRandom()


def open_polls(server: str, context: ssl.SSLContext, proxy: Proxy) -> OverPolls:
    client = httpx2.AsyncClient(
        verify=context,
        proxy=proxy.url,
        trust_env=proxy.environment and proxy.url is None,
        timeout=httpx2.Timeout(ANSWER_WITHIN, connect=CONNECT_WITHIN),
        limits=httpx2.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=45),
        headers={"user-agent": "holdfast-agent"},
        follow_redirects=False,
    )
    return OverPolls(server, client)


class OverPolls(Speaking):
    def __init__(self, server: str, client: httpx2.AsyncClient) -> None:
        super().__init__(server)
        self._client = client
        self._name, self._line = secrets.token_hex(16), Line()
        self._to_say = asyncio.Event()

    async def welcomed(self, hello: Hello) -> Welcome:
        self._line.put(written(hello))
        for text in await self._asked(wait=0.0, brings=True):
            return welcome_in(text)
        raise Malformed("no answer to the hello")

    async def send(self, frame: FromAgent) -> None:
        if self._ended:
            raise Lost(self.server)
        try:
            self._line.put(written(frame))
        except Overrun as error:
            raise Lost(f"{self.server}: {error}") from None
        self._to_say.set()

    async def read(self, welcomed: Callable[[Welcome], None]) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._waiting, welcomed, tasks.cancel_scope)
            tasks.start_soon(self._saying, welcomed, tasks.cancel_scope)

    async def aclose(self) -> None:
        self._end()
        with anyio.CancelScope(shield=True):
            await self._client.aclose()

    async def _waiting(self, welcomed: Callable[[Welcome], None], scope: anyio.CancelScope) -> None:
        async def ask() -> None:
            for text in await self._asked(wait=LONGEST_WAIT, brings=False):
                self._heard(text, welcomed)

        await self._until_lost(ask, scope)

    async def _saying(self, welcomed: Callable[[Welcome], None], scope: anyio.CancelScope) -> None:
        async def say() -> None:
            await self._to_say.wait()
            self._to_say.clear()
            while self._line:
                for text in await self._asked(wait=0.0, brings=True):
                    self._heard(text, welcomed)

        await self._until_lost(say, scope)

    async def _until_lost(self, again: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
        try:
            while True:
                await again()
        except (TurnedAway, Lost, OSError, Malformed) as error:
            self._end(error)
            scope.cancel()

    async def _asked(self, *, wait: float, brings: bool) -> Sequence[str]:
        """What the server said that was not heard before. What gets lost is asked again: it is numbered."""
        for tries_left in reversed(range(TRIES)):
            first, frames = self._line.waiting(LARGEST_FRAME) if brings else (1, ())
            poll = Poll(line=self._name, got=self._line.got, first=first, frames=frames, wait=wait)
            try:
                polled = await self._post(poll)
                self._line.has_come(polled.got)
                self.heard = time.monotonic()
                return self._line.fresh(polled.first, polled.frames)
            except OSError:
                if not tries_left:
                    raise
                await asyncio.sleep(_dice.uniform(0, PAUSE))
        raise AssertionError("unreachable: the last try returns or raises")

    async def _post(self, poll: Poll) -> Polled:
        """Raises `TurnedAway`, OSError, and `Malformed`."""
        patience = httpx2.Timeout(poll.wait + ANSWER_WITHIN, connect=CONNECT_WITHIN)
        try:
            response = await self._client.post(self.server + polls.PATH, content=polls.written(poll), timeout=patience)
        except httpx2.HTTPError as error:
            raise OSError(f"{type(error).__name__}: {error}") from None
        if response.status_code != 200:
            raise _refused(response)
        return polls.read_polled(response.content)


def _refused(response: httpx2.Response) -> Exception:
    try:
        frame = protocol.from_server(response.text)
    except Malformed:
        frame = None
    if isinstance(frame, Turned):
        return TurnedAway(frame)
    return OSError(f"HTTP {response.status_code} in answer to a poll")
