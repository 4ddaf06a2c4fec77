"""A channel over WebSocket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, ProxyError, WebSocketException
from websockets.http11 import Response

from drivers.agent import protocol
from drivers.agent.channels.speaking import Broken, Lost, NoWebSocket, Proxy, Speaking, TurnedAway, welcome_in, written
from drivers.agent.protocol import LARGEST_FRAME, FromAgent, Hello, Malformed, Turned, Welcome

PATH: Final = "/agent/v1/channel"
CONNECT_WITHIN: Final = 30.0  # seconds, for TCP, proxy, TLS and upgrade together: in a storm of thousands it takes long
WELCOME_WITHIN: Final = 30.0
SEND_WITHIN: Final = 20.0
CLOSE_WITHIN: Final = 2.0


class _Straight(connect):
    """Follows no redirect: a server is where it was said to be."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_websocket(server: str, context: ssl.SSLContext, proxy: Proxy) -> OverWebSocket:
    """Raises `TurnedAway`, `NoWebSocket` where it was refused by HTTP, `Broken`, and OSError."""
    asked = _Straight(
        "wss" + server.removeprefix("https") + PATH,
        ssl=context,
        proxy=proxy.url or (True if proxy.environment else None),
        compression=None,
        open_timeout=CONNECT_WITHIN,
        ping_interval=None,  # beats tell more
        close_timeout=CLOSE_WITHIN,
        max_size=2 * LARGEST_FRAME,
        user_agent_header="holdfast-agent",
    )
    try:
        return OverWebSocket(server, await asked)
    except InvalidStatus as error:
        raise _refused(error.response) from None
    except ProxyError as error:
        raise OSError(f"the proxy does not let through: {error}") from None
    except (InvalidHandshake, TimeoutError) as error:
        raise Broken(f"no answer to the upgrade: {error}") from None
    except WebSocketException as error:
        raise OSError(str(error)) from None


class OverWebSocket(Speaking):
    def __init__(self, server: str, connection: ClientConnection) -> None:
        super().__init__(server)
        self._connection = connection

    async def welcomed(self, hello: Hello) -> Welcome:
        try:
            async with asyncio.timeout(WELCOME_WITHIN):
                await self._connection.send(written(hello))
                return welcome_in(_text(await self._connection.recv()))
        except (ConnectionClosed, TimeoutError) as error:
            raise Broken(f"no answer to the hello: {error}") from None

    async def send(self, frame: FromAgent) -> None:
        if self._ended:
            raise Lost(self.server)
        try:
            async with asyncio.timeout(SEND_WITHIN):
                await self._connection.send(written(frame))
        except (ConnectionClosed, TimeoutError) as error:
            raise Lost(f"{self.server}: {error}") from None

    async def read(self, welcomed: Callable[[Welcome], None]) -> None:
        try:
            while True:
                self._heard(_text(await self._connection.recv()), welcomed)
        except (ConnectionClosed, TurnedAway, Lost) as error:
            self._end(Lost(str(error)) if isinstance(error, ConnectionClosed) else error)

    async def aclose(self) -> None:
        self._end()
        with anyio.CancelScope(shield=True):
            await self._connection.close()


def _text(message: str | bytes) -> str:
    return message if isinstance(message, str) else message.decode(errors="replace")


def _refused(response: Response) -> Exception:
    """By the server itself, by something between here and there, or only for the moment."""
    try:
        frame = protocol.from_server(bytes(response.body or b"").decode())
    except (Malformed, UnicodeDecodeError):
        frame = None
    if isinstance(frame, Turned):
        return TurnedAway(frame)
    if response.status_code >= 500 and response.status_code != 501:
        return OSError(f"HTTP {response.status_code} in answer to the upgrade")
    return NoWebSocket(f"HTTP {response.status_code} in answer to the upgrade")
