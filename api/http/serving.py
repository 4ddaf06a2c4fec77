"""uvicorn inside the daemon's own task group: the same application on the Unix socket and over TCP."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from api import unix
from api.actor import actor_of

DRAIN_SECONDS: Final = 3  # a client that follows a log must not hold up the end of the daemon
IDLE_SECONDS: Final = 30  # a kept connection that asks for nothing
HEAD_BYTES: Final = 32 * 1024  # of a request's line and headers
HEAD_SECONDS: Final = 15  # for the first request of a connection
CONNECTIONS: Final = 2_000
BACKLOG: Final = 512


class Protocol(H11Protocol):
    """HTTP/1.1 that gives a silent peer no time, and the application a way to break a connection off."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        inner, state = self.app, {"abort": transport.abort, **self.told(transport)}
        heard = self.loop.call_later(HEAD_SECONDS, transport.abort)

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            heard.cancel()
            scope.setdefault("state", {}).update(state)
            await inner(scope, receive, send)

        self._heard, self.app = heard, with_state

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if heard := getattr(self, "_heard", None):
            heard.cancel()

    def told(self, transport: Any) -> dict[str, Any]:
        """What every request of this connection carries besides."""
        return {}


class PeerProtocol(Protocol):
    """Tells who is at the other end of the Unix socket, as the kernel says."""

    def told(self, transport: Any) -> dict[str, Any]:
        return {"actor": _actor(transport.get_extra_info("socket"))}


class Server(uvicorn.Server):
    """One listening socket, to be run inside the daemon's task group; the daemon owns the signals."""

    def __init__(self, config: uvicorn.Config, listening: AbstractContextManager[socket.socket]) -> None:
        super().__init__(config)
        self._listening = listening
        self._listens = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever has not let go within the time of the drain is let go of."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()
        await anyio.lowlevel.checkpoint()

    def take_certificate(self) -> None:
        """The certificate and key as their files are now, for every connection that comes. Raises, and the old ones
        stay, when they cannot be used: a context that took half of it would serve nobody."""
        context, config = self.config.ssl, self.config
        if context is None or config.ssl_certfile is None:
            return
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.ssl_certfile, config.ssl_keyfile, _no_password)
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, _no_password)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_stopped(self, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until `should_exit`. Tells its port once it listens; 0 on a Unix socket."""
        with self._listening as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.serve, [listener])
                await self._listens.wait()
                unix = listener.family == socket.AF_UNIX
                task_status.started(0 if unix else listener.getsockname()[1])


def on_socket(app: ASGIApp, path: Path) -> Server:
    """At the Unix socket of this path, mode 0600; the file is gone afterwards."""
    return Server(_config(app, http=PeerProtocol), unix.listening(path, 0o600))


def on_port(app: ASGIApp, host: str, port: int, *, certificate: Path | None = None, key: Path | None = None) -> Server:
    """Over TCP, with TLS when there is a certificate."""
    tls = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key) if key else None} if certificate else {}
    config = _config(app, http=Protocol, **tls)
    config.load()  # what is wrong with the certificate is said here
    return Server(config, closing(_bound(host, port)))


def _config(app: ASGIApp, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,  # who asks is the doorkeeper's to say
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        **more,
    )


def _no_password() -> str:
    """A key that asks for a password would ask the terminal for it, and wait."""
    raise ssl.SSLError("the key is encrypted")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def _actor(peer: socket.socket) -> str:
    pid_uid_gid = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return actor_of(struct.unpack("3i", pid_uid_gid)[1])
