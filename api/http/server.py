"""The server's side of the command socket.

`POST /v1/<command>` with a JSON object of arguments answers JSON lines: any number of `{"event": …}`, then one
`{"result": …}` or `{"problem": …}`. The socket is mode 0600 and the actor is the peer's uid, told by the kernel.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from api import commands, wire
from api.actor import actor_of
from api.house import House
from api.problem import Problem

MAX_BODY: Final = 1024 * 1024
DRAIN_SECONDS: Final = 3  # a client that follows a log must not hold up the end of the daemon


class _PeerProtocol(H11Protocol):
    """HTTP/1.1 that tells the application who is at the other end of the Unix socket."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        inner, actor = self.app, _actor(transport.get_extra_info("socket"))

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("state", {})["actor"] = actor
            await inner(scope, receive, send)

        self.app = with_peer


class CommandServer(uvicorn.Server):
    """The command socket, to be run inside the daemon's task group; the daemon owns the signals."""

    def __init__(self, house: House, path: Path) -> None:
        super().__init__(
            uvicorn.Config(
                application(house),
                http=_PeerProtocol,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self.path = path
        self._listens = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_stopped(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until `should_exit`; the socket file is gone afterwards."""
        with _listening(self.path) as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.serve, [listener])
                await self._listens.wait()
                task_status.started()


def application(house: House) -> Starlette:
    async def serve(request: Request) -> StreamingResponse:
        body = await _body(request)  # before the answer begins: that listens for the client's end on the same channel
        return StreamingResponse(_lines(house, request, body), media_type="application/x-ndjson")

    return Starlette(routes=[Route("/v1/{command}", serve, methods=["POST"])])


async def _lines(house: House, request: Request, body: bytes) -> AsyncIterator[bytes]:
    try:
        name, arguments = request.path_params["command"], _arguments(body)
        async with aclosing(commands.carry_out(house, name, arguments, actor=request.state.actor)) as events:
            async for event in events:
                yield wire.line(event).encode() + b"\n"
    except Problem as problem:
        yield wire.line({"problem": problem.document()}).encode() + b"\n"
    except Exception as error:  # a programming error: told to the log with its place, to the client without
        structlog.get_logger().exception("command_failed", command=request.path_params["command"])
        broken = Problem("INTERNAL", f"the daemon failed at this ({type(error).__name__}); its log says where")
        yield wire.line({"problem": broken.document()}).encode() + b"\n"


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk[: MAX_BODY + 1]
        if len(body) > MAX_BODY:
            break
    return body


def _arguments(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY:
        raise Problem("BODY_TOO_LARGE", f"the request has more than {MAX_BODY} bytes")
    try:
        arguments = json.loads(body or b"{}")
    except ValueError:
        raise Problem("BAD_REQUEST", "the request body is not JSON") from None
    if not isinstance(arguments, dict):
        raise Problem("BAD_REQUEST", "the request body is not a JSON object")
    return arguments


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A Unix socket at the path, mode 0600 from its first instant; a socket left by a dead daemon is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")  # a deep path exceeds the 107 bytes of an address
        finally:
            os.close(directory)
    finally:
        os.umask(before)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _actor(peer: socket.socket) -> str:
    pid_uid_gid = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return actor_of(struct.unpack("3i", pid_uid_gid)[1])
