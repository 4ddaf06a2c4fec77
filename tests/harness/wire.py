"""A server on loopback that answers byte by byte as a test says: honest, slow, endless or lying."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


Respond = Callable[[Asked, ByteStream], Awaitable[None]]


@dataclass
class Server:
    """`asked` are the requests so far, `connections` counts those who connected."""

    address: str
    port: int
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def serving(respond: Respond, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A server for the length of the block; each request of a connection is handed to `respond`."""
    listener = await anyio.create_tcp_listener(local_host=host, local_port=0)
    port = listener.extra(SocketAttribute.local_port)
    server = Server(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", port)

    async def converse(stream: SocketStream) -> None:
        server.connections += 1
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                while asked := await _next_request(stream):
                    server.asked.append(asked)
                    await respond(asked, stream)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, converse)
        yield server
        tasks.cancel_scope.cancel()


async def _next_request(stream: ByteStream) -> Asked | None:
    content = b""
    while b"\r\n\r\n" not in content:
        try:
            content += await stream.receive()
        except anyio.EndOfStream:
            return None
    head, _, body = content.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:])
    headers = {name.lower(): value for name, _, value in pairs}
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive()
    method, path, _ = lines[0].split(" ", 2)
    return Asked(method, path, headers, body)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """A whole answer; an underscore in a header's name means a hyphen."""
    named = {"content_length": str(len(body))} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + body
